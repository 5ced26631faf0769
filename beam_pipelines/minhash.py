"""MinHash signatures of documents (Broder 1997), banded for locality-sensitive hashing.

Shingles are character n-grams over the text without white space. A shingle's hash is a polynomial over its code points,
mixed by splitmix64; the k hash functions of MinHash are odd-multiplier affine maps modulo 2^64 of it, of which the high
32 bits are kept. Everything is numpy, and the result depends on the text and the settings alone.

Writes `<unit>.npy`: uint64 [documents, 2 + bands]: number of the document, hash of its text, then one hash a band.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus, MinHash
from beam_pipelines.stage_files import remaining
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit, write_file
from ja_llm.text.normalise import squeeze
from ja_llm.text.scripts import code_points

VERSION = 2
PACKAGES = ("xxhash",)
_BLOCK = 2048  # shingles at a time: the k x block table stays in cache


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Mix uint64 values (Steele, Lea, Flood 2014, the finaliser of SplittableRandom)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


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
    """Signatures and band hashes for one setting."""

    def __init__(self, settings: MinHash):
        self._settings = settings
        k = settings.bands * settings.rows
        constants = _random(2 * k, settings.seed)
        self._a = (constants[:k] | np.uint64(1))[:, None]
        self._b = constants[k:][:, None]

    def signature(self, text: str) -> np.ndarray:
        """uint32 [bands * rows]: the share of equal places of two texts' signatures estimates their Jaccard similarity."""
        hashes = np.unique(ngram_hashes(squeeze(text), self._settings.ngram))
        lowest = np.full(self._a.shape[0], np.iinfo(np.uint64).max, np.uint64)
        with np.errstate(over="ignore"):
            for start in range(0, len(hashes), _BLOCK):
                table = self._a * hashes[None, start : start + _BLOCK]
                table += self._b
                np.minimum(lowest, table.min(axis=1), out=lowest)
        return (lowest >> np.uint64(32)).astype(np.uint32)

    def band_hashes(self, text: str) -> np.ndarray:
        """uint64 [bands]: hash of each band's rows."""
        rows = self.signature(text).reshape(self._settings.bands, self._settings.rows)
        return np.array([xxhash.xxh3_64_intdigest(row.tobytes(), seed=i) for i, row in enumerate(rows)], np.uint64)


def text_hash(text: str) -> int:
    """64-bit hash of the text without white space: equal for exact duplicates."""
    return xxhash.xxh3_64_intdigest(squeeze(text).encode("utf-8", "surrogatepass"))


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Sign the documents of one unit."""
    tally = Tally.of(config)
    signer = Signer(config.minhash)
    rows = []
    for number, document, lang in remaining(unit, before):
        row = np.zeros(2 + config.minhash.bands, np.uint64)
        row[0], row[1] = number, text_hash(document.text)
        row[2:] = signer.band_hashes(document.text)
        tally.keep(document.text, lang)
        rows.append(row)
    table = np.stack(rows) if rows else np.zeros((0, 2 + config.minhash.bands), np.uint64)
    with write_file(this.file(unit, ".npy")) as file:
        np.save(file, table)
    return tally.to_json()


def read_hashes(this: Stage, unit: Unit | str) -> dict[int, list[int]]:
    """By document number: the hash of the text, then one hash a band."""
    return {row[0]: row[1:] for row in np.load(this.file(unit, ".npy")).tolist()}


STAGE = StageSpec("minhash", VERSION, lambda config: dataclasses.asdict(config.minhash), run, packages=PACKAGES, drops=False)
