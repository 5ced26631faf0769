"""Decompressing gzip, zstd and bzip2 so that a broken end is known as such: a frame that does not end is an error, not an end.

Library readers differ there: zstandard's stream reader and several gzip tools end quietly at a cut-off file. Here every member
(gzip), frame (zstd) or stream (bzip2) has to end by its own mark. Members may follow each other, as in multistream dumps.
"""

import bz2
import dataclasses
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any

_BLOCK = 1 << 20
# zstd --long=31 is how large dumps are made; the window's memory is taken as far as the data reaches.
_MAX_WINDOW = 1 << 31


class Broken(Exception):
    """The data can't be decompressed further: `reason` is truncated or corrupt, `offset` the byte of the compressed file that
    its member begins at; `pending`: a line was begun and not ended (`lines` sets it)."""

    def __init__(self, reason: str, offset: int, detail: str):
        super().__init__(detail)
        self.reason, self.offset, self.detail, self.pending = reason, offset, detail, False


def _zstd_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


def zstd_decompressor(dictionary: bytes = b"") -> Any:
    """A zstandard decompression object for one frame."""
    import zstandard

    known = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
    return zstandard.ZstdDecompressor(dict_data=known, max_window_size=_MAX_WINDOW).decompressobj()


@dataclasses.dataclass(frozen=True)
class Codec:
    """A compressed format.

    Attributes:
      name: for messages.
      magic: first bytes of a member.
      start: gives a decompression object for one member (`decompress`, `eof`, `unused_data`).
      errors: gives the exception that bad data raises.
      step: bytes fed at once: what they may become has to fit in memory (gzip 1 : 1,032; zstd about 1 : 32,000 at worst).
    """

    name: str
    magic: bytes
    start: Callable[[], Any]
    errors: Callable[[], type[Exception]]
    step: int


GZIP = Codec("gzip", b"\x1f\x8b\x08", lambda: zlib.decompressobj(31), lambda: zlib.error, 1 << 14)
ZSTD = Codec("zstd", b"\x28\xb5\x2f\xfd", zstd_decompressor, _zstd_error, 1 << 11)
BZIP2 = Codec("bzip2", b"BZh", bz2.BZ2Decompressor, lambda: OSError, 1 << 14)
CODECS = (GZIP, ZSTD, BZIP2)
ENDINGS = ("", ".gz", ".zst", ".bz2")
_SKIPPABLE = tuple(bytes([0x50 + i]) + b"\x2a\x4d\x18" for i in range(16))  # RFC 8878 section 3.1.2


def codec_of(head: bytes) -> Codec | None:
    """The codec by a file's first bytes, None for a plain file."""
    if head[:4] in _SKIPPABLE:
        return ZSTD
    return next((codec for codec in CODECS if head.startswith(codec.magic)), None)


def skippable_frame(file: IO[bytes], offset: int) -> tuple[int, bytes] | None:
    """(offset behind it, content) of the zstd skippable frame at `offset`, None if none stands there."""
    file.seek(offset)
    head = file.read(8)
    if head[:4] not in _SKIPPABLE or len(head) < 8:
        return None
    size = int.from_bytes(head[4:], "little")
    if offset + 8 + size > os.fstat(file.fileno()).st_size:
        return None
    return offset + 8 + size, file.read(min(size, 1 << 24))


def blocks(path: str | Path) -> Iterator[bytes]:
    """Yield a file's content, decompressed as its first bytes say.

    Raises:
      Broken: a member is cut off or corrupt, or something that is none follows; what came before was yielded.
      OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        codec = codec_of(file.read(4))
        file.seek(0)
        if codec is None:
            while block := file.read(_BLOCK):
                yield block
            return
        end, offset = os.fstat(file.fileno()).st_size, 0
        while offset < end:
            if codec is ZSTD and (skipped := skippable_frame(file, offset)):
                offset = skipped[0]
                continue
            offset = yield from _member(file, codec, offset, end)


def _member(file: IO[bytes], codec: Codec, offset: int, size: int) -> Generator[bytes, None, int]:
    """Yield one member's content; returns the offset behind it."""
    file.seek(offset)
    head = file.read(len(codec.magic))
    file.seek(offset)
    if head != codec.magic:
        rest = file.read(_BLOCK)
        if not rest.strip(b"\0") and offset + len(rest) == size:
            return size  # zero padding, which tapes and some tools leave
        whole = codec.magic.startswith(head)
        detail = f"no {codec.name} member stands at byte {offset} of {size}; what follows was not read"
        raise Broken("truncated" if whole else "corrupt", offset, detail)
    inflater, failure = codec.start(), codec.errors()
    while True:
        piece = file.read(codec.step)
        if not piece:
            raise Broken("truncated", offset, f"the {codec.name} data that begins at byte {offset} of {size} is cut off")
        try:
            content = inflater.decompress(piece)
        except failure as error:
            detail = f"the {codec.name} data is corrupt near byte {file.tell()} of {size} ({error}); what follows was not read"
            raise Broken("corrupt", offset, detail) from None
        if content:
            yield content
        if inflater.eof:
            return file.tell() - len(inflater.unused_data)


def lines(path: str | Path, limit: int) -> Iterator[tuple[int, bytes | None, int]]:
    """Yield (number from 1, line without its end or None if it is longer than `limit` bytes, bytes) of a text file's lines.

    Raises:
      Broken: as `blocks`; `pending` says whether a line was cut.
      OSError: the file can't be read.
    """
    number, held, size = 1, list[bytes](), 0
    source = blocks(path)
    while True:
        try:
            block = next(source, None)
        except Broken as broken:
            broken.pending = size > 0
            raise
        if block is None:
            break
        start = 0
        while (end := block.find(b"\n", start)) >= 0:
            size += end - start
            yield number, (b"".join([*held, block[start:end]]) if size <= limit else None), size
            number, held, size, start = number + 1, [], 0, end + 1
        rest = block[start:]
        size += len(rest)
        if size <= limit and rest:
            held.append(rest)
        elif size > limit:
            held.clear()
    if size:
        yield number, (b"".join(held) if size <= limit else None), size
