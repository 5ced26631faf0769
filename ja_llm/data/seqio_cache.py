"""The cache of tasks and mixtures that a user has registered with seqio itself, under any source: by name, as one of ours.

A task's own preprocessors make its texts (feature `targets`); they are tokenized by the model's tokenizer, whatever vocabulary the task
names, as whole documents BOS ... EOS. A mixture's rates, which seqio draws examples by, become shares of tokens.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ja_llm import manifest
from ja_llm.data import registry
from ja_llm.data.cache import _check_same, _save_vocabulary, _write_documents, _write_mixture
from ja_llm.documents import document_id
from ja_llm.errors import UsageError
from ja_llm.progress import track
from ja_llm.vocab.base import Tokenizer, load_tokenizer

# Split of the cache -> splits of a task that serve as it, the first that is there.
SPLITS = {"train": ("train",), "heldout": ("heldout", "validation")}


def seqio_rates(name: str) -> dict[str, float] | None:
    """Shares of tokens of the tasks of a seqio mixture, 1 in all; None where seqio, as far as it is loaded, has no such task or mixture.

    Raises:
      UsageError: a rate is not above 0.
    """
    if "seqio" not in sys.modules:  # nobody has registered anything with it
        return None
    seqio = registry.import_seqio()
    if name in seqio.TaskRegistry.names():
        return {name: 1.0}
    if name not in seqio.MixtureRegistry.names():
        return None
    mixture = seqio.MixtureRegistry.get(name)
    rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
    for task, rate in rates.items():
        if not rate > 0:
            raise UsageError(f"mixture {name!r} of seqio: the rate of {task!r} is {rate:g}, but a share above 0 is needed.")
    total = sum(rates.values())
    return {task: rate / total for task, rate in sorted(rates.items())}


def cache_seqio(
    name: str, rates: dict[str, float], vocab_dir: str | Path | Tokenizer, out_dir: str | Path, *, seed: int = 0
) -> dict[str, Any]:
    """Write the token stores of a seqio task or mixture, as `ja_llm.data.cache.cache` does of ours.

    Args:
      name: its name in seqio's registry.
      rates: of `seqio_rates`.
      vocab_dir: folder of a tokenizer, or the tokenizer itself.
      out_dir: folder to write.
      seed: decides the order of documents.

    Returns:
      The mixture's manifest.

    Raises:
      UsageError: a task has no training split, has inputs beside its targets, or gives no texts; or `out_dir` holds something else.
    """
    out_dir = Path(out_dir)
    tokenizer = vocab_dir if isinstance(vocab_dir, Tokenizer) else load_tokenizer(vocab_dir)
    request = {
        "name": name,
        "rates": rates,
        "seed": seed,
        "splits": list(SPLITS),
        "vocabulary": tokenizer.fingerprint,
        "seqio": True,
    }
    if (out_dir / manifest.NAME).exists():
        finished = manifest.read(out_dir, manifest.MIXTURE)
        _check_same(out_dir, {k: v for k, v in finished["config"].items() if k != "stores"}, request)
        return finished
    tasks = {task: registry.import_seqio().TaskRegistry.get(task) for task in rates}
    parts = {task: _splits(value) for task, value in tasks.items()}
    _save_vocabulary(tokenizer, out_dir)
    members = []
    for task, rate in rates.items():
        written = {}
        for split, theirs in parts[task].items():
            path = out_dir / task / split
            config = {"task": task, "split": split, "seed": seed, "vocabulary": tokenizer.fingerprint, "seqio_split": theirs}
            if (path / manifest.NAME).exists():
                value = manifest.read(path, manifest.TOKENS)
                _check_same(path, value["config"], config)
            else:
                value = _write_documents(path, _documents(tasks[task], theirs, tokenizer), config, [])
            entry = {"path": f"{task}/{split}", "fingerprint": manifest.fingerprint(value), "documents": 0, "tokens": 0}
            written[split] = {**entry, **value["totals"]}
        members.append({"task": task, "rate": rate, "splits": written})
    return _write_mixture(out_dir, request, members, [])


def _splits(task: Any) -> dict[str, str]:
    found = {ours: next((split for split in theirs if split in task.splits), None) for ours, theirs in SPLITS.items()}
    if found["train"] is None:
        raise UsageError(
            f"task {task.name!r} of seqio has the splits {', '.join(sorted(task.splits))}; a split 'train' is needed."
        )
    return {ours: theirs for ours, theirs in found.items() if theirs is not None}


def _documents(task: Any, split: str, tokenizer: Tokenizer) -> Iterator[tuple[str, np.ndarray, str]]:
    """(document id, int32 BOS ... EOS, text) of every example."""
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False, num_epochs=1, try_in_mem_cache=False)
    for number, example in enumerate(track(dataset.as_numpy_iterator(), f"cache {task.name}/{split}", "document")):
        if len(example.get("inputs", ())):
            raise UsageError(
                f"task {task.name!r} of seqio has inputs; only texts to read on, in 'targets' alone, can be trained on."
            )
        text = example.get("targets_pretokenized", example.get("targets"))
        if not isinstance(text, bytes):
            raise UsageError(
                f"task {task.name!r} of seqio gives no texts (a feature 'targets_pretokenized', which seqio.preprocessors.tokenize leaves); keep it, "
                "so that the texts can be tokenized as the model reads them."
            )
        decoded = text.decode("utf-8", "replace")
        # By its place too: sources outside may hold a text twice, and every token shall be traceable.
        identity = document_id(task.name, f"{split}/{number}", "", decoded)
        yield identity, np.array(tokenizer.document_ids(decoded), np.int32), decoded


def known(name: str) -> dict[str, float] | None:
    """`seqio_rates` of a name that is none of our tasks and mixtures."""
    return None if name in (*registry.task_names(), *registry.mixture_names()) else seqio_rates(name)
