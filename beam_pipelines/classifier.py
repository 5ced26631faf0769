"""A fastText text classifier: how text is given to it, what it says, and the card beside the model's file."""

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.files import read_json, sha256_file, sha256_json
from ja_llm.text.normalise import squeeze

SCHEMA = "ja_llm.text_classifier/1"
PACKAGES = ("fasttext-community",)
CHARACTERS, WORDS = "characters", "words"
_NUMBERED = re.compile(r"(\d+)$")


def features(text: str, tokens: str, max_characters: int | None) -> str:
    r"""One line as fastText reads it: tokens between spaces.

    Japanese has no spaces, so our own models take every character as a token (`CHARACTERS`) and n-grams of them; models of
    others take the text as it is (`WORDS`), with spaces for line ends as their card asks.

    Example:
      >>> features("水は 0度で\n凍る。", CHARACTERS, 6), features("水は\n凍る。", WORDS, None)
      ('水 は 0 度 で 凍', '水は 凍る。')
    """
    if tokens == WORDS:
        return " ".join(text[:max_characters].splitlines()).replace("\0", " ")
    return " ".join(dense(text, max_characters))


def dense(text: str, max_characters: int | None) -> str:
    """The first characters of a text without its white space."""
    # What squeezing takes away is not known yet; twice as many characters are enough but for a page of spaces.
    return squeeze(text if max_characters is None else text[: 2 * max_characters]).replace("\0", "")[:max_characters]


class Classifier:
    """A model and its card.

    Args:
      path: .bin or .ftz.
      label_values: as `corpus.Classify.label_values`.

    Raises:
      JaLlmError: the file is no supervised fastText model, or none of its labels is worth anything.
    """

    def __init__(self, path: str | os.PathLike, label_values: Mapping[str, float]):
        import fasttext

        card = read_card(path)
        self._tokens: str = card.get("tokens", WORDS)
        self._max_characters: int | None = card.get("max_characters")
        try:
            self._model = fasttext.load_model(os.fspath(path))
            labels = self._model.get_labels()
        except (ValueError, RuntimeError, MemoryError) as error:
            raise JaLlmError(f"{path}: this is no fastText classifier ({error}); give the .bin or .ftz file of one.") from error
        self._values = {label: value for label in labels if (value := _worth(label, label_values))}
        if not self._values:
            raise JaLlmError(
                f"{path}: none of its labels ({', '.join(labels[:5])}) is worth anything; bind corpus.Classify.label_values."
            )

    def score(self, text: str) -> float:
        """The expected worth of the text's label, six decimals; 0 of an empty text."""
        line = features(text, self._tokens, self._max_characters)
        if not line.strip():
            return 0.0
        # The binding itself: its Python wrapper calls numpy once a text.
        found = self._model.f.predict(line + "\n", -1, 0.0, "replace")
        return round(sum(min(probability, 1.0) * self._values.get(label, 0.0) for probability, label in found), 6)


def _worth(label: str, values: Mapping[str, float]) -> float:
    number = _NUMBERED.search(label)
    return values[label] if label in values else float(number[1]) if number else 0.0


@functools.cache
def load(path: str, label_values: tuple[tuple[str, float], ...]) -> Classifier:
    """One classifier a worker process."""
    return Classifier(path, dict(label_values))


def card_path(path: str | os.PathLike) -> Path:
    """The card beside a model."""
    return Path(path).with_suffix(".json")


def read_card(path: str | os.PathLike) -> dict[str, Any]:
    """The model's card; {} for a model that is not ours."""
    card = read_json(card_path(path), "classifier's card") if card_path(path).exists() else {}
    return card if isinstance(card, dict) and card.get("schema") == SCHEMA else {}


def identity(path: str | os.PathLike) -> str:
    """Digest of what a score depends on: the model's bytes and how text is given to it.

    Raises:
      JaLlmError: there is no such file.
    """
    if not Path(path).is_file():
        raise JaLlmError(
            f"{path}: this classifier does not exist; train one with `ja-llm corpus train-classifier`, or name another .bin or "
            ".ftz file in corpus.Classify.models."
        )
    card = read_card(path)
    return sha256_json([sha256_file(path), card.get("tokens"), card.get("max_characters")])
