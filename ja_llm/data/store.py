"""The token store: flat token ids, document offsets, ids and sizes in bytes of one task and split, on TensorStore zarr3.

    DIR/manifest.json   schema ja_llm.tokens/2
    DIR/tokens          int32 [tokens]: every document as BOS ... EOS, one after the other
    DIR/offsets         int64 [documents + 1]: document i is tokens[offsets[i]:offsets[i + 1]]
    DIR/ids             uint8 [documents, 16]: document ids
    DIR/bytes           int32 [documents]: UTF-8 bytes of each document's text as the tokenizer was given it

Bytes are kept because a tokenizer may normalise: its decoded tokens would not tell them, and bits per byte of training data
would need the corpus.

A shard (one file) holds 64 MB, an inner chunk 4,096 elements, zstd-compressed with a CRC-32C of its own, so a row of a
batch costs the reading of two chunks or so for each of its documents, and a damaged chunk is noticed when it is read. No TensorFlow, no seqio here.
"""

import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from ja_llm import manifest
from ja_llm.errors import JaLlmError

# Stores below this are checksummed whole when they are opened, and their tokens are kept in memory.
SMALL_BYTES = 256 << 20

_SHARD_BYTES = 64 << 20
_CHUNK = 4096
_ARRAYS = {"tokens": "int32", "offsets": "int64", "ids": "uint8", "bytes": "int32"}
_MAX_BYTES = 2**31 - 1


def _shapes(documents: int, tokens: int) -> dict[str, tuple[int, ...]]:
    return {"tokens": (tokens,), "offsets": (documents + 1,), "ids": (documents, 16), "bytes": (documents,)}


def _spec(path: Path, dtype: str, shape: tuple[int, ...], chunk: int) -> dict[str, Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    itemsize = np.dtype(dtype).itemsize
    row = int(np.prod(shape[1:], dtype=np.int64)) * itemsize
    shard = max(_SHARD_BYTES // (row * chunk), 1) * chunk
    inner = [little, {"name": "zstd", "configuration": {"level": 3}}, {"name": "crc32c"}]
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path.resolve())},
        "create": True,
        "metadata": {
            "shape": list(shape),
            "data_type": dtype,
            # A chunk that is not there reads as this; no token, offset or length can be -1, so it can't pass for data.
            "fill_value": 0 if dtype == "uint8" else -1,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, *shape[1:]]}},
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": [chunk, *shape[1:]],
                        "codecs": inner,
                        "index_codecs": [little, {"name": "crc32c"}],
                    },
                }
            ],
        },
    }


def _finish(future: Any) -> Any:
    """The result of something that writes; a failure of the file system as OSError, so that a full disk is told as such."""
    try:
        return future.result()
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if not code:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


