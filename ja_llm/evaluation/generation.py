"""Text from a model: greedy or sampled continuations of prompts, in batches.

A row's result depends on its own prompt, number and seed: prompts are padded to bucket lengths that follow from the prompt
alone, batches always have the same number of rows, and random numbers are drawn per (seed, row, token).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.errors import JaLlmError, UsageError

_SMALLEST_BUCKET = 32
_STRIDE = 16  # tokens written between two looks at the stop texts


def generate(
    loaded: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    *,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
) -> list[str]:
    """Continue texts.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      prompts: texts; each begins a document (BOS stands before it).
      max_new_tokens: tokens written at most.
      stop: the continuation ends before the first of these texts.
      temperature: 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
      seed: of the draws.
      batch_size: rows in a forward pass.

    Returns:
      The continuations, without prompt, stop text and EOS.

    Raises:
      UsageError: a value is out of range, or a prompt and `max_new_tokens` exceed the model's `max_length`.
    """
    ids = [[loaded.tokenizer.bos_id, *loaded.tokenizer.encode(prompt)] for prompt in prompts]
    generator = Generator(loaded, batch_size, temperature=temperature, seed=seed)
    return generator.continue_ids(ids, max_new_tokens, stop)


# (parameters, tokens int32 [B, L], lengths int32 [B], cache length) -> (cache, logits [B, V] after each prompt)
PrefillFn = Callable[[Any, Any, Any, int], tuple[Any, jax.Array]]
# (parameters, cache, tokens int32 [B]) -> (cache, logits [B, V] of the next tokens)
DecodeFn = Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]]


class Generator:
    """Continues token sequences with one model and its key-value cache; compiled programs are kept between calls.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      batch_size: rows in a forward pass.
      temperature: see `generate`.
      seed: see `generate`.
      top_p: draw from the likeliest tokens alone that together have this probability (Holtzman et al. 2020, section 3.1).
    """

    def __init__(self, loaded: Any, batch_size: int = 16, temperature: float = 0.0, seed: int = 0, top_p: float = 1.0):
        config, tokenizer = loaded.config, loaded.tokenizer
        prefill, step = decoder_functions(config)
        self._prepare(prefill, step, loaded.params, tokenizer, config.max_length, batch_size, temperature, seed, top_p)

    @classmethod
    def from_functions(
        cls,
        prefill: PrefillFn,
        step: DecodeFn,
        params: Any,
        tokenizer: Any,
        max_length: int,
        batch_size: int = 16,
        temperature: float = 0.0,
        seed: int = 0,
        top_p: float = 1.0,
    ) -> "Generator":
        """A generator over any pair of functions that read prompts and single tokens."""
        self = cls.__new__(cls)
        self._prepare(prefill, step, params, tokenizer, max_length, batch_size, temperature, seed, top_p)
        return self

    def _prepare(
        self,
        prefill: PrefillFn,
        step: DecodeFn,
        params: Any,
        tokenizer: Any,
        max_length: int,
        batch_size: int,
        temperature: float,
        seed: int,
        top_p: float = 1.0,
    ) -> None:
        if batch_size < 1 or temperature < 0:
            raise UsageError(f"batch_size ({batch_size}) must be at least 1 and the temperature ({temperature}) at least 0.")
        self._params, self._tokenizer, self._max_length, self._batch_size = params, tokenizer, max_length, batch_size
        self._key = jax.random.key(seed)
        self._prefill = prefill
        self._stride = _compiled_stride(step, tokenizer.vocab_size, tokenizer.eos_id, temperature, top_p)

    def continue_ids(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        cut_prompts: bool = False,
        numbers: Sequence[int] | None = None,
    ) -> list[str]:
        """Texts after prompts that are given as ids (BOS first).

        Args:
          prompts: token ids.
          max_new_tokens: tokens written at most.
          stop: texts before which a continuation ends.
          cut_prompts: shorten a prompt that does not fit on its left, behind its first token, instead of refusing it.
          numbers: which draw each prompt takes, below 2^32; 0, 1, 2, ... when left out.

        Raises:
          UsageError: a prompt does not fit, or `max_new_tokens` is below 1.
        """
        room = self.room(max_new_tokens)
        fitted: list[list[int]] = []
        for number, prompt in enumerate(map(list, prompts)):
            if not prompt:
                raise JaLlmError(f"prompt {number} has no token, not even BOS.")
            if len(prompt) > room and not cut_prompts:
                raise UsageError(
                    f"prompt {number} has {len(prompt)} tokens; with {max_new_tokens} new ones it exceeds the model's "
                    f"{self._max_length} positions; shorten it or ask for fewer tokens."
                )
            fitted.append(prompt if len(prompt) <= room else prompt[:1] + prompt[len(prompt) - room + 1 :])
        texts = [""] * len(fitted)
        order = sorted(range(len(fitted)), key=lambda n: self._bucket(fitted[n]))
        start = 0
        while start < len(order):
            width = self._bucket(fitted[order[start]])
            rows = [n for n in order[start : start + self._batch_size] if self._bucket(fitted[n]) == width]
            draws = [numbers[n] for n in rows] if numbers is not None else rows
            for number, text in zip(
                rows, self._batch([fitted[n] for n in rows], draws, width, max_new_tokens, stop), strict=True
            ):
                texts[number] = text
            start += len(rows)
        return texts

    def room(self, max_new_tokens: int) -> int:
        """Tokens that a prompt may have."""
        if not 1 <= max_new_tokens < self._max_length:
            raise UsageError(f"max_new_tokens is {max_new_tokens}; it must be from 1 to {self._max_length - 1} for this model.")
        return self._max_length - max_new_tokens

    def _bucket(self, prompt: Sequence[int]) -> int:
        """Padded length of a prompt: a power of two or the model's `max_length`."""
        return min(self._max_length, max(_SMALLEST_BUCKET, 1 << (len(prompt) - 1).bit_length()))

    def _batch(
        self, prompts: list[list[int]], numbers: list[int], width: int, max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        tokens = np.zeros((self._batch_size, width), np.int32)
        sizes = np.ones(self._batch_size, np.int32)
        done = np.arange(self._batch_size) >= len(prompts)  # rows beside the prompts are computed and not read
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)], sizes[row] = prompt, len(prompt)
        padded = np.array(numbers + [0] * (self._batch_size - len(numbers)))
        keys = jax.vmap(lambda n: jax.random.fold_in(self._key, n))(padded)
        # As long as these prompts can become: a function of the prompt's bucket, not of what else is in the batch.
        cache, logits = self._prefill(self._params, tokens, sizes, min(self._max_length, width + max_new_tokens))
        texts = [""] * len(prompts)
        new: list[list[int]] = [[] for _ in prompts]
        for start in range(0, max_new_tokens, _STRIDE):
            cache, logits, sizes, done, written = self._stride(self._params, cache, logits, sizes, done, keys)
            chosen, done = np.asarray(written), np.array(done)
            for row, prompt in enumerate(prompts):
                new[row] += chosen[row, : max_new_tokens - start].tolist()
                texts[row], stopped = self._text(prompt, new[row], stop)
                done[row] |= stopped
            if done.all():
                break
        return texts

    def _text(self, prompt: list[int], ids: list[int], stop: Sequence[str]) -> tuple[str, bool]:
        """Text of the new ids up to EOS or the first stop text, and whether one of them was met."""
        ended = self._tokenizer.eos_id in ids
        ids = ids[: ids.index(self._tokenizer.eos_id)] if ended else ids
        # Decoded with the prompt: a tokenizer may drop a leading space of what it takes for a text's beginning.
        before, whole = self._tokenizer.decode(prompt[1:]), self._tokenizer.decode([*prompt[1:], *ids])
        text = whole[len(before) :] if whole.startswith(before) else self._tokenizer.decode(ids)
        ends = [place for s in stop if s and (place := text.find(s)) >= 0]
        if ends or ended:
            return (text[: min(ends)] if ends else text), True
        # The limit may fall between the bytes of a character.
        return text.rstrip("\ufffd"), False


