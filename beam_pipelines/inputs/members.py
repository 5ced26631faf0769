"""The gzip members or zstd frames of a WARC file, each decompressed on its own, so that a broken one costs only itself.

After a broken member reading goes on at the next one that begins with a WARC record. A member may hold all records of a file, or inflate to
a thousand times its size: one that is larger than memory should hold is decompressed a second time while it is read. The zstd form is the Internet
Archive's (".warc.zst"): one frame a record, and optionally a skippable frame in front that holds the dictionary.
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from beam_pipelines.inputs.compression import GZIP, ZSTD, Codec, codec_of, skippable_frame, zstd_decompressor
from beam_pipelines.inputs.items import Damage

_IN_MEMORY = 64 << 20
_BEHIND = 16 << 20  # what is kept of a larger member behind the place that is read: more than a record that is not too large
_DICTIONARY_FRAME = b"\x5d\x2a\x4d\x18"


def members(path: Path, size: int) -> Iterator[tuple[int, IO[bytes], Damage | None]]:
    """Yield (offset, decompressed content, what is wrong with it or None) of each member; a plain file is one member."""
    with open(path, "rb") as file:
        head = file.read(4)
        codec = GZIP if head.startswith(GZIP.magic[:2]) else codec_of(head)
        if codec is not GZIP and codec is not ZSTD:
            file.seek(0)
            yield 0, file, None
            return
        offset = 0
        if codec is ZSTD:
            codec, offset = _with_dictionary(file)
        while offset < size:
            if codec.name == ZSTD.name and (skipped := skippable_frame(file, offset)):
                offset = skipped[0]
                continue
            member = _decompress(file, offset, codec)
            end, problem = member.end, None
            if end is None:
                after = _next_record(file, offset + 1, codec)
                if after is None and not _has_data(file, offset):
                    return  # zero padding after the last member
                reason = "warc_corrupt" if member.wrong == "corrupt" else "warc_truncated"
                where = f"reading went on at {after}" if after is not None else "nothing readable follows"
                detail = f"a {codec.name} member is {'corrupt' if member.wrong == 'corrupt' else 'cut off'}; {where}"
                problem = Damage(offset, reason, detail)
                end = after if after is not None else size
            yield offset, member.stream(file, offset, codec), problem
            offset = end


@dataclasses.dataclass(frozen=True)
class _Member:
    """One decompressed member.

    Attributes:
      end: offset behind it, None if it has no end.
      wrong: "corrupt" or "truncated" then.
      content: all that it holds, None if that is too much for memory.
      careful: offset of the bytes in which the library refuses to go on; before it is done with them it gives nothing out.
    """

    end: int | None
    wrong: str
    content: bytes | None
    careful: int | None = None

    def stream(self, file: IO[bytes], offset: int, codec: Codec) -> IO[bytes]:
        """The content to read and seek in."""
        return io.BytesIO(self.content) if self.content is not None else Inflated(file, offset, codec, self.careful)  # type: ignore[return-value]


class Inflated:
    """A member's content, decompressed while it is read; going back further than `_BEHIND` begins at its start again."""

    def __init__(self, file: IO[bytes], offset: int, codec: Codec, careful: int | None):
        self._again = lambda: _pieces(file, offset, codec, careful)
        self._pieces, self._held, self._from, self._at = self._again(), bytearray(), 0, 0

    def seek(self, position: int) -> int:
        """Go to a byte of the content, counted from its start."""
        if position < self._from:
            self._pieces, self._held, self._from = self._again(), bytearray(), 0
        self._at = position
        return position

    def tell(self) -> int:
        """Where reading goes on."""
        return self._at

    def read(self, size: int) -> bytes:
        """As many bytes as asked for, fewer at the end alone."""
        while self._from + len(self._held) < self._at + size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._held += piece
            gone = min(self._at - self._from, len(self._held)) - _BEHIND
            if gone > _BEHIND:
                del self._held[:gone]
                self._from += gone
        start = self._at - self._from
        data = bytes(self._held[start : start + size])
        self._at += len(data)
        return data


