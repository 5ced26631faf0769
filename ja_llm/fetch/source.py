"""Where packages come from: apt where it exists, else a Debian mirror."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.fetch import apt
from ja_llm.fetch.download import warn
from ja_llm.fetch.mirror import Mirror

BACKENDS = ("auto", "apt", "mirror")


class Backend(Protocol):
    """What `apt.Apt` and `mirror.Mirror` have in common."""

    name: str

    def find(self, name: str) -> dict[str, str] | None: ...

    def fetch(self, name: str, folder: Path) -> Path: ...


class Source:
    """Finds packages, asking the backends in order; each is opened only when it is needed.

    Args:
      backend: "apt", "mirror", or "auto" (apt if the machine has it, then the mirror for what apt lacks).
      mirror: root of the mirror.
      suite: suite on the mirror.
      cache: folder for indexes and packages.
      names: the packages that will be asked for.

    Raises:
      UsageError: the backend is not known, or apt is asked for and not there.
    """

    def __init__(self, backend: str, mirror: str, suite: str, cache: Path, names: list[str]):
        if backend not in BACKENDS:
            raise UsageError(f"--backend {backend}: choose one of {', '.join(BACKENDS)}.")
        if backend == "apt" and not apt.available():
            raise UsageError("--backend apt: this machine has no apt; use --backend mirror.")
        self._folder = cache / "packages"
        self._openers: list[Callable[[], Backend]] = []
        if backend == "apt" or (backend == "auto" and apt.available()):
            self._openers.append(lambda: apt.Apt(cache / "apt", names))
        if backend in ("mirror", "auto"):
            self._openers.append(lambda: Mirror(mirror, suite, cache / "mirror"))
        self._open: list[Backend] = []
        self._failures: list[str] = []

    def _backends(self):
        yield from self._open
        while self._openers:
            opener = self._openers.pop(0)
            try:
                backend = opener()
            except UsageError:
                raise
            except JaLlmError as error:
                self._failures.append(str(error))
                if not self._openers and not self._open:
                    raise JaLlmError(f"no package source can be reached: {' '.join(self._failures)}") from error
                warn(str(error))
                continue
            self._open.append(backend)
            yield backend

    def fetch(self, name: str) -> tuple[Path, dict[str, str]] | None:
        """Download and verify a package; its path and index entry, or None if no backend offers it.

        Raises:
          JaLlmError: no backend can be reached, or the download fails for good.
        """
        for backend in self._backends():
            entry = backend.find(name)
            if entry is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
                return backend.fetch(name, self._folder), entry
        return None
