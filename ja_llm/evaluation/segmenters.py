"""Ways to cut text into the units that ROUGE and BLEU count. Which one was used belongs to the result: numbers of two are never comparable."""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

from ja_llm.errors import JaLlmError, UsageError

Segmenter = Callable[[str], list[str]]

# segmenter, or sacrebleu's own ja-mecab -> the packages that it takes, all in the extra `eval-ja`
PACKAGES = {
    "character": (),
    "model": (),
    "mecab": ("fugashi", "unidic_lite", "emoji", "neologdn"),
    "nagisa": ("nagisa",),
    "ja-mecab": ("MeCab", "ipadic"),
}


SEGMENTERS = ("character", "model", "mecab", "nagisa")


def segmenter(name: str, tokenizer: Any = None) -> Segmenter:
    """The function text -> units.

    Args:
      name: "character": every character but white space.
        "mecab": MeCab's words by fugashi and unidic-lite, after emoji are removed, neologdn has normalised and white space is
        collapsed (the tokenizer that Swallow's and lm-evaluation-harness's Japanese ROUGE intend).
        "nagisa": nagisa's words (Swallow's BLEU into Japanese).
        "model": the evaluated model's own pieces (what Swallow's published ROUGE-2 counts, so it compares no two tokenizers).
      tokenizer: `ja_llm.vocab.base.Tokenizer`, for "model".

    Raises:
      UsageError: the name is unknown, or "model" without a tokenizer.
      JaLlmError: a package is not installed.
    """
    if name not in SEGMENTERS:
        raise UsageError(f"{name}: there is no such segmenter; there are {', '.join(SEGMENTERS)}.")
    if name == "model":
        if tokenizer is None:
            raise UsageError(
                "the segmenter model cuts into a model's own pieces, but no tokenizer was given; choose another one."
            )
        return lambda text: [tokenizer.id_to_piece(i) for i in tokenizer.encode(text)]
    missing = missing_packages(name)
    if missing:
        raise JaLlmError(
            f"{name}: this segmenter needs the package {missing[0]}, which is not installed; pip install 'ja_llm[eval-ja]'."
        )
    return {"character": characters, "mecab": _mecab, "nagisa": _nagisa}[name]


def missing_packages(name: str) -> list[str]:
    """Packages of a segmenter that can't be imported here."""
    return [package for package in PACKAGES[name] if not _importable(package)]


def version(name: str) -> str:
    """What stands in a result's signature: the segmenter with its packages' versions."""
    return "-".join([name, *(f"{p}-{importlib.metadata.version(p.replace('_', '-'))}" for p in PACKAGES[name])])


def characters(text: str) -> list[str]:
    """Every character that is no white space."""
    return [character for character in text if not character.isspace()]


def _importable(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


@functools.cache
def _tagger() -> Any:
    import fugashi

    return fugashi.Tagger("-Owakati")


def _mecab(text: str) -> list[str]:
    import emoji
    import neologdn

    clean = " ".join(neologdn.normalize(emoji.replace_emoji(text, "")).split())
    return _tagger().parse(clean).split()


def _nagisa(text: str) -> list[str]:
    import nagisa

    return list(nagisa.tagging(text).words)