def _with_dictionary(file: IO[bytes]) -> tuple[Codec, int]:
    """zstd's codec with the file's own dictionary, and where the frames begin."""
    file.seek(0)
    if file.read(4) != _DICTIONARY_FRAME:
        return ZSTD, 0
    frame = skippable_frame(file, 0)
    if frame is None:
        return ZSTD, 0
    end, dictionary = frame
    if dictionary.startswith(ZSTD.magic):  # the dictionary may be compressed itself
        with contextlib.suppress(ZSTD.errors()):
            dictionary = zstd_decompressor().decompress(dictionary)
    return dataclasses.replace(ZSTD, start=lambda: zstd_decompressor(dictionary)), end


def _has_data(file: IO[bytes], offset: int) -> bool:
    """Whether anything but zero bytes stands in the file from `offset` on."""
    file.seek(offset)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return True
    return False


def _decompress(file: IO[bytes], offset: int, codec: Codec) -> _Member:
    """Decompress the member at `offset`, holding no more than `_IN_MEMORY` of it."""
    held: io.BytesIO | None = io.BytesIO()

    def keep(content: bytes) -> None:
        nonlocal held
        if held is not None:
            held.write(content)
            held = held if held.tell() <= _IN_MEMORY else None

    def kept() -> bytes | None:
        return None if held is None else held.getvalue()

    file.seek(offset)
    inflater, failure = codec.start(), codec.errors()
    while chunk := file.read(codec.step):
        try:
            keep(inflater.decompress(chunk))
        except failure:
            # The library keeps back what it made of the chunk in which it fails: once more, byte by byte there.
            careful = file.tell() - len(chunk)
            held = io.BytesIO()
            for piece in _pieces(file, offset, codec, careful):
                keep(piece)
            return _Member(None, "corrupt", kept(), careful)
        if inflater.eof:
            return _Member(file.tell() - len(inflater.unused_data), "", kept())
    return _Member(None, "truncated", kept())


def _pieces(file: IO[bytes], offset: int, codec: Codec, careful: int | None) -> Iterator[bytes]:
    """The content of the member at `offset` in pieces, up to its end or to the byte that the library refuses, which is not before `careful`."""
    inflater, at = codec.start(), offset
    with contextlib.suppress(codec.errors()):
        while not inflater.eof:
            step = codec.step if careful is None else min(codec.step, careful - at) if at < careful else 1
            file.seek(at)  # whoever reads this may read elsewhere in between
            chunk = file.read(step)
            if not chunk:
                return
            at += len(chunk)
            if piece := inflater.decompress(chunk):
                yield piece


def _next_record(file: IO[bytes], start: int, codec: Codec) -> int | None:
    """Offset of the next member that begins with a WARC record, from `start` on."""
    position, tail = start, b""
    file.seek(start)
    while block := file.read(1 << 20):
        data = tail + block
        found = data.find(codec.magic)
        while found >= 0:
            candidate = position - len(tail) + found
            if _begins_record(file, candidate, codec):
                return candidate
            found = data.find(codec.magic, found + 1)
        position += len(block)
        tail = data[-(len(codec.magic) - 1) :]
        file.seek(position)
    return None


def _begins_record(file: IO[bytes], offset: int, codec: Codec) -> bool:
    """Whether the member at `offset` begins with a WARC record."""
    inflater = codec.start()
    size, head = os.fstat(file.fileno()).st_size, b""
    file.seek(offset)
    try:
        # zstd gives nothing out before a block is whole (128 KB at most), gzip after some bytes.
        while len(head) < 5 and not inflater.eof and file.tell() < min(size, offset + (1 << 18)):
            head += inflater.decompress(file.read(512))
    except codec.errors():
        return False
    return head.startswith(b"WARC/")
