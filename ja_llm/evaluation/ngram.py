"""A character 5-gram model as a control: what local letter statistics alone reach, in the same unit.

Interpolated Witten-Bell smoothing (Witten and Bell 1991, method C; in the recursive form of Chen and Goodman, "An empirical
study of smoothing techniques for language modeling", Computer Speech & Language 13, 1999):

    p(c | h) = (n(h, c) + t(h) p(c | h')) / (n(h) + t(h))

with n the counts in training, t(h) how many different symbols follow h, and h' the context h without its oldest symbol.
The recursion ends in the uniform distribution over the 1,112,064 Unicode scalar values and the end of a document, so every
text has a probability and a document's probabilities sum to one. No length bias: the end is predicted like any character.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.statistics import bootstrap_interval

SCALAR_VALUES = 0x110000 - 0x800  # code points without surrogates
OUTCOMES = SCALAR_VALUES + 1  # and the end of a document

_START, _END = 0x110000, 0x110001  # beside the code points
_SHIFT = 21  # every symbol fits in 21 bits
_CHUNK = 1 << 21  # symbols looked up at once


class CharacterNgram:
    """Character n-gram language model.

    Args:
      order: symbols in an n-gram, the predicted one included; at least 1.
    """

    def __init__(self, order: int = 5):
        if order < 1:
            raise UsageError(f"the order of a character model must be at least 1, not {order}.")
        self.order = order
        self._keys: list[np.ndarray] = []  # per order k: sorted (context id << 21 | symbol); an n-gram's id is its index
        self._counts: list[np.ndarray] = []  # how often that n-gram was predicted
        self._totals: list[np.ndarray] = []  # n(h) by context id
        self._kinds: list[np.ndarray] = []  # t(h) by context id

    def train(self, texts: Sequence[str]) -> "CharacterNgram":
        """Count all n-grams of `texts` (each a whole document). 5 million characters take seconds and about 1 GB.

        Raises:
          JaLlmError: there is no text.
        """
        if not texts:
            raise JaLlmError("there is no text to train the character model on.")
        symbols, predicted = self._symbols(texts)
        self._keys, self._counts, self._totals, self._kinds = [], [], [], []
        contexts, n_contexts = np.zeros(symbols.size, np.int64), 1
        for _ in range(self.order):
            keys, ids = np.unique((contexts << _SHIFT) | symbols, return_inverse=True)
            counts = np.bincount(ids[predicted], minlength=keys.size)
            owner = keys >> _SHIFT
            self._keys.append(keys)
            self._counts.append(counts)
            self._totals.append(np.bincount(owner, weights=counts, minlength=n_contexts).astype(np.int64))
            self._kinds.append(np.bincount(owner[counts > 0], minlength=n_contexts))
            contexts, n_contexts = _delayed(ids.astype(np.int64)), keys.size
        return self

    def logprobs(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Natural log-probabilities of each character of each text and of its end: float64 [characters + 1]."""
        out: list[np.ndarray] = []
        group: list[str] = []
        size = 0
        for text in texts:
            group.append(text)
            size += len(text)
            if size >= _CHUNK:
                out += self._group_logprobs(group)
                group, size = [], 0
        return out + (self._group_logprobs(group) if group else [])

    def _group_logprobs(self, texts: Sequence[str]) -> list[np.ndarray]:
        symbols, predicted = self._symbols(texts)
        contexts = np.zeros(symbols.size, np.int64)
        probability = np.full(symbols.size, 1.0 / OUTCOMES)
        for keys, counts, totals, kinds in zip(self._keys, self._counts, self._totals, self._kinds, strict=True):
            known = contexts >= 0
            wanted = (contexts << _SHIFT) | symbols
            ids = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
            seen = known & (keys[ids] == wanted)
            total, kind = totals[contexts * known], kinds[contexts * known]
            usable = known & (total > 0)
            mixed = (np.where(seen, counts[ids], 0) + kind * probability) / np.maximum(total + kind, 1)
            probability = np.where(usable, mixed, probability)
            contexts = _delayed(np.where(seen, ids, -1))
        ends = np.cumsum([len(text) + 1 for text in texts])[:-1]
        return np.split(np.log(probability[predicted]), ends)

    def bits_per_byte(self, texts: Sequence[str], seed: int = 0) -> dict[str, Any]:
        """Bits per UTF-8 byte of `texts`, in the same form as `ja_llm.evaluation.bits_per_byte`.

        Raises:
          JaLlmError: the texts hold no byte.
        """
        sizes = np.array([len(text.encode("utf-8")) for text in texts], np.float64)
        if not sizes.sum():
            raise JaLlmError("there is no held-out text to measure the character model on.")
        bits = np.array([-float(part.sum()) for part in self.logprobs(texts)]) / np.log(2.0)
        keep = sizes > 0
        return {
            "bits_per_byte": float(bits.sum() / sizes.sum()),
            "interval": list(bootstrap_interval(bits[keep], sizes[keep], seed=seed)),
            "bits": float(bits.sum()),
            "bytes": int(sizes.sum()),
            "documents": len(texts),
            "order": self.order,
        }

    def _symbols(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The documents as one int64 stream, each `order - 1` starts, its characters and its end; and which are predicted."""
        pad = np.full(self.order - 1, _START, np.int64)
        parts: list[np.ndarray] = []
        for text in texts:
            try:
                parts += [pad, np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64), np.array([_END], np.int64)]
            except UnicodeEncodeError:
                raise JaLlmError("a text holds a lone surrogate, which is no character; clean the document set.") from None
        symbols = np.concatenate(parts)
        return symbols, symbols != _START


def _delayed(ids: np.ndarray) -> np.ndarray:
    """ids[i - 1] at i: the n-gram that ends before a symbol is its context. The stream opens with context 0, which the
    padding makes harmless: what is predicted has all of its context inside its own document."""
    return np.concatenate([np.zeros(1, ids.dtype), ids[:-1]])
