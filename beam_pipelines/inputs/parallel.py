"""Parallel text: pairs from TSV, TMX, JSONL or Parquet, each as one formatted text a direction, with both sides in `meta`.

A document is the first side, a line break and the second (NTP, the format that continual pre-training needs no more than;
facts/recipes.md 1), or the same behind an instruction. Both directions of a pair name one group (`meta.package`), so that a
split by group keeps them on one side. Rules, in this order: empty side, identical sides, length, length ratio, script, score.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import xxhash

from beam_pipelines.inputs.compression import Broken, lines
from beam_pipelines.inputs.documents import with_text
from beam_pipelines.inputs.items import Damage, Record, Rejected, Row
from beam_pipelines.inputs.jsonl import damage, field
from beam_pipelines.inputs.wikipedia import elements
from beam_pipelines.settings.inputs import Parallel
from ja_llm.errors import JaLlmError
from ja_llm.text import scripts
from ja_llm.text.normalise import clean

_ONE, _TWO, _SCORE = "one", "two", "score"
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_FORMATTING = {"bpt", "ept", "ph", "it", "ut"}  # TMX 1.4b section 2: native codes, no text


def read_tsv(path: str | Path, settings: Parallel, max_bytes: int) -> Iterator[Row | Rejected | Damage]:
    """Yield a TSV file's pairs: no quoting, as parallel corpora are published.

    Yields:
      Rejected: tsv_columns, text_not_utf8, too_large.

    Raises:
      JaLlmError: the first lines have fewer columns than the configuration names.
    """
    wanted = max(*settings.columns, settings.score_column)
    number, found = 0, 0
    try:
        for number, line, size in lines(path, 2 * max_bytes):
            place = f"line {number}"
            if line is None:
                yield Rejected("too_large", place, {"bytes": size})
                continue
            try:
                cells = line.removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8").split("\t")
            except UnicodeDecodeError as error:
                yield Rejected("text_not_utf8", place, {"detail": str(error)[:200]})
                continue
            if len(cells) < wanted:
                if line.strip():
                    yield Rejected(
                        "tsv_columns", place, {"columns": len(cells), "excerpt": line[:200].decode("utf-8", "replace")}
                    )
                if number == 100 and not found:
                    raise _too_few_columns(path, number, wanted)
                continue
            found += 1
            value: dict[str, Any] = {_ONE: cells[settings.columns[0] - 1], _TWO: cells[settings.columns[1] - 1]}
            if settings.score_column:
                value[_SCORE] = cells[settings.score_column - 1]
            yield Row(place, value)
    except Broken as broken:
        yield damage(broken, f"line {number + 1}" if broken.pending else "")
    if number and not found:
        raise _too_few_columns(path, number, wanted)


def _too_few_columns(path: str | Path, seen: int, wanted: int) -> JaLlmError:
    return JaLlmError(
        f"{path}: none of its first {seen} lines has {wanted} columns parted by tabs; name the columns of the two sides, "
        'e.g. --gin_bindings "corpus.Parallel.columns = (4, 5)".'
    )


def read_tmx(path: str | Path, settings: Parallel) -> Iterator[Row | Rejected | Damage]:
    """Yield a TMX file's translation units (TMX 1.4b): the first segment of each of the two languages.

    Yields:
      Rejected: tmx_language, for a unit that lacks one.
    """
    number = 0
    try:
        for number, unit in enumerate(elements(path, ("tu",)), 1):
            place, sides = f"unit {number}", dict[str, str]()
            for variant in unit.iter():
                if variant.tag.rpartition("}")[2] != "tuv":
                    continue
                lang = (variant.get(_XML_LANG) or variant.get("lang") or "").lower()
                segment = next((part for part in variant.iter() if part.tag.rpartition("}")[2] == "seg"), None)
                if segment is not None:
                    sides.setdefault(re.split("[-_]", lang)[0], "".join(_segment_text(segment)))
            one, two = (sides.get(lang) for lang in settings.languages)
            if one is None or two is None:
                yield Rejected("tmx_language", place, {"languages": sorted(sides)})
            else:
                yield Row(place, {_ONE: one, _TWO: two})
    except Broken as broken:
        yield damage(broken, f"unit {number + 1}")
    except ElementTree.ParseError as error:
        yield Damage(0, "xml_corrupt", f"the XML can't be parsed after unit {number} ({error}); what follows was not read", 1)


def _segment_text(element: ElementTree.Element) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if child.tag.rpartition("}")[2] not in _FORMATTING:
            yield from _segment_text(child)
        yield child.tail or ""


def fields_as_pairs(rows: Iterable[Row | Rejected | Damage], settings: Parallel, path: str) -> Iterator[Row | Rejected | Damage]:
    """The pairs of JSONL or Parquet records.

    Raises:
      JaLlmError: the first records lack a side.
    """
    one, two = settings.fields or settings.languages
    for row in with_text(with_text(rows, one, path), two, path):
        if isinstance(row, Row):
            value = {_ONE: field(row.value, one), _TWO: field(row.value, two)}
            if settings.score_field:
                value[_SCORE] = field(row.value, settings.score_field)
            yield Row(row.place, value)
        else:
            yield row


def read_pairs(rows: Iterable[Row | Rejected | Damage], settings: Parallel) -> Iterator[Record | Rejected | Damage]:
    """Yield a Record for each direction of each pair that the rules leave.

    Yields:
      Rejected: parallel_empty_side, parallel_identical, parallel_length, parallel_length_ratio, parallel_script, parallel_score.
    """
    for row in rows:
        if not isinstance(row, Row):
            yield row
            continue
        one, two = (_side(row.value.get(name)) for name in (_ONE, _TWO))
        reason = broken_rule(one, two, row.value.get(_SCORE), settings)
        if reason:
            yield Rejected(reason, row.place, {"excerpt": f"{one[:200]}\n{two[:200]}"})
        else:
            yield from _documents(one, two, row.place, settings)


def _side(value: Any) -> str:
    return " ".join(clean(value).split("\n")).strip() if isinstance(value, str) else ""


def broken_rule(one: str, two: str, score: Any, settings: Parallel) -> str:
    """The first rule that a pair breaks, "" for none."""
    if not one or not two:
        return "parallel_empty_side"
    if "".join(one.lower().split()) == "".join(two.lower().split()):
        return "parallel_identical"
    if not all(settings.min_characters <= len(side) <= settings.max_characters for side in (one, two)):
        return "parallel_length"
    ratio = len(one) / (len(two) * settings.characters_per_character)
    limit = settings.max_length_ratio
    if limit is not None and not 1 / limit <= ratio <= limit:
        return "parallel_length_ratio"
    if settings.check_script and not all(
        _script_fits(side, lang) for side, lang in zip((one, two), settings.languages, strict=True)
    ):
        return "parallel_script"
    return "parallel_score" if settings.min_score is not None and _number(score) < settings.min_score else ""


def _script_fits(text: str, lang: str) -> bool:
    counts = scripts.count(text)
    kana = counts.kana + counts.halfwidth_kana
    return kana + counts.kanji > 0 if lang == "ja" else kana <= 0.2 * counts.letters


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("-inf")  # a score that can't be read is none


def _documents(one: str, two: str, place: str, settings: Parallel) -> Iterator[Record]:
    first, second = settings.languages
    pair = {first: one, second: two}
    group = "pair-" + xxhash.xxh3_128_hexdigest("\0".join((one, two)).encode("utf-8", "surrogatepass"))
    for direction in settings.directions:
        source, target = (first, second) if direction == f"{first}-{second}" else (second, first)
        parts = [pair[source], pair[target]]
        if settings.format == "ti":
            parts.insert(0, settings.instructions[direction])
        yield Record(
            text="\n".join(parts),
            place=f"{place} {direction}",
            lang=f"{first}-{second}",
            meta={"direction": direction, "package": group, "pair": pair},
        )
