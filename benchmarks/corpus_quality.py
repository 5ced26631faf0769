"""What the corpus job makes of labelled pages: losses, text, language and duplicates, with the presets swallow_v1 and swallow_v2.

    python -m benchmarks.corpus_quality --out build/real
    python -m benchmarks.corpus_quality --out build/real --labelled ../shared/data/warc-a

Input: Debian's documentation and its damaged twin (`damaged_twin.py`), together; with --labelled also a labelled WARC set (truth.jsonl.gz,
main_text.jsonl.gz, pairs.json.gz) by itself. Each is built by both presets and every record is followed through the stages. What is
finished stays in --out, so a second call goes on or ends at once. Writes benchmarks/results/corpus_quality.json.

- losses: each record of the truth ends in one place: kept, dropped for one reason, or in a damaged stretch that the manifest names.
- text: extracted beside reference main text, by shares of character 5-grams, and beside trafilatura's own: `corpus_quality_text.py`.
- language: documents said to be Japanese against pages whose content is; a Japanese page that the rapid check drops is a miss. Pages that
  mix languages or that gave no text are counted apart; pages that nobody can read are not Japanese. What is taken wrongly is told by the
  language of the text that was extracted, too, by the same rule: what the language stage is given may be another part of the page.
- duplicates, of the documents that reach the deduplication, by true Jaccard similarity: `corpus_quality_duplicates.py`.

swallow_v1 runs with `corpus.Extraction.rapid_check = 'kana'`: manual pages neither declare a language nor have a Japanese title, which is all
that Swallow's own check looks at. What that check would have let through is in the results too.
swallow_v2 keeps English, too, which the preset does not: duplicates are judged over the pages of both languages.
"""

import argparse
import glob
import gzip
import json
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines import http
from beam_pipelines.corpus import build_corpus
from beam_pipelines.rapid_check import may_be_japanese
from benchmarks import damaged_twin, page_truth
from benchmarks.corpus_quality_duplicates import UNLIKE, duplicates
from benchmarks.corpus_quality_outcomes import Key, Outcome, outcomes
from benchmarks.corpus_quality_text import main_texts, text_similarity
from benchmarks.debian_docs import cpu_name, fetch
from benchmarks.page_truth import Page
from ja_llm import manifest
from ja_llm.files import write_json

RESULT = Path(__file__).parent / "results" / "corpus_quality.json"
PRESETS = {"swallow_v1": ("corpus.Extraction.rapid_check = 'kana'",), "swallow_v2": ("corpus.Corpus.languages = ('ja', 'en')",)}
BOUNDS = {
    "unaccounted": 0,
    "alike_both_kept": 0.02,
    "unlike_joined": 0.005,
    "unlike_dropped": 0.005,
    "planted_unlike_dropped": 0.005,
    "language_precision": 0.99,
    "language_recall": 0.97,
}
PACKAGES = ("apache-beam", "fastwarc", "trafilatura", "lxml", "py3langid", "numpy")


