"""Train a fastText classifier of good text from document sets: an encyclopaedia's articles against crawled pages.

Swallow v2's recipe (its page): positives are articles of academic categories of the Japanese Wikipedia, negatives come from
the crawl; validation is by document. Both sides are document sets (`ja-llm corpus build --preset wikipedia` makes one from a
CirrusSearch or XML dump, and keeps an article's categories in its metadata).

Equal input, settings and software give an equal model: documents are chosen and ordered by a seeded hash, and fastText runs
on one thread.
"""

import dataclasses
import fnmatch
import heapq
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

from beam_pipelines import classifier
from beam_pipelines.host_cap import site
from beam_pipelines.settings.classify import ClassifierTraining
from ja_llm import manifest
from ja_llm.documents import Document, read_documents
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_directory, sha256_json, write_json

POSITIVE, NEGATIVE = "__label__pos", "__label__neg"
MODEL = "model.bin"
_FEW = 20  # documents of a side below which nothing can be said of a classifier


def train_classifier(
    positives: str | os.PathLike,
    negatives: str | os.PathLike,
    output: str | os.PathLike,
    categories: Sequence[str] = (),
    settings: ClassifierTraining | None = None,
) -> dict[str, Any]:
    """Train a classifier and measure it on documents that it has not seen.

    Args:
      positives: document set of good text.
      negatives: document set of a crawl.
      output: folder for `model.bin` and its card `model.json`; it must not exist.
      categories: only positives in one of these categories (`*` and `?` match as in file names); none: all of them.
      settings: how; default: `ClassifierTraining()`.

    Returns:
      The card: how many documents of each side, accuracy, precision and recall on the validation share, parents.

    Raises:
      UsageError: the output exists.
      JaLlmError: a set is not whole, or too few documents of a side are left.
    """
    settings = settings or ClassifierTraining()
    output = Path(output)
    if output.exists():
        raise UsageError(f"{output}: this exists already; choose another folder for the classifier.")
    sets = {name: manifest.read(path, manifest.DOCUMENTS) for name, path in (("positives", positives), ("negatives", negatives))}
    good = _choose(positives, sets["positives"], settings, settings.max_positives, lambda d: in_categories(d, categories))
    if len(good) < _FEW:
        of = f" in these {len(categories)} categories" if categories else ""
        raise JaLlmError(f"{positives}: {len(good)} documents{of} are too few to train on; give a larger set or more categories.")
    most = round(len(good) * settings.negatives_per_positive)
    bad = _choose(negatives, sets["negatives"], settings, most, lambda d: site(d.url, "domain") not in settings.excluded_sites)
    if len(bad) < _FEW:
        raise JaLlmError(f"{negatives}: {len(bad)} documents are too few to train on; give a larger set.")
    rows = sorted([(key, POSITIVE, text) for key, text in good.items()] + [(key, NEGATIVE, text) for key, text in bad.items()])
    training: list[tuple[str, str]] = []
    validation: list[tuple[str, str]] = []
    for _, label, text in rows:
        held = (
            xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), settings.seed) < settings.validation_share * 2.0**64
        )
        (validation if held else training).append((label, text))
    if not validation or len({label for label, _ in training}) < 2:
        raise JaLlmError(f"{positives}: too few documents to hold some out for validation; give a larger set.")
    with atomic_directory(output) as folder:
        model = _fit(training, settings, folder)
        card = {
            "schema": classifier.SCHEMA,
            "tokens": classifier.CHARACTERS,
            "max_characters": settings.max_characters,
            "labels": [POSITIVE, NEGATIVE],
            "documents": {
                "positives": len(good),
                "negatives": len(bad),
                "training": len(training),
                "validation": len(validation),
            },
            "validation": measure(model, validation),
            "settings": {**dataclasses.asdict(settings), "excluded_sites": list(settings.excluded_sites)},
            "categories": {"number": len(categories), "hash": sha256_json(sorted(categories))},
            "parents": {name: manifest.fingerprint(value) for name, value in sets.items()},
            "licences": {name: value.get("licences", {}) for name, value in sets.items()},
            "software": manifest.software(*classifier.PACKAGES),
        }
        write_json(classifier.card_path(folder / MODEL), card)
    return card


