"""Which documents are duplicates of a better-ranked one, over the whole corpus: stages url_dedup, exact_dedup and dedup.

All three are one operation on other buckets (`buckets.py`): by normalised URL, by the hash of the text without white space, by that
and the MinHash bands. Rank: newer date first, then smaller id. Who goes is decided by one of the rules of `clusters.py`:
by default Doubri's (Swallow), for the dedup stage connected components as an option. What an earlier run knows
(`dedup_index.py`) goes in any case.

Annotates what stays with cluster_size: how many documents it stands for, itself included, so that weights can be chosen later.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import xxhash

from beam_pipelines import clusters, dedup_index
from beam_pipelines.buckets import (
    EARLIER,
    LINK,
    Tables,
    Task,
    TaskFiles,
    by_rank,
    document_id,
    entries_of,
    find_links,
    rank_row,
    read_rows,
    tasks,
    write_entries,
)
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import find, remaining, write_annotations
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit, launcher_work, run_units, write_file
from ja_llm.documents import Document
from ja_llm.errors import UsageError

VERSION = 2
EXACT, NEAR, URL, EARLIER_RUN = "duplicate_exact", "duplicate_near", "duplicate_url", "duplicate_earlier_run"
_REASONS = {"url_dedup": (URL, URL), "exact_dedup": (EXACT, EXACT), "dedup": (EXACT, NEAR)}  # of bucket 0 and of the others

_VERDICT = np.dtype(
    [("number", "<u4"), ("size", "<u4"), ("bucket", "<u2"), ("dropped", "?"), ("earlier", "?"), ("high", "<u8"), ("low", "<u8")]
)
_KNOWN = np.dtype([("high", "<u8"), ("low", "<u8")])  # an earlier run's document: its id


def run_all(this: Stage, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution) -> None:
    """Deduplicate by text and MinHash bands.

    Raises:
      UsageError: another stage stands between minhash and this one: it may have dropped documents that were signed.
    """
    signed = find(before, "minhash")
    if before[-1] is not signed:
        raise UsageError(
            f"corpus.Corpus.stages has {before[-1].name!r} between 'minhash' and 'dedup'; put it before or after both."
        )
    against = [dedup_index.read(folder, config.minhash) for folder in config.dedup.against]
    _deduplicate(this, units, signed, 1 + config.minhash.bands, before, config, execution, config.dedup.clusters, against)
    if config.dedup.index:
        tables = Tables.open(signed, units)
        with launcher_work(this.part("dedup_indexing"), tables.documents):
            dedup_index.write(this.part("dedup_index"), tables, this.part(f"{this.name}_links"), config.minhash)


def run_by(key: Callable[[Document], str]) -> Callable[..., None]:
    """`run_all` of a stage that needs one bucket: documents with equal keys; one with an empty key is by itself.

    Used by `url_dedup.py` and `exact_dedup.py`; `key` is a function of a module, because workers get it.
    """

    def run_all(this: Stage, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution) -> None:
        signed = this.part(f"{this.name}_keys")
        run_units(signed, units, _sign, (list(before), config, key), execution)
        _deduplicate(this, units, signed, 1, before, config, execution, clusters.RULES[0], [])

    return run_all


def _sign(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus, key: Callable[[Document], str]) -> dict[str, Any]:
    tally = Tally.of(config)
    ranks, hashes = [], []
    for number, document, _ in remaining(unit, before):
        ranks.append(rank_row(number, document))
        hashes.append(xxhash.xxh3_64_intdigest((key(document) or f"\0{unit.key}:{number}").encode("utf-8", "surrogatepass")))
    write_entries(this, unit, ranks, entries_of(np.array(hashes, np.uint64).reshape(-1, 1)))
    return tally.to_json()


def _deduplicate(
    this: Stage,
    units: Sequence[Unit],
    signed: Stage,
    buckets: int,
    before: Sequence[Stage],
    config: Corpus,
    execution: Execution,
    rule: str,
    against: Sequence[dedup_index.Index],
) -> None:
    """Find the links of all buckets, apply the rule, and finish every unit."""
    tables = Tables.open(signed, units)
    links, wanted = this.part(f"{this.name}_links"), {task.key: task for task in tasks(buckets, tables.documents)}
    places = [Unit(key, key, str(links.folder)) for key in wanted]
    run_units(links, places, _run_task, (tables, wanted, against), execution)
    with launcher_work(this.part(f"{this.name}_verdict"), tables.documents):
        _write_verdict(this.part(f"{this.name}_verdict"), tables, decide(tables, links, wanted, rule))
    run_units(this, units, _finish, (this.part(f"{this.name}_verdict"), list(before), config), execution)


def _run_task(
    unit: Unit, this: Stage, tables: Tables, wanted: dict[str, Task], against: Sequence[dedup_index.Index]
) -> dict[str, Any]:
    task = wanted[unit.key]
    with (
        write_file(this.file(unit, ".links")) as links,
        write_file(this.file(unit, ".earlier")) as earlier,
        write_file(this.file(unit, ".index")) as index,
    ):
        rows = [one.rows(task.bucket) for one in against]
        return {"members": find_links(tables, task, rows, TaskFiles(links, earlier, index))}


def decide(tables: Tables, links: Stage, wanted: dict[str, Task], rule: str) -> tuple[clusters.Verdict, np.ndarray]:
    """(the verdict on all documents, _KNOWN rows that its `earlier` counts in)."""
    earlier, known = _known(tables.documents, links, wanted)

    def found() -> Iterator[tuple[int, np.ndarray]]:
        for key in sorted(wanted):
            for block in read_rows(links.file(key, ".links"), LINK):
                yield wanted[key].bucket, block

    return clusters.decide(rule, tables.documents, found(), earlier, lambda chosen: by_rank(tables.all_ranks(), chosen)), known


def _known(documents: int, links: Stage, wanted: dict[str, Task]) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [documents]: the row of what an earlier run knows of each, or -1; those rows, _KNOWN).

    A document has a row in every bucket that it shares with the earlier run; the smallest bucket's is kept, and the others are let go block
    by block: a crawl captured again shares all of them.
    """
    earlier, kept, count = np.full(documents, -1), [np.zeros(0, _KNOWN)], 0
    for key in sorted(wanted):
        for block in read_rows(links.file(key, ".earlier"), EARLIER):
            new = block[earlier[block["document"]] < 0]
            rows = np.empty(len(new), _KNOWN)
            rows["high"], rows["low"] = new["high"], new["low"]
            earlier[new["document"][::-1]] = np.arange(count, count + len(new))[::-1]  # the last write counts: that of the first
            kept.append(rows)
            count += len(rows)
    return earlier, np.concatenate(kept)


