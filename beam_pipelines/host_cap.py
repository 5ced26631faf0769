"""A cap on the pages of one site, so that a few large ones do not make the corpus.

The registered domain is found in the public suffix list inside the package `tld`, which trafilatura brings: nothing is
fetched. Of a site with too many pages those with the smallest seeded hash stay: a sample that no order of input touches.
A page without a host is never capped. The capped sites and what each lost stand in the manifest under "capped_hosts".
"""

import bisect
import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import xxhash

from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import remaining
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit, run_units, write_file
from ja_llm.documents import Document
from ja_llm.files import read_json

VERSION = 1
REASON = "host_cap"
_LIMITS = "limits"  # the file of the stage's part that holds the capped sites


@functools.lru_cache(maxsize=100_000)
def registered_domain(host: str) -> str:
    """The part of a host name that somebody registered; the host itself where there is none (an address, a local name).

    Example:
      >>> registered_domain("www.city.example.co.jp"), registered_domain("192.168.0.1"), registered_domain("me.github.io")
      ('example.co.jp', '192.168.0.1', 'me.github.io')
    """
    from tld import get_fld

    return get_fld(f"http://{host}/", fail_silently=True, search_private=True) or host


def site(url: str, by: str) -> str:
    """The site that a page belongs to, in lower case and without a port; "" if the URL has no host."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # a bracket without its other one
        return ""
    return registered_domain(host) if host and by == "domain" else host


def rank(document: Document, seed: int) -> int:
    """The seeded 63-bit hash (Beam's integers end there) by which a site's pages are chosen."""
    return xxhash.xxh3_64_intdigest(document.id.encode(), seed) >> 1


@dataclasses.dataclass
class Smallest:
    """How many there are of something, and the `most` smallest of their ranks in order; merges in any order to the same."""

    most: int
    count: int = 0
    ranks: list[int] = dataclasses.field(default_factory=list)

    def add(self, value: int) -> "Smallest":
        """Count one more."""
        self.count += 1
        if len(self.ranks) < self.most or value < self.ranks[-1]:
            bisect.insort(self.ranks, value)
            del self.ranks[self.most :]
        return self

    @staticmethod
    def merge(parts: Iterable["Smallest"]) -> "Smallest":
        """Unite counts of the same thing."""
        parts = list(parts)
        ranks = sorted(value for part in parts for value in part.ranks)[: parts[0].most]
        return Smallest(parts[0].most, sum(part.count for part in parts), ranks)


def run_all(this: Stage, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution) -> None:
    """Find the sites with too many pages and the largest rank that stays of each, then drop what lies above."""
    limits = this.part("host_limits")
    if not limits.whole(_LIMITS):
        _find_limits(limits, units, before, config, execution)
    run_units(this, units, finish, (before, config, limits), execution, light=True)


def _find_limits(limits: Stage, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution) -> None:
    from beam_pipelines.runner import run_pipeline

    limits.folder.mkdir(parents=True, exist_ok=True)

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        capped = (
            pipeline
            | "Units" >> beam.Create(list(units), reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "Sites" >> beam.FlatMap(sites, before, config)
            | "By site" >> beam.CombinePerKey(_combine())
            | "Too many" >> beam.Filter(_above, config.host_cap.max_documents)
            | "One table" >> beam.Map(_under_one_key)
        )
        empty = pipeline | "Even if none" >> beam.Create([("", None)], reshuffle=False)
        _ = (capped, empty) | beam.Flatten() | beam.GroupByKey() | "Write" >> beam.Map(_write, limits)

    run_pipeline(build, execution.beam_args, execution.shuffling())


def _combine() -> Any:
    import apache_beam as beam

    class Combine(beam.CombineFn):
        """`Smallest` for Beam; the values are accumulators already, one for each site of a unit."""

        def create_accumulator(self) -> None:
            return None

        def add_input(self, accumulator: Smallest | None, value: Smallest) -> Smallest:
            return value if accumulator is None else Smallest.merge([accumulator, value])

        def merge_accumulators(self, accumulators: Iterable[Smallest | None]) -> Smallest | None:
            parts = [part for part in accumulators if part is not None]
            return Smallest.merge(parts) if parts else None

        def extract_output(self, accumulator: Smallest) -> Smallest:
            return accumulator

    return Combine()


def sites(unit: Unit, before: Sequence[Stage], config: Corpus) -> Iterator[tuple[str, Smallest]]:
    """(site, its pages in this unit) of each site."""
    found: dict[str, Smallest] = {}
    for _, document, _ in remaining(unit, before):
        if name := site(document.url, config.host_cap.by):
            found.setdefault(name, Smallest(config.host_cap.max_documents)).add(rank(document, config.host_cap.seed))
    yield from found.items()


def _above(item: tuple[str, Smallest], most: int) -> bool:
    return item[1].count > most


def _under_one_key(item: tuple[str, Smallest]) -> tuple[str, tuple[str, int]]:
    return "", (item[0], item[1].ranks[-1])


def _write(group: tuple[str, Iterable[tuple[str, int] | None]], limits: Stage) -> None:
    with write_file(limits.file(_LIMITS, ".jsonl")) as file:
        file.write(json.dumps(dict(sorted(item for item in group[1] if item is not None))).encode())
    limits.finish(_LIMITS, {})


def finish(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus, limits: Stage) -> dict[str, Any]:
    """Drop a capped site's documents above its limit."""
    tally = Tally.of(config)
    largest: dict[str, int] = read_json(limits.file(_LIMITS, ".jsonl"), "table of capped sites")
    for number, document, lang in remaining(unit, before):
        name = site(document.url, config.host_cap.by)
        if name in largest and rank(document, config.host_cap.seed) > largest[name]:
            tally.count("capped_hosts", name)
            tally.drop_document(number, document, REASON, note=name, host=name)
        else:
            tally.keep(document.text, lang)
    return tally.to_json()


STAGE = StageSpec("host_cap", VERSION, lambda config: dataclasses.asdict(config.host_cap), run_all=run_all, packages=("tld",))
