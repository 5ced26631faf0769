"""Drop documents by their host: block lists, patterns, and hosts that show too much of what the lists of expressions name.

The last is judged over all pages of a host that remain: one pass counts them by host, a second drops. Swallow v1's paper drops hosts where
names of dating sites stand on more than .001 of the pages, and those where NG characters are more than .005.
"""

import dataclasses
import fnmatch
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import xxhash

from beam_pipelines import mirror
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.settings.hosts import HostFilter
from beam_pipelines.side_files import digests
from beam_pipelines.stage_files import remaining, remaining_with
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit, run_units, write_file
from ja_llm.errors import UsageError
from ja_llm.files import canonical_json

VERSION = 1
LISTED, PATTERN, NAMED, NG = "host_listed", "host_pattern", "host_named_pages", "host_ng_characters"
_BAD = "bad.json"
_TABLE = ".jsonl"


def host_of(url: str) -> str:
    """The host of a URL: lower case, international names in their ASCII form, without port, credentials and a final dot; "" if there is none.

    Example:
      >>> host_of("http://user:pw@WWW.例え.jp.:8080/a"), host_of("about:blank"), host_of("http://[::1")
      ('www.xn--r8jz45g.jp', '', '')
    """
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError):
        return ""


class BlockList:
    """The hosts of a folder in UT1's layout, 9 bytes each.

    Args:
      folder: it holds <category>/domains for each of the categories.
      categories: those that are read; of a host in several the first counts.
      match: "exact" or "suffix".

    Raises:
      UsageError: a category has no such file.
    """

    def __init__(self, folder: str | Path, categories: Sequence[str], match: str = "exact"):
        self._categories, self._match = tuple(categories), match
        hashes, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint8)]
        for number, path in enumerate(list_files(folder, categories)):
            with open(path, "rb") as lines:
                found = [
                    _hash(host) for line in lines if (host := line.strip().lower().rstrip(b".")) and not host.startswith(b"#")
                ]
            hashes.append(np.array(found, np.uint64))
            numbers.append(np.full(len(found), number, np.uint8))
        self._hashes, first = np.unique(np.concatenate(hashes), return_index=True)
        self._numbers = np.concatenate(numbers)[first]

    def __len__(self) -> int:
        return len(self._hashes)

    def category(self, host: str) -> str | None:
        """The category that the host, or one that it belongs to, is listed in."""
        name = host
        while name:
            value = np.uint64(_hash(name.encode()))
            at = int(np.searchsorted(self._hashes, value))
            if at < len(self._hashes) and self._hashes[at] == value:
                return self._categories[self._numbers[at]]
            name = name.partition(".")[2] if self._match == "suffix" else ""
        return None


def list_files(folder: str | Path, categories: Sequence[str]) -> list[Path]:
    """The files of a block list.

    Raises:
      UsageError: the folder or a category is not there.
    """
    files = [Path(folder) / category / "domains" for category in categories]
    if not Path(folder).is_dir():
        raise UsageError(
            f"{folder}: there is no such folder of block lists; unpack UT1's lists there, or empty corpus.HostFilter.blocklist."
        )
    for file in files:
        if not file.is_file():
            there = ", ".join(sorted(path.parent.name for path in Path(folder).glob("*/domains"))) or "none"
            raise UsageError(f"{file}: this category has no list (there are: {there}); change corpus.HostFilter.categories.")
    return files


def by_name(host: str, settings: HostFilter, listed: BlockList | None) -> tuple[str, str] | None:
    """(reason, what matched) if the host's name alone condemns it."""
    if listed and (category := listed.category(host)):
        return LISTED, category
    for pattern in settings.patterns:
        if fnmatch.fnmatchcase(host, pattern.lower()):
            return PATTERN, pattern
    return None


@functools.cache
def _blocklist(folder: str, categories: tuple[str, ...], match: str, contents: tuple[str, ...]) -> BlockList:
    """One list a worker process and content."""
    return BlockList(folder, categories, match)


def _hash(host: bytes) -> int:
    return xxhash.xxh3_64_intdigest(host)


@dataclasses.dataclass
class HostCounts:
    """What a host's pages show: pages, pages with a name of the list, characters in NG expressions, Japanese letters."""

    pages: int = 0
    named: int = 0
    ng_characters: int = 0
    japanese_letters: int = 0

    def add(self, other: Sequence[int]) -> None:
        """Add another's four numbers."""
        for field, n in zip(dataclasses.fields(self), other, strict=True):
            setattr(self, field.name, getattr(self, field.name) + n)

    def reason(self, settings: HostFilter) -> tuple[str, float] | None:
        """(reason, the share) if the share of either kind is above its limit."""
        for reason, limit, part, whole in (
            (NAMED, settings.max_named_page_share, self.named, self.pages),
            (NG, settings.max_ng_character_share, self.ng_characters, self.japanese_letters),
        ):
            if limit is not None and part > limit * whole:
                return reason, part / max(whole, 1)
        return None


