"""Swallow Corpus v1's published yields, and ours step by step beside them.

Source: Okazaki et al., "Swallow コーパス: 日本語大規模ウェブコーパス", NLP2024, its table of pages and characters after each step.
Swallow v2's: the Llama 3.1 Swallow page (swallow-llm.github.io): 254.7e9 pages, 8.3e9 Japanese, 1.9e9 after deduplication.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

CRAWL, JAPANESE, QUALITY, DEDUP, HOST, MODIFY = (
    "crawled pages",
    "Japanese text",
    "quality filter",
    "deduplication",
    "host filter",
    "normalisation",
)


@dataclasses.dataclass(frozen=True)
class Step:
    """A row of v1's table: pages and characters after the step."""

    name: str
    pages: int
    characters: int | None = None


V1 = (
    Step(CRAWL, 63_400_000_000),
    Step(JAPANESE, 2_686_080_919, 3_684_320_219_695),
    Step(QUALITY, 646_238_066, 1_202_868_044_631),
    Step(DEDUP, 185_766_463, 353_191_872_805),
    Step(HOST, 173_350_375, 312_674_522_606),
    Step(MODIFY, 173_350_375, 312_093_428_689),
)
# Share of a crawl's pages in a language where it is not Japanese, by Common Crawl's own detector (CC-MAIN-2026-04, cc-crawl-statistics'
# languages.csv; Japanese there: 5.8 %, where Swallow v2 counted 3.3 % over 94 crawls).
CRAWL_SHARES = {
    "en": 0.4170, "ru": 0.0626, "de": 0.0596, "zh": 0.0493, "fr": 0.0467, "es": 0.0462, "pt": 0.0246, "it": 0.0241, "pl": 0.0203, "nl": 0.0179,
    "tr": 0.0120, "id": 0.0115, "cs": 0.0114, "vi": 0.0110, "ko": 0.0079, "uk": 0.0070, "ar": 0.0066, "th": 0.0039,
}  # fmt: skip
V2_PAGES, V2_JAPANESE, V2_DEDUPLICATED = 254_700_000_000, 8_300_000_000, 1_900_000_000

# Which step of v1's table a stage of ours belongs to.
_STEPS = {
    "filter": QUALITY,
    "select": QUALITY,
    "expressions": QUALITY,
    "classify": QUALITY,
    "url_dedup": DEDUP,
    "exact_dedup": DEDUP,
    "minhash": DEDUP,
    "dedup": DEDUP,
    "lines": DEDUP,
    "host_filter": HOST,
    "host_cap": HOST,
    "modify": MODIFY,
}
# What a run's values are compared with those of the preset swallow_v1 in: (part of the configuration, the stage that it is for, what it is
# called). Names of lists that v1 did not publish are no difference.
_COMPARED = (
    ("extraction", "extract", "Before and in extraction", ("rapid_check", "favour", "normalise")),
    ("language", "language", "Language detector", ("method", "second_opinion")),
    ("statistics", "annotate", "How texts are measured", None),
    ("japanese", "select", "Rules for Japanese text", None),
    ("host_filter", "host_filter", "Hosts", ("match", "patterns", "max_named_page_share", "max_ng_character_share")),
    ("modify", "modify", "Changed texts", None),
)
_V1_MINHASH = {"ngram": 5, "bands": 20, "rows": 20}


def japanese(table: Mapping[str, Any]) -> dict[str, int] | None:
    """Documents and characters in Japanese that a stage kept; None where it does not tell languages."""
    found = [count for key, count in table.get("kept_by", {}).items() if key.partition("/")[0] == "ja"]
    if not found:
        return {"documents": 0, "characters": 0} if table.get("kept_by") else None
    return {key: sum(count[key] for count in found) for key in ("documents", "characters")}


