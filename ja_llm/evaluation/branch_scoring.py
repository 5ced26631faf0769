"""Log-probabilities of continuations behind contexts, where what rows share is computed once.

A row is a context and a continuation. Rows go through the model in three levels: a prefix that many contexts begin with (worked
examples; `prefix_cache.py`), a stem, which is the rest of one question up to its last token, and the continuations of that
question, which branch from the stem. Continuations that differ in their last token alone (letters of choices) are one row with
several last tokens. Rows that share nothing go through the model whole; in every case the head is computed only where a token
is scored. Batches have a fixed number of rows and few lengths, so a row meets the same compiled programs in every run.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.hosts import gathered
from ja_llm.evaluation.prefix_cache import Ids, PrefixCache, bucket, functions, shared_blocks
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder

_FEWEST = 4  # different contexts that make a prefix worth its own pass
_STEM = 12  # tokens from which on a stem is


@dataclasses.dataclass(frozen=True)
class Score:
    """How likely a continuation is.

    Attributes:
      nats: sum of the log-probabilities of its tokens.
      greedy: whether each of its tokens is the likeliest one.
      tokens: how many they are.
    """

    nats: float
    greedy: bool
    tokens: int


@dataclasses.dataclass
class _Leaf:
    """Input tokens behind its source, and the targets from place `first` on: inputs[first + 1:] and each of `lasts`."""

    inputs: Ids
    first: int
    lasts: list[int]
    rows: list[int]

    @property
    def scored(self) -> int:
        return len(self.inputs) - self.first


class ContinuationScorer:
    """Scores continuations with one model.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      batch_size: rows in a forward pass.
      share: compute shared prefixes and stems once; False: every row whole.

    Raises:
      UsageError: `batch_size` is below 1.
    """

    def __init__(self, loaded: Any, batch_size: int = 16, share: bool = True):
        if batch_size < 1:
            raise UsageError(f"batch_size ({batch_size}) must be at least 1.")
        self._config: DecoderConfig = loaded.config
        self._params, self._batch_size, self._share = loaded.params, batch_size, share
        self._prefixes = PrefixCache(loaded.config, loaded.params)
        self._functions, self._leaf = functions(loaded.config), _leaf_functions(loaded.config)
        self._computed = 0

    @property
    def computed(self) -> int:
        """Real tokens (no padding) that went through the model so far."""
        return self._computed + self._prefixes.computed

    def forget(self) -> None:
        """Compute shared prefixes anew from now on."""
        self._prefixes.use(self._params)

    def __call__(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """Score rows.

        Args:
          rows: (context ids, at least one; continuation ids, maybe none). Both together without the last token fit into the model.

        Returns:
          A Score a row, in their order.

        Raises:
          UsageError: a row has no context or does not fit into the model.
          JaLlmError: a token id is outside the vocabulary, or the model gives NaN or infinity.
        """
        pairs = [(tuple(map(int, context)), tuple(map(int, text))) for context, text in rows]
        for number, (context, text) in enumerate(pairs):
            self._check(number, context, text)
        scores: list[Score | None] = [None if text else Score(0.0, True, 0) for _, text in pairs]
        wanted = [number for number, (_, text) in enumerate(pairs) if text]
        contexts = [pairs[number][0][:-1] for number in wanted]
        shared = shared_blocks(contexts, _FEWEST) if self._share else [0] * len(wanted)
        groups: dict[Ids, list[int]] = {}
        for number, context, size in zip(wanted, contexts, shared, strict=True):
            groups.setdefault(context[:size], []).append(number)
        for prefix, numbers in groups.items():
            for leaf, tokens, last in self._group(prefix, _leaves(pairs, numbers)):
                self._write(leaf, tokens, last, pairs, scores)
        return [score for score in scores if score is not None]

    def _check(self, number: int, context: Ids, text: Ids) -> None:
        if not context:
            raise UsageError(f"row {number} has no context token; begin it with BOS.")
        if len(context) + len(text) - 1 > self._config.max_length:
            raise UsageError(
                f"row {number} has {len(context) + len(text)} tokens, but the model knows {self._config.max_length} positions; shorten it."
            )
        bad = next((token for token in context + text if not 0 <= token < self._config.vocab_size), None)
        if bad is not None:
            raise JaLlmError(
                f"row {number} holds token id {bad}, but the model has {self._config.vocab_size} rows; the vocabulary does not fit this model."
            )

    def _group(self, prefix: Ids, found: dict[Ids, list[_Leaf]]) -> Iterator[tuple[_Leaf, np.ndarray, np.ndarray]]:
        """Scores of the leaves (by context without its last token) of one prefix: (leaf, [scored - 1, 2], [lasts, 2])."""
        begin = len(prefix)
        slots = bucket(max(len(leaf.inputs) for leaves in found.values() for leaf in leaves), self._config.max_length)
        alone: list[_Leaf] = []
        branching: dict[Ids, list[_Leaf]] = {}
        for context, leaves in found.items():
            if self._share and len(leaves) > 1 and len(context) - begin >= _STEM:
                ordered = sorted(leaves, key=lambda leaf: len(leaf.inputs))  # so that those of one round are equally long
                branching[context[begin:]] = [_behind(leaf, len(context)) for leaf in ordered]
            else:
                alone += [_behind(leaf, begin) for leaf in leaves]
        cache = self._prefixes.rows(prefix, self._batch_size, slots) if prefix or branching else None
        for batch in self._batches(alone, lambda leaf: len(leaf.inputs)):
            yield from self._score(batch, cache if prefix else None)
        for stems in self._batches(list(branching), len):
            grown = self._functions.extend(self._params, cache, *self._padded(stems))
            for turn in range(max(len(branching[stem]) for stem in stems)):
                grown_from: list[Any] = [branching[stem][turn] if turn < len(branching[stem]) else None for stem in stems]
                yield from self._score(grown_from, grown)

    def _batches(self, items: list[Any], size: Any) -> Iterator[list[Any]]:
        """Batches of items of one padded length, short ones first."""
        by_size: dict[int, list[Any]] = collections.defaultdict(list)
        for item in items:
            by_size[bucket(size(item), self._config.max_length)].append(item)
        for _, same in sorted(by_size.items()):
            for start in range(0, len(same), self._batch_size):
                yield same[start : start + self._batch_size]

    def _padded(self, rows: Sequence[Ids]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [B, n] padded on the right, and lengths int32 [B], 0 for rows beside them."""
        width = bucket(max(map(len, rows)), self._config.max_length)
        tokens, lengths = np.zeros((self._batch_size, width), np.int32), np.zeros(self._batch_size, np.int32)
        for number, row in enumerate(rows):
            tokens[number, : len(row)], lengths[number] = row, len(row)
        self._computed += int(lengths.sum())
        return tokens, lengths

    def _score(self, leaves: Sequence[_Leaf | None], cache: Any) -> Iterator[tuple[_Leaf, np.ndarray, np.ndarray]]:
        """One forward pass; a leaf stands in its source's row of the cache, None where that has none left."""
        tokens, lengths = self._padded([leaf.inputs if leaf else () for leaf in leaves])
        here = [(row, leaf) for row, leaf in enumerate(leaves) if leaf]
        inner = max(leaf.scored for _, leaf in here) - 1
        most = max(len(leaf.lasts) for _, leaf in here)
        lasts = np.zeros((self._batch_size, 1 if most == 1 else bucket(most, most + 8)), np.int32)
        size = bucket(inner, tokens.shape[1]) if inner else 0
        places, targets = (np.zeros((self._batch_size, size), np.int32) for _ in range(2))
        for row, leaf in here:
            places[row] = np.minimum(np.arange(leaf.first, leaf.first + size), len(leaf.inputs) - 1)
            targets[row, : leaf.scored - 1] = leaf.inputs[leaf.first + 1 :]
            lasts[row, : len(leaf.lasts)] = leaf.lasts
        arguments = (tokens, lengths, places, targets, lasts)
        function, before = (self._leaf[0], ()) if cache is None else (self._leaf[1], (cache,))
        first, last = map(gathered, function(self._params, *before, *arguments))
        for row, leaf in here:
            yield leaf, first[row, : leaf.scored - 1], last[row, : len(leaf.lasts)]

    def _write(self, leaf: _Leaf, inner: np.ndarray, last: np.ndarray, pairs: Any, scores: list[Score | None]) -> None:
        begun, greedy = inner[:, 0].sum(dtype=np.float64), bool(inner[:, 1].all())
        for number in leaf.rows:
            text = pairs[number][1]
            nats, likeliest = last[leaf.lasts.index(text[-1])]
            total = float(begun + np.float64(nats))
            if not np.isfinite(total):
                raise JaLlmError(f"the model gives NaN or infinity for row {number}; its weights are damaged.")
            scores[number] = Score(total, greedy and bool(likeliest), len(text))


