"""Lines that stand in several documents are kept in one of them: navigation, footers, quoted licences.

C4's rule (Raffel et al. 2020, section 2.2, and `c4_utils.py` of TensorFlow Datasets): a line is known by its hash, lower-cased
and without white space around it, and one page keeps it, chosen by a hash so that no page and no site is favoured. Here
also by paragraph, with a least length, and with the newest page as the one that keeps it. How often a line stands in one
page is a matter for the repetition rules.

The buckets are those of `buckets.py`: one entry for each distinct line of a document.
"""

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from beam_pipelines import mirror
from beam_pipelines.buckets import (
    ENTRY,
    LINK,
    Tables,
    Task,
    TaskFiles,
    find_links,
    rank_row,
    read_rows,
    tasks,
    write_entries,
)
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.settings.dedup import LineDedup
from beam_pipelines.stage_files import changed_documents, remaining
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit, run_units, write_file
from ja_llm.text.normalise import squeeze

VERSION = 1
DROPPED, KIND = "only_duplicate_lines", "duplicate_lines"
_PARAGRAPHS = re.compile(r"(\n\s*\n)")


def pieces(text: str, unit: str) -> list[str]:
    r"""The text's lines or paragraphs with the line ends between them; joined they are the text.

    Example:
      >>> pieces("一\n二\n\n三", "line"), pieces("一\n二\n\n三", "paragraph")
      (['一', '\n', '二', '\n', '', '\n', '三'], ['一\n二', '\n\n', '三'])
    """
    return _PARAGRAPHS.split(text) if unit == "paragraph" else re.split(r"(\n)", text)


def line_hash(piece: str, settings: LineDedup) -> int | None:
    """64-bit hash of a line or paragraph, or None if it is too short to count."""
    if len(squeeze(piece)) < max(1, settings.min_characters):
        return None
    return xxhash.xxh3_64_intdigest(piece.strip().lower().encode("utf-8", "surrogatepass"))


def without(text: str, gone: set[int], settings: LineDedup) -> str:
    """The text without the lines of these hashes; a line goes with the line end after it."""
    parts = pieces(text, settings.unit)
    kept = []
    for piece, end in zip(parts[::2], [*parts[1::2], ""], strict=True):
        value = line_hash(piece, settings)
        if value is None or value not in gone:
            kept += [piece, end]
    return re.sub(r"\n{3,}", "\n\n", "".join(kept)).strip()


def run_all(this: Stage, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution) -> None:
    """Find the lines that stand in several documents, and take them out of all but one."""
    signed, links = this.part("line_keys"), this.part("line_links")
    run_units(signed, units, _sign, (list(before), config), execution)
    tables = Tables.open(signed, units)
    entries = sum(signed.result(unit)["lines"] for unit in units)
    wanted = {task.key: task for task in tasks(1, entries, fair=config.lines.keep == "hash")}
    run_units(links, [Unit(key, key, str(links.folder)) for key in wanted], _run_task, (tables, wanted), execution)
    gone = this.part("line_gone")
    _deal(tables, [links.file(key, ".links") for key in sorted(wanted)], gone)
    run_units(this, units, _finish, (tables, gone, list(before), config), execution)


def _deal(tables: Tables, paths: Sequence[Path], gone: Stage) -> None:
    """`<unit>.links` for every unit: its own share of the tasks' links, so that a unit reads no others'."""
    shutil.rmtree(gone.folder, ignore_errors=True)
    gone.folder.mkdir(parents=True)
    for path in paths:
        for block in read_rows(path, LINK):
            rows = block[np.argsort(block["document"], kind="stable")]
            ends = np.searchsorted(rows["document"], tables.first)
            for unit, low, high in zip(tables.units, ends, ends[1:], strict=False):
                if high > low:
                    with open(gone.folder / f"{unit}.links", "ab") as file:
                        file.write(rows[low:high].tobytes())
    for path in sorted(gone.folder.iterdir()):
        mirror.publish(path)


def _sign(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    tally = Tally.of(config)
    ranks, found = [], []
    for row, (number, document, _) in enumerate(remaining(unit, before)):
        ranks.append(rank_row(number, document))
        values = {line_hash(piece, config.lines) for piece in pieces(document.text, config.lines.unit)[::2]} - {None}
        found += [(value, row) for value in values]
    entries = np.array(found, ENTRY).reshape(1, -1)
    entries[0] = entries[0][np.lexsort([entries[0]["row"], entries[0]["hash"]])]
    write_entries(this, unit, ranks, entries)
    return {**tally.to_json(), "lines": len(found)}


def _run_task(unit: Unit, this: Stage, tables: Tables, wanted: dict[str, Task]) -> dict[str, Any]:
    with (
        write_file(this.file(unit, ".links")) as links,
        write_file(this.file(unit, ".earlier")) as earlier,
        write_file(this.file(unit, ".index")) as index,
    ):
        members = find_links(tables, wanted[unit.key], [], TaskFiles(links, earlier, index))
    mirror.remove(this.folder, [f"{unit.key}.index"])
    return {"members": members}


def _finish(unit: Unit, this: Stage, tables: Tables, dealt: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Rewrite one unit's documents."""
    first, path = int(tables.first[tables.units.index(unit.key)]), dealt.file(unit, ".links")
    gone: dict[int, set[int]] = {}
    for rows in read_rows(path, LINK) if path.exists() else ():
        for row, value in zip((rows["document"] - first).tolist(), rows["hash"].tolist(), strict=True):
            gone.setdefault(row, set()).add(value)
    tally = Tally.of(config)
    with changed_documents(this, unit) as changed:
        for row, (number, document, lang) in enumerate(remaining(unit, before)):
            if row not in gone:
                tally.keep(document.text, lang)
                continue
            text = without(document.text, gone[row], config.lines)
            if len(squeeze(text)) < config.lines.min_remaining:
                tally.drop_document(number, document, DROPPED, lines=len(gone[row]))
                continue
            left = dataclasses.replace(document, text=text)
            changed.write(number, left)
            tally.modify(document, left, [KIND], lang)
    return {**tally.to_json(), "changed": changed.places}


STAGE = StageSpec("lines", VERSION, lambda config: dataclasses.asdict(config.lines), run_all=run_all, packages=("xxhash",))