def steps(yields: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int, float | None]]:
    """v1's steps in the order in which the run took them: (Japanese documents, characters, share kept of those that came in).

    Several stages of ours that make one step of v1's are taken together, where the first of them stands. The crawl counts all
    responses that could be read; a step that the run has not is absent.
    """
    found: dict[str, tuple[int, int, float | None]] = {}
    shares: dict[str, float] = {}
    before: dict[str, int] | None = None
    for table in yields:
        now = japanese(table)
        if not found:
            found[CRAWL] = (table["in"]["documents"], table["in"]["characters"], None)
        if now is None:
            continue
        if before is None:
            pages = found[CRAWL][0]
            found[JAPANESE] = (now["documents"], now["characters"], now["documents"] / pages if pages else None)
        elif (step := _STEPS.get(table["stage"])) is not None:
            kept = now["documents"] / before["documents"] if before["documents"] else math.nan
            shares[step] = shares.get(step, 1.0) * kept
            found[step] = (now["documents"], now["characters"], None if math.isnan(shares[step]) else shares[step])
        before = now
    return found


def v1_share(name: str) -> float | None:
    """The share of the pages that v1 kept in a step."""
    names = [step.name for step in V1]
    place = names.index(name)
    return V1[place].pages / V1[place - 1].pages if place else None


def comparable(config: Mapping[str, Any]) -> bool:
    """Whether a run is of what v1 is of: web pages or documents, those in Japanese among them."""
    kind = (config.get("inputs") or {}).get("kind", "")
    return kind in ("", "documents") and "ja" in config.get("languages", ("ja",))


def differences(config: Mapping[str, Any], yields: Sequence[Mapping[str, Any]], inputs: int) -> list[str]:
    """What differs from v1, as sentences: input, order, steps that are missing, rules and detectors, deduplication's setting."""
    said = [
        f"Input: v1 read 21 snapshots of Common Crawl, some 63.4 billion pages; this run read {inputs:,} files."
        if inputs != 1
        else "Input: v1 read 21 snapshots of Common Crawl, some 63.4 billion pages; this run read one file."
    ]
    order = [name for name in steps(yields) if name not in (CRAWL, JAPANESE)]
    usual = [step.name for step in V1[2:]]
    if order != [name for name in usual if name in order]:
        said.append(
            f"Order: v1 went {', '.join(usual)}; this run went {', '.join(order)}. A share is of what came into its step, so it depends on the order."
        )
    missing = [name for name in usual if name not in order]
    if missing:
        said.append(f"Not among this run's stages: {', '.join(missing)}.")
    stages = config.get("stages")
    said += _values(config, stages)
    if stages is None or "minhash" in stages:
        said += _deduplication(config.get("minhash"))
    said.append(
        "Japanese text: v1 counts pages that its own detector calls Japanese; this run counts documents in Japanese after extraction."
    )
    return said


def _values(config: Mapping[str, Any], stages: Sequence[str] | None) -> list[str]:
    """A sentence for each part of the configuration that has other values than the preset swallow_v1, which are those of v1's code."""
    from beam_pipelines import config as configuration

    v1, said = configuration.load("swallow_v1").to_json(), []
    for part, stage, title, names in _COMPARED:
        ours = config.get(part)
        if not isinstance(ours, Mapping) or (stages is not None and stage not in stages):
            continue
        other = [
            f"{name.replace('_', ' ')} {_shown(value)}, here {_shown(ours[name])}"
            for name, value in v1[part].items()
            if name in ours and ours[name] != value and (names is None or name in names)
        ]
        if other:
            said.append(f"{title}, v1's code and here: {'; '.join(other)}.")
    return said


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def _deduplication(minhash: Any) -> list[str]:
    if not isinstance(minhash, Mapping) or all(minhash.get(key) == value for key, value in _V1_MINHASH.items()):
        return []
    bands, rows = minhash.get("bands"), minhash.get("rows")
    if not isinstance(bands, int) or not isinstance(rows, int):
        return []
    found = 1 - (1 - 0.8**rows) ** bands
    v1 = 1 - (1 - 0.8**20) ** 20
    return [
        f"Deduplication: v1 used 20 bands of 20 hashes over character 5-grams, which finds {v1:.0%} of the pairs of Jaccard "
        f"similarity 0.8; this run used {bands} bands of {rows} over {minhash.get('ngram')}-grams, which finds {found:.0%} of them."
    ]
