"""Writing WARC files: HTTP response records, one gzip member a record, the same bytes for the same content.

Format: ISO 28500:2017 (WARC 1.1). Record ids are derived from the content and gzip members carry no time stamp, so a
file made twice is byte-identical. Needs the standard library only.
"""

import base64
import contextlib
import gzip
import hashlib
import http
import os
import uuid
from datetime import UTC, datetime
from email.utils import format_datetime
from types import TracebackType

from ja_llm import __version__
from ja_llm.errors import UsageError
from ja_llm.files import atomic_write

METADATA_FIELDS = ("source", "licence", "package", "version")


class WarcWriter:
    """Writes one WARC file; use it in a `with` block. The file appears only if the block succeeds.

    The first record is a warcinfo. After each response that has metadata comes a metadata record with the same target
    address, concurrent to the response.

    Args:
      path: the file to write; ends in `.warc.gz`.
      description: of the collection, for the warcinfo record.
      date: WARC-Date of the warcinfo record, ISO 8601 in UTC ("2023-02-04T11:59:00Z"). Not the clock, so that the file
        can be made again byte by byte.

    Raises:
      JaLlmError: on leaving the block: the disk is full or the folder can't be written.
    """

    def __init__(self, path: str | os.PathLike, description: str = "", date: str = "1970-01-01T00:00:00Z"):
        self._path, self._description, self._date = os.fspath(path), description, date
        self._stack = contextlib.ExitStack()
        self.responses = 0

    def __enter__(self) -> "WarcWriter":
        self._file = self._stack.enter_context(atomic_write(self._path))
        name = os.path.basename(self._path)
        fields = {"software": f"ja_llm/{__version__}", "format": "WARC File Format 1.1", "description": self._description}
        headers = {"WARC-Filename": name}
        self._record("warcinfo", self._date, "application/warc-fields", _fields(fields), headers, identity=name)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, value, trace)

    def response(
        self,
        url: str,
        body: bytes,
        content_type: str,
        date: str,
        status: int = 200,
        metadata: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> str:
        """Write one HTTP response, and its metadata record if `metadata` is given.

        Args:
          url: WARC-Target-URI, percent-encoded.
          body: the payload as the server sent it.
          content_type: e.g. "text/html; charset=utf-8".
          date: WARC-Date, ISO 8601 in UTC; also the HTTP Date header.
          status: HTTP status code.
          metadata: fields of the metadata record: source, licence, package, version; others may follow.
          headers: further HTTP headers, e.g. Last-Modified.

        Returns:
          The response's WARC-Record-ID.

        Raises:
          UsageError: a header value has a line break or is not Latin-1, or the date can't be read.
        """
        sent = {
            "Date": format_datetime(_parse(date), usegmt=True),
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
        } | (headers or {})
        try:
            phrase = http.HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        head = f"HTTP/1.1 {status} {phrase}\r\n" + "".join(f"{k}: {_line(v)}\r\n" for k, v in sent.items()) + "\r\n"
        try:
            block = head.encode("latin-1") + body
        except UnicodeEncodeError:
            raise UsageError(f"{url}: an HTTP header holds a character outside Latin-1; percent-encode it.") from None
        extra = {"WARC-Target-URI": _line(url), "WARC-Payload-Digest": _digest(body)}
        record = self._record("response", date, "application/http;msgtype=response", block, extra, identity=url)
        if metadata:
            extra = {"WARC-Target-URI": _line(url), "WARC-Concurrent-To": record}
            self._record("metadata", date, "application/warc-fields", _fields(metadata), extra, identity=record)
        self.responses += 1
        return record

    def _record(self, kind: str, date: str, content_type: str, block: bytes, extra: dict[str, str], identity: str) -> str:
        digest = _digest(block)
        record = f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{kind} {identity} {date} {digest}')}>"
        headers = {
            "WARC-Type": kind,
            "WARC-Record-ID": record,
            "WARC-Date": _line(date),
            **extra,
            "WARC-Block-Digest": digest,
            "Content-Type": content_type,
            "Content-Length": str(len(block)),
        }
        head = "WARC/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        self._file.write(gzip.compress(head.encode() + block + b"\r\n\r\n", compresslevel=6, mtime=0))
        return record


def iso_date(seconds: int | float) -> str:
    """WARC-Date of a time stamp in seconds since 1970."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def http_date(seconds: int | float) -> str:
    """HTTP date (RFC 9110 section 5.6.7) of a time stamp in seconds since 1970."""
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC), usegmt=True)


def _parse(date: str) -> datetime:
    try:
        return datetime.strptime(date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(f"{date!r}: this is no WARC date; write it as 2023-02-04T11:59:00Z.") from None


def _line(value: str) -> str:
    if "\r" in value or "\n" in value:
        raise UsageError(f"{value!r}: a header value must not hold a line break.")
    return value


def _fields(fields: dict[str, str]) -> bytes:
    return "".join(f"{name}: {' '.join(str(value).split())}\r\n" for name, value in fields.items() if value).encode()


def _digest(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()
