"""One package into WARC files and message pairs; each package is a unit of work that is done once."""

import contextlib
import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.fetch import catalogues, deb, render
from ja_llm.fetch.manpages import Mandoc
from ja_llm.fetch.packages import PACKAGES, Package, Pages
from ja_llm.fetch.warc_writer import WarcWriter, http_date, iso_date
from ja_llm.files import atomic_write, canonical_json, sha256_file
from ja_llm.manifest import file_entry

SOURCE = "debian-docs"
_SAMPLES = 3  # names kept for each reason of a skipped file


def warc_name(package: Package, lang: str) -> str:
    """`warc/FAMILY-LANG-NNNNN.warc.gz`; the number is the package's place among those of its family and language."""
    peers = [p.name for p in PACKAGES if p.family == package.family and any(pages.lang == lang for pages in p.pages)]
    return f"warc/{package.family}-{lang}-{peers.index(package.name):05d}.warc.gz"


@dataclasses.dataclass
class _Skipped:
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    samples: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        self.counts[reason] += 1
        names = self.samples.setdefault(reason, [])
        if len(names) < _SAMPLES:
            names.append(path)


def convert(
    package: Package,
    path: Path,
    out: Path,
    messages: Path,
    licence: str,
    mandoc: Callable[[], Mandoc],
    workers: int = 2,
) -> dict[str, Any]:
    """Write a package's WARC files under `out` and its message pairs to `messages`.

    Args:
      package: the table's row.
      path: the verified .deb.
      out: folder of the fetch.
      messages: JSONL file for the pairs of its catalogues; written only if there are any.
      licence: the package's licence, for pages that state none of their own.
      mandoc: gives the renderer of manual pages.
      workers: pages rendered at a time; the order of the records does not depend on it.

    Returns:
      The package's ledger entry: version, licence, WARC files with checksums, pages, counts of what was skipped.

    Raises:
      JaLlmError: the package is damaged, the disk is full, or the renderer can't be had.
    """
    fields, newest = deb.control(path)
    version, date = fields.get("Version", ""), iso_date(newest)
    skipped = _Skipped()
    pages: list[tuple[str, str, str, float]] = []
    pairs: list[tuple[str, str]] = []
    with contextlib.ExitStack() as stack:
        writers: dict[str, WarcWriter] = {}
        for item in _served(package, path, skipped, pairs, mandoc, workers):
            if item.lang not in writers:
                description = f"{package.family} ({item.lang}), Debian package {package.name} {version}"
                writer = WarcWriter(out / warc_name(package, item.lang), description, date)
                writers[item.lang] = stack.enter_context(writer)
            metadata = {
                "source": SOURCE,
                "licence": item.licence or licence,
                "package": package.name,
                "version": version,
                "family": package.family,
                "language": item.lang,
            }
            headers = {"Last-Modified": http_date(item.mtime)}
            writers[item.lang].response(item.url, item.body, item.content_type, date, metadata=metadata, headers=headers)
            pages.append((item.lang, item.key, item.url, item.kana_share))
    counts = Counter(page[0] for page in pages)
    files = [file_entry(out / warc_name(package, lang), out, lang=lang, responses=counts[lang]) for lang in sorted(counts)]
    unique = list(dict.fromkeys(pairs))
    if unique:
        _write_messages(messages, unique, package.name, licence)
    return {
        "package": package.name,
        "family": package.family,
        "version": version,
        "date": date,
        "licence": licence,
        "files": files,
        "pages": pages,
        "messages": {"pairs": len(unique), "sha256": sha256_file(messages) if unique else ""},
        "skipped": dict(sorted(skipped.counts.items())),
        "skipped_samples": dict(sorted(skipped.samples.items())),
    }


def _write_messages(path: Path, pairs: list[tuple[str, str]], package: str, licence: str) -> None:
    with atomic_write(path) as file:
        for english, japanese in pairs:
            row = {"en": english, "ja": japanese, "package": package, "licence": licence}
            file.write((canonical_json(row) + "\n").encode())


def _served(
    package: Package, path: Path, skipped: _Skipped, pairs: list, mandoc: Callable[[], Mandoc], workers: int
) -> Iterator[render.Page]:
    """The package's pages in archive order, rendered a few at a time; catalogues met on the way go to `pairs`."""
    waiting: deque[tuple[str, Future]] = deque()

    def finish() -> Iterator[render.Page]:
        name, future = waiting.popleft()
        try:
            yield future.result()
        except render.Skip as reason:
            skipped.add(str(reason), name)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for entry, pages, key in _wanted(package, path):
                if pages is None:
                    _read_catalogue(package, entry, skipped, pairs)
                elif entry.body is None:
                    skipped.add("link to another page", entry.path)
                else:
                    job = pool.submit(render.page, package.name, pages, key, entry.path, entry.mtime, entry.body, mandoc)
                    waiting.append((entry.path, job))
                    if len(waiting) > 2 * workers:
                        yield from finish()
            while waiting:
                yield from finish()
        finally:
            for _, job in waiting:
                job.cancel()


def _wanted(package: Package, path: Path) -> Iterator[tuple[deb.Entry, Pages | None, str]]:
    """The members that are pages (with their row and key) or catalogues (with None)."""

    def match(name: str) -> tuple[Pages | None, str] | None:
        for pages in package.pages:
            key = pages.key(name)
            if key is not None:
                return pages, key
        return (None, "") if package.catalogues and catalogues.CATALOGUE.fullmatch(name) else None

    for entry in deb.entries(path, lambda name: match(name) is not None):
        found = match(entry.path)
        if found is not None:
            yield entry, *found


def _read_catalogue(package: Package, entry: deb.Entry, skipped: _Skipped, pairs: list) -> None:
    if entry.body is None:
        return
    try:
        pairs.extend(catalogues.japanese_pairs(entry.body, f"{package.name}: {entry.path}"))
    except JaLlmError:
        skipped.add("unreadable message catalogue", entry.path)


def copyright_of(path: Path, name: str) -> tuple[str, str]:
    """A package's copyright file as (text, ""), or ("", other package) where its folder links to that package's."""
    folder = f"usr/share/doc/{name}"
    text, link = "", ""
    for entry in deb.entries(path, lambda p: p == folder or p.removesuffix(".gz") == f"{folder}/copyright"):
        if entry.body is not None:
            text = entry.body.decode("utf-8", "replace")
        elif entry.path == folder:
            link = entry.link.rstrip("/").rpartition("/")[2]
        else:  # ../OTHER/copyright
            link = entry.link.rstrip("/").split("/")[-2] if "/" in entry.link else ""
    return text, "" if text else link