def in_categories(document: Document, patterns: Sequence[str]) -> bool:
    """Whether one of the document's categories (its metadata) matches a pattern; without patterns every document does."""
    if not patterns:
        return True
    categories = [str(name) for name in json.loads(document.meta).get("categories", ())]
    return any(fnmatch.fnmatchcase(name, pattern) for name in categories for pattern in patterns)


def read_categories(path: str | os.PathLike) -> list[str]:
    """The patterns of a file: one a line; empty lines and what follows a # are skipped.

    Raises:
      UsageError: the file can't be read, or names none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: this list of categories can't be read ({error}); give a UTF-8 file, one name a line."
        ) from error
    found = [name for line in lines if (name := line.partition("#")[0].strip())]
    if not found:
        raise UsageError(f"{path}: there is no category in this file; write one a line.")
    return found


def _choose(
    root: str | os.PathLike, value: dict[str, Any], settings: ClassifierTraining, most: int, wanted: Callable[[Document], bool]
) -> dict[int, str]:
    """The beginnings of up to `most` training documents, those with the smallest seeded hash of their id, by that hash."""

    def candidates() -> Iterator[tuple[int, str]]:
        for shard in value["shards"]:
            if shard["lang"] != settings.lang or shard["split"] != "train":
                continue  # held-out text is measured on later: it must not decide what is trained on
            for document in read_documents(Path(root) / shard["name"]):
                if len(document.text) >= settings.min_characters and wanted(document):
                    key = xxhash.xxh3_64_intdigest(document.id.encode(), settings.seed)
                    yield key, classifier.dense(document.text, settings.max_characters)

    return dict(heapq.nsmallest(most, candidates()))


def _fit(training: Sequence[tuple[str, str]], settings: ClassifierTraining, folder: Path) -> Any:
    import fasttext

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".classifier-") as scratch:
        path = Path(scratch) / "training.txt"
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            file.writelines(f"{label} {' '.join(text)}\n" for label, text in training)
        model = fasttext.train_supervised(
            input=os.fspath(path),
            dim=settings.dimensions,
            bucket=settings.buckets,
            wordNgrams=settings.ngram,
            epoch=settings.epochs,
            lr=settings.learning_rate,
            seed=settings.seed,
            minCount=1,
            thread=1,
            verbose=0,
        )
    model.save_model(os.fspath(folder / MODEL))
    return model


def measure(model: Any, rows: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Accuracy over (label, text without white space), and precision and recall of the positives."""
    counts = {(label, said): 0 for label in (POSITIVE, NEGATIVE) for said in (POSITIVE, NEGATIVE)}
    for label, text in rows:
        ((_, said),) = model.f.predict(" ".join(text) + "\n", 1, 0.0, "replace")
        counts[label, said] += 1
    right = counts[POSITIVE, POSITIVE]
    return {
        "accuracy": (right + counts[NEGATIVE, NEGATIVE]) / len(rows),
        "precision": right / max(1, right + counts[NEGATIVE, POSITIVE]),
        "recall": right / max(1, right + counts[POSITIVE, NEGATIVE]),
    }


def load_settings(bindings: Sequence[str]) -> ClassifierTraining:
    """`ClassifierTraining` with gin bindings, e.g. "corpus.ClassifierTraining.epochs = 3".

    Raises:
      UsageError: a binding of a name that does not exist, or a value without meaning.
    """
    from beam_pipelines.config import check_part
    from ja_llm import gin_utils

    with gin_utils.parsed([], list(bindings)):
        settings = ClassifierTraining()
    check_part(settings)
    return settings


def format_card(card: dict[str, Any], output: str | os.PathLike) -> str:
    """What came out, in words."""
    documents, validation = card["documents"], card["validation"]
    return (
        f"{output}: trained on {documents['training']} documents ({documents['positives']} positives and "
        f"{documents['negatives']} negatives with those of validation)\n"
        f"on {documents['validation']} documents held out: accuracy {validation['accuracy']:.4f}, precision of positives "
        f"{validation['precision']:.4f}, recall {validation['recall']:.4f}\n"
        f"use it: --gin_bindings \"corpus.Classify.models = {{'education': '{Path(output) / MODEL}'}}\", with the stages "
        "classify (before select) and top_share (after it)"
    )