class _ArrayWriter:
    """Appends to one zarr3 array, a whole shard at a time, and hashes what passes."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]):
        spec = _spec(path, dtype, shape, _CHUNK)
        self._store = _finish(ts.open(spec))
        self._shard = int(spec["metadata"]["chunk_grid"]["configuration"]["chunk_shape"][0])
        self._dtype = np.dtype(dtype)
        self._pending: list[np.ndarray] = []
        self._count = self._written = 0
        self._digest = hashlib.sha256()

    def append(self, values: np.ndarray) -> None:
        self._pending.append(values)
        self._count += len(values)
        if self._count - self._written >= self._shard:
            self._flush(whole_shards=True)

    def _flush(self, whole_shards: bool) -> None:
        values = np.concatenate(self._pending)
        keep = len(values) % self._shard if whole_shards else 0
        ready, rest = values[: len(values) - keep], values[len(values) - keep :]
        self._digest.update(np.ascontiguousarray(ready, dtype=self._dtype.newbyteorder("<")).tobytes())
        for start in range(0, len(ready), self._shard):
            piece = ready[start : start + self._shard]
            _finish(self._store[self._written : self._written + len(piece)].write(piece))
            self._written += len(piece)
        self._pending = [rest] if len(rest) else []

    def close(self) -> str:
        if self._pending:
            self._flush(whole_shards=False)
        if self._written != self._store.shape[0]:
            raise ValueError(f"{self._written} elements were written, {self._store.shape[0]} were announced")
        return self._digest.hexdigest()


class TokenStoreWriter:
    """Writes a store into a folder, in document order; `close` writes the manifest.

    Call it inside `files.atomic_directory`, so that a killed run leaves nothing that looks finished.

    Args:
      directory: an empty folder.
      documents: how many documents will be appended.
      tokens: how many tokens they have in all, BOS and EOS included.

    Raises:
      OSError: the disk is full or a file can't be written (`files.atomic_directory` makes a sentence of it).
      ValueError: other numbers of documents or tokens were appended than announced.
    """

    def __init__(self, directory: Path, documents: int, tokens: int):
        self._directory = Path(directory)
        shapes = _shapes(documents, tokens)
        self._arrays = {name: _ArrayWriter(self._directory / name, _ARRAYS[name], shapes[name]) for name in _ARRAYS}
        self._arrays["offsets"].append(np.zeros(1, np.int64))
        self._documents = self._tokens = 0

    def append(self, document_id: str, tokens: np.ndarray, num_bytes: int) -> None:
        """Append one document.

        Args:
          document_id: 32 hex digits.
          tokens: int32 [n], its own BOS ... EOS stream.
          num_bytes: UTF-8 bytes of the text that the tokens were made from.

        Raises:
          JaLlmError: `num_bytes` does not fit int32.
        """
        if not 0 <= num_bytes <= _MAX_BYTES:
            raise JaLlmError(
                f"document {document_id}: its text has {num_bytes:,} bytes, but a token store can note 0 to {_MAX_BYTES:,} a document; split it in the corpus."
            )
        self._tokens += len(tokens)
        self._documents += 1
        self._arrays["tokens"].append(np.asarray(tokens, np.int32))
        self._arrays["offsets"].append(np.array([self._tokens], np.int64))
        self._arrays["ids"].append(np.frombuffer(bytes.fromhex(document_id), np.uint8)[None])
        self._arrays["bytes"].append(np.array([num_bytes], np.int32))

    def close(self, *, config: dict[str, Any], parents: Sequence[str], totals: dict[str, int], **extra: Any) -> dict[str, Any]:
        """Finish the arrays and write the manifest.

        Returns:
          The manifest; `totals` gets `documents` and `tokens` added.
        """
        content = {name: array.close() for name, array in self._arrays.items()}
        files = sorted(p for name in _ARRAYS for p in (self._directory / name).rglob("*") if p.is_file())
        return manifest.write(
            self._directory,
            schema=manifest.TOKENS,
            job="cache",
            config=config,
            inputs=[],
            parents=parents,
            shards=[manifest.file_entry(p, self._directory) for p in files],
            totals={**totals, "documents": self._documents, "tokens": self._tokens},
            packages=("tensorstore", "numpy"),
            content=content,
            **extra,
        )


class TokenStore:
    """A store opened for reading.

    Attributes:
      path: its folder.
      manifest: contents of its manifest.json.
      fingerprint: identity of its content.
      offsets: int64 [documents + 1], in memory (8 bytes a document).
      in_memory: whether the tokens are in memory too.
    """

    def __init__(self, path: Path, value: dict[str, Any], arrays: dict[str, Any], in_memory: bool):
        self.path, self.manifest, self.fingerprint = path, value, manifest.fingerprint(value)
        self._stamp = _stamp(path)
        self._ids, self._bytes = arrays["ids"], arrays["bytes"]
        self.offsets: np.ndarray = self._call(arrays["offsets"].read())
        self._tokens = arrays["tokens"]
        documents, tokens = value["totals"]["documents"], value["totals"]["tokens"]
        ordered = bool(np.all(np.diff(self.offsets) > 0)) and self.offsets[0] == 0 and self.offsets[-1] == tokens
        if {name: tuple(arrays[name].shape) for name in _ARRAYS} != _shapes(documents, tokens) or not ordered:
            raise JaLlmError(f"{path}: the arrays of this token store do not fit its manifest; make the cache again.")
        self.in_memory = in_memory
        if in_memory:
            self._tokens = self._call(self._tokens.read())
            self._check(self._tokens)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool | None = None, in_memory: bool | None = None) -> "TokenStore":
        """Open the store at `path`.

        Args:
          path: folder of one task and split.
          verify: compare every file's SHA-256 with the manifest's; by default only for stores below `SMALL_BYTES`. Sizes are
            always compared, and each chunk's CRC-32C when it is read.
          in_memory: keep the tokens in memory; by default for stores below `SMALL_BYTES`.

        Raises:
          JaLlmError: it is unfinished, damaged, cut off, or a file is missing.
        """
        path = Path(path)
        value = manifest.read(path, manifest.TOKENS)
        small = 4 * value["totals"].get("tokens", 0) <= SMALL_BYTES
        if verify or (verify is None and small):
            manifest.read(path, manifest.TOKENS, verify=True)
        arrays = {}
        for name in _ARRAYS:
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path.resolve() / name)}}
            try:
                arrays[name] = ts.open(spec, read=True, open=True).result()
            except ValueError as error:
                raise JaLlmError(f"{path / name}: this array can't be opened ({_first(error)}); make the cache again.") from error
        return cls(path, value, arrays, small if in_memory is None else in_memory)

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        return int(self.offsets[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens `[start, stop)` of the flat stream, int32."""
        return self.read_many([(start, stop)])[0]

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Tokens of several ranges `[start, stop)`, read at the same time; int32 arrays (read-only views where in memory).

        Raises:
          IndexError: a range lies outside the store.
          JaLlmError: a chunk is damaged or missing.
        """
        for start, stop in ranges:
            if not 0 <= start <= stop <= self.num_tokens:
                raise IndexError(f"tokens [{start}, {stop}) of {self.num_tokens} in {self.path}")
        if self.in_memory:
            return [self._tokens[start:stop] for start, stop in ranges]
        with ts.Batch() as batch:  # a shard's index is read once for all of them
            futures = [self._tokens[start:stop].read(batch=batch) for start, stop in ranges]
        try:
            values = [self._call(future) for future in futures]
            for value in values:
                self._check(value)
        except JaLlmError:
            self._check_unchanged()
            raise
        self._check_unchanged()
        return values

    def _check_unchanged(self) -> None:
        """Offsets are in memory since the store was opened; of another store's tokens, whole as they may be, they would cut nonsense."""
        if _stamp(self.path) != self._stamp:
            raise JaLlmError(
                f"{self.path}: this token store was written again or taken away since it was opened; put the one back that the run began with, or "
                "begin a new run on this one."
            )

    def document(self, index: int) -> np.ndarray:
        """Document `index`: its BOS ... EOS stream, int32."""
        return self.read(int(self.offsets[index]), int(self.offsets[index + 1]))

    def document_id(self, index: int) -> str:
        """Id of document `index`, 32 hex digits."""
        return self._call(self._ids[index].read()).tobytes().hex()

    @functools.cached_property
    def byte_counts(self) -> np.ndarray:
        """UTF-8 bytes of every document's text, int32 [documents]; read when first asked for (4 bytes a document).

        Raises:
          JaLlmError: a chunk is damaged or missing.
        """
        counts = self._call(self._bytes.read())
        self._check(counts)
        return counts

    def document_bytes(self, index: int) -> int:
        """UTF-8 bytes of the text of document `index`."""
        return int(self.byte_counts[index])

    def _check(self, values: np.ndarray) -> None:
        if len(values) and values.min() < 0:
            raise JaLlmError(f"{self.path}: a chunk of this token store is missing; make the cache again.")

    def _call(self, future: Any) -> np.ndarray:
        try:
            return future.result()
        except ValueError as error:
            raise JaLlmError(
                f"{self.path}: a chunk of this token store is damaged ({_first(error)}); make the cache again."
            ) from error


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a store's manifest is written again; a store is written manifest last, and then renamed into its place."""
    try:
        found = os.stat(path / manifest.NAME)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _first(error: Exception) -> str:
    return str(error).split(" [", 1)[0].strip()
