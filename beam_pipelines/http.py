"""The HTTP response inside a WARC record: status, headers, and the body with its transfer and content codings undone."""

import dataclasses
import re
import zlib
from collections.abc import Callable

from beam_pipelines.inputs.compression import ZSTD

_CONTROLS = re.compile(rb"[^\t\n\x0c\r\x1b -\xff]")
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
    """The body without chunked transfer coding and gzip, deflate, zstd or brotli content coding.

    Crawlers may have undone a coding and kept its header (Common Crawl), so a coding is undone only if it is there, and text is taken
    as it is whatever its coding is called.

    Raises:
      BodyProblem: the body is cut off, is larger than `limit` bytes when decoded, or has a coding that is not known.
    """
    body, headers = response.body, response.headers
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _dechunk(body, limit)
    elif headers.get("content-length", "").isdigit() and len(body) < int(headers["content-length"]):
        raise BodyProblem("body_truncated")
    for coding in reversed([c.strip().lower() for c in headers.get("content-encoding", "").split(",")]):
        if coding not in _NO_CODING:
            body = _DECODERS.get(coding, _undone)(body, limit)
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


def _unzstd(body: bytes, limit: int) -> bytes:
    """Undo zstd, all frames."""
    if not body.startswith(ZSTD.magic):
        return _undone(body, limit)
    out = bytearray()
    try:
        while body.startswith(ZSTD.magic):  # what follows the last frame is left, as with gzip
            inflater, at = ZSTD.start(), 0
            while not inflater.eof:
                if at >= len(body):
                    raise BodyProblem("body_truncated")
                out += inflater.decompress(body[at : at + ZSTD.step])
                at += ZSTD.step
                if len(out) > limit:
                    raise BodyProblem("too_large")
            body = body[min(at, len(body)) - len(inflater.unused_data) :]
    except ZSTD.errors():
        raise BodyProblem("body_truncated") from None
    return bytes(out)


def _unbrotli(body: bytes, limit: int) -> bytes:
    """Undo brotli, which no first bytes tell: what does not decode is perhaps undone already."""
    import brotli  # fastwarc brings it

    inflater = brotli.Decompressor()
    try:
        out: bytes = inflater.process(body, output_buffer_limit=limit + 1)
    except brotli.error:
        return _undone(body, limit)
    if len(out) > limit:
        raise BodyProblem("too_large")
    if not inflater.is_finished():
        raise BodyProblem("body_truncated")
    return out


def _undone(body: bytes, limit: int) -> bytes:
    """The body of a coding that is not known, or is not there, if it is text: compressed data has a control character in ten."""
    head = body[:4096]
    if len(_CONTROLS.findall(head)) > 0.005 * len(head):
        raise BodyProblem("content_encoding")
    return body


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _inflate,
    "x-gzip": _inflate,
    "deflate": _inflate,
    "zstd": _unzstd,
    "br": _unbrotli,
}
