"""The rapid check and the language model on labelled pages, and their speed beside the extraction of every page.

    python -m benchmarks.language --labelled ../shared/data/warc-a --warc 'build/real/debian-docs/warc/*.warc.gz'

Quality: pages of a labelled WARC set (`truth.jsonl.gz`, `main_text.jsonl.gz`) of which no page and no package was trained on: the model, the
rule by kana and py3langid, and both, on the reference main text by its length and for pages that mix languages; the rapid check
on the raw bytes. Speed: seconds of one core for the check by either rule and for extraction (our extractor, in this process) of the
same pages, in turns, medians of --repeats (3). `--pages N` takes every k-th page so that N are left. Writes benchmarks/results/language.json.
"""

import argparse
import glob
import gzip
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines import charset, http
from beam_pipelines.extractor import main_text
from beam_pipelines.language import identify
from beam_pipelines.rapid_check import RULES, may_be_japanese
from beam_pipelines.settings.language import LanguageId
from beam_pipelines.train_language import quality
from benchmarks.debian_docs import cpu_name
from ja_llm import manifest
from ja_llm.files import write_json
from ja_llm.text import scripts
from ja_llm.text.language_model import CARD, packaged
from ja_llm.text.normalise import normalise, strip_controls

RESULT = Path(__file__).parent / "results" / "language.json"
RAPID = {"swallow_v1": "rapid_check", "kana": "rapid_check_kana"}  # what the result calls the check by each rule
LENGTHS = (1, 100, 300, 1000, 3000)