@functools.lru_cache(maxsize=8)
def decoder_functions(config: Any) -> tuple[PrefillFn, DecodeFn]:
    """The Decoder of a `DecoderConfig` as two plain functions; equal configurations share them, and what is compiled for them."""
    from ja_llm.models import decode

    def prefill(params: Any, tokens: jax.Array, lengths: jax.Array, cache_length: int) -> tuple[Any, jax.Array]:
        return decode.prefill(config, params, decode.init_cache(config, tokens.shape[0], cache_length), tokens, lengths)

    def step(params: Any, cache: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        return decode.decode_step(config, params, cache, tokens)

    return jax.jit(prefill, static_argnums=3), step


@functools.lru_cache(maxsize=8)
def _compiled_stride(step: DecodeFn, vocab_size: int, eos_id: int, temperature: float, top_p: float = 1.0) -> Callable[..., Any]:
    def stride(params: Any, cache: Any, logits: jax.Array, sizes: jax.Array, done: jax.Array, keys: jax.Array) -> Any:
        """Write _STRIDE tokens to each row: (cache, logits, sizes, done, tokens [B, _STRIDE]). Rows that are done are written
        on, unread; what exceeds the cache is dropped by it, unread too."""

        def one(state: tuple, _: None) -> tuple[tuple, jax.Array]:
            cache, logits, sizes, done = state
            chosen = _choose(logits[:, :vocab_size], sizes, keys, temperature, top_p)
            cache, logits = step(params, cache, chosen)
            return (cache, logits, sizes + 1, done | (chosen == eos_id)), chosen

        state, tokens = jax.lax.scan(one, (cache, logits, sizes, done), None, length=_STRIDE)
        return (*state, tokens.T)

    return jax.jit(stride, donate_argnums=1)


def _choose(logits: jax.Array, sizes: jax.Array, keys: jax.Array, temperature: float, top_p: float = 1.0) -> jax.Array:
    """The next token of each row, int32 [B]; `logits` without the rows that pad an embedding table."""
    logits = logits.astype(jnp.float32)
    if temperature:
        draws = jax.vmap(jax.random.fold_in)(keys, sizes)
        logits = _nucleus(logits / temperature, top_p) if top_p < 1 else logits / temperature
        return jax.vmap(jax.random.categorical)(draws, logits).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _nucleus(logits: jax.Array, top_p: float) -> jax.Array:
    """The logits, -inf where the likelier tokens alone have the probability `top_p` already; the likeliest one always stays."""
    order = jnp.argsort(-logits, axis=-1)
    shares = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    dropped = jnp.cumsum(shares, axis=-1) - shares >= top_p
    ranks = jnp.argsort(order, axis=-1)
    return jnp.where(jnp.take_along_axis(dropped, ranks, axis=-1), -jnp.inf, logits)
