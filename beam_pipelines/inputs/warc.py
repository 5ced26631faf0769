"""Reading WARC and WET files so that a damaged one loses only what is damaged, and says so.

WARC readers stop at a broken gzip member, some without an error (facts: warcio reads a cut file to its end silently).
So the members are walked (`members.py`): each is decompressed on its own, its end and checksum are known, and after a
broken one reading goes on at the next member that starts a WARC record. fastwarc parses the records. A WET file is a WARC
file of conversion records: the text that Common Crawl made of the responses.
"""

import base64
import dataclasses
import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from beam_pipelines.inputs.items import Capture, Damage, Other
from beam_pipelines.inputs.members import Inflated, members

_SEARCH = 1 << 20
# A record's first line with the header that follows: the first line alone may stand in any text about WARC files.
_START = re.compile(rb"WARC/1\.\d\r?\n(?:WARC-[\w-]{1,40}|Content-[\w-]{1,40}):", re.IGNORECASE)
_DOCUMENT = re.compile(rb"^WARC-Type:[ \t]*(?:response|conversion)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)

# What reading gives; a pair is a metadata record: the record that it is about, and its fields.
_Item = Capture | Other | Damage | tuple[str, dict[str, str]]


def read_captures(path: str | Path, max_bytes: int) -> Iterator[Capture | Other | Damage]:
    """Yield the responses and conversions of a WARC file (plain, gzip, zstd), each with its metadata record's fields.

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
    for offset, stream, problem in members(path, size):
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


@dataclasses.dataclass(frozen=True)
class _Parsed:
    """What was made of one record: it stands at byte `at` of the stream; `cut`: the stream ends inside it; `sure`: its checksum fits."""

    at: int
    item: _Item
    cut: bool = False
    sure: bool = False


def _records(stream: IO[bytes], offset: int, max_bytes: int, corrupt: bool) -> Iterator[_Item]:
    """The whole records of one member or plain file. After damage reading goes on where the next record starts."""
    plain = not isinstance(stream, io.BytesIO | Inflated)
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
    """(documents whose headers stand between `at` and there, where the next record starts after `at` or None).

    `skip_first`: the document at `at` itself was read.
    """
    responses, position, overlap = -int(skip_first), at, 256
    while True:
        stream.seek(position)
        data = stream.read(_SEARCH)
        last = len(data) < _SEARCH
        start = _START.search(data, 1 if position == at else 0)
        end = start.start() if start else len(data) if last else len(data) - overlap
        responses += sum(1 for found in _DOCUMENT.finditer(data) if found.start() < end)
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
        is_conversion = record.record_type == WarcRecordType.conversion
        kind = "conversion" if is_conversion else "response" if record.record_type == WarcRecordType.response else ""
        is_metadata = record.record_type == WarcRecordType.metadata
        headers = {key.lower(): value for key, value in record.headers.items()}
        if not kind and not is_metadata:
            yield _Parsed(place, Other(str(headers.get("warc-type", "unknown")).lower()))
            continue
        length = record.content_length
        if "content-length" not in headers:  # fastwarc takes a header that is cut off for one of an empty record
            reason = "warc_corrupt" if corrupt else "warc_truncated"
            yield _Parsed(place, Damage(at, reason, "the record's header is cut off", int(bool(kind))), cut=True)
            continue
        block, got = _read_block(record, length, max_bytes + (64 << 10))
        sure = _digest_fits(block, headers.get("warc-block-digest", "")) if corrupt else False
        if got < length:
            missing = f"the record is cut off after {got} of {length} bytes"
            damage = Damage(at, "warc_corrupt" if corrupt else "warc_truncated", missing, int(bool(kind)))
            yield _Parsed(place, damage, cut=True)
        elif corrupt and not sure:
            yield _Parsed(place, Damage(at, "warc_corrupt", "the record does not fit its checksum", int(bool(kind))))
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
                kind=kind,
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
