"""Keep the best-scored share of what remains, without sorting the corpus: a histogram of the scores, then a cut.

The bins are fixed (1e-6 wide, the last digit of a score), so the cut does not depend on how the corpus is divided. The bin that the cut falls into
holds equal scores; a seeded hash of the id decides among them, so that the share is met however many scores are equal.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import xxhash

from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import remaining_with
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit, run_units
from ja_llm.documents import Document

VERSION = 1
REASON = "below_top_share"
_BINS = 1_000_000  # in a unit of the score, which has six decimals


def bin_of(score: float) -> int:
    """The histogram's bin of a score."""
    return round(score * _BINS)


@dataclasses.dataclass(frozen=True)
class Cut:
    """What stays of a score: the bins above `edge`, and of the bin `edge` the share `within`."""

    edge: int
    within: float

    def keeps(self, score: float, document: Document, seed: int) -> bool:
        """Whether a document of this score stays."""
        bin_ = bin_of(score)
        if bin_ != self.edge:
            return bin_ > self.edge
        return xxhash.xxh3_64_intdigest(document.id.encode(), seed) < self.within * 2.0**64


def find_cut(histogram: dict[int, int], share: float) -> Cut:
    """The cut that keeps `share` of the histogram's documents, the best-scored ones.

    Example:
      >>> find_cut({9: 5, 7: 10, 1: 85}, 0.1)
      Cut(edge=7, within=0.5)
    """
    wanted, above = share * sum(histogram.values()), 0
    for edge in sorted(histogram, reverse=True):
        if above + histogram[edge] >= wanted:
            return Cut(edge, (wanted - above) / histogram[edge])
        above += histogram[edge]
    return Cut(-1, 1.0)


def run_all(this: Stage, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution) -> None:
    """Count every unit's scores, find the cut of each classifier, decide."""
    counted = this.part("score_histogram")
    run_units(counted, units, count, (before, config), execution, light=True)
    histograms = merge_histograms(counted.result(unit)["histograms"] for unit in units)
    cuts = {name: find_cut(histogram, config.top_share.share) for name, histogram in histograms.items()}
    run_units(this, units, finish, (before, config, cuts), execution, light=True)


def count(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """The unit's histogram of each classifier's scores, over the documents that remain."""
    tally = Tally.of(config)
    histograms: dict[str, Counter[int]] = {}
    for _, document, lang, scores in remaining_with(unit, before, "classify"):
        tally.keep(document.text, lang)
        for name, score in scores.items():
            histograms.setdefault(name, Counter())[bin_of(score)] += 1
    return {**tally.to_json(), "histograms": {name: sorted(table.items()) for name, table in histograms.items()}}


def merge_histograms(tables: Iterable[dict[str, list[list[int]]]]) -> dict[str, dict[int, int]]:
    """The sum of the units' histograms."""
    total: dict[str, Counter[int]] = {}
    for table in tables:
        for name, bins in table.items():
            for bin_, n in bins:
                total.setdefault(name, Counter())[bin_] += n
    return {name: dict(sorted(bins.items())) for name, bins in sorted(total.items())}


def finish(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus, cuts: dict[str, Cut]) -> dict[str, Any]:
    """Drop what no classifier counts among its best; documents that were not scored (of another language) stay."""
    tally = Tally.of(config)
    for number, document, lang, scores in remaining_with(unit, before, "classify"):
        if scores and not any(cuts[name].keeps(score, document, config.top_share.seed) for name, score in scores.items()):
            told = ", ".join(f"{name} {score}" for name, score in scores.items())
            tally.drop_document(number, document, REASON, note=told, scores=scores)
        else:
            tally.keep(document.text, lang)
    return {**tally.to_json(), "cuts": {name: dataclasses.asdict(cut) for name, cut in cuts.items()}}


STAGE = StageSpec("top_share", VERSION, lambda config: dataclasses.asdict(config.top_share), run_all=run_all, needs=("classify",))
