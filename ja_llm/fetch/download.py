"""Getting one file over HTTP so that a cut connection costs nothing: `.part` file, Range requests, size and checksum.

A server that says when to come back (Retry-After) is believed.
"""

import hashlib
import http.client
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import os_error_sentence

_BLOCK = 1 << 18
_AGENT = {"User-Agent": "ja-llm fetch"}
TIMEOUT = 60.0  # seconds without a byte
LONGEST_WAIT = 600.0  # seconds that a server may ask to wait
_NAMES = {"sha256": "SHA-256", "sha1": "SHA-1", "md5": "MD5"}


def warn(sentence: str) -> None:
    """Tell the user something that does not end the work."""
    print(f"ja-llm fetch: {sentence}", file=sys.stderr, flush=True)


def check_url(url: str, example: str = "https://deb.debian.org/debian") -> str:
    """`url` without a trailing slash, if it is one that we fetch from: HTTPS, or plain HTTP on this machine.

    Without apt nothing but HTTPS vouches for the package index, so plain HTTP to other hosts is refused.

    Raises:
      UsageError: it is anything else.
    """
    parts = urllib.parse.urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not local):
        raise UsageError(f"--mirror {url}: the mirror must be an https:// address, e.g. {example}.")
    return url.rstrip("/")


class Gone(JaLlmError):
    """The server answered that the file does not exist (404 or 410)."""


def get(url: str, attempts: int = 5, pause: float = 0.5) -> bytes:
    """The body of a small file (an index) at `url`.

    Raises:
      Gone: 404 or 410.
      JaLlmError: the server can't be reached or keeps failing.
    """

    def once() -> bytes:
        with urllib.request.urlopen(urllib.request.Request(url, headers=_AGENT), timeout=TIMEOUT) as response:
            body = response.read()
            _check_whole(response, len(body))
            return body

    return _retry(once, url, attempts, pause)


def verify(path: str | os.PathLike, size: int, checksum: str, algorithm: str = "sha256", by: str = "package index") -> str:
    """ "" if the file has this size and checksum (hex), else what is wrong with it; `by` says who states them."""
    actual = os.path.getsize(path)
    if actual != size:
        return f"it has {actual} bytes, but the {by} says {size}"
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK * 4):
            digest.update(block)
    return "" if digest.hexdigest() == checksum else f"its {_NAMES[algorithm]} differs from the {by}'s"


def download(
    url: str,
    target: Path,
    size: int,
    checksum: str,
    attempts: int = 5,
    pause: float = 0.5,
    algorithm: str = "sha256",
    by: str = "package index",
) -> None:
    """Fetch `url` to `target`, going on from a `.part` file of an earlier, broken try.

    The part file's name carries the checksum, so bytes of another version are never continued. A file that arrives
    whole but wrong is discarded, told to the user, and fetched once more from its start.

    Args:
      url: where the file is.
      target: where it goes; exists afterwards only if it is whole and right.
      size: bytes, by the publisher's word.
      checksum: hex digest, by the publisher's word.
      attempts: tries without any new byte before giving up.
      pause: seconds before the second try, doubled each time.
      algorithm: of the checksum: sha256, sha1 or md5.
      by: who states size and checksum, for messages.

    Raises:
      Gone: 404 or 410.
      JaLlmError: the server can't be reached, keeps failing, sends wrong bytes twice, or the disk is full.
    """
    part = target.with_name(f"{checksum[:16]}-{target.name}.part")
    for second in (False, True):
        _retry(lambda: _continue(url, part, size), url, attempts, pause, progress=lambda: _size(part))
        problem = verify(part, size, checksum, algorithm, by)
        if not problem:
            os.replace(part, target)
            return
        part.unlink()
        if second:
            raise JaLlmError(f"{url}: {problem}, twice; it was discarded: try again later or use another mirror.")
        warn(f"{url}: {problem}; it was discarded and is fetched again from its start.")


def download_unsized(url: str, target: Path, attempts: int = 5, pause: float = 0.5) -> None:
    """Fetch `url`, of which nobody states size or checksum, to `target`; a broken try is gone on from.

    Raises:
      Gone: 404 or 410.
      JaLlmError: the server can't be reached or keeps failing, or the disk is full.
    """
    part = target.with_name(f"{target.name}.part")

    def whole() -> None:
        have = _size(part)
        headers = _AGENT | ({"Range": f"bytes={have}-"} if have else {})
        try:
            size = _promised(url, headers, have)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # it was whole already, or is another file now
                part.unlink()
                raise ConnectionError("the file has changed") from None
            raise
        if size is not None and have >= size:
            part.unlink()
            raise ConnectionError("the file has changed")
        _continue(url, part, size if size is not None else sys.maxsize)

    _retry(whole, url, attempts, pause, progress=lambda: _size(part))
    os.replace(part, target)


def _promised(url: str, headers: dict[str, str], have: int) -> int | None:
    """Bytes of the whole file by the server's own word, None if it gives none."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        length = response.headers.get("Content-Length")
        if length is None or not length.isdigit():
            return None
        return int(length) + (have if response.status == 206 else 0)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, part: Path, size: int) -> None:
    """Append what `part` lacks. Starts over where the server ignores Range."""
    have = _size(part)
    if have >= size:  # whole (or too long: the checksum will tell)
        return
    headers = _AGENT | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        try:
            with open(part, "ab" if resumed else "wb", buffering=0) as file:  # what has arrived survives a kill
                received = 0
                while block := response.read1(_BLOCK):
                    file.write(block)
                    received += len(block)
                    if received > size:
                        break
        except (TimeoutError, http.client.HTTPException, ConnectionError, ssl.SSLError):
            raise
        except OSError as error:
            raise os_error_sentence(error, part) from error
        if received <= size:
            _check_whole(response, received)


def _check_whole(response: http.client.HTTPResponse, received: int) -> None:
    """A cut connection ends `read` quietly; the Content-Length tells."""
    promised = response.headers.get("Content-Length")
    if promised is not None and promised.isdigit() and received < int(promised):
        raise http.client.IncompleteRead(b"", int(promised) - received)


def _retry(once: Callable, url: str, attempts: int, pause: float, progress: Callable[[], int] | None = None):
    """Call `once` until it succeeds; tries that brought new bytes don't count against `attempts`."""
    failed, before = 0, progress() if progress else 0
    while True:
        asked = 0.0
        try:
            return once()
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise Gone(f"{url}: the server has no such file ({error.code}); it was moved or removed.") from None
            if error.code == 416 and progress:  # the part file fits no range of the file: the checksum will tell
                return None
            reason, asked = f"the server answered {error.code} {error.reason}", retry_after(error.headers)
        except (http.client.HTTPException, OSError) as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        now = progress() if progress else 0
        failed = 0 if now > before else failed + 1
        before = max(before, now)
        if failed >= attempts:
            raise JaLlmError(f"{url}: can't be fetched ({reason}); check the network, then run the same command again to go on.")
        time.sleep(max(min(pause * 2 ** max(failed - 1, 0), 20.0), asked))


def retry_after(headers: Any) -> float:
    """Seconds that a server asks to wait (RFC 9110 section 10.2.3: seconds or a date), 0 if it does not, at most LONGEST_WAIT."""
    value = (headers.get("Retry-After") or "").strip() if headers else ""
    if value.isdigit():
        return min(float(value), LONGEST_WAIT)
    try:
        return min(max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0), LONGEST_WAIT) if value else 0.0
    except (ValueError, TypeError, OverflowError):
        return 0.0