def log(text: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def losses(pages: Sequence[Page], found: Mapping[Key, Outcome], value: dict[str, Any]) -> dict[str, Any]:
    """Every record's place, by label; what the counts of the job say; what can't be accounted for."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    damaged = defaultdict(list)
    for entry in value["damaged"]:
        damaged[Path(entry["input"]).name].append(entry["offset"])
    unaccounted = []
    ends = {page.key: after.offset for page, after in zip(pages, pages[1:], strict=False) if page.file == after.file}
    for page in pages:
        outcome = found.get(page.key)
        if outcome is not None:
            table[page.label][f"{outcome.stage}: {outcome.reason}" if outcome.reason else "kept"] += 1
        elif any(page.offset <= at < ends.get(page.key, 1 << 60) for at in damaged[page.file]):
            table[page.label]["in a damaged place"] += 1
        else:
            unaccounted.append(page.url)
            table[page.label]["UNACCOUNTED"] += 1
    keys = {page.key for page in pages}
    unbalanced = [
        stage["stage"]
        for stage in value["yields"]
        if stage["kept"]["documents"] + sum(c["documents"] for c in stage["dropped"].values()) != stage["in"]["documents"]
    ]
    came_through = [page.url for page in pages if page.lost and page.key in found and found[page.key].id]
    records_in = value["yields"][0]["in"]["documents"]
    return {
        "records": len(pages),
        "records_in": records_in,
        "kept": sum(not outcome.reason for outcome in found.values()),
        "unaccounted": len(unaccounted),
        "some_unaccounted": unaccounted[:20],
        "not_in_truth": sum(key not in keys for key in found),
        "stages_that_do_not_add_up": unbalanced,
        "lost_by_design": sum(page.lost for page in pages),
        "lost_by_design_but_a_document": came_through[:20],
        "by_label": {label: dict(sorted(counts.items())) for label, counts in sorted(table.items())},
    }


def language(pages: Sequence[Page], found: Mapping[Key, Outcome]) -> dict[str, Any]:
    """Precision and recall of "is Japanese"."""
    apart, said, true, wrong = Counter[str](), [], [], []
    for page in pages:
        outcome = found.get(page.key)
        if page.lost or outcome is None:
            apart["lost by design"] += 1
        elif page.content not in ("ja", "other"):
            apart["mixed" if page.content == "mixed" else "without text"] += 1
        elif not outcome.id and outcome.reason != "rapid_check":
            apart[f"{outcome.reason} [{page.content}]"] += 1
        else:
            said.append(outcome.lang == "ja")
            true.append(page.content == "ja")
            if said[-1] != true[-1]:
                told = outcome.lang or outcome.reason
                of_text = page_truth.language(outcome.text)
                entry = {"url": page.url, "label": page.label, "content": page.content, "said": told, "of_text": of_text}
                wrong.append(entry)
    yes, truth = np.array(said), np.array(true)
    both = int((yes & truth).sum())
    labels = Counter(f"{entry['label']}: {entry['content']} taken for {entry['said']}" for entry in wrong)
    return {
        "pages": len(said),
        "japanese": int(truth.sum()),
        "precision": round(both / max(1, int(yes.sum())), 5),
        "recall": round(both / max(1, int(truth.sum())), 5),
        "apart": dict(sorted(apart.items())),
        "wrong": dict(labels.most_common(20)),
        "taken_for_japanese_by_content_of_text": dict(Counter(entry["of_text"] for entry in wrong if entry["said"] == "ja")),
        "missed_by_content_of_text": dict(Counter(entry["of_text"] for entry in wrong if entry["content"] == "ja")),
        "some_wrong": wrong[:40],
    }


def rapid(warcs: Sequence[Path], pages: Sequence[Page]) -> dict[str, Any]:
    """Japanese pages that each rule of the rapid check lets through, and others that it does not keep out, on sound HTML files."""
    content = {page.key: page.content for page in pages if not page.lost}
    passed: dict[str, dict[str, list[int]]] = {rule: {"ja": [0, 0], "other": [0, 0]} for rule in ("swallow_v1", "kana")}
    for path in warcs:
        for record in page_truth.responses(path):
            response, of = http.parse_response(record.block), content.get((path.name, record.offset), "")
            if of not in ("ja", "other") or "html" not in response.headers.get("content-type", ""):
                continue
            for rule, table in passed.items():
                table[of][0] += may_be_japanese(http.decoded_body(response, 10_000_000), rule)
                table[of][1] += 1
    return passed


def measure(
    preset: str, pages: Sequence[Page], inputs: Sequence[str], output: Path, workers: int, near: "Near"
) -> dict[str, Any]:
    """Build the set by the preset, and compare it with the labels."""
    # Every dropped record is kept as a sample, so that each can be followed; nothing of the set depends on it.
    sampling = ("corpus.Corpus.samples = 1000000", "corpus.Corpus.sample_characters = 1")
    start = time.monotonic()
    value = build_corpus(inputs, output, preset=preset, gin_bindings=(*PRESETS[preset], *sampling), workers=workers)
    seconds = time.monotonic() - start
    found, minhash = outcomes(output), value["config"]["minhash"]
    log(f"{output.name}: {value['totals']['documents']} documents of {len(pages)} records, {seconds:.0f} s")
    return {
        "bindings": list(PRESETS[preset]),
        "config_hash": value["config_hash"],
        "fingerprint": manifest.fingerprint(value),
        "seconds": round(seconds, 1),
        "documents": value["totals"]["documents"],
        "losses": losses(pages, found, value),
        "text": text_similarity(pages, found, near.sets),
        "language": language(pages, found),
        "duplicates": duplicates(pages, found, near.pairs, near.sets, output, minhash["bands"], minhash["rows"]),
    }


class Near:
    """The pages' sets of n-grams, and all pairs of them from UNLIKE on."""

    def __init__(self, pages: Sequence[Page]):
        self.sets = {page.key: page_truth.ngrams(page.text) for page in pages}
        keys = [page.key for page in pages if page_truth.squeeze(page.text)]
        pairs = page_truth.near_pairs([self.sets[key] for key in keys], UNLIKE)
        self.pairs = {(keys[i], keys[j]): similarity for (i, j), similarity in pairs.items()}


def labelled_set(folder: Path) -> list[Page]:
    """The pages of a labelled WARC set in the layout of its truth.jsonl.gz and main_text.jsonl.gz."""
    with gzip.open(folder / "truth.jsonl.gz", "rt", encoding="utf-8") as file:
        truth = [json.loads(line) for line in file]
    with gzip.open(folder / "main_text.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = {entry["i"]: entry["main"] for entry in map(json.loads, file)}
    keys = {entry["url"]: (entry["file"], entry["offset"]) for entry in reversed(truth) if entry["dup_of"] is None}
    contents = {"ja": "ja", "und": "", None: ""}
    pages = []
    for entry in truth:
        lost = entry["defect"] == "truncated_gzip_body"
        label = entry["dup_type"] or (entry["defect"] or "").partition(":")[0] or entry["kind"]
        content = contents.get(entry["lang_content"], "other")
        text, of = texts.get(entry["i"], ""), keys.get(entry["dup_of"])
        place = (entry["file"], entry["offset"], entry["url"], "")
        pages.append(Page(*place, entry["lang_declared"] or "", "" if lost else content, "" if lost else text, label, of, lost))
    return pages


def agreement(folder: Path, pages: Sequence[Page], near: Near) -> dict[str, Any]:
    """Our similarities beside the set's own (pairs.json.gz), which other code computed."""
    with gzip.open(folder / "pairs.json.gz", "rt") as file:
        pairs = json.load(file)
    by_number = {number: page for number, page in enumerate(pages)}
    apart = [
        abs(page_truth.jaccard(near.sets[by_number[p["a"]].key], near.sets[by_number[p["b"]].key]) - p["jaccard"]) for p in pairs
    ]
    mine = {frozenset(pair) for pair in near.pairs}
    theirs = [frozenset((by_number[p["a"]].key, by_number[p["b"]].key)) for p in pairs if p["jaccard"] >= UNLIKE + 0.001]
    missing = [pair for pair in theirs if pair not in mine and not any(by_key.lost for by_key in pages if by_key.key in pair)]
    return {"pairs": len(pairs), "largest_difference": round(max(apart), 6), "not_found": len(missing)}


def verdict(part: dict[str, Any]) -> dict[str, Any]:
    """The bounded figures of one build."""
    duplicate, lang, lost = part["duplicates"], part["language"], part["losses"]
    return {
        "unaccounted": lost["unaccounted"] + lost["not_in_truth"] + len(lost["stages_that_do_not_add_up"]),
        "alike_both_kept": max(duplicate[of]["both_kept_share"] for of in ("of_documents", "of_pages")),
        "unlike_joined": duplicate["unlike_joined_share"],
        "unlike_dropped": duplicate["of_documents"]["unlike_dropped_share"],
        "planted_unlike_dropped": duplicate["planted"]["unlike_dropped_share"],
        "language_precision": lang["precision"],
        "language_recall": lang["recall"],
    }


def met(figures: Mapping[str, float]) -> dict[str, bool]:
    """Which bounds hold: shares and counts at most, precision and recall at least."""
    return {name: figures[name] >= bound if "language" in name else figures[name] <= bound for name, bound in BOUNDS.items()}


def main() -> None:
    """Build, measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/real"))
    parser.add_argument("--fetched", type=Path, help="output of `ja-llm fetch debian-docs`, if it is elsewhere")
    parser.add_argument("--labelled", type=Path, help="folder of a labelled WARC set to measure, too")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="of the damaged twin")
    parser.add_argument("--each", type=int, default=60, help="the twin's pages of each kind")
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    out, fetched = args.out / "quality", (args.fetched or args.out / "debian-docs").absolute()
    fetch(fetched)
    warcs = [Path(path) for path in sorted(glob.glob(str(fetched / "warc" / "*.warc.gz")))]
    originals = damaged_twin.label_originals(warcs, out / damaged_twin.ORIGINALS)
    log(f"{len(originals)} pages of {len(warcs)} files")
    twin = damaged_twin.make(warcs, originals, out / "twin", args.seed, args.each)
    log(f"{len(twin)} records in the damaged twin")
    parts = {"debian_docs": ([*originals, *twin], [str(fetched / "warc" / "*.warc.gz"), str(out / "twin" / "twin-*.warc.gz")])}
    if args.labelled:
        parts["labelled"] = (labelled_set(args.labelled), [str(args.labelled / "pages-*.warc.gz")])
    results: dict[str, Any] = {}
    for name, (pages, inputs) in parts.items():
        near = Near(pages)
        log(f"{name}: {len(near.pairs)} pairs of similarity {UNLIKE} and more")
        results[name] = {
            preset: measure(preset, pages, inputs, out / f"{name}-{preset}", args.workers, near) for preset in PRESETS
        }
        if name == "labelled":
            results[name]["agreement"] = agreement(args.labelled, pages, near)
    main_text = main_texts(warcs, originals, outcomes(out / "debian_docs-swallow_v2"))
    log(f"main text: {json.dumps(main_text)}")
    figures = {name: {preset: verdict(part[preset]) for preset in PRESETS} for name, part in results.items()}
    write_json(
        args.result,
        {
            "what": "labelled pages through the corpus job: losses, text, language, duplicates",
            "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
            "software": manifest.software(*PACKAGES),
            "twin": {"seed": args.seed, "each": args.each, "version": damaged_twin.VERSION, "records": len(twin)},
            "bounds": BOUNDS,
            "figures": figures,
            "met": {name: {preset: met(value) for preset, value in part.items()} for name, part in figures.items()},
            "rapid_check": rapid(warcs, originals),
            "main_text": main_text,
            **results,
        },
    )
    log(f"{args.result}: {json.dumps(figures)}")


if __name__ == "__main__":
    main()
