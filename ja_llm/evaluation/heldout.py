"""Held-out bits per byte during training: the curve of the report.

Reads the `heldout` token stores of the cache (tokens, and the bytes of the original text), so that it needs neither TensorFlow nor the
document set nor a tokenizer. The first documents of a store
are a random draw (a store is written in shuffled order), the same in every run on the same cache.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.data.store import TokenStore
from ja_llm.evaluation.bits_per_byte import sequence_scores, summarise
from ja_llm.evaluation.scoring import Scorer
from ja_llm.models.config import DecoderConfig


def heldout_evaluators(
    cache_dir: str | Path, config: DecoderConfig, *, length: int, documents: int, batch_size: int = 16
) -> dict[str, Callable[[Any], dict[str, float]]]:
    """One evaluator a member task that has held-out documents.

    Args:
      cache_dir: output of `ja-llm cache`.
      config: the decoder's configuration.
      length: scoring window in tokens.
      documents: how many documents of each task.
      batch_size: rows in a forward pass.

    Returns:
      task name -> function (parameters -> {"bits_per_byte": float}).
    """
    scorer = Scorer.from_decoder(config, None, batch_size, length)
    root = Path(cache_dir)
    evaluators = {}
    for member in manifest.read(root, manifest.MIXTURE)["members"]:
        if "heldout" in member["splits"]:
            store = TokenStore.open(root / member["splits"]["heldout"]["path"])
            evaluators[member["task"]] = _evaluator(scorer, store, documents)
    return evaluators


def _evaluator(scorer: Scorer, store: TokenStore, documents: int) -> Callable[[Any], dict[str, float]]:
    chosen = range(min(documents, store.num_documents))
    held = [(store.document(i).tolist(), store.document_bytes(i)) for i in chosen]

    def evaluate(params: Any) -> dict[str, float]:
        scorer.use(params)
        return {"bits_per_byte": summarise(sequence_scores(scorer, held))["bits_per_byte"]}

    return evaluate