def _write_verdict(this: Stage, tables: Tables, decided: tuple[clusters.Verdict, np.ndarray]) -> None:
    """`<unit>.npy` for every unit: _VERDICT [documents]. A row for every document at once would be the launching process's largest array."""
    verdict, earlier = decided
    ranks = tables.all_ranks()
    this.folder.mkdir(parents=True, exist_ok=True)
    for index, unit in enumerate(tables.units):
        mine = slice(tables.first[index], tables.first[index + 1])
        better, known = verdict.better[mine], verdict.earlier[mine]
        rows = np.zeros(len(better), _VERDICT)
        rows["number"], rows["size"], rows["bucket"] = ranks["number"][mine], verdict.size[mine], verdict.bucket[mine]
        rows["earlier"] = known >= 0
        rows["dropped"] = rows["earlier"] | (better != np.arange(mine.start, mine.stop))
        for half in ("high", "low"):
            rows[half] = ranks[half][better]
            rows[half][rows["earlier"]] = earlier[half][known[rows["earlier"]]]
        with write_file(this.file(unit, ".npy")) as file:
            np.save(file, rows)


def _finish(unit: Unit, this: Stage, verdict: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Count, drop and annotate one unit's documents."""
    tally, exact_and_near = Tally.of(config), _REASONS[this.name]
    table = np.load(verdict.file(unit, ".npy"))

    def kept() -> Iterator[tuple[int, dict[str, Any]]]:
        for row, (number, document, lang) in zip(table, remaining(unit, before), strict=True):
            if not row["dropped"]:
                tally.keep(document.text, lang)
                yield number, {"cluster_size": int(row["size"])}
                continue
            reason = EARLIER_RUN if row["earlier"] else exact_and_near[int(row["bucket"]) > 0]
            better = document_id(row["high"], row["low"])
            tally.drop_document(number, document, reason, note=better, duplicate_of=better)

    write_annotations(this, unit, kept())
    return tally.to_json()


def _against(config: Corpus) -> dict[str, str]:
    for folder in config.dedup.against:
        dedup_index.read(folder, config.minhash)  # refuses one that does not fit before anything runs
    return {folder: dedup_index.fingerprint(folder) for folder in config.dedup.against}


STAGE = StageSpec(
    "dedup",
    VERSION,
    lambda config: [config.dedup.clusters, config.dedup.index],
    run_all=run_all,
    needs=("minhash",),
    files=_against,
)
