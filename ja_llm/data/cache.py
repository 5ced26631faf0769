"""The cache job: a task or mixture over one or more document sets becomes token stores and a mixture manifest.

    OUT/manifest.json            schema ja_llm.mixture/2, written last
    OUT/vocab/                   copy of the tokenizer
    OUT/<task>/<split>/          one token store each (ja_llm.data.store)

Each member's seqio task runs in this process, for corpora whose tokens fit in memory (4 bytes a token); for larger ones `Workers` tokenize
and sort by Beam (`beam_pipelines.cache`). Documents are put in a shuffled order that depends on the seed and their ids alone, so any
number of workers write the same store.
A store depends on the document set of its own task alone: another member's set can change without touching it.
Training needs the folder alone, and no TensorFlow.
"""

import collections
import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ja_llm import manifest
from ja_llm.data import registry, store
from ja_llm.documents import order_key
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_directory, sha256_json
from ja_llm.progress import track
from ja_llm.vocab.base import Tokenizer, load_tokenizer


class Workers(NamedTuple):
    """How Beam runs the job.

    Attributes:
      processes: local ones; 0 for one a core.
      beam_args: Beam's own options.
    """

    processes: int = 1
    beam_args: Sequence[str] = ()


def cache(
    name: str,
    vocab_dir: str | Path | Tokenizer,
    documents: registry.Documents,
    out_dir: str | Path,
    *,
    splits: Sequence[str] = registry.SPLITS,
    seed: int = 0,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Write the token stores of a task or mixture; a finished cache is returned at once, a broken-off one is gone on with.

    Args:
      name: a registered task or mixture.
      vocab_dir: folder of a tokenizer, or the tokenizer itself.
      documents: folder of the document set that every task reads, or {set name: folder} with exactly the sets that they read.
      out_dir: folder to write.
      splits: splits to write. "train" must have documents of every task; another split is left out where it has none.
      seed: decides the order of documents.
      workers: tokenize by Beam, whose memory does not grow with the corpus; None tokenizes in this process.

    Returns:
      The mixture's manifest. Its config has the fingerprint of each set under `documents`. `members` lists for each task its `rate` (share of training tokens) and for each split `path`,
      `fingerprint` and the counts `documents`, `tokens`, `characters`, `bytes` (UTF-8), `empty_documents` (left out).

    Raises:
      UsageError: the name is unknown, a document set has no folder or one that nothing reads was named, `out_dir` holds a
        cache of other content, or a task has preprocessors, which `workers` can't run.
      JaLlmError: a document set is unfinished or damaged, or a task has no documents.
    """
    out_dir = Path(out_dir)
    rates = registry.resolve(name)
    tokenizer = vocab_dir if isinstance(vocab_dir, Tokenizer) else load_tokenizer(vocab_dir)
    registry.check_all_read(name, documents)
    folders = registry.document_folders(rates, documents)
    read = {folder: manifest.read(folder, manifest.DOCUMENTS) for folder in folders.values()}
    request: dict[str, Any] = {
        "name": name,
        "rates": rates,
        "seed": seed,
        "splits": list(splits),
        "vocabulary": tokenizer.fingerprint,
        "documents": {key: manifest.fingerprint(read[folder]) for key, folder in folders.items()},
        "tasks": {task: registry.task(task).config() for task in rates},
    }
    if (out_dir / manifest.NAME).exists():
        finished = manifest.read(out_dir, manifest.MIXTURE)
        _check_same(out_dir, {k: v for k, v in finished["config"].items() if k != "stores"}, request)
        return finished
    roots = {task: folders[registry.task(task).documents] for task in rates}
    if workers is not None:
        _check_workers(workers, rates)
    parts = {task: _splits_with_documents(task, root, read[root], splits) for task, root in roots.items()}
    _save_vocabulary(tokenizer, out_dir)
    members = []
    for task, rate in rates.items():
        written = {split: _write_store(task, split, tokenizer, roots[task], request, out_dir, workers) for split in parts[task]}
        members.append({"task": task, "rate": rate, "splits": written})
    licences = sum((collections.Counter(value.get("licences", {})) for value in read.values()), collections.Counter())
    return _write_mixture(out_dir, request, members, sorted(set(request["documents"].values())), dict(sorted(licences.items())))


def _check_same(where: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in sorted(stored.keys() | wanted.keys()):
        there, now = stored.get(key), wanted.get(key)
        if there != now:
            if isinstance(there, dict) and isinstance(now, dict):
                part = min(k for k in there.keys() | now.keys() if there.get(k) != now.get(k))
                key, there, now = f"{key} {part!r}", there.get(part), now.get(part)
            raise UsageError(
                f"{where}: this folder holds a cache made with other {key} ({_short(there)} there, {_short(now)} now); "
                "give another output folder, or delete this one."
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _splits_with_documents(task: str, root: Path, documents: dict[str, Any], splits: Sequence[str]) -> list[str]:
    template = registry.task(task)
    found = []
    for split in splits:
        count = sum(shard.get("documents", 0) for shard in registry.shards(template, documents, split))
        if count:
            found.append(split)
        elif split == "train":
            pattern = template.file_pattern.format(lang=template.lang, split=split)
            raise JaLlmError(
                f"{root}: this set has no documents in {pattern!r}, which task {task!r} reads; build the corpus with {template.lang!r} pages."
            )
    return found


def _save_vocabulary(tokenizer: Tokenizer, out_dir: Path) -> None:
    folder = out_dir / "vocab"
    if folder.exists():
        stored = load_tokenizer(folder).fingerprint
        _check_same(out_dir, {"vocabulary": stored}, {"vocabulary": tokenizer.fingerprint})
        return
    with atomic_directory(folder) as temporary:
        tokenizer.save(temporary)


def _write_store(
    task: str,
    split: str,
    tokenizer: Tokenizer,
    root: Path,
    request: dict[str, Any],
    out_dir: Path,
    workers: Workers | None,
) -> dict[str, Any]:
    """Write one member's store unless it is there already; its entry in the mixture's manifest."""
    path = out_dir / task / split
    config = {**request["tasks"][task], "split": split, "seed": request["seed"], "vocabulary": request["vocabulary"]}
    name = config["documents"]
    parents = [request["documents"][name]]
    if (path / manifest.NAME).exists():
        value = manifest.read(path, manifest.TOKENS)
        stored = {**value["config"], "documents": {value["config"].get("documents", ""): value["parents"]}}
        _check_same(path, stored, {**config, "documents": {name: parents}})
    elif workers is None:
        value = _write_documents(path, _tokenized(task, split, tokenizer, root), config, parents)
    else:
        value = _write_by_beam(path, root, config, parents, workers)
    entry = {"path": f"{task}/{split}", "fingerprint": manifest.fingerprint(value), "documents": 0, "tokens": 0}
    return {**entry, **value["totals"]}


def _tokenized(task: str, split: str, tokenizer: Tokenizer, root: Path) -> Iterator[tuple[str, np.ndarray, str]]:
    """(document id, int32 BOS ... EOS, text) of every document, by the member's seqio task.

    Raises:
      JaLlmError: a record is damaged, or a token is not in the vocabulary.
    """
    bound = registry.bind(task, tokenizer, root, splits=(split,))
    import tensorflow as tf

    total = bound.source.num_input_examples(split)
    try:
        dataset = bound.get_dataset(sequence_length=None, split=split, shuffle=False, num_epochs=1, try_in_mem_cache=False)
        for example in track(dataset.as_numpy_iterator(), f"cache {task}/{split}", "document", total=total):
            identity = example["id"].decode("utf-8")
            tokens = example["targets"]
            if tokens.min() < 0 or tokens.max() >= tokenizer.vocab_size:
                raise JaLlmError(
                    f"document {identity}: a token id lies outside the vocabulary of {tokenizer.vocab_size}; the tokenizer's files do not belong together."
                )
            yield identity, tokens, example["targets_pretokenized"].decode("utf-8")
    except tf.errors.OpError as error:
        raise JaLlmError(
            f"{root}: a record of the {split} shards of task {task!r} is damaged ({str(error.message).splitlines()[0]}); build the corpus again."
        ) from error


def _write_documents(
    path: Path, documents: Iterator[tuple[str, np.ndarray, str]], config: dict[str, Any], parents: list[str]
) -> dict[str, Any]:
    kept: list[tuple[bytes, str, np.ndarray, int]] = []
    totals = {"characters": 0, "bytes": 0, "empty_documents": 0}
    for identity, tokens, text in documents:
        if len(tokens) <= 2:
            totals["empty_documents"] += 1
            continue
        num_bytes = len(text.encode("utf-8"))
        kept.append((order_key(config["seed"], identity), identity, tokens, num_bytes))
        totals["characters"] += len(text)
        totals["bytes"] += num_bytes
    kept.sort(key=lambda item: item[:2])
    for (_, identity, *_), (_, following, *_) in zip(kept, kept[1:], strict=False):
        if identity == following:
            raise JaLlmError(
                f"document {identity} comes twice in task {config['task']!r}, so its tokens could not be traced; deduplicate the corpus, and let no preprocessor split documents."
            )
    counts = {"documents": len(kept), "tokens": sum(len(tokens) for _, _, tokens, _ in kept), **totals}
    return _write_ordered(path, (item[1:] for item in kept), counts, config, parents)


def _write_ordered(
    path: Path,
    documents: Iterator[tuple[str, np.ndarray, int]],
    counts: dict[str, int],
    config: dict[str, Any],
    parents: list[str],
) -> dict[str, Any]:
    """Write a store of documents (id, tokens, bytes of the text) that are in their order and have been counted."""
    if not counts["documents"]:
        raise JaLlmError(
            f"{path}: every document of task {config['task']!r} was dropped or empty, so there is nothing to store; check the task's preprocessors and the corpus."
        )
    totals = {key: counts[key] for key in ("characters", "bytes", "empty_documents")}
    with atomic_directory(path) as temporary:
        writer = store.TokenStoreWriter(temporary, counts["documents"], counts["tokens"])
        for identity, tokens, num_bytes in documents:
            writer.append(identity, tokens, num_bytes)
        return writer.close(config=config, parents=parents, totals=totals)


def _check_workers(workers: Workers, tasks: Iterable[str]) -> None:
    if workers.processes < 0:
        raise UsageError(f"--workers {workers.processes}: give a number of processes, or 0 for one a core.")
    for task in tasks:
        if registry.task(task).preprocessors:
            raise UsageError(
                f"task {task!r} has preprocessors, which TensorFlow runs and Beam's workers have not; leave --workers and Beam's options out, or "
                "do to the documents what they do in the corpus job."
            )


def _write_by_beam(path: Path, root: Path, config: dict[str, Any], parents: list[str], workers: Workers) -> dict[str, Any]:
    """Write a store by `beam_pipelines.cache`; what a killed job has finished is kept in OUT/.work until the store stands."""
    from beam_pipelines import cache as job

    out_dir = path.parents[1]
    work = out_dir / ".work" / f"{config['task']}-{config['split']}-{sha256_json([config, parents])[:12]}"
    entries = registry.shards(registry.task(config["task"]), manifest.read(root, manifest.DOCUMENTS), config["split"])
    shards = [root / entry["name"] for entry in entries]
    counts = job.tokenize(shards, out_dir / "vocab", work, config["seed"], *workers)
    parts = job.arrange(len(shards), counts["characters"], work, *workers) if counts["documents"] else []
    documents = track(job.documents(parts), f"cache {config['task']}/{config['split']}", "document", total=counts["documents"])
    value = _write_ordered(path, documents, counts, config, parents)
    shutil.rmtree(work)
    with contextlib.suppress(OSError):  # another store's work
        work.parent.rmdir()
    return value


def _write_mixture(
    out_dir: Path,
    request: dict[str, Any],
    members: list[dict[str, Any]],
    parents: list[str],
    licences: dict[str, int] | None = None,
) -> dict[str, Any]:
    parts = [part for member in members for part in member["splits"].values()]
    files = [out_dir / part["path"] / manifest.NAME for part in parts]
    files += sorted(p for p in (out_dir / "vocab").rglob("*") if p.is_file())
    return manifest.write(
        out_dir,
        schema=manifest.MIXTURE,
        job="cache",
        config={**request, "stores": {part["path"]: part["fingerprint"] for part in parts}},
        inputs=[],
        shards=[manifest.file_entry(p, out_dir) for p in files],
        parents=parents,
        totals={
            key: sum(part[key] for part in parts) for key in ("documents", "tokens", "characters", "bytes", "empty_documents")
        },
        members=members,
        licences=licences or {},  # of the document sets, as their manifests count them: for ledgers and model cards
    )


def format_cache(value: dict[str, Any]) -> str:
    """A mixture's manifest as a table: what each store holds, and how much of the text a token carries."""
    rows = [("task", "split", "rate", "documents", "tokens", "characters", "characters/token")]
    for member in value["members"]:
        for split in (split for split in value["config"]["splits"] if split in member["splits"]):
            part = member["splits"][split]
            ratio = f"{part['characters'] / part['tokens']:.2f}"
            rate = f"{member['rate']:.4g}" if split == "train" else ""
            rows.append(
                (member["task"], split, rate, f"{part['documents']:,}", f"{part['tokens']:,}", f"{part['characters']:,}", ratio)
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
    if empty := value["totals"]["empty_documents"]:
        lines.append(f"{empty:,} documents without text were left out")
    return "\n".join([f"{value['config']['name']}, vocabulary {value['config']['vocabulary'][:12]}", *lines])
