"""`ja-llm fetch common-crawl`: the records of one crawl that are in one language, by byte range, as WARC files.

OUT/warc/CRAWL-NNNNN.warc.gz   the records' gzip members, byte by byte as Common Crawl has them
OUT/selection.jsonl.gz         what the index named: file, offset, length, URL, digest, languages of each record
OUT/manifest.json              the ledger (schema ja_llm.fetch/1), written last
OUT/.state/                    finished parts of the index, and a journal of each WARC file: what a killed run goes on from
"""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.fetch import crawl_index
from ja_llm.fetch.crawl_index import Entry
from ja_llm.fetch.download import Gone, check_url
from ja_llm.fetch.ledger import SCHEMA, finished_totals
from ja_llm.fetch.ranges import Client
from ja_llm.files import atomic_write, lock_file, os_error_sentence, read_json, sha256_json, write_json
from ja_llm.progress import Progress

DATA, INDEX = "https://data.commoncrawl.org", "https://index.commoncrawl.org"
_LARGEST = 64 << 20  # bytes of one member; Common Crawl cuts pages at 1 MiB (5 MiB since 2025)


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is fetched; the same wish goes on in the same folder.

    Attributes:
      crawl: e.g. "CC-MAIN-2024-10".
      urls: CDX patterns ("*.example.jp", "example.jp/docs/*"); empty with the columnar index.
      index: "cdx" or "columnar".
      language: ISO 639-3, as the index has it.
      parts: files of the columnar index that are asked, from the first; 0 for all.
      limit: records; 0 for all. The first in order of WARC file and offset.
      records_per_file: of the WARC files that are written.
    """

    crawl: str
    urls: tuple[str, ...] = ()
    index: str = "cdx"
    language: str = "jpn"
    parts: int = 0
    limit: int = 0
    records_per_file: int = 10_000


def fetch_common_crawl(
    out: str | Path, wish: Wish, *, data: str = DATA, index: str = INDEX, rate: float = 2.0, pause: float = 1.0
) -> dict[str, Any]:
    """Fetch the records that the wish names into `out`.

    Args:
      out: folder to write.
      wish: what.
      data: root of the data server, https.
      index: root of the CDX server, https.
      rate: requests a second at most; Common Crawl asks for few.
      pause: seconds before a retry.

    Returns:
      Summary: selected, records, bytes, missing (reason -> count), requests.

    Raises:
      UsageError: a wish without meaning, no such crawl, or `out` holds another fetch.
      JaLlmError: a server can't be reached or keeps failing, nothing is found, or the disk is full.
    """
    _check(wish, rate)
    data, index = check_url(data, DATA), check_url(index, INDEX)
    out = Path(out)
    taken = JaLlmError(f"{out}: another fetch is writing to this folder; wait for it or choose another --out.")
    with lock_file(out / ".state" / "lock", taken):
        try:
            _claim(out, wish)
            finished = finished_totals(out)
            if finished is not None:
                return finished
            client = Client(rate, pause=pause)
            entries = _select(client, out, wish, data, index)
            missing = _fetch_all(client, out, wish, entries, data)
            return _write_ledger(out, wish, entries, missing)
        except OSError as error:
            raise os_error_sentence(error, error.filename or out) from error


def _check(wish: Wish, rate: float) -> None:
    if wish.index not in ("cdx", "columnar"):
        raise UsageError(f"--index {wish.index}: it is cdx or columnar.")
    if wish.index == "cdx" and not wish.urls:
        raise UsageError("--index cdx needs --url PATTERN (e.g. '*.example.jp'); for a whole crawl use --index columnar.")
    if wish.index == "columnar" and wish.urls:
        raise UsageError("--url goes with --index cdx only; leave it out.")
    if not 0 < rate <= 100:
        raise UsageError(f"--rate {rate:g}: give a number of requests a second above 0, at most 100.")
    if min(wish.limit, wish.parts) < 0 or wish.records_per_file < 1:
        raise UsageError("--limit, --parts and --records_per_file must not be negative.")


def _claim(out: Path, wish: Wish) -> None:
    path, value = out / ".state" / "fetch.json", _plain(wish)
    if path.exists():
        before = read_json(path, "state of a fetch")
        different = [name for name in value if before.get(name) != value[name]]
        if different:
            name = different[0]
            raise UsageError(
                f"{out}: this folder was fetched with {name} = {before.get(name)!r}; use the same or choose another --out."
            )
    else:
        write_json(path, value)


def _plain(wish: Wish) -> dict[str, Any]:
    return {**dataclasses.asdict(wish), "urls": list(wish.urls)}


def _select(client: Client, out: Path, wish: Wish, data: str, index: str) -> list[Entry]:
    """The wanted records in order of WARC file and offset, each once; finished parts of the index are not asked again."""
    folder, found = out / ".state" / "index", set[Entry]()
    jobs = _index_jobs(client, wish, data, index)
    with Progress("index", len(jobs), "part") as progress:
        for name, entries in jobs:
            path = folder / f"{sha256_json(name)[:16]}.jsonl"
            if not path.exists():
                lines = [json.dumps(dataclasses.asdict(entry)) + "\n" for entry in entries()]
                with atomic_write(path) as file:
                    file.write("".join(lines).encode("utf-8", "replace"))
            with open(path, encoding="utf-8") as text:
                found |= {Entry(**json.loads(line)) for line in text}
            progress.update(1, f"{len(found)} records")
    chosen = sorted(found)[: wish.limit or None]
    if not chosen:
        what = f"under {', '.join(wish.urls)}" if wish.urls else f"in {len(jobs)} parts of the columnar index"
        raise JaLlmError(
            f"{wish.crawl}: the index has no page in {wish.language} {what}; widen --url or --parts, or check --language."
        )
    lines = [json.dumps(dataclasses.asdict(entry)) + "\n" for entry in chosen]
    with atomic_write(out / "selection.jsonl.gz") as file:
        file.write(gzip.compress("".join(lines).encode("utf-8", "replace"), mtime=0))
    return chosen


def _index_jobs(client: Client, wish: Wish, data: str, index: str) -> list[tuple[Any, Any]]:
    """(what identifies a part of the index, a function that gives its entries)."""

    def cdx(pattern: str, page: int) -> Any:
        return lambda: crawl_index.cdx_entries(client, index, wish.crawl, pattern, wish.language, page)

    def table(path: str) -> Any:
        return lambda: crawl_index.table_entries(client, data, path, wish.language)

    if wish.index == "cdx":
        pages = [(pattern, crawl_index.cdx_pages(client, index, wish.crawl, pattern, wish.language)) for pattern in wish.urls]
        return [([pattern, page], cdx(pattern, page)) for pattern, count in pages for page in range(count)]
    parts = crawl_index.table_parts(client, data, wish.crawl)
    return [(path, table(path)) for path in parts[: wish.parts or None]]


def _fetch_all(client: Client, out: Path, wish: Wish, entries: Sequence[Entry], data: str) -> Counter[str]:
    """Fetch the records into WARC files; the counts of those that could not be had, by reason."""
    missing: Counter[str] = Counter()
    with Progress("fetch common-crawl", len(entries), "record") as progress:
        for number, start in enumerate(range(0, len(entries), wish.records_per_file)):
            part = entries[start : start + wish.records_per_file]
            target = out / "warc" / f"{wish.crawl}-{number:05d}.warc.gz"
            journal = _Journal(target, out / ".state" / f"{target.name}.jsonl")
            progress.update(min(len(journal.done), len(part)))
            if not journal.whole(len(part)):
                with journal:
                    for entry in part[len(journal.done) :]:
                        journal.add(*_member(client, entry, data))
                        progress.update()
                journal.finish()
            missing.update(reason for _, reason in journal.done if reason)
    return missing


class _Journal:
    """One WARC file while it grows: after each record a line [bytes, reason], so that a killed run goes on behind the last whole one."""

    def __init__(self, target: Path, path: Path):
        self._target, self._path, self._part = target, path, target.with_name(f"{target.name}.part")
        self.done: list[tuple[int, str]] = list(self._read())

    def _read(self) -> Iterator[tuple[int, str]]:
        if not self._path.exists():
            return
        file = self._target if self._target.exists() else self._part
        size, total = file.stat().st_size if file.exists() else 0, 0
        for line in self._path.read_text().splitlines():
            try:
                length, reason = json.loads(line)
            except ValueError:
                return  # cut by a kill
            total += length
            if total > size:
                return
            yield length, reason

    def whole(self, records: int) -> bool:
        """Whether the file is there with all its records."""
        return self._target.exists() and len(self.done) == records

    def __enter__(self) -> "_Journal":
        self._part.parent.mkdir(parents=True, exist_ok=True)
        if self._target.exists():  # shorter than it should be: it is gone on with
            os.replace(self._target, self._part)
        self._file = open(self._part, "r+b" if self._part.exists() else "w+b")
        self._file.truncate(sum(length for length, _ in self.done))
        self._file.seek(0, io.SEEK_END)
        self._log = open(self._path, "w")
        self._log.writelines(json.dumps(entry) + "\n" for entry in self.done)
        self._log.flush()
        return self

    def __exit__(self, *unused: Any) -> None:
        self._file.close()
        self._log.close()

    def add(self, member: bytes, reason: str) -> None:
        """Append one record, or note why there is none."""
        self._file.write(member)
        self._file.flush()
        self.done.append((len(member), reason))
        self._log.write(json.dumps(self.done[-1]) + "\n")
        self._log.flush()

    def finish(self) -> None:
        """Give the file its name."""
        with open(self._part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self._part, self._target)


def _member(client: Client, entry: Entry, data: str) -> tuple[bytes, str]:
    """(the record's gzip member, "") or (b"", why it can't be had)."""
    if not 0 < entry.length <= _LARGEST:
        return b"", "length"
    try:
        member = client.get_range(f"{data}/{entry.filename}", entry.offset, entry.length)
    except Gone:
        return b"", "gone"
    problem = check_member(member, entry)
    return (b"", problem) if problem else (member, "")


def check_member(member: bytes, entry: Entry) -> str:
    """ "" if these bytes are one whole gzip member of the response that the index names, else the reason."""
    inflater = zlib.decompressobj(31)
    try:
        record = inflater.decompress(member, 256 << 20)
    except zlib.error:
        return "corrupt"
    if not inflater.eof or inflater.unused_data:
        return "truncated" if not inflater.eof else "corrupt"
    head, _, _ = record.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "replace").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if not lines[0].startswith("WARC/") or headers.get("warc-type") != "response":
        return "no_response"
    if headers.get("warc-target-uri", "").strip("<>") != entry.url:
        return "other_url"
    stated = headers.get("warc-payload-digest", "").removeprefix("sha1:")
    return "other_content" if stated and entry.digest and stated != entry.digest else ""


def _write_ledger(out: Path, wish: Wish, entries: Sequence[Entry], missing: Counter[str]) -> dict[str, Any]:
    names = [f"{wish.crawl}-{i:05d}.warc.gz" for i in range(-(-len(entries) // wish.records_per_file))]
    files = [manifest.file_entry(out / "warc" / name, out) for name in names]
    totals = {
        "selected": len(entries),
        "records": len(entries) - sum(missing.values()),
        "missing": dict(sorted(missing.items())),
        "bytes": sum(file["bytes"] for file in files),
    }
    identity = hashlib.sha256("".join(f"{e.filename} {e.offset}\n" for e in entries).encode()).hexdigest()
    manifest.write(
        out,
        schema=SCHEMA,
        job="fetch common-crawl",
        config=_plain(wish),
        inputs=[{"name": wish.crawl, "bytes": sum(entry.length for entry in entries), "sha256": identity}],
        shards=[*files, manifest.file_entry(out / "selection.jsonl.gz", out)],
        totals=totals,
    )
    shutil.rmtree(out / ".state" / "index", ignore_errors=True)
    return totals


def format_summary(totals: dict[str, Any]) -> str:
    """What was fetched, for the terminal."""
    lines = [f"{totals['records']} of {totals['selected']} records, {totals['bytes'] / 1e6:,.1f} MB"]
    if totals["missing"]:
        lines.append("could not be had: " + ", ".join(f"{reason} {n}" for reason, n in totals["missing"].items()))
    return "\n".join(lines)
