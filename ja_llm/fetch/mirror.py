"""Packages from a Debian mirror over HTTPS, where there is no apt.

Chain of trust: HTTPS for the Release file, its SHA-256 for the package index, the index's SHA-256 for each package.
"""

import lzma
import platform
import re
from pathlib import Path

from ja_llm.errors import JaLlmError
from ja_llm.fetch.deb import parse_stanza
from ja_llm.fetch.download import Gone, check_url, download, get

DEFAULT_MIRROR = "https://deb.debian.org/debian"
_ARCHITECTURES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "ppc64le": "ppc64el",
    "s390x": "s390x",
}


def architecture() -> str:
    """Debian's name of this machine's architecture (amd64 where it has none: the texts are the same)."""
    return _ARCHITECTURES.get(platform.machine().lower(), "amd64")


class Mirror:
    """The `main` component of one suite on one mirror.

    Args:
      url: root of the mirror, e.g. "https://deb.debian.org/debian".
      suite: e.g. "bookworm".
      cache: folder for the package index.
      pause: seconds before a retry.

    Raises:
      JaLlmError: the mirror can't be reached, has no such suite, or its index does not fit its Release file.
    """

    name = "mirror"

    def __init__(self, url: str, suite: str, cache: Path, pause: float = 0.5):
        self._url, self._suite, self._pause = check_url(url), suite, pause
        self._index = self._read_index(cache)

    def _read_index(self, cache: Path) -> dict[str, str]:
        base = f"{self._url}/dists/{self._suite}"
        name = f"main/binary-{architecture()}/Packages.xz"
        try:
            release = get(f"{base}/Release", pause=self._pause).decode("utf-8", "replace")
        except Gone:
            raise JaLlmError(
                f"{self._url}: this mirror has no suite {self._suite!r}; name another --suite or --mirror."
            ) from None
        listed = re.search(rf"^SHA256:(?:\n .*)*?\n ([0-9a-f]{{64}})\s+(\d+)\s+{re.escape(name)}$", release, re.MULTILINE)
        if listed is None:
            raise JaLlmError(f"{base}/Release: it lists no {name}; name another --suite or --mirror.")
        cache.mkdir(parents=True, exist_ok=True)
        packed = cache / f"{listed[1][:16]}-Packages.xz"
        if not packed.exists():
            download(f"{base}/{name}", packed, int(listed[2]), listed[1], pause=self._pause)
        try:
            text = lzma.decompress(packed.read_bytes()).decode("utf-8", "replace")
        except lzma.LZMAError as error:
            raise JaLlmError(f"{base}/{name}: this package index can't be unpacked ({error}); use another mirror.") from error
        index = {}
        for stanza in re.split(r"\n\n+", text):
            if match := re.match(r"Package: (\S+)", stanza):
                index[match[1]] = stanza
        return index

    def find(self, name: str) -> dict[str, str] | None:
        """The package's index entry (Version, Size, SHA256, Filename ...), or None if the suite lacks it."""
        stanza = self._index.get(name)
        return parse_stanza(stanza) if stanza else None

    def fetch(self, name: str, folder: Path) -> Path:
        """Download and verify a package that `find` knows; the path of its .deb.

        Raises:
          JaLlmError: it can't be had, or its bytes are wrong.
        """
        entry = parse_stanza(self._index[name])
        target = folder / Path(entry["Filename"]).name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            download(f"{self._url}/{entry['Filename']}", target, int(entry["Size"]), entry["SHA256"], pause=self._pause)
        except Gone:
            raise JaLlmError(
                f"{self._url}/{entry['Filename']}: the mirror's index names this file, but it is gone; "
                "the mirror is being updated: run the same command again in a while or use another --mirror."
            ) from None
        return target
