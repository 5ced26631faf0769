"""The cache job on Beam: the documents of one task and split, tokenized in parallel and put in the order of its token store.

    WORK/shard-NNNNN/    one input shard, tokenized and sorted: ids uint8 [n, 16], order uint8 [n, 16], sizes int64 [n] in tokens, bytes int32 [n],
                         tokens int32 [sizes.sum()], counts.json; documents without text are left out
    WORK/part-NNNNN-of-NNNNN/
                         one of the parts into which the order is divided, over all shards: the same but for counts

A document's place is the hash of the seed and its id (`order_key`), as in process, so the store has the same bytes however many workers there
were. A folder appears when it is whole, so a job that was killed goes on with those that lack. All workers must reach the folder (one
machine, or a shared file system). A worker holds one shard or one part: `PART_CHARACTERS` of text as tokens. No TensorFlow here: what a
task's preprocessors do, this job can't.
"""

import functools
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines.runner import WorkerError, run_pipeline
from ja_llm.documents import order_key, read_documents
from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_directory
from ja_llm.vocab.base import Tokenizer, load_tokenizer

PART_CHARACTERS = 50_000_000
_MOST_PARTS = 1 << 16
_COUNTS = "counts.json"
_ENCODED_TOGETHER = 256  # documents


def tokenize(
    shards: Sequence[Path], vocab: Path, work: Path, seed: int, workers: int = 1, beam_args: Sequence[str] = ()
) -> dict[str, int]:
    """Tokenize document shards into `work`, as far as they are not there yet.

    Args:
      shards: TFRecord files, always in the same order.
      vocab: folder of a tokenizer.
      work: folder to write; of these shards, this vocabulary and this seed alone.
      seed: of the order.
      workers: local processes; 0 for one a core.
      beam_args: Beam's own options.

    Returns:
      `documents`, `tokens`, `characters`, `bytes` (UTF-8) of those that have text, and `empty_documents`.

    Raises:
      JaLlmError: a shard is damaged, a token is not in the vocabulary, or the disk is full.
    """
    folders = [work / f"shard-{number:05d}" for number in range(len(shards))]
    pending = [(str(shard), str(folder)) for shard, folder in zip(shards, folders, strict=True) if not folder.exists()]
    _run(_tokenize_shard, pending, (str(vocab), seed), workers, beam_args)
    counts = [json.loads((folder / _COUNTS).read_text()) for folder in folders]
    return {key: sum(count[key] for count in counts) for key in counts[0]}


def arrange(shards: int, characters: int, work: Path, workers: int = 1, beam_args: Sequence[str] = ()) -> list[Path]:
    """Bring what `tokenize` wrote into the store's order, in parts.

    Args:
      shards: how many there are.
      characters: of all their texts.
      work: their folder.
      workers: as of `tokenize`.
      beam_args: as of `tokenize`.

    Returns:
      Folders of the parts in order, for `documents`.

    Raises:
      JaLlmError: a document comes twice, or the disk is full.
    """
    parts = min(1 + characters // PART_CHARACTERS, _MOST_PARTS)
    folders = [work / f"part-{number:05d}-of-{parts:05d}" for number in range(parts)]
    pending = [(number, str(folder)) for number, folder in enumerate(folders) if not folder.exists()]
    _run(_arrange_part, pending, (str(work), shards, parts), workers, beam_args)
    return folders


def documents(parts: Sequence[Path]) -> Iterator[tuple[str, np.ndarray, int]]:
    """(document id, int32 BOS ... EOS, bytes of the text) of every document, in the store's order."""
    for part in parts:
        ids, sizes, num_bytes, tokens = (np.load(part / f"{name}.npy") for name in ("ids", "sizes", "bytes", "tokens"))
        for i, (start, size) in enumerate(zip(np.cumsum(sizes) - sizes, sizes, strict=True)):
            yield ids[i].tobytes().hex(), tokens[start : start + size], int(num_bytes[i])


def _run(
    function: Callable[..., None], items: list[Any], arguments: tuple[Any, ...], workers: int, beam_args: Sequence[str]
) -> None:
    if not items:
        return
    import apache_beam as beam

    def build(pipeline: Any) -> None:
        spread = pipeline | beam.Create(items) | beam.Reshuffle()
        _ = spread | beam.Map(_in_worker, function, *arguments)

    run_pipeline(build, beam_args, min(workers or multiprocessing.cpu_count(), len(items)))


def _in_worker(item: Any, function: Callable[..., None], *arguments: Any) -> None:
    try:
        function(*item, *arguments)
    except JaLlmError as error:
        raise WorkerError(error) from error


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: str) -> Tokenizer:
    return load_tokenizer(folder)


