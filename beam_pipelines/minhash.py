"""MinHash signatures of documents (Broder 1997), banded for locality-sensitive hashing.

Shingles are character n-grams over the text without white space. A shingle's hash is a polynomial over its code points,
mixed by splitmix64; the k hash functions of MinHash are odd-multiplier affine maps modulo 2^64 of it, of which the high
32 bits are kept. Everything is numpy, and the result depends on the text and the settings alone.

Writes the buckets of `buckets.py`: bucket 0 is the hash of the whole text, by which exact duplicates are found and named
apart, then one bucket a band.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import xxhash

from beam_pipelines.buckets import entries_of, rank_row, splitmix64, write_entries
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus, MinHash
from beam_pipelines.stage_files import remaining
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit
from ja_llm.documents import Document
from ja_llm.text.normalise import squeeze
from ja_llm.text.scripts import code_points

VERSION = 3
PACKAGES = ("xxhash",)
_BLOCK = 1 << 15  # n-grams at a time: they and their hashes stay in the core's own cache
BATCH = 1 << 17  # characters signed together


@functools.cache
def _random(count: int, seed: int) -> np.ndarray:
    """uint64 [count] from a counter, independent of numpy's generators and their versions."""
    with np.errstate(over="ignore"):
        return splitmix64((np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15))


def ngram_hashes(text: str, n: int) -> np.ndarray:
    """uint64 [max(1, characters - n + 1)]: hash of every character n-gram, in order; a shorter text is one n-gram."""
    points = code_points(text).astype(np.uint64) + np.uint64(1)
    n = max(1, min(n, len(points)))
    multipliers = _random(n, 7) | np.uint64(1)
    count = max(1, len(points) - n + 1)
    value = np.full(count, n, np.uint64)
    with np.errstate(over="ignore"):
        for i in range(n if len(points) else 0):
            value += points[i : i + count] * multipliers[i]
    return splitmix64(value)


class Signer:
    """Signatures and band hashes for one setting, of many texts at a time: numpy's calls cost more than a short text does."""

    def __init__(self, settings: MinHash):
        self._settings = settings
        k = settings.bands * settings.rows
        constants = _random(2 * k, settings.seed)
        self._functions = list(zip(constants[:k] | np.uint64(1), constants[k:], strict=True))

    def signatures(self, texts: Sequence[str]) -> np.ndarray:
        """uint32 [texts, bands * rows]: the share of equal places of two texts' signatures estimates their Jaccard similarity."""
        hashes, starts = _joined_ngram_hashes([squeeze(text) for text in texts], self._settings.ngram)
        lowest = np.full((len(self._functions), len(texts)), np.iinfo(np.uint64).max, np.uint64)
        for first in range(0, len(hashes), _BLOCK):
            block = hashes[first : first + _BLOCK]
            # The texts in this block, and where in it each begins; one that is longer goes on in the next block.
            low = int(np.searchsorted(starts, first, "right")) - 1
            high = int(np.searchsorted(starts, first + len(block), "left"))
            places = np.maximum(starts[low:high] - first, 0)
            value, found = np.empty_like(block), np.empty(high - low, np.uint64)
            with np.errstate(over="ignore"):
                for row, (a, b) in zip(lowest, self._functions, strict=True):
                    np.multiply(block, a, out=value)
                    np.add(value, b, out=value)
                    np.minimum.reduceat(value, places, out=found)
                    np.minimum(row[low:high], found, out=row[low:high])
        return (lowest >> np.uint64(32)).astype(np.uint32).T

    def band_hashes(self, texts: Sequence[str]) -> np.ndarray:
        """uint64 [texts, bands]: hash of each band's rows."""
        bands, size = self._settings.bands, 4 * self._settings.rows
        data = self.signatures(texts).tobytes()
        places = range(0, len(data), size)
        hashes = [xxhash.xxh3_64_intdigest(data[at : at + size], seed=i % bands) for i, at in enumerate(places)]
        return np.array(hashes, np.uint64).reshape(len(texts), bands)


def _joined_ngram_hashes(texts: Sequence[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of all texts' n-grams one after another, int64 [texts]: where each text's begin)."""
    sizes = np.array([max(1, len(text) - n + 1) for text in texts], np.int64)
    starts = np.cumsum(sizes) - sizes
    out = np.empty(int(sizes.sum()), np.uint64)
    long = [i for i, text in enumerate(texts) if len(text) >= n]
    if long:
        # All long texts as one; the n-grams that reach from one into the next are left out.
        lengths = np.array([len(texts[i]) for i in long])
        inside = np.ones(int(lengths.sum()), bool)
        ends = np.cumsum(lengths)
        for back in range(1, n):
            inside[ends - back] = False
        wanted = np.repeat(starts[long], sizes[long]) + _counted(sizes[long])
        out[wanted] = ngram_hashes("".join(texts[i] for i in long), n)[inside[: len(inside) - n + 1]]
    for i, text in enumerate(texts):
        if len(text) < n:
            out[starts[i]] = ngram_hashes(text, n)[0]
    return out, starts


def _counted(sizes: np.ndarray) -> np.ndarray:
    """0, 1, ... up to each size, one after another."""
    return np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def text_hash(text: str) -> int:
    """64-bit hash of the text without white space: equal for exact duplicates."""
    return _hash(squeeze(text))


def _hash(dense: str) -> int:
    return xxhash.xxh3_64_intdigest(dense.encode("utf-8", "surrogatepass"))


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Sign the documents of one unit."""
    tally = Tally.of(config)
    signer = Signer(config.minhash)
    ranks, tables = [], [np.zeros((0, 1 + config.minhash.bands), np.uint64)]
    for batch in _batches(remaining(unit, before)):
        for number, document, lang in batch:
            ranks.append(rank_row(number, document))
            tally.keep(document.text, lang)
        texts = [squeeze(document.text) for _, document, _ in batch]
        exact = np.array([_hash(text) for text in texts], np.uint64)
        tables.append(np.concatenate([exact[:, None], signer.band_hashes(texts)], axis=1))
    write_entries(this, unit, ranks, entries_of(np.concatenate(tables)))
    return tally.to_json()


def _batches(documents: Iterable[tuple[int, Document, str]]) -> Iterator[list[tuple[int, Document, str]]]:
    """Documents to sign together: about `BATCH` characters, so that a long one does not make the others' arrays long."""
    batch, characters = [], 0
    for entry in documents:
        batch.append(entry)
        characters += len(entry[1].text)
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


STAGE = StageSpec("minhash", VERSION, lambda config: dataclasses.asdict(config.minhash), run, packages=PACKAGES, drops=False)
