"""Log-probabilities of token sequences under a model: what every likelihood measure stands on.

A sequence is cut into rows of at most `length` targets. The first input of a row is the token before its first target,
and positions restart at 0 in each row: a fixed window without overlap, so a model is never asked for more context than
`length` and every target is scored exactly once. Rows are padded to a few bucket lengths and batches always have the
same number of rows, so a row meets the same compiled program whatever stands beside it. Padding is told by segment id 0,
never by a token id: id 0 is a token like any other.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.hosts import gathered

# (parameters, tokens [B, L] int32, segment ids [B, L] int32, positions [B, L] int32) -> logits [B, L, V]
LogitsFn = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]

_SMALLEST_BUCKET = 32


class Scorer:
    """Scores token sequences with one model.

    Args:
      loaded: a `ja_llm.train.checkpoints.LoadedModel`.
      batch_size: rows in each forward pass.
      length: longest row in targets; at most the model's own `max_length`.

    Raises:
      UsageError: `batch_size` or `length` is out of range.
    """

    def __init__(self, loaded: Any, batch_size: int = 16, length: int = 512):
        if length > loaded.config.max_length:
            raise UsageError(
                f"{loaded.directory}: a window of {length} tokens is asked for, but the model knows positions up to "
                f"{loaded.config.max_length}; give a smaller length."
            )
        self._prepare(_decoder_step(loaded.config), loaded.params, loaded.config.vocab_size, batch_size, length)
        self.tokenizer = loaded.tokenizer

    @classmethod
    def from_decoder(cls, config: Any, params: Any, batch_size: int = 16, length: int = 512) -> "Scorer":
        """A scorer over the Decoder of a `DecoderConfig`; it never holds the logits. Texts need a tokenizer, which it has not."""
        self = cls.__new__(cls)
        self._prepare(_decoder_step(config), params, config.vocab_size, batch_size, length)
        self.tokenizer = None
        return self

    @classmethod
    def from_logits_fn(
        cls, logits_fn: LogitsFn, params: Any, vocab_size: int, batch_size: int = 16, length: int = 512, tokenizer: Any = None
    ) -> "Scorer":
        """A scorer over any function that gives logits; `tokenizer` is needed only where texts are scored."""
        self = cls.__new__(cls)
        self._prepare(_compiled(logits_fn), params, vocab_size, batch_size, length)
        self.tokenizer = tokenizer
        return self

    def _prepare(self, step: Callable[..., jax.Array], params: Any, vocab_size: int, batch_size: int, length: int) -> None:
        if batch_size < 1 or length < 1:
            raise UsageError(f"batch_size ({batch_size}) and length ({length}) must be at least 1.")
        self.batch_size, self.length, self.vocab_size = batch_size, length, vocab_size
        self._params = params
        self._step = step

    def use(self, params: Any) -> None:
        """Score with these parameters from now on (same shapes, so nothing is compiled again)."""
        self._params = params

    def token_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probabilities (nats) of each token but the first, given those before it inside its row.

        Args:
          sequences: token ids, each with at least one token (which is only read, not scored).

        Returns:
          For a sequence of n tokens a float32 array [n - 1], in the order of `sequences`.

        Raises:
          JaLlmError: a sequence is empty, a token id is outside the vocabulary, or the model gives NaN or infinity.
        """
        arrays = [np.asarray(sequence, np.int32) for sequence in sequences]
        for number, array in enumerate(arrays):
            if array.ndim != 1 or not array.size:
                raise JaLlmError(f"sequence {number} has no token; score at least its first token (BOS).")
            if array.min() < 0 or array.max() >= self.vocab_size:
                raise JaLlmError(
                    f"sequence {number} holds token id {int(array.max() if array.max() >= self.vocab_size else array.min())}, "
                    f"but the model has {self.vocab_size} rows; the vocabulary does not fit this model."
                )
        out = [np.zeros(array.size - 1, np.float32) for array in arrays]
        rows = [(number, start) for number, array in enumerate(arrays) for start in range(0, array.size - 1, self.length)]

        def row_bucket(row: tuple[int, int]) -> int:
            return self._bucket(min(self.length, out[row[0]].size - row[1]))

        rows.sort(key=row_bucket)  # stable, so the order inside a bucket is that of `sequences`
        start = 0
        while start < len(rows):
            bucket = row_bucket(rows[start])
            end = start
            while end < len(rows) and end < start + self.batch_size and row_bucket(rows[end]) == bucket:
                end += 1
            self._score_rows(arrays, out, rows[start:end], bucket)
            start = end
        return out

    def _bucket(self, targets: int) -> int:
        """Padded length of a row: a power of two or `length`; a function of the row alone."""
        return min(self.length, max(_SMALLEST_BUCKET, 1 << (targets - 1).bit_length()))

    def _score_rows(self, arrays: list[np.ndarray], out: list[np.ndarray], rows: list[tuple[int, int]], bucket: int) -> None:
        tokens, targets, segments = (np.zeros((self.batch_size, bucket), np.int32) for _ in range(3))
        for row, (number, start) in enumerate(rows):
            span = arrays[number][start : start + self.length + 1]
            tokens[row, : span.size - 1], targets[row, : span.size - 1] = span[:-1], span[1:]
            segments[row, : span.size - 1] = 1
        positions = np.broadcast_to(np.arange(bucket, dtype=np.int32), tokens.shape)
        scores = gathered(self._step(self._params, tokens, targets, segments, positions))
        for row, (number, start) in enumerate(rows):
            size = min(self.length, out[number].size - start)
            part = scores[row, :size]
            if not np.isfinite(part).all():
                raise JaLlmError(f"the model gives NaN or infinity for a token of sequence {number}; its weights are damaged.")
            out[number][start : start + size] = part


@functools.lru_cache(maxsize=8)
def _decoder_step(config: Any) -> Callable[..., jax.Array]:
    """As `_target_logprobs` of the Decoder, without its logits; equal configurations share what is compiled."""
    from ja_llm.losses.linear_cross_entropy import linear_cross_entropy
    from ja_llm.models.decoder import Decoder, head_kernel

    module = Decoder(config)

    def step(params: Any, tokens: jax.Array, targets: jax.Array, segment_ids: jax.Array, positions: jax.Array) -> jax.Array:
        hidden: Any = module.apply({"params": params}, tokens, segment_ids, positions, method="hidden")
        real, head, cap = (segment_ids > 0).astype(jnp.float32), head_kernel(config, params), config.logits_softcap
        return -linear_cross_entropy(hidden, head, targets, real, softcap=cap, padding_rows=config.padding_ids).loss

    return jax.jit(step)


@functools.lru_cache(maxsize=8)
def _compiled(logits_fn: LogitsFn) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(_target_logprobs, logits_fn))


def _target_logprobs(
    logits_fn: LogitsFn, params: Any, tokens: jax.Array, targets: jax.Array, segment_ids: jax.Array, positions: jax.Array
) -> jax.Array:
    """log p(target) float32 [B, L]; 0 where the segment id is 0."""
    logits = logits_fn(params, tokens, segment_ids, positions).astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.where(segment_ids > 0, chosen - jax.nn.logsumexp(logits, axis=-1), 0.0)
