"""Is a text Japanese? A linear model over its character 1- to 3-grams, as Swallow Corpus v1 has one ("nanigo").

score(text) = sum of the n-grams' weights / sqrt(number of n-grams) + bias; Japanese if it is above 0 (NLP2024 paper and code
of Swallow Corpus v1: a linear SVM on all n-grams). Ours is a logistic regression, so sigmoid(score) is a
probability, and n-grams are hashed into a table, so that a text costs a few numpy calls and not a look-up for each n-gram.
The weights are trained by `python -m beam_pipelines.train_language`; what on, and how well they do, is in the card beside
them, `ja_llm/text/language_model.json`.
"""

import dataclasses
import functools
import io
import math
import re
import zipfile
from pathlib import Path

import numpy as np

from ja_llm.text.scripts import code_points

VERSION = 1  # of the features and the packaged weights
BUCKETS = 1 << 18
ORDERS = (1, 2, 3)
PACKAGED = Path(__file__).with_name("language_model.npz")
CARD = Path(__file__).with_name("language_model.json")
_LONGEST = 20_000  # characters, of the text's middle; more does not change the answer
_WHITE_SPACE = re.compile(r"\s+")
_ALIKE = ((re.compile(r"\d"), "0"), (re.compile(r"[a-z]"), "a"), (re.compile(r"[!-/:-@\[-`{-~]"), "."))
# Odd constants below 2^64: multiplicative hashing, Knuth 1998, section 6.4.
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)


def features(text: str) -> np.ndarray:
    """int32 [n-grams]: bucket of every 1-, 2- and 3-gram of the text, lower-cased, white space as one space.

    All digits are alike, and so are the letters a to z and the signs of ASCII: which English words and which options stand in a page
    says nothing of its being Japanese, but a model that sees them learns what the pages it was trained on are about. A text shorter than three characters has the n-grams that fit; an empty one none.
    """
    if len(text) > _LONGEST:
        start = (len(text) - _LONGEST) // 2
        text = text[start : start + _LONGEST]
    text = _WHITE_SPACE.sub(" ", text.strip()).lower()
    for kind, sign in _ALIKE:
        text = kind.sub(sign, text)
    points = code_points(text).astype(np.uint64) + np.uint64(1)
    grams = []
    with np.errstate(over="ignore"):
        for n in ORDERS:
            if len(points) < n:
                break
            value = np.full(len(points) - n + 1, n, np.uint64)
            for i in range(n):
                value = (value ^ points[i : len(points) - n + 1 + i]) * _MULTIPLIERS[i]
                value ^= value >> np.uint64(29)
            grams.append(value)
    if not grams:
        return np.zeros(0, np.int32)
    return ((np.concatenate(grams) * _MULTIPLIERS[0]) >> np.uint64(65 - BUCKETS.bit_length())).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """Weights.

    Attributes:
      weights: float32 [BUCKETS].
      bias: added to every score.
    """

    weights: np.ndarray
    bias: float

    def score(self, text: str) -> float:
        """Above 0 for Japanese; the log-odds of it. A text without characters scores the bias alone, at most 0."""
        grams = features(text)
        if not len(grams):
            return min(self.bias, 0.0)
        return float(self.weights[grams].sum() / math.sqrt(len(grams)) + self.bias)

    def probability(self, text: str) -> float:
        """That the text is Japanese, from 0 to 1."""
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, self.score(text)))))

    def save(self, path: Path) -> None:
        """Write the weights as 8-bit numbers in a file whose bytes depend on them alone."""
        scale = float(np.abs(self.weights).max() / 127) or 1.0
        arrays = {
            "weights": np.rint(self.weights / scale).astype(np.int8),
            "scale": np.float32(scale),
            "bias": np.float32(self.bias),
        }
        # np.savez would write the time of day into the file.
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, value in arrays.items():
                data = io.BytesIO()
                np.save(data, np.asarray(value))
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), data.getvalue(), zipfile.ZIP_DEFLATED, 9)


def load(path: str | Path = PACKAGED) -> LanguageModel:
    """Read a model; the packaged one if no other is named."""
    with np.load(path, allow_pickle=False) as arrays:
        return LanguageModel(arrays["weights"].astype(np.float32) * arrays["scale"], float(arrays["bias"]))


@functools.cache
def packaged() -> LanguageModel:
    """The model that comes with the package."""
    return load()
