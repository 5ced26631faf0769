"""What a run would take before it is begun: pages, records of each stage, bytes of signatures and shuffle, core-hours.

Speeds are measured ones (`speeds.json`, written by `python -m benchmarks.plan_speeds`); shares of what a stage keeps are those of
an earlier run where its yields are given, else published ones: Swallow v2's for Japanese pages of a crawl (3.3 %), Common
Crawl's for those of another language that is kept, Swallow v2's for deduplication of all of them (23 %), v1's for its quality filter (24.1 %), deduplication of what that left (28.7 %) and host filter
(93.3 %). These are of crawls: of another input (records, dumps, source code) a stage is assumed to keep all that an earlier run does
not tell otherwise. `top_share` keeps what it is bound to. An estimate is no better than these two tables: the printed plan names both. Bytes are those of the largest files that stages
leave; of an index and of links the most that they can be, which is where every hash differs.
"""

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

from beam_pipelines.card import published
from beam_pipelines.config import Corpus
from ja_llm.pages.charts import size

CHARACTERS = 1_450  # of a Japanese page: 12e12 over 8.3e9 pages (Swallow v2)
BYTES_PER_CHARACTER = 2.8  # of UTF-8; kana and kanji have 3, digits, Latin letters and line ends 1
_RECORD = 200  # bytes of a stored document beside its text: id, URL, date, meta
_PLACE = 120  # bytes that the writing of the shards shuffles for a document: shard, id, unit, offset, coding
# Bytes of what the deduplication reads and writes (`buckets.py`, `dedup.py`): a hash with its row number, a document's rank, a row of
# the index that a later run compares with, a link, a verdict.
_HASH, _RANK, _INDEX, _LINK, _VERDICT = 12, 28, 24, 24, 28
_RAPID_PASSES = (
    0.967 / 0.888
)  # pages that the look at the raw bytes lets through / Japanese pages: recall / precision (Swallow v1)
_V2_DAYS = 30  # "about a month" (the Llama 3.1 Swallow page), on machines that it does not name

