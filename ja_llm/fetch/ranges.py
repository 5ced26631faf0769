"""Ranges of large files over HTTP, politely: one request at a time, a limit on requests a second, waits when the server asks."""

import http.client
import io
import time
import urllib.error
import urllib.request

from ja_llm.errors import JaLlmError
from ja_llm.fetch.download import TIMEOUT, Gone, retry_after

_AGENT = "ja-llm fetch"


class Client:
    """Fetches from one service.

    Args:
      rate: requests a second at most.
      attempts: tries of one request before giving up.
      pause: seconds before the second try, doubled each time; a Retry-After that asks for more wins.
    """

    def __init__(self, rate: float, attempts: int = 6, pause: float = 1.0):
        self._interval, self._attempts, self._pause = 1.0 / rate, attempts, pause
        self._next = 0.0
        self.requests = 0

    def get(self, url: str) -> bytes:
        """The whole of a small file.

        Raises:
          Gone: 404 or 410.
          JaLlmError: the server can't be reached or keeps failing.
        """
        return self._retried(url, None)[0]

    def get_range(self, url: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; fewer only where the file ends.

        Raises:
          Gone: 404, 410, or the file is shorter (416).
          JaLlmError: the server can't be reached, keeps failing, or ignores the range.
        """
        return self._retried(url, (offset, length))[0]

    def size(self, url: str) -> int:
        """Bytes of the file at `url`.

        Raises:
          Gone, JaLlmError: as `get_range`.
        """
        total = self._retried(url, (0, 1))[1].rpartition("/")[2]
        if not total.isdigit():
            raise JaLlmError(f"{url}: the server does not say how large this file is; use another mirror.")
        return int(total)

    def _retried(self, url: str, span: tuple[int, int] | None) -> tuple[bytes, str]:
        for attempt in range(self._attempts):
            self._wait_for_turn()
            asked = 0.0
            try:
                return self._once(url, span)
            except urllib.error.HTTPError as error:
                if error.code in (404, 410, 416):
                    raise Gone(f"{url}: the server has no such file or range ({error.code}); it was moved or removed.") from None
                if error.code in (400, 401):
                    raise JaLlmError(f"{url}: the server refuses this request ({error.code} {error.reason}); check what was asked for.") from None  # fmt: skip
                reason, asked = f"the server answered {error.code} {error.reason}", retry_after(error.headers)
            except (http.client.HTTPException, OSError) as error:
                reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            if attempt + 1 < self._attempts:
                time.sleep(max(min(self._pause * 2**attempt, 120.0), asked))
        raise JaLlmError(f"{url}: can't be fetched ({reason}); check the network, then run the same command again to go on.")

    def _wait_for_turn(self) -> None:
        time.sleep(max(self._next - time.monotonic(), 0.0))
        self._next = time.monotonic() + self._interval
        self.requests += 1

    @staticmethod
    def _once(url: str, span: tuple[int, int] | None) -> tuple[bytes, str]:
        headers = {"User-Agent": _AGENT}
        if span:
            headers["Range"] = f"bytes={span[0]}-{span[0] + span[1] - 1}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
            stated = response.headers.get("Content-Range") or ""
            if span and (response.status != 206 or not stated.startswith(f"bytes {span[0]}-")):
                # The whole of a file of a gigabyte, for a page of it.
                raise JaLlmError(f"{url}: the server ignores ranges; use another mirror.")
            body = response.read(span[1] + 1) if span else response.read()
            promised = response.headers.get("Content-Length")
            if promised is not None and promised.isdigit() and len(body) < int(promised):
                raise http.client.IncompleteRead(b"", int(promised) - len(body))
            return body, stated


class RangeFile(io.RawIOBase):
    """A file on a server as a seekable Python file: what is read is fetched, and no more.

    Args:
      client: fetches.
      url: of the file.

    Raises:
      Gone, JaLlmError: as `Client.size`.
    """

    def __init__(self, client: Client, url: str):
        super().__init__()
        self._client, self._url, self._at = client, url, 0
        self._size = client.size(url)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def size(self) -> int:
        """Bytes."""
        return self._size

    def read(self, size: int = -1) -> bytes:
        """As of any file; nothing is asked for behind the end."""
        left = max(self._size - self._at, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted == 0:
            return b""
        data = self._client.get_range(self._url, self._at, wanted)
        self._at += len(data)
        return data

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def,override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
