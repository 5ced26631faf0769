"""Train the language model of `ja_llm/text/language_model.py`, measure it on held-out texts and write it with its card.

    python -m beam_pipelines.train_language --catalogues wheels/*.whl \\
        --pages ja='data/debian-docs/warc/debian-handbook-ja-*.warc.gz' en='data/debian-docs/warc/debian-handbook-en-*.warc.gz' \\
        --output build/language_model.npz

Logistic regression by AdaGrad (Duchi et al. 2011, equation 1 with a diagonal matrix), in an order that a hash decides, so that
the same texts give the same weights. Texts that stand under more than one language are left out.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from beam_pipelines.language_texts import Labelled, read_catalogues, read_pages, read_pairs
from ja_llm.command_line import run
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import write_json
from ja_llm.text.language_model import BUCKETS, LanguageModel, features, load

LENGTHS = (1, 10, 20, 50, 100, 300, 1000)  # characters: the lower ends of the rows of the card's table
HELDOUT = 0.1
_BATCH = 256


def prepare(texts: Iterable[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """(to train on, held out): each text once, without those that several languages share, in an order that a hash decides."""
    languages: dict[str, set[str]] = {}
    chosen: dict[str, Labelled] = {}
    for item in texts:
        key = " ".join(item.text.split())
        languages.setdefault(key, set()).add("ja" if item.lang == "ja" else "other")
        if key not in chosen or item.group < chosen[key].group:
            chosen[key] = item
    unique = [item for key, item in chosen.items() if len(languages[key]) == 1]
    unique.sort(key=lambda item: (xxhash.xxh3_64_intdigest(item.text.encode("utf-8", "replace")), item.text))
    sides: tuple[list[Labelled], list[Labelled]] = ([], [])
    for item in unique:
        sides[_share(item.group) < HELDOUT].append(item)
    return sides


def _share(group: str) -> float:
    return xxhash.xxh3_64_intdigest(group.encode("utf-8", "replace"), seed=1) / 2**64


def mixtures(texts: Sequence[Labelled], seed: int = 1) -> list[Labelled]:
    """Made-up pages that mix languages, a quarter as many as there are Japanese texts, and as many Chinese and Korean ones.

    Japanese (or Chinese, or Korean) is between a tenth and three fifths of the characters, English or German the rest; the page
    counts as what it was mixed from. Manuals and blogs about software are such pages, and a model of unmixed sentences takes
    the Japanese ones for English. Half as many hold but a line of Japanese, up to a fiftieth, and are not Japanese.
    """
    rng = random.Random(seed)
    pools = {lang: [t.text for t in texts if t.lang == lang and len(t.text) >= 10] for lang in ("ja", "zh", "ko")}
    latin = [t.text for t in texts if t.lang in ("en", "de") and len(t.text) >= 10]
    found = []
    for i in range(len(pools["ja"]) // 4 if latin else 0):
        for lang in ("ja", ("zh", "ko")[i % 2]):
            if pools[lang]:
                size, share = rng.randint(100, 800), rng.uniform(0.1, 0.6)
                parts = [*_characters(pools[lang], share * size, rng), *_characters(latin, (1 - share) * size, rng)]
                rng.shuffle(parts)
                found.append(Labelled("\n".join(parts), lang, f"mixture {i}"))
        if i % 2:
            line = pools["ja"][rng.randrange(len(pools["ja"]))]
            found.append(
                Labelled("\n".join([*_characters(latin, 50 * min(len(line), 20), rng), line[:20]]), "en", f"mixture {i}")
            )
    return found


def _characters(pool: Sequence[str], wanted: float, rng: random.Random) -> list[str]:
    """Texts drawn from the pool, with about as many characters in all as are wanted."""
    parts: list[str] = []
    while wanted > 0:
        parts.append(pool[rng.randrange(len(pool))])
        wanted -= len(parts[-1])
    return parts


def train(texts: Sequence[Labelled], epochs: int = 4, rate: float = 0.3, l2: float = 1e-6) -> LanguageModel:
    """Fit the weights. Both classes count alike in sum, whatever their numbers.

    Raises:
      JaLlmError: there are texts of one class only.
    """
    grams = [features(item.text) for item in texts]
    target = np.array([item.lang == "ja" for item in texts], np.float64)
    if not 0 < target.sum() < len(target):
        raise JaLlmError(
            f"{len(texts)} texts, {int(target.sum())} of them Japanese: both kinds are needed; add texts of the other."
        )
    importance = np.where(target == 1, 0.5 / target.mean(), 0.5 / (1 - target.mean()))
    weights, squares, bias, bias_squares = np.zeros(BUCKETS), np.full(BUCKETS, 1e-8), 0.0, 1e-8
    usable = np.flatnonzero([len(g) > 0 for g in grams])
    for _ in range(epochs):
        for start in range(0, len(usable), _BATCH):
            batch = usable[start : start + _BATCH]
            joined = np.concatenate([grams[i] for i in batch])
            sizes = np.array([len(grams[i]) for i in batch])
            share = 1 / np.sqrt(sizes)
            margin = np.add.reduceat(weights[joined], np.cumsum(sizes) - sizes) * share + bias
            error = importance[batch] * (1 / (1 + np.exp(-np.clip(margin, -50, 50))) - target[batch])
            touched, inverse = np.unique(joined, return_inverse=True)
            gradient = np.bincount(inverse, np.repeat(error * share, sizes)) / len(batch) + l2 * weights[touched]
            squares[touched] += gradient**2
            weights[touched] -= rate * gradient / np.sqrt(squares[touched])
            bias_gradient = float(error.mean())
            bias_squares += bias_gradient**2
            bias -= rate * bias_gradient / np.sqrt(bias_squares)
    return LanguageModel(weights.astype(np.float32), bias)


def measure(model: LanguageModel, texts: Sequence[Labelled]) -> dict[str, Any]:
    """Precision and recall of Japanese on these texts: all, by length in characters, and the languages taken for Japanese."""
    said = np.array([model.score(item.text) > 0 for item in texts], bool)
    true = np.array([item.lang == "ja" for item in texts], bool)
    lengths = np.array([len(item.text) for item in texts])
    table = {"all": quality(said, true), "10 or more": quality(said[lengths >= 10], true[lengths >= 10])}
    for low, high in zip(LENGTHS, [*LENGTHS[1:], 10**9], strict=True):
        inside = (lengths >= low) & (lengths < high)
        if inside.any():
            table[f"{low}-{high - 1}" if high < 10**9 else f"{low}-"] = quality(said[inside], true[inside])
    wrong: dict[str, int] = {}
    for item, says in zip(texts, said, strict=True):
        if says and item.lang != "ja":
            wrong[item.lang] = wrong.get(item.lang, 0) + 1
    return {"by_characters": table, "taken_for_japanese": dict(sorted(wrong.items()))}


def quality(said: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Counts, precision and recall of bool arrays; None where nothing was said or there is nothing to find."""
    hits = int((said & true).sum())
    return {
        "texts": len(true),
        "japanese": int(true.sum()),
        "precision": round(hits / int(said.sum()), 5) if said.any() else None,
        "recall": round(hits / int(true.sum()), 5) if true.any() else None,
    }


