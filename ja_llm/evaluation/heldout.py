"""Held-out bits per byte during training: the curve of the report.

Reads the `heldout` token stores of the cache, so that it needs neither TensorFlow nor the document set. The first documents of a store
are a random draw (a store is written in shuffled order), the same in every run on the same cache.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.data.store import TokenStore
from ja_llm.evaluation.bits_per_byte import bits_per_byte
from ja_llm.evaluation.scoring import Scorer, decoder_logits_fn
from ja_llm.models.config import DecoderConfig
from ja_llm.vocab.base import Tokenizer


def heldout_evaluators(
    cache_dir: str | Path, config: DecoderConfig, tokenizer: Tokenizer, *, length: int, documents: int, batch_size: int = 16
) -> dict[str, Callable[[Any], dict[str, float]]]:
    """One evaluator a member task that has held-out documents.

    Args:
      cache_dir: output of `ja-llm cache`.
      config: the decoder's configuration.
      tokenizer: the cache's own, to count the bytes that a document's tokens stand for.
      length: scoring window in tokens.
      documents: how many documents of each task.
      batch_size: rows in a forward pass.

    Returns:
      task name -> function (parameters -> {"bits_per_byte": float}).
    """
    scorer = Scorer.from_logits_fn(decoder_logits_fn(config), None, config.vocab_size, batch_size, length, tokenizer)
    root = Path(cache_dir)
    evaluators = {}
    for member in manifest.read(root, manifest.MIXTURE)["members"]:
        if "heldout" in member["splits"]:
            store = TokenStore.open(root / member["splits"]["heldout"]["path"])
            evaluators[member["task"]] = _evaluator(scorer, tokenizer, store, documents)
    return evaluators


def _evaluator(scorer: Scorer, tokenizer: Tokenizer, store: TokenStore, documents: int) -> Callable[[Any], dict[str, float]]:
    chosen = range(min(documents, store.num_documents))
    held = [(store.document_id(i), tokenizer.decode(store.document(i)[1:-1].tolist())) for i in chosen]

    def evaluate(params: Any) -> dict[str, float]:
        scorer.use(params)
        return {"bits_per_byte": bits_per_byte(scorer, held)["bits_per_byte"]}

    return evaluate
