"""The education classifier on real text: manuals in Debian's packages (good) against man pages, Japanese, split by document.

    python -m benchmarks.education_classifier --documents build/real/quality/debian_docs-swallow_v2

Reads what `benchmarks.corpus_quality` has built; pages of its damaged twin are left out. Half of the documents, by a hash of their ids, are
trained on by `ja-llm corpus train-classifier`, in pieces of 500 characters. The other half is judged as whole pages and in pieces of 200, of which there
are enough to plant 500 good ones among 4,500 others: accuracy, and how many of the good are in the best-scored tenth, as the stage `top_share` cuts it.

Two labellings: all manuals, some of which speak of commands just as man pages do, and manuals of applications alone, which was chosen when
the first had been measured. Writes benchmarks/results/education_classifier.json with the goals beside.
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from beam_pipelines import classifier
from beam_pipelines.settings.classify import ClassifierTraining
from beam_pipelines.top_share import bin_of, find_cut
from beam_pipelines.train_classifier import MODEL, NEGATIVE, POSITIVE, train_classifier
from benchmarks.debian_docs import cpu_name
from ja_llm import manifest
from ja_llm.documents import Document, document_id, read_documents, to_example, write_record
from ja_llm.files import write_json

RESULT = Path(__file__).parent / "results" / "education_classifier.json"
MAN_PAGES = ("manpages-ja", "manpages-ja-dev")
APPLICATIONS = ("gimp-help-ja", "gnome-user-docs", "gnucash-docs", "kicad-doc-ja", "lilypond-doc-html-ja")
PLANTED, SHARE, TRAINED, JUDGED = 500, 0.1, 500, {"pages": 0, "pieces": 200}  # characters of a piece
GOALS = {"accuracy": 0.99, "share_of_good": 0.95}


def hash_of(name: str, seed: int = 1) -> int:
    """A seeded 64-bit hash, by which documents and pieces are divided and chosen."""
    return xxhash.xxh3_64_intdigest(name.encode(), seed)


def read(folder: Path, manuals: Sequence[str] = ()) -> dict[bool, list[Document]]:
    """The set's Japanese documents: {good: documents}, of these manuals or all. Pages of the twin name no package."""
    found: dict[bool, list[Document]] = {True: [], False: []}
    for path in sorted(folder.glob("ja/*.tfrecord")):
        for document in read_documents(path):
            package = json.loads(document.meta).get("package")
            if package and (package in MAN_PAGES or not manuals or package in manuals):
                found[package not in MAN_PAGES].append(document)
    return found


def pieces(documents: Sequence[Document], characters: int) -> list[Document]:
    """The documents cut into pieces of at least so many characters, at line ends; what is left over goes to none. 0: whole documents."""
    if not characters:
        return list(documents)
    found: list[Document] = []
    for document in documents:
        lines: list[str] = []
        for line in document.text.split("\n"):
            lines.append(line)
            if sum(map(len, lines)) >= characters:
                text, lines = "\n".join(lines), []
                found.append(Document(document_id("piece", document.id, f"{len(found)}", text), text, lang="ja"))
    return found


def write_set(folder: Path, documents: Sequence[Document]) -> Path:
    """A document set of one shard."""
    name = "ja/train-00000-of-00001.tfrecord"
    (folder / "ja").mkdir(parents=True)
    with open(folder / name, "wb") as file:
        for document in documents:
            write_record(file, to_example(document))
    sizes = {"documents": len(documents), "characters": sum(len(d.text) for d in documents)}
    shard = manifest.file_entry(folder / name, folder, **sizes, lang="ja", split="train")
    manifest.write(folder, schema=manifest.DOCUMENTS, job="education_classifier", config={}, inputs=[], shards=[shard])
    return folder


def top_share(scored: list[tuple[bool, Document, float]]) -> dict[str, Any]:
    """Good pieces planted among nine times as many others, 500 if there are so many: how many of each are in the best tenth."""
    others = [row for row in scored if not row[0]]
    planted = min(PLANTED, len(others) // 9, len(scored) - len(others))
    chosen: list[tuple[bool, Document, float]] = []
    for of, number in (([row for row in scored if row[0]], planted), (others, 9 * planted)):
        chosen += sorted(of, key=lambda row: hash_of(row[1].id, 2))[:number]
    histogram: dict[int, int] = {}
    for _, _, score in chosen:
        histogram[bin_of(score)] = histogram.get(bin_of(score), 0) + 1
    cut = find_cut(histogram, SHARE)
    kept = [good for good, document, score in chosen if cut.keeps(score, document, 1)]
    return {
        "good": planted,
        "others": 9 * planted,
        "kept": len(kept),
        "kept_good": sum(kept),
        "share_of_good": sum(kept) / planted,
    }


def measure(folder: Path, manuals: Sequence[str]) -> dict[str, Any]:
    """Train on half of the documents, judge the other half."""
    halves: dict[bool, dict[bool, list[Document]]] = {True: {}, False: {}}
    for good, documents in read(folder, manuals).items():
        for training in (True, False):
            halves[training][good] = [d for d in documents if (hash_of(d.id) % 2 == 0) == training]
    judged: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        sets = [write_set(Path(scratch) / f"{good}", pieces(halves[True][good], TRAINED)) for good in (True, False)]
        card = train_classifier(sets[0], sets[1], Path(scratch) / "model", (), ClassifierTraining())
        model = classifier.Classifier(Path(scratch) / "model" / MODEL, {POSITIVE: 1.0, NEGATIVE: 0.0})
        for name, characters in JUDGED.items():
            parts = {good: pieces(halves[False][good], characters) for good in (True, False)}
            scored = [(good, part, model.score(part.text)) for good in parts for part in parts[good]]
            right = sum((score > 0.5) == good for good, _, score in scored)
            sizes = {"good": len(parts[True]), "others": len(parts[False])}
            judged[name] = {**sizes, "accuracy": right / len(scored), "top_share": top_share(scored)}
    kinds = {"good": len(halves[True][True]), "others": len(halves[True][False])}
    return {
        "trained_on": {"documents": kinds, **card["documents"]},
        "settings": card["settings"],
        "held_out": judged,
        "software": card["software"],
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=Path, default=Path("build/real/quality/debian_docs-swallow_v2"))
    options = parser.parse_args()
    found = {name: measure(options.documents, of) for name, of in (("all_manuals", ()), ("application_manuals", APPLICATIONS))}
    value = manifest.read(options.documents, manifest.DOCUMENTS)
    about = {"hardware": {"cpu": cpu_name(), "cores": os.cpu_count()}, "python": platform.python_version()}
    write_json(RESULT, {"documents": manifest.fingerprint(value), "goals": GOALS, **found, **about})
    print(json.dumps({name: of["held_out"] for name, of in found.items()}, indent=1))


if __name__ == "__main__":
    main()