def _counts(texts: Sequence[Labelled]) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in texts:
        found[item.lang] = found.get(item.lang, 0) + 1
    return dict(sorted(found.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m beam_pipelines.train_language`."""
    parser = argparse.ArgumentParser(
        prog="python -m beam_pipelines.train_language", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--catalogues", nargs="*", default=[], metavar="WHEEL", help="wheels or folders with .mo files")
    parser.add_argument("--pages", nargs="*", default=[], metavar="LANG=GLOB", help="WARC files of pages in a language")
    parser.add_argument("--pairs", metavar="FILE", help="pairs/messages.jsonl of `ja-llm fetch debian-docs`")
    parser.add_argument("--without", nargs="*", default=[], metavar="PACKAGE", help="leave out the pairs of these packages")
    parser.add_argument("--note", default="", help="what the card should say of the texts: origin and licences")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, required=True, help="model file (.npz); the card is written beside it (.json)")
    argv = list(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        args = parser.parse_args([a for a in argv if a != "--debug"])
        texts = list(read_catalogues(args.catalogues))
        if args.pairs:
            texts += read_pairs(args.pairs, args.without)
        for entry in args.pages:
            lang, mark, pattern = entry.partition("=")
            if not mark:
                raise UsageError(f"--pages {entry}: write the language before the pattern, as in ja='warc/*-ja-*.warc.gz'.")
            texts += read_pages(pattern, lang)
        training, heldout = prepare(texts)
        mixed = mixtures(training)
        order = random.Random(1)
        whole = [*training, *mixed]
        order.shuffle(whole)
        train(whole, args.epochs).save(args.output)
        model = load(args.output)  # measured as it is shipped, in 8 bits
        card = {
            "what": "character 1- to 3-gram logistic regression: is a text Japanese? (ja_llm/text/language_model.py)",
            "command": "python -m beam_pipelines.train_language with the inputs below",
            "inputs": {
                "catalogues": [Path(p).name for p in args.catalogues],
                "pages": [_short(p) for p in args.pages],
                "pairs": Path(args.pairs).name if args.pairs else None,
                "without": args.without,
            },
            "texts": args.note,
            "epochs": args.epochs,
            "trained_on": {
                "texts": len(training),
                "characters": sum(len(t.text) for t in training),
                "made_up_mixed_pages": len(mixed),
                "by_language": _counts(training),
            },
            "heldout": {"share_of_groups": HELDOUT, **measure(model, heldout)},
        }
        write_json(args.output.with_suffix(".json"), card)
        print(json.dumps(card["heldout"], indent=1))

    return run("train_language", work, debug="--debug" in argv)


def _short(entry: str) -> str:
    lang, _, pattern = entry.partition("=")
    return f"{lang}={Path(pattern).name}"


if __name__ == "__main__":
    sys.exit(main())