def log(text: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def responses(pattern: str) -> Iterator[tuple[str, bytes, str]]:
    """(record id, body, content type) of the responses with status 200."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    for path in sorted(glob.glob(pattern)):
        with open(path, "rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=False):
                response = http.parse_response(record.reader.read())
                if response.status != 200:
                    continue
                try:
                    body = http.decoded_body(response, 10_000_000)
                except http.BodyProblem:
                    continue
                yield (record.headers.get("WARC-Record-ID") or ""), body, response.headers.get("content-type", "")


def thinned(pattern: str, pages: int) -> list[tuple[str, bytes, str]]:
    """About `pages` of the responses, evenly spread; all if it is 0."""
    found = [entry for entry in responses(pattern) if "html" in entry[2]]
    return found[:: max(1, len(found) // pages)] if pages else found


def labelled(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(truth by record id, main text by record id)."""
    with gzip.open(folder / "truth.jsonl.gz", "rt", encoding="utf-8") as file:
        truth = [json.loads(line) for line in file]
    with gzip.open(folder / "main_text.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = {entry["i"]: entry["main"] for entry in map(json.loads, file)}
    return {t["record_id"]: t for t in truth}, {t["record_id"]: texts[t["i"]] for t in truth if t["i"] in texts}


def methods() -> dict[str, Callable[[str], bool]]:
    """Ways of deciding whether a text is Japanese."""
    model, rule = packaged(), LanguageId()
    return {
        "model": lambda text: model.score(text) > 0,
        "rule": lambda text: identify(text, rule)[0] == "ja",
        "both": lambda text: model.score(text) > 0 and identify(text, rule)[0] == "ja",
    }


def text_quality(truth: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    """Precision and recall of each method on main texts: all, by length, of pages that mix languages."""
    ids = [i for i, text in texts.items() if truth[i]["lang_content"] not in (None, "und") and text.strip()]
    true = np.array([truth[i]["lang_content"] == "ja" for i in ids])
    lengths = np.array([len(texts[i]) for i in ids])
    counts = [scripts.count(texts[i]) for i in ids]
    share = np.array([c.kana / max(1, c.letters) for c in counts])
    mixed = (share > 0.01) & (share < 0.2)
    found: dict[str, Any] = {}
    for name, method in methods().items():
        said = np.array([method(texts[i]) for i in ids])
        table = {"all": quality(said, true), "mixed (kana 1 to 20 % of letters)": quality(said[mixed], true[mixed])}
        for low, high in zip(LENGTHS, [*LENGTHS[1:], 10**9], strict=True):
            inside = (lengths >= low) & (lengths < high)
            if inside.any():
                table[f"{low} or more" if high == 10**9 else f"{low}-{high - 1}"] = quality(said[inside], true[inside])
        wrong = [
            {"url": truth[i]["url"], "truth": truth[i]["lang_content"], "kana_share": round(float(s), 3), "characters": int(n)}
            for i, s, n, a, b in zip(ids, share, lengths, said, true, strict=True)
            if a != b
        ]
        found[name] = {"by_characters": table, "disagreements": len(wrong), "some": wrong[:20]}
    return found


def rapid_quality(truth: dict[str, Any], folder: Path, rule: str) -> dict[str, Any]:
    """Precision and recall of a rule of the rapid check on raw pages, and what it loses by kind of defect."""
    said, true, lost = [], [], dict[str, int]()
    for record_id, body, _ in responses(str(folder / "pages-*.warc.gz")):
        entry = truth.get(record_id)
        if entry is None or entry["lang_content"] in (None, "und"):
            continue
        said.append(may_be_japanese(body, rule))
        true.append(entry["lang_content"] == "ja")
        if true[-1] and not said[-1]:
            lost[str(entry["defect"])] = lost.get(str(entry["defect"]), 0) + 1
    return {**quality(np.array(said), np.array(true)), "lost_by_defect": dict(sorted(lost.items()))}


def speed(pages: list[tuple[str, bytes, str]], repeats: int) -> dict[str, Any]:
    """Seconds for all pages: the check by each rule ("rapid_check" is swallow_v1's), the language model alone on main texts, extraction."""
    may_be_japanese(b"<title>\xe3\x81\x82</title>")
    texts: list[str] = []

    def check(rule: str) -> Callable[[], int]:
        return lambda: sum(may_be_japanese(body, rule) for _, body, _ in pages)

    def extract() -> int:
        texts.clear()
        for _, body, content_type in pages:
            page = strip_controls(charset.decode(body, content_type).text.partition("?>")[2] or "")
            texts.append(normalise(main_text(page or charset.decode(body, content_type).text) or ""))
        return len(texts)

    def score() -> int:
        return sum(packaged().score(text) > 0 for text in texts)

    works = {RAPID[rule]: check(rule) for rule in RULES} | {"extract": extract, "model": score}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    passed: dict[str, int] = {}
    for turn in range(repeats):
        for name, work in works.items():
            start = time.process_time()
            passed[name] = work()
            seconds[name].append(round(time.process_time() - start, 4))
        log(f"turn {turn + 1} of {repeats}: " + ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items()))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "pages": len(pages),
        "bytes": sum(len(body) for _, body, _ in pages),
        "cpu_seconds": seconds,
        "passed": {RAPID[rule]: passed[RAPID[rule]] for rule in RULES},
        "times_faster_than_extraction": round(median["extract"] / median["rapid_check"], 1),
        "times_faster_than_extraction_kana": round(median["extract"] / median["rapid_check_kana"], 1),
        "goal": 15,
        "model_characters_per_second": round(sum(map(len, texts)) / median["model"]),
    }


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=Path, help="labelled WARC set")
    parser.add_argument("--warc", help="WARC files to measure the speed on")
    parser.add_argument("--pages", type=int, default=0, help="about so many of them; 0: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    value: dict[str, Any] = {
        "what": "rapid check and language model: quality on labelled pages, speed beside extraction",
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "software": manifest.software("numpy", "trafilatura", "lxml", "py3langid", "fastwarc"),
        "heldout": json.loads(CARD.read_text())["heldout"],
    }
    if args.labelled:
        truth, texts = labelled(args.labelled)
        log(f"{len(texts)} labelled main texts")
        value["labelled_text"] = text_quality(truth, texts)
        log("main texts: " + ", ".join(f"{n} {v['by_characters']['all']}" for n, v in value["labelled_text"].items()))
        value["labelled_pages_rapid_check"] = {rule: rapid_quality(truth, args.labelled, rule) for rule in RULES}
        log(f"rapid check: {value['labelled_pages_rapid_check']}")
    if args.warc:
        value["speed"] = speed(thinned(args.warc, args.pages), args.repeats)
        log(f"speed: {value['speed']}")
    write_json(args.out, value)
    log(str(args.out))


if __name__ == "__main__":
    main()
