"""Rendering manual pages (roff) to HTML with mandoc."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from ja_llm.errors import JaLlmError
from ja_llm.fetch import deb

TIMEOUT = 20.0  # seconds for one page
_SO = re.compile(rb"\A(?:(?:\.\\\"|'\\\").*\n|\s*\n)*\.so\s+\S+\s*\Z")
_FATAL = 5  # mandoc's exit codes from 5 on: wrong arguments, operating system error; below: remarks about the page


class RenderError(JaLlmError):
    """One page could not be rendered; the caller counts it."""


def is_alias(page: bytes) -> bool:
    """Whether a page only includes another one (`.so man2/other.2`)."""
    return _SO.match(page) is not None


class Mandoc:
    """The mandoc program.

    Args:
      program: its path.
      identity: what is noted about it in the manifest.
    """

    def __init__(self, program: str, identity: str, timeout: float = TIMEOUT):
        self._program, self.identity, self._timeout = program, identity, timeout

    def html(self, page: bytes) -> bytes:
        """`page` (roff; UTF-8, else Latin-1) as an HTML page in UTF-8.

        Raises:
          RenderError: mandoc fails on it, gives nothing, or does not come back in time.
          JaLlmError: mandoc can't be started.
        """
        try:
            page.decode("utf-8")
            encoding = "utf-8"
        except UnicodeDecodeError:
            encoding = "iso-8859-1"
        try:
            done = subprocess.run(
                [self._program, "-K", encoding, "-T", "html"],
                input=page,
                capture_output=True,
                timeout=self._timeout,
                check=False,
                env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
            )
        except subprocess.TimeoutExpired:
            raise RenderError(f"mandoc did not come back in {self._timeout:g} s") from None
        except OSError as error:
            raise JaLlmError(
                f"{self._program}: this mandoc can't be started ({error.strerror}); install mandoc and run the same command again."
            ) from error
        if done.returncode >= _FATAL or done.returncode < 0 or not done.stdout.strip():
            raise RenderError(f"mandoc ended with exit code {done.returncode}")
        return done.stdout


def installed() -> Mandoc | None:
    """The machine's own mandoc, if it has one."""
    program = shutil.which("mandoc")
    if program is None:
        return None
    return Mandoc(program, "installed, sha256 " + hashlib.sha256(Path(program).read_bytes()).hexdigest()[:16])


def unpack(package: Path, folder: Path) -> Mandoc:
    """mandoc out of its Debian package, without installing it.

    Raises:
      JaLlmError: the package has no such program.
    """
    target = folder / "mandoc"
    for entry in deb.entries(package, lambda path: path == "usr/bin/mandoc"):
        if entry.body is not None:
            folder.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.body)
            target.chmod(0o755)
            fields, _ = deb.control(package)
            return Mandoc(str(target), f"Debian package mandoc {fields.get('Version', '?')}")
    raise JaLlmError(f"{package}: there is no usr/bin/mandoc in this package; install mandoc and run the same command again.")
