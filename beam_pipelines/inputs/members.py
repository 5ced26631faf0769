"""The gzip members or zstd frames of a WARC file, each decompressed on its own, so that a broken one costs only itself.

After a broken member reading goes on at the next one that begins with a WARC record. The zstd form is the Internet
Archive's (".warc.zst"): one frame a record, and optionally a skippable frame in front that holds the dictionary.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from beam_pipelines.inputs.compression import GZIP, ZSTD, Codec, codec_of, skippable_frame, zstd_decompressor
from beam_pipelines.inputs.items import Damage

_IN_MEMORY = 64 << 20
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
            with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
                end, wrong = _decompress(file, offset, spool, codec)
                if end is None:
                    after = _next_record(file, offset + 1, codec)
                    if after is None and not _has_data(file, offset):
                        return  # zero padding after the last member
                    reason = "warc_corrupt" if wrong == "corrupt" else "warc_truncated"
                    where = f"reading went on at {after}" if after is not None else "nothing readable follows"
                    detail = f"a {codec.name} member is {'corrupt' if wrong == 'corrupt' else 'cut off'}; {where}"
                    problem: Damage | None = Damage(offset, reason, detail)
                    end = after if after is not None else size
                else:
                    problem = None
                spool.seek(0)
                yield offset, spool, problem  # type: ignore[misc]
                offset = end


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


def _decompress(file: IO[bytes], offset: int, out: IO[bytes], codec: Codec) -> tuple[int | None, str]:
    """Decompress the member at `offset` into `out`: (offset of its end, "") or (None, "corrupt" or "truncated")."""
    file.seek(offset)
    inflater, failure = codec.start(), codec.errors()
    while True:
        chunk = file.read(codec.step)
        if not chunk:
            return None, "truncated"
        try:
            out.write(inflater.decompress(chunk))
        except failure:
            # The library keeps back what it made of the chunk in which it fails: once more, byte by byte there.
            before = file.tell() - len(chunk)
            out.seek(0)
            out.truncate()
            return _decompress_until(file, offset, before, out, codec)
        if inflater.eof:
            return file.tell() - len(inflater.unused_data), ""


def _decompress_until(file: IO[bytes], offset: int, position: int, out: IO[bytes], codec: Codec) -> tuple[None, str]:
    """Decompress the corrupt member at `offset` up to the byte that the library refuses, which is known to lie after `position`."""
    file.seek(offset)
    inflater = codec.start()
    while (left := position - file.tell()) > 0:
        out.write(inflater.decompress(file.read(min(left, codec.step))))
    with contextlib.suppress(codec.errors()):
        while byte := file.read(1):
            out.write(inflater.decompress(byte))
    return None, "corrupt"


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
