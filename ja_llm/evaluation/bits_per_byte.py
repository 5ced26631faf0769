"""Bits per UTF-8 byte: the one number that compares models with different tokenizers.

    bits per byte = -sum(ln p(token)) / (ln 2 * UTF-8 bytes of the original texts)

as Tele-FLM reports it (arXiv:2404.16645). Whole documents are scored in a fixed window (`scoring.py`); BOS is read and not
scored; EOS is scored, since a model must also say where a text ends, and adds no byte.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError
from ja_llm.evaluation.scoring import Scorer
from ja_llm.evaluation.statistics import bootstrap_interval

_CHUNK = 64


def document_scores(scorer: Scorer, texts: Sequence[str], tokenizer: Any = None) -> list[dict[str, Any]]:
    """Score whole documents.

    Returns:
      For each text {"bits": float, "bytes": int, "tokens": int (scored ones, EOS too), "unknown": int}.
    """
    tokenizer = tokenizer or scorer.tokenizer
    documents = [(tokenizer.document_ids(text), len(text.encode("utf-8"))) for text in texts]
    return sequence_scores(scorer, documents, tokenizer.unk_id)


def sequence_scores(
    scorer: Scorer, documents: Sequence[tuple[list[int], int]], unknown: int | None = None
) -> list[dict[str, Any]]:
    """Score whole documents that are tokenized already.

    Args:
      scorer: of the model.
      documents: (BOS ... EOS ids, UTF-8 bytes of the original text).
      unknown: the tokenizer's unknown id, if it has one.

    Returns:
      As `document_scores`.
    """
    return [
        {
            "bits": -float(logprobs.sum(dtype=np.float64)) / float(np.log(2.0)),
            "bytes": size,
            "tokens": len(ids) - 1,
            "unknown": ids.count(unknown) if unknown is not None else 0,
        }
        for (ids, size), logprobs in zip(documents, scorer.token_logprobs([ids for ids, _ in documents]), strict=True)
    ]


def summarise(scores: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Bits per byte over documents, from `document_scores`.

    Returns:
      "bits_per_byte", its 95 % "interval" [low, high] (bootstrap over documents), "bits", "bytes", "tokens" (scored),
      "tokens_per_byte", "documents", "unknown_tokens" (their bytes are not predicted, so above 0 the figure flatters).

    Raises:
      JaLlmError: there is no document, or none has a byte.
    """
    bits = np.array([score["bits"] for score in scores], np.float64)
    sizes = np.array([score["bytes"] for score in scores], np.float64)
    total_bytes, tokens = int(sizes.sum()), sum(score["tokens"] for score in scores)
    if not total_bytes:
        raise JaLlmError("there is no held-out text to measure bits per byte on; build a document set with a held-out split.")
    keep = sizes > 0  # an empty document could make a resample 0 bytes long
    return {
        "bits_per_byte": float(bits.sum() / total_bytes),
        "interval": list(bootstrap_interval(bits[keep], sizes[keep], seed=seed)),
        "bits": float(bits.sum()),
        "bytes": total_bytes,
        "tokens": tokens,
        "tokens_per_byte": tokens / total_bytes,
        "documents": len(scores),
        "unknown_tokens": sum(score["unknown"] for score in scores),
    }


def bits_per_byte(
    scorer: Scorer, documents: Iterable[tuple[str, str]], *, tokenizer: Any = None, seed: int = 0
) -> dict[str, Any]:
    """Bits per byte of `documents` (id, text); see `summarise` for what comes back."""
    texts = [text for _, text in documents]
    scores: list[dict[str, Any]] = []
    for start in range(0, len(texts), _CHUNK):
        scores += document_scores(scorer, texts[start : start + _CHUNK], tokenizer)
    return summarise(scores, seed)


class Probe:
    """Bits per byte of fixed documents under whatever parameters a run has: an evaluator of `ja_llm.train.loop`.

    Args:
      scorer: of the run's decoder.
      documents: (BOS ... EOS ids, UTF-8 bytes of the original text).

    Attributes:
      fingerprint: identity of the documents.
      rows: float64 [documents, 2], bits and bytes of each at the last call: what tells a rise from noise
        (`ja_llm.train.alarms`). None before the first.
    """

    def __init__(self, scorer: Scorer, documents: Sequence[tuple[list[int], int]]):
        self._scorer, self._documents = scorer, documents
        digest = hashlib.sha256()
        for ids, size in documents:
            digest.update(np.asarray([len(ids), size, *ids], "<i8").tobytes())
        self.fingerprint = digest.hexdigest()
        self.rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._documents)

    def __call__(self, params: Any) -> dict[str, float]:
        """{"bits_per_byte"} of these parameters."""
        self._scorer.use(params)
        scores = sequence_scores(self._scorer, self._documents)
        self.rows = np.array([[score["bits"], score["bytes"]] for score in scores], np.float64)
        return {"bits_per_byte": summarise(scores)["bits_per_byte"]}