_V2_LANGUAGE = published.V2_JAPANESE / published.V2_PAGES
# Share of its input that a stage keeps where no earlier run tells: {stage: (share, source)}
_V2_KEPT = published.V2_DEDUPLICATED / published.V2_JAPANESE
_PUBLISHED: dict[str, tuple[float, str]] = {
    "dedup": (_V2_KEPT, "Swallow v2"),
    "select": (published.v1_share(published.QUALITY) or 1.0, "Swallow v1"),
    "host_filter": (published.v1_share(published.HOST) or 1.0, "Swallow v1"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A stage of the plan.

    Attributes:
      stage: its name.
      records: that come in.
      kept: share that stays, and where the figure is from.
      source: of the share.
      speed: records a second of one core; None where none was measured.
      written: bytes that the stage leaves for those after it.
      shuffled: bytes that go through a GroupByKey.
    """

    stage: str
    records: float
    kept: float
    source: str
    speed: float | None
    written: float = 0.0
    shuffled: float = 0.0

    @property
    def core_hours(self) -> float | None:
        """Work of the stage."""
        return self.records / self.speed / 3600 if self.speed else None


def speeds() -> dict[str, Any]:
    """The measured speeds: {"stages": {stage: records a second of a core, over all its parts}, "measured": how and on what}."""
    held = json.loads((importlib.resources.files("beam_pipelines") / "speeds.json").read_text(encoding="utf-8"))
    stages = {stage: 1 / sum(1 / speed for speed in parts.values()) for stage, parts in held["parts"].items()}
    return {"measured": held["measured"], "stages": stages}


def rows(
    config: Corpus,
    pages: float,
    like: Sequence[Mapping[str, Any]] = (),
    given: Mapping[str, float] | None = None,
    crawl: bool = True,
    html: bool = True,
) -> list[Row]:
    """The plan of a chain.

    Args:
      config: names the stages and their settings.
      pages: that the first stage is given.
      like: yields of an earlier run, whose shares are taken.
      given: {stage: share} that win over both.
      crawl: whether the input is of web archives, which the published shares are of.
      html: whether pages have to be extracted, which the speed of `extract` is of.

    Returns:
      A row a stage in order, and "sink" at the end.
    """
    table = speeds()["stages"] if html else {**speeds()["stages"], "extract": None}
    known = _shares_of(like)
    records, found = float(pages), []
    stages = list(config.stages)
    if crawl:
        known.setdefault("language", _language_share(config))
    rapid = html and _rapid(config)
    if rapid:
        share, source = known.get("language", (1.0, "assumed"))
        found.append(Row("rapid check", records, min(1.0, share * _RAPID_PASSES), source, table.get("rapid check")))
        records *= found[0].kept
        known["language"] = (1 / _RAPID_PASSES, "Swallow v1")
    for name in [*stages, "sink"]:
        share, source = known.get(name) or _usual_share(name, config, crawl)
        if given and name in given and not (name == "language" and rapid):
            share, source = given[name], "given"
        kept = records * share
        found.append(Row(name, records, share, source, table.get(name), *_bytes(name, config, records, kept)))
        records = kept
    return found


def _language_share(config: Corpus) -> tuple[float, str]:
    """(share, source) of a crawl's pages that are of the languages kept; behind a look for Japanese all others are gone."""
    others = [] if _rapid(config) else sorted(set(config.languages) - {"ja"})
    if unknown := [lang for lang in others if lang not in published.CRAWL_SHARES]:
        return 1.0, f"{unknown[0]}: unknown"
    share = sum(published.CRAWL_SHARES[lang] for lang in others) + (_V2_LANGUAGE if "ja" in config.languages else 0.0)
    return min(1.0, share), "Common Crawl" if others else "Swallow v2"


def _usual_share(stage: str, config: Corpus, crawl: bool) -> tuple[float, str]:
    """(share, source) of a stage that nobody knows better of: deduplication keeps more of what was filtered before, as v1 does."""
    stages = config.stages
    if stage == "top_share" and set(config.languages) <= set(config.classify.languages):
        return min(1.0, config.top_share.share * max(1, len(config.classify.models))), "bound"  # of several models the union
    if not crawl:
        return 1.0, "assumed"
    if stage == "dedup" and _filters_first(stages):
        return published.v1_share(published.DEDUP) or 1.0, "Swallow v1"
    return _PUBLISHED.get(stage, (1.0, "assumed"))


def _filters_first(stages: Sequence[str]) -> bool:
    """Whether the quality filter stands before the deduplication."""
    return {"select", "dedup"} <= set(stages) and list(stages).index("select") < list(stages).index("dedup")


def _rapid(config: Corpus) -> bool:
    """Whether a page's raw bytes are looked at before it is extracted."""
    parts = (value for value in config.to_json().values() if isinstance(value, dict))
    return any(bool(value) for part in parts for name, value in part.items() if name.startswith("rapid"))


def _shares_of(like: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, str]]:
    return {
        table["stage"]: (table["kept"]["documents"] / table["in"]["documents"], "earlier run")
        for table in like
        if table["in"]["documents"]
    }


def _bytes(stage: str, config: Corpus, records: float, kept: float) -> tuple[float, float]:
    """(bytes written, bytes shuffled) of a stage."""
    text = CHARACTERS * BYTES_PER_CHARACTER + _RECORD
    if stage == "extract":
        return kept * text, 0.0
    if stage == "minhash":
        return records * ((config.minhash.bands + 1) * _HASH + _RANK), 0.0
    if stage == "dedup":
        buckets = config.minhash.bands + 1
        index = buckets * _INDEX if config.dedup.index else 0
        return records * (index + _VERDICT) + (records - kept) * buckets * _LINK, 0.0
    if stage in ("url_dedup", "exact_dedup"):
        return records * (_HASH + _RANK + _VERDICT) + (records - kept) * _LINK, 0.0
    if stage == "annotate":
        return records * 600.0, 0.0  # a line of some thirty statistics
    if stage == "sink":
        return kept * text, kept * _PLACE
    return 0.0, 0.0


def format_plan(found: Sequence[Row], title: str) -> str:
    """A plan as a table of at most 100 columns."""
    lines = [
        title,
        f"{'stage':<14} {'records in':>16} {'kept':>8} {'':<14} {'a second':>9} {'core-hours':>12} {'written':>9} {'shuffled':>9}",
    ]
    lines.append("-" * 98)
    for row in found:
        hours, speed = row.core_hours, row.speed
        lines.append(
            f"{row.stage:<14} {row.records:>16,.0f} {100 * row.kept:>7.2f}% {'(' + row.source + ')':<14} "
            f"{f'{speed:,.0f}' if speed else '?':>9} {f'{hours:,.1f}' if hours is not None else '?':>12} "
            f"{size(row.written):>9} {size(row.shuffled):>9}"
        )
    hours = sum(row.core_hours or 0.0 for row in found)
    unknown = [row.stage for row in found if row.core_hours is None]
    without = f" (without {', '.join(unknown)}, whose speed was not measured)" if unknown else ""
    lines.append(
        f"in all {hours:,.1f} core-hours{without}, {size(sum(r.written for r in found))} written, {size(sum(r.shuffled for r in found))} shuffled"
    )
    return "\n".join(lines)


def of_swallow_v2(config: Corpus) -> str:
    """The same chain on Swallow v2's pages, beside what is known of how long it took."""
    pages = float(published.V2_PAGES)
    given = {"language": _language_share(config)[0], **({} if _filters_first(config.stages) else {"dedup": _V2_KEPT})}
    found = rows(config, pages, given=given)
    told = format_plan(
        found,
        f"Swallow v2's size: {published.V2_PAGES / 1e9:.1f}e9 pages of 94 crawls, {published.V2_JAPANESE / 1e9:.1f}e9 of them Japanese",
    )
    searching = [row for row in found if row.stage in ("minhash", "dedup")]
    hours = sum(row.core_hours or 0.0 for row in searching)
    return (
        f"{told}\nSwallow v2 says of its deduplication that it took about a month, on machines that it does not name; here signing and "
        f"finding take {hours:,.0f} core-hours, which is {_V2_DAYS} days of {hours / 24 / _V2_DAYS:,.0f} cores"
    )