def _leaves(pairs: Sequence[tuple[Ids, Ids]], numbers: Sequence[int]) -> dict[Ids, list[_Leaf]]:
    """The different inputs of rows, by their context without its last token."""
    found: dict[Ids, dict[tuple[int, Ids], _Leaf]] = {}
    for number in numbers:
        context, text = pairs[number]
        inputs = context + text[:-1]
        leaves = found.setdefault(context[:-1], {})
        leaf = leaves.setdefault((len(context), inputs), _Leaf(inputs, len(context) - 1, [], []))
        if text[-1] not in leaf.lasts:
            leaf.lasts.append(text[-1])
        leaf.rows.append(number)
    return {context: list(leaves.values()) for context, leaves in found.items()}


def _behind(leaf: _Leaf, begin: int) -> _Leaf:
    return dataclasses.replace(leaf, inputs=leaf.inputs[begin:], first=leaf.first - begin)


@functools.lru_cache(maxsize=8)
def _leaf_functions(config: DecoderConfig) -> tuple[Any, Any]:
    """(params, [cache,] tokens [B, n], lengths [B], places [B, T], targets [B, T], lasts [B, A]) -> float32 ([B, T, 2], [B, A, 2]).

    Of each target the log-probability and whether it is the likeliest token; `lasts` stand behind each row's last token.
    """
    module = Decoder(config)

    def scores(
        params: Any, hidden: jax.Array, lengths: Any, places: Any, targets: Any, lasts: Any
    ) -> tuple[jax.Array, jax.Array]:
        # The head only where something is scored: over whole contexts it would be the largest array of all.
        ends = jnp.concatenate([places, jnp.maximum(lengths - 1, 0)[:, None]], axis=1)
        taken = jnp.take_along_axis(hidden, ends[..., None], axis=1)
        logits: Any = module.apply({"params": params}, taken, method="logits")
        return _of(logits[:, :-1], targets[..., None])[:, :, 0], _of(logits[:, -1], lasts)

    def real(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        return (jnp.arange(tokens.shape[1])[None] < lengths[:, None]).astype(jnp.int32)

    def whole(params: Any, tokens: jax.Array, lengths: jax.Array, *rest: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden: Any = module.apply({"params": params}, tokens, real(tokens, lengths), method="hidden")
        return scores(params, hidden, lengths, *rest)

    def behind(params: Any, cache: Any, tokens: jax.Array, lengths: jax.Array, *rest: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden: Any
        hidden, _ = module.apply(
            {"params": params, "cache": cache}, tokens, real(tokens, lengths), decode=True, mutable=["cache"], method="hidden"
        )
        return scores(params, hidden, lengths, *rest)

    return jax.jit(whole), jax.jit(behind)


def _of(logits: Any, targets: jax.Array) -> jax.Array:
    """Log-probabilities of targets [..., k] under logits [..., vocab], and whether each is the likeliest token: float32 [..., k, 2]."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets, axis=-1) - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    likeliest = targets == jnp.argmax(logits, axis=-1, keepdims=True)
    return jnp.stack([chosen, likeliest.astype(jnp.float32)], axis=-1)
