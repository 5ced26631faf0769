"""Reading WARC files so that a damaged one loses only what is damaged, and says so.

WARC readers stop at a broken gzip member, some without an error (facts: warcio reads a cut file to its end silently).
So the members are walked here: each is decompressed on its own, its end and checksum are known, and after a broken one
reading goes on at the next member that starts a WARC record. fastwarc parses the records.
"""

import base64
import contextlib
import dataclasses
import hashlib
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_GZIP = b"\x1f\x8b\x08"
_CHUNK = 1 << 14
_SEARCH = 1 << 20
# A record's first line with the header that follows: the first line alone may stand in any text about WARC files.
_START = re.compile(rb"WARC/1\.\d\r?\n(?:WARC-[\w-]{1,40}|Content-[\w-]{1,40}):", re.IGNORECASE)
_RESPONSE = re.compile(rb"^WARC-Type:[ \t]*response[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_IN_MEMORY = 64 << 20


@dataclasses.dataclass(frozen=True)
class Damage:
    """A place where input was lost: `reason` is warc_truncated, warc_corrupt, warc_empty or warc_unreadable; `lost_documents`
    is how many responses are known to be lost there (0: nothing says what stood there)."""

    offset: int
    reason: str
    detail: str
    lost_documents: int = 0


@dataclasses.dataclass
class Capture:
    """One response record: what a server sent for `url`.

    Attributes:
      offset: of the record's gzip member in the file.
      block: HTTP head and body as they stand in the record, or None if the record is larger than the limit.
      size: bytes of the block.
      truncated: the crawler's own reason for cutting the block (WARC-Truncated), or "".
      fields: of the metadata record that follows the response, if any: source, licence, package, version.
    """

    url: str
    date: str
    record_id: str
    offset: int
    block: bytes | None
    size: int
    truncated: str = ""
    fields: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Other:
    """A record that is no response: its WARC type."""

    kind: str


# What reading gives; a pair is a metadata record: the record that it is about, and its fields.
_Item = Capture | Other | Damage | tuple[str, dict[str, str]]


def read_captures(path: str | Path, max_bytes: int) -> Iterator[Capture | Other | Damage]:
    """Yield the responses of a WARC file (.warc or .warc.gz), each with its metadata record's fields.

    Args:
      path: the file.
      max_bytes: blocks larger than this (and the HTTP head) are not read into memory.

    Raises:
      OSError: the file can't be opened or read.
    """
    waiting: Capture | None = None
    for item in _read_items(Path(path), max_bytes):
        if isinstance(item, tuple):  # a metadata record
            refers_to, fields = item
            if waiting is not None and refers_to == waiting.record_id:
                waiting.fields.update(fields)
            yield Other("metadata")
            continue
        # Request and metadata records may stand between a response and the next one.
        if waiting is not None and isinstance(item, Capture):
            yield waiting
            waiting = None
        if isinstance(item, Capture):
            waiting = item
        else:
            yield item
    if waiting is not None:
        yield waiting


def _read_items(path: Path, max_bytes: int) -> Iterator[_Item]:
    size = os.path.getsize(path)
    if size == 0:
        yield Damage(0, "warc_empty", "the file is empty")
        return
    records, held = 0, list[Damage]()  # damage before the first record: the file may be no WARC file at all
    for offset, stream, problem in _members(path, size):
        found = 0
        for item in _records(stream, offset, max_bytes, corrupt=problem is not None and problem.reason == "warc_corrupt"):
            found += 1
            if isinstance(item, Damage):
                problem = None  # the record's own loss says more than the member's
                held.append(item)
            else:
                records += 1
                yield item
        if problem is not None:
            held.append(problem)
        elif not found:
            held.append(Damage(offset, "warc_corrupt", "no WARC record stands here"))
        if records:
            yield from held
            held.clear()
    if not records and not any(damage.lost_documents or damage.reason == "warc_truncated" for damage in held):
        held = [Damage(0, "warc_unreadable", "no WARC record was found in this file")]
    yield from held


def _members(path: Path, size: int) -> Iterator[tuple[int, IO[bytes], Damage | None]]:
    """Yield (offset, decompressed content, what is wrong with it or None) of each gzip member; a plain file is one member."""
    with open(path, "rb") as file:
        if file.read(2) != _GZIP[:2]:
            file.seek(0)
            yield 0, file, None
            return
        offset = 0
        while offset < size:
            with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
                end, wrong = _decompress(file, offset, spool)
                if end is None:
                    after = _next_record(file, offset + 1)
                    if after is None and not _has_data(file, offset):
                        return  # zero padding after the last member
                    reason = "warc_corrupt" if wrong == "corrupt" else "warc_truncated"
                    where = f"reading went on at {after}" if after is not None else "nothing readable follows"
                    detail = f"a gzip member is {'corrupt' if wrong == 'corrupt' else 'cut off'}; {where}"
                    problem: Damage | None = Damage(offset, reason, detail)
                    end = after if after is not None else size
                else:
                    problem = None
                spool.seek(0)
                yield offset, spool, problem  # type: ignore[misc]
                offset = end


def _has_data(file: IO[bytes], offset: int) -> bool:
    """Whether anything but zero bytes stands in the file from `offset` on."""
    file.seek(offset)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return True
    return False


def _decompress(file: IO[bytes], offset: int, out: IO[bytes]) -> tuple[int | None, str]:
    """Decompress the member at `offset` into `out`: (offset of its end, "") or (None, "corrupt" or "truncated")."""
    file.seek(offset)
    inflater = zlib.decompressobj(31)
    while True:
        chunk = file.read(_CHUNK)
        if not chunk:
            return None, "truncated"
        try:
            out.write(inflater.decompress(chunk))  # a chunk gives 16 MB at most
        except zlib.error:
            # zlib keeps back what it made of the chunk in which it fails: once more, byte by byte there.
            before = file.tell() - len(chunk)
            out.seek(0)
            out.truncate()
            return _decompress_until(file, offset, before, out)
        if inflater.eof:
            return file.tell() - len(inflater.unused_data), ""


def _decompress_until(file: IO[bytes], offset: int, position: int, out: IO[bytes]) -> tuple[None, str]:
    """Decompress the corrupt member at `offset` up to the byte that zlib refuses, which is known to lie after `position`."""
    file.seek(offset)
    inflater = zlib.decompressobj(31)
    while (left := position - file.tell()) > 0:
        out.write(inflater.decompress(file.read(min(left, _CHUNK))))
    with contextlib.suppress(zlib.error):
        while byte := file.read(1):
            out.write(inflater.decompress(byte))
    return None, "corrupt"


def _next_record(file: IO[bytes], start: int) -> int | None:
    """Offset of the next gzip member that begins with a WARC record, from `start` on."""
    position, tail = start, b""
    file.seek(start)
    while block := file.read(1 << 20):
        data = tail + block
        found = data.find(_GZIP)
        while found >= 0:
            candidate = position - len(tail) + found
            if _begins_record(file, candidate):
                return candidate
            found = data.find(_GZIP, found + 1)
        position += len(block)
        tail = data[-(len(_GZIP) - 1) :]
        file.seek(position)
    return None


def _begins_record(file: IO[bytes], offset: int) -> bool:
    file.seek(offset)
    try:
        return zlib.decompressobj(31).decompress(file.read(512), 5) == b"WARC/"
    except zlib.error:
        return False


@dataclasses.dataclass(frozen=True)
class _Parsed:
    """What was made of one record: it stands at byte `at` of the stream; `cut`: the stream ends inside it; `sure`: its checksum fits."""

    at: int
    item: _Item
    cut: bool = False
    sure: bool = False


def _records(stream: IO[bytes], offset: int, max_bytes: int, corrupt: bool) -> Iterator[_Item]:
    """The whole records of one member or plain file. After damage reading goes on where the next record starts."""
    plain = not isinstance(stream, tempfile.SpooledTemporaryFile)
    begin: int | None = 0
    while begin is not None:
        # One record is held back: that its length is wrong shows only where the next one should stand.
        held: _Parsed | None = None
        wrong = ""
        try:
            for parsed in _parse(stream, begin, 0 if plain else offset, plain, max_bytes, corrupt):
                if held is not None:
                    yield held.item
                held = parsed
        except (OSError, ValueError) as error:
            wrong = f"no record can be parsed here ({error})"
        if not wrong and not (held is not None and held.cut):
            if held is not None:
                yield held.item
            return
        at, reason, known = begin, "warc_corrupt", 0
        if held is not None and held.cut and isinstance(held.item, Damage):
            at, reason, wrong, known = held.at, held.item.reason, held.item.detail, held.item.lost_documents
        elif held is not None:
            end = _record_end(stream, held.at)
            if end is not None or held.sure:
                yield held.item
            at = held.at if end is None else end
            if end is None and not held.sure:
                wrong = "the record's length does not fit what stands there"
        counted, begin = _next_start(
            stream, at, skip_first=held is not None and held.sure and at == held.at and isinstance(held.item, Capture)
        )
        if begin is not None:
            wrong, reason = f"{wrong}; reading went on at byte {begin}", "warc_corrupt"
        else:
            wrong = f"{wrong}; nothing readable follows"
        if not plain:
            wrong = f"at byte {at} of what this gzip member holds: {wrong}"
        yield Damage(at if plain else offset, reason, wrong, max(known, counted))


def _record_end(stream: IO[bytes], at: int) -> int | None:
    """Where the record at `at` ends by its own header, or None if no record ends there."""
    stream.seek(at)
    head, blank, _ = stream.read(1 << 16).partition(b"\r\n\r\n")
    length = re.search(rb"^Content-Length:\s*(\d+)\s*$", head, re.IGNORECASE | re.MULTILINE)
    if not blank or length is None:
        return None
    end = at + len(head) + len(blank) + int(length[1])
    stream.seek(end)
    return end + 4 if stream.read(4) == b"\r\n\r\n" else None


def _next_start(stream: IO[bytes], at: int, skip_first: bool) -> tuple[int, int | None]:
    """(responses whose headers stand between `at` and there, where the next record starts after `at` or None).

    `skip_first`: the response at `at` itself was read.
    """
    responses, position, overlap = -int(skip_first), at, 256
    while True:
        stream.seek(position)
        data = stream.read(_SEARCH)
        last = len(data) < _SEARCH
        start = _START.search(data, 1 if position == at else 0)
        end = start.start() if start else len(data) if last else len(data) - overlap
        responses += sum(1 for found in _RESPONSE.finditer(data) if found.start() < end)
        if start is not None or last:
            return max(responses, 0), None if start is None else position + start.start()
        position += end


def _parse(stream: IO[bytes], begin: int, offset: int, plain: bool, max_bytes: int, corrupt: bool) -> Iterator[_Parsed]:
    """The stream's records from `begin` on, as fastwarc reads them.

    Raises:
      OSError: what stands where a record should is none.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    stream.seek(begin)
    for record in ArchiveIterator(stream, parse_http=False, auto_decode="none", stream_detect=False, fsspec_args=False):
        place = begin + record.stream_pos
        at = place if plain else offset
        is_response = record.record_type == WarcRecordType.response
        is_metadata = record.record_type == WarcRecordType.metadata
        headers = {key.lower(): value for key, value in record.headers.items()}
        if not is_response and not is_metadata:
            yield _Parsed(place, Other(str(headers.get("warc-type", "unknown")).lower()))
            continue
        length = record.content_length
        if "content-length" not in headers:  # fastwarc takes a header that is cut off for one of an empty record
            reason = "warc_corrupt" if corrupt else "warc_truncated"
            yield _Parsed(place, Damage(at, reason, "the record's header is cut off", int(is_response)), cut=True)
            continue
        block, got = _read_block(record, length, max_bytes + (64 << 10))
        sure = _digest_fits(block, headers.get("warc-block-digest", "")) if corrupt else False
        if got < length:
            missing = f"the record is cut off after {got} of {length} bytes"
            damage = Damage(at, "warc_corrupt" if corrupt else "warc_truncated", missing, int(is_response))
            yield _Parsed(place, damage, cut=True)
        elif corrupt and not sure:
            yield _Parsed(place, Damage(at, "warc_corrupt", "the record does not fit its checksum", int(is_response)))
        elif is_metadata:
            refers_to = headers.get("warc-concurrent-to") or headers.get("warc-refers-to", "")
            yield _Parsed(place, (refers_to, _fields(block or b"")), sure=sure)
        else:
            capture = Capture(
                url=headers.get("warc-target-uri", "").strip("<>"),
                date=headers.get("warc-date", ""),
                record_id=headers.get("warc-record-id", ""),
                offset=at,
                block=block,
                size=length,
                truncated=headers.get("warc-truncated", ""),
            )
            yield _Parsed(place, capture, sure=sure)


def _read_block(record: Any, length: int, limit: int) -> tuple[bytes | None, int]:
    """(block or None if it is larger than `limit`, bytes that were there)."""
    if length <= limit:
        block = record.reader.read(length) if length else b""
        return block, len(block)
    got = 0
    while piece := record.reader.read(1 << 20):
        got += len(piece)
    return None, got


def _digest_fits(block: bytes | None, digest: str) -> bool:
    algorithm, _, value = digest.partition(":")
    if block is None or algorithm.lower() not in ("sha1", "sha256", "md5"):
        return False
    found = hashlib.new(algorithm.lower(), block)
    return value.strip().lower() in (base64.b32encode(found.digest()).decode().lower(), found.hexdigest())


def _fields(block: bytes) -> dict[str, str]:
    """The fields of an application/warc-fields block that say where a page came from."""
    fields = {}
    for line in block.decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() in ("source", "licence", "package", "version"):
            fields[name.strip().lower()] = value.strip()
    return fields