def _tokenize_shard(shard: str, folder: str, vocab: str, seed: int) -> None:
    tokenizer = _tokenizer(vocab)
    counts = dict.fromkeys(("documents", "tokens", "characters", "bytes", "empty_documents"), 0)
    ids, order, num_bytes, streams = [], [], [], []
    for document, text, inner in _encoded(Path(shard), tokenizer):
        if not inner:
            counts["empty_documents"] += 1
            continue
        stream = np.array([tokenizer.bos_id, *inner, tokenizer.eos_id], np.int32)
        if stream.min() < 0 or stream.max() >= tokenizer.vocab_size:
            raise JaLlmError(
                f"document {document}: a token id lies outside the vocabulary of {tokenizer.vocab_size}; the tokenizer's files do not belong together."
            )
        ids.append(bytes.fromhex(document))
        order.append(order_key(seed, document))
        num_bytes.append(len(text.encode("utf-8")))
        streams.append(stream)
        counts["characters"] += len(text)
    counts |= {"documents": len(ids), "tokens": sum(map(len, streams)), "bytes": sum(num_bytes)}
    held = _Documents(_rows(ids), _rows(order), np.array(num_bytes, np.int64), streams)
    with atomic_directory(folder) as temporary:
        held.sorted().save(temporary)
        (temporary / _COUNTS).write_text(json.dumps(counts))


def _encoded(shard: Path, tokenizer: Tokenizer) -> Iterator[tuple[str, str, list[int]]]:
    """(id, text, ids of the text's tokens) of every document."""
    batch: list[tuple[str, str]] = []

    def encoded() -> Iterator[tuple[str, str, list[int]]]:
        for (name, text), inner in zip(batch, tokenizer.encode_batch([text for _, text in batch]), strict=True):
            yield name, text, inner
        batch.clear()

    for document in read_documents(shard):
        batch.append((document.id, document.text))
        if len(batch) == _ENCODED_TOGETHER:
            yield from encoded()
    yield from encoded()


class _Documents:
    """Tokenized documents: ids and order uint8 [n, 16], bytes int64 [n], and of each its tokens."""

    def __init__(self, ids: np.ndarray, order: np.ndarray, num_bytes: np.ndarray, streams: list[np.ndarray]):
        self.ids, self.order, self.num_bytes, self.streams = ids, order, num_bytes, streams

    def sorted(self) -> "_Documents":
        """By order, and where two have the same by id.

        Raises:
          JaLlmError: a document comes twice.
        """
        halves = [half for rows in (self.ids, self.order) for half in rows.view(">u8").reshape(-1, 2).T[::-1]]
        place = np.lexsort(halves)
        ids = self.ids[place]
        if (again := np.flatnonzero((ids[1:] == ids[:-1]).all(axis=1))).size:
            raise JaLlmError(
                f"document {ids[again[0]].tobytes().hex()} comes twice, so its tokens could not be traced; deduplicate the corpus."
            )
        return _Documents(ids, self.order[place], self.num_bytes[place], [self.streams[i] for i in place])

    def save(self, folder: Path) -> None:
        """Write them as the module says."""
        arrays = {
            "ids": self.ids,
            "order": self.order,
            "sizes": np.array([len(stream) for stream in self.streams], np.int64),
            "bytes": self.num_bytes,
            "tokens": np.concatenate([np.zeros(0, np.int32), *self.streams]),
        }
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)


def _rows(values: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, 16)


def _arrange_part(part: int, folder: str, work: str, shards: int, parts: int) -> None:
    found: list[_Documents] = [_slice(Path(work) / f"shard-{shard:05d}", part, parts) for shard in range(shards)]
    whole = _Documents(
        np.concatenate([one.ids for one in found]),
        np.concatenate([one.order for one in found]),
        np.concatenate([one.num_bytes for one in found]),
        [stream for one in found for stream in one.streams],
    )
    with atomic_directory(folder) as temporary:
        whole.sorted().save(temporary)


def _slice(shard: Path, part: int, parts: int) -> _Documents:
    """The documents of a shard that belong to a part: those whose order, as a number, lies in that of `parts` equal ranges."""
    order = np.load(shard / "order.npy")
    first = order[:, 0].astype(np.int64) * 256 + order[:, 1]
    start, stop = np.searchsorted(first * parts >> 16, [part, part + 1])
    sizes = np.load(shard / "sizes.npy")
    edges = np.concatenate([[0], np.cumsum(sizes)])[start : stop + 1]
    tokens = np.load(shard / "tokens.npy", mmap_mode="r") if start < stop else np.zeros(0, np.int32)
    mine = np.array(tokens[edges[0] : edges[-1]])
    streams = np.split(mine, (edges - edges[0])[1:-1]) if start < stop else []
    return _Documents(
        np.load(shard / "ids.npy")[start:stop], order[start:stop], np.load(shard / "bytes.npy")[start:stop], streams
    )
