"""The HTTP response inside a WARC record: status, headers, and the body with its transfer and content codings undone."""

import dataclasses
import re
import zlib

_GZIP_CODINGS = ("gzip", "x-gzip", "deflate")
_NO_CODING = ("", "identity", "none", "utf-8", "binary")


@dataclasses.dataclass(frozen=True)
class Response:
    """Status code (0 if the block is no HTTP response), headers by lower-case name (the last of equal names), raw body."""

    status: int
    headers: dict[str, str]
    body: bytes


class BodyProblem(Exception):
    """The body can't be had whole: `reason` is body_truncated, too_large or content_encoding."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def parse_response(block: bytes) -> Response:
    """Split a response block into status, headers and body."""
    head, body = _split(block)
    lines = head.decode("latin-1").splitlines()
    match = re.match(r"HTTP/\d(?:\.\d)?\s+(\d{3})\b", lines[0]) if lines else None
    if match is None:
        return Response(0, {}, b"")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return Response(int(match[1]), headers, body)


def _split(block: bytes) -> tuple[bytes, bytes]:
    ends = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := block.find(mark)) >= 0]
    if not ends:
        return block, b""
    at, length = min(ends)
    return block[:at], block[at + length :]


def decoded_body(response: Response, limit: int) -> bytes:
    """The body without chunked transfer coding and gzip or deflate content coding.

    Crawlers may have undone a coding and kept its header (Common Crawl), so a coding is undone only if it is there.

    Raises:
      BodyProblem: the body is cut off, is larger than `limit` bytes when decoded, or has a coding that is not known.
    """
    body, headers = response.body, response.headers
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _dechunk(body, limit)
    elif headers.get("content-length", "").isdigit() and len(body) < int(headers["content-length"]):
        raise BodyProblem("body_truncated")
    for coding in reversed([c.strip().lower() for c in headers.get("content-encoding", "").split(",")]):
        if coding in _GZIP_CODINGS:
            body = _inflate(body, limit)
        elif coding not in _NO_CODING:
            raise BodyProblem("content_encoding")
    if len(body) > limit:
        raise BodyProblem("too_large")
    return body


def _dechunk(body: bytes, limit: int) -> bytes:
    pieces, at, total = list[bytes](), 0, 0
    while True:
        line_end = body.find(b"\r\n", at)
        size = re.match(rb"\s*([0-9A-Fa-f]+)\s*(?:;[^\r\n]*)?$", body[at:line_end]) if line_end >= 0 else None
        if size is None:
            if at == 0:
                return body  # a crawler has undone it already
            raise BodyProblem("body_truncated")
        length = int(size[1], 16)
        if length == 0:
            return b"".join(pieces)
        piece = body[line_end + 2 : line_end + 2 + length]
        if len(piece) < length:
            raise BodyProblem("body_truncated")
        total += length
        if total > limit:
            raise BodyProblem("too_large")
        pieces.append(piece)
        at = line_end + 2 + length + 2


def _inflate(body: bytes, limit: int) -> bytes:
    """Undo gzip or deflate (zlib or raw), all members, never holding more than `limit` bytes of output."""
    if body.startswith(b"\x1f\x8b"):
        wbits = 31
    elif len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0:
        wbits = 15
    else:
        return body  # a crawler has undone it already
    out = bytearray()
    try:
        while body.startswith(b"\x1f\x8b") or not out:
            inflater = zlib.decompressobj(wbits)
            out += inflater.decompress(body, limit + 1 - len(out))
            if len(out) > limit:
                raise BodyProblem("too_large")
            if not inflater.eof:
                raise BodyProblem("body_truncated")
            body = inflater.unused_data
            if not body:
                break
    except zlib.error:
        raise BodyProblem("body_truncated") from None
    return bytes(out)
