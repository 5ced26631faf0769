"""Held-out bits per byte during training: the curve of the report, and what watches for forgetting.

Reads the `heldout` token stores of the cache (tokens, and the bytes of the original text), so that it needs neither TensorFlow nor the
document set nor a tokenizer. The first documents of a store
are a random draw (a store is written in shuffled order), the same in every run on the same cache.
"""

from collections.abc import Sequence
from pathlib import Path

from ja_llm import manifest
from ja_llm.data.store import TokenStore
from ja_llm.errors import UsageError
from ja_llm.evaluation.bits_per_byte import Probe
from ja_llm.evaluation.scoring import Scorer
from ja_llm.files import local_path
from ja_llm.models.config import DecoderConfig


def heldout_evaluators(
    cache_dir: str | Path,
    config: DecoderConfig,
    *,
    length: int,
    documents: int,
    batch_size: int = 16,
    others: Sequence[str | Path] = (),
) -> dict[str, Probe]:
    """One evaluator a member task that has held-out documents.

    Args:
      cache_dir: output of `ja-llm cache`, what is trained on.
      config: the decoder's configuration.
      length: scoring window in tokens.
      documents: how many documents of each task.
      batch_size: rows in a forward pass.
      others: further outputs of `ja-llm cache`, whose held-out documents alone are read: domains that are not trained on.

    Returns:
      task name -> its probe.

    Raises:
      UsageError: one of `others` is of another vocabulary, has no held-out documents, or has others for a task of the same name.
    """
    scorer = Scorer.from_decoder(config, None, batch_size, length)
    found: dict[str, tuple[str, Path]] = {}
    vocabulary = manifest.read(Path(cache_dir), manifest.MIXTURE)["config"]["vocabulary"]
    for place in (cache_dir, *others):
        local_path(str(place))
        value = manifest.read(Path(place), manifest.MIXTURE)
        if value["config"]["vocabulary"] != vocabulary:
            raise UsageError(
                f"{place}: these probes are of another vocabulary than {cache_dir}; make them with the same --vocab."
            )
        held = {m["task"]: m["splits"]["heldout"] for m in value["members"] if "heldout" in m["splits"]}
        if not held and place is not cache_dir:
            raise UsageError(
                f"{place}: there are no held-out documents here to probe; make the cache of a corpus with a held-out split, or leave it out of "
                "PROBES."
            )
        for task, part in held.items():
            identity, path = found.setdefault(task, (part["fingerprint"], Path(place) / part["path"]))
            if identity != part["fingerprint"]:
                raise UsageError(
                    f"{place}: its held-out documents of {task!r} are others than those in {path.parents[1]}; give one of the two tasks another "
                    "name."
                )
    return {task: Probe(scorer, _documents(TokenStore.open(path), documents)) for task, (_, path) in found.items()}


def _documents(store: TokenStore, most: int) -> list[tuple[list[int], int]]:
    return [(store.document(i).tolist(), store.document_bytes(i)) for i in range(min(most, store.num_documents))]