def run_all(this: Stage, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution) -> None:
    """Count by host where a share decides, then drop."""
    bad: Stage | None = None
    if config.host_filter.by_share:
        bad = this.part("hosts")
        run_units(bad, units, count, (before, config), execution, light=True)
        if not mirror.fetched(bad.folder / _BAD).exists():
            with write_file(bad.folder / _BAD) as file:
                file.write(canonical_json(bad_hosts(_tables(bad, units), config.host_filter)).encode())
    run_units(this, units, drop, (before, config, bad), execution, light=True)


def count(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Write the unit's table: a line a host, [host, pages, named, NG characters, Japanese letters]."""
    tally = Tally.of(config)
    hosts: dict[str, HostCounts] = {}
    for _, document, lang, found in remaining_with(unit, before, "annotate"):
        tally.keep(document.text, lang)
        row = (1, *(int(found.get(name, 0)) for name in ("named", "ng_characters", "japanese_letters")))
        hosts.setdefault(host_of(document.url), HostCounts()).add(row)
    with write_file(this.file(unit, _TABLE)) as file:
        for host in sorted(hosts):
            file.write(json.dumps([host, *dataclasses.astuple(hosts[host])]).encode() + b"\n")
    return tally.to_json()


def _tables(counted: Stage, units: Iterable[Unit]) -> Iterator[tuple[str, list[int]]]:
    for unit in units:
        with open(counted.file(unit, _TABLE), encoding="utf-8") as lines:
            for line in lines:
                host, *row = json.loads(line)
                yield host, row


def bad_hosts(rows: Iterable[tuple[str, Sequence[int]]], settings: HostFilter) -> dict[str, tuple[str, float]]:
    """Host -> (reason, share) of those whose pages together show too much; pages without a host are no host's."""
    hosts: dict[str, HostCounts] = {}
    for host, row in rows:
        hosts.setdefault(host, HostCounts()).add(row)
    judged = {
        host: counts.reason(settings)
        for host, counts in sorted(hosts.items())
        if host and not any(part in host for part in settings.spared)
    }
    return {host: reason for host, reason in judged.items() if reason}


def drop(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus, bad: Stage | None) -> dict[str, Any]:
    """Drop the unit's documents of bad hosts."""
    tally = Tally.of(config)
    shares = json.loads(mirror.fetched(bad.folder / _BAD).read_bytes()) if bad else {}
    settings, names = config.host_filter, dict[str, tuple[str, str] | None]()
    listed = (
        _blocklist(settings.blocklist, tuple(settings.categories), settings.match, _contents(settings))
        if settings.blocklist
        else None
    )
    for number, document, lang in remaining(unit, before):
        host = host_of(document.url)
        if host not in names:
            names[host] = by_name(host, settings, listed)
        found = names[host]
        if found:
            tally.drop_document(number, document, found[0], note=f"{host}: {found[1]}", host=host, matched=found[1])
        elif host in shares:
            reason, share = shares[host]
            tally.drop_document(number, document, reason, note=f"{host}: {share:.4g}", host=host, share=round(share, 6))
        else:
            tally.keep(document.text, lang)
    return tally.to_json()


def _checked_files(config: Corpus) -> dict[str, str]:
    """The lists' digests, once it is clear that what decides by share is measured."""
    settings, lists = config.host_filter, config.expressions
    stages = list(config.stages)
    for name, limit, given, binding in (
        ("max_named_page_share", settings.max_named_page_share, lists.names, "names"),
        ("max_ng_character_share", settings.max_ng_character_share, lists.lists, "lists"),
    ):
        if limit is None:
            continue
        if "annotate" not in stages[: stages.index("host_filter")]:
            raise UsageError(
                f"corpus.HostFilter.{name} needs the stage 'annotate' before 'host_filter'; put it there, or unbind it."
            )
        if not given:
            raise UsageError(
                f"corpus.HostFilter.{name} needs a list of expressions; bind corpus.Expressions.{binding}, or unbind it."
            )
    return _files(settings)


def _files(settings: HostFilter) -> dict[str, str]:
    return digests(list_files(settings.blocklist, settings.categories)) if settings.blocklist else {}


def _contents(settings: HostFilter) -> tuple[str, ...]:
    return tuple(_files(settings).values())


def _notices(config: Corpus) -> list[str]:
    """Which of the lists that Swallow v1 has are not given, and what does not happen for that."""
    settings, lists, found = config.host_filter, config.expressions, []
    if not settings.blocklist:
        found.append(
            "no block list of hosts is given (corpus.HostFilter.blocklist, UT1's in Swallow v1): no host is dropped as listed"
        )
    if not lists.lists and "select" in config.stages:
        found.append("no NG expressions are given (corpus.Expressions.lists): no page is dropped for its share of them")
    if not settings.by_share:
        found.append("hosts are not judged by all their pages (corpus.HostFilter.max_named_page_share, max_ng_character_share)")
    return found


def _values(config: Corpus) -> Any:
    return {**dataclasses.asdict(config.host_filter), "blocklist": bool(config.host_filter.blocklist)}


STAGE = StageSpec("host_filter", VERSION, _values, run_all=run_all, files=_checked_files, packages=("xxhash",), notices=_notices)
