"""Packages through apt, where the machine has it. Root is not needed: lists and cache lie in a folder of our own.

apt checks the archive's signature; size and SHA-256 of each package are checked again here, against apt's index.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from ja_llm.errors import JaLlmError
from ja_llm.fetch.deb import parse_stanza
from ja_llm.fetch.download import verify, warn

_UPDATE_TIMEOUT, _DOWNLOAD_TIMEOUT = 600, 3600  # seconds


def available() -> bool:
    """Whether this machine has apt."""
    return shutil.which("apt-get") is not None and shutil.which("apt-cache") is not None


class Apt:
    """The packages that this machine's own apt sources offer (its own release of Debian or Ubuntu).

    Args:
      state: folder for lists and cache.
      names: the packages that will be asked for.

    Raises:
      JaLlmError: apt can't get its lists.
    """

    name = "apt"

    def __init__(self, state: Path, names: list[str]):
        state = state.absolute()
        self._options = []
        for key, folder in (("Dir::State::lists", "lists/partial"), ("Dir::Cache", "cache/archives/partial")):
            (state / folder).mkdir(parents=True, exist_ok=True)
            self._options += ["-o", f"{key}={state / folder.split('/')[0]}"]
        # No sandbox user: it could not write into our folder.
        self._options += ["-o", "APT::Sandbox::User=", "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=3"]
        done = self._run("apt-get", "-q", "update", timeout=_UPDATE_TIMEOUT)
        self._index = self._show(names)
        if not self._index:
            raise JaLlmError(
                f"apt-get update: apt offers none of the packages ({_last(done)}); check the network and the apt sources."
            )

    def _run(self, program: str, *arguments: str, cwd: Path | None = None, timeout: float = 60) -> subprocess.CompletedProcess:
        environment = os.environ | {"LC_ALL": "C", "LANGUAGE": "C"}
        try:
            return subprocess.run(
                [program, *self._options, *arguments],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess([program], 124, "", f"no end after {timeout} s")
        except OSError as error:
            raise JaLlmError(f"{program}: can't be started ({error.strerror}).") from error

    def _show(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Index entries of the candidates; a name that apt does not know is left out."""
        text = self._run("apt-cache", "show", "--no-all-versions", *names).stdout
        entries = [parse_stanza(stanza) for stanza in re.split(r"\n\n+", text) if stanza.strip()]
        return {e["Package"]: e for e in entries if {"Package", "Version", "Filename", "Size", "SHA256"} <= e.keys()}

    def find(self, name: str) -> dict[str, str] | None:
        """The package's index entry (Version, Size, SHA256, Filename ...), or None if apt does not offer it."""
        if name not in self._index:
            self._index |= self._show([name])
        return self._index.get(name)

    def fetch(self, name: str, folder: Path) -> Path:
        """Download and verify a package that `find` knows; the path of its .deb. apt goes on from a broken download.

        Raises:
          JaLlmError: it can't be had, or its bytes are wrong twice.
        """
        entry = self._index[name]
        work = folder / f"{name}.apt"
        work.mkdir(parents=True, exist_ok=True)
        problem = ""
        for _ in range(2):
            done = self._run("apt-get", "-q", "download", f"{name}={entry['Version']}", cwd=work, timeout=_DOWNLOAD_TIMEOUT)
            found = sorted(work.glob("*.deb"))
            if done.returncode or not found:
                raise JaLlmError(
                    f"apt-get download {name}: apt could not get this package ({_last(done)}); "
                    "check the network and the free space, then run the same command again to go on."
                )
            problem = verify(found[0], int(entry["Size"]), entry["SHA256"])
            if not problem:
                target = folder / Path(entry["Filename"]).name
                os.replace(found[0], target)
                shutil.rmtree(work, ignore_errors=True)
                return target
            found[0].unlink()
            warn(f"apt-get download {name}: {problem}; it was discarded.")
        raise JaLlmError(
            f"apt-get download {name}: {problem}, twice; it was discarded: run `apt-get update` or use --backend mirror."
        )


def _last(done: subprocess.CompletedProcess) -> str:
    """What apt said, in one line."""
    lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "Err:"))] or done.stderr.splitlines()
    return lines[-1].strip() if lines else f"exit code {done.returncode}"
