"""Text from a model: greedy or sampled continuations of prompts, in batches.

A row's result depends on its own prompt, number and seed: prompts are padded to bucket lengths that follow from the prompt
alone, batches always have the same number of rows, and random numbers are drawn per (seed, row, token).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.scoring import LogitsFn

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


class Generator:
    """Continues token sequences with one model; compiled programs are kept between calls.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      batch_size: rows in a forward pass.
      temperature: see `generate`.
      seed: see `generate`.
    """

    def __init__(self, loaded: Any, batch_size: int = 16, temperature: float = 0.0, seed: int = 0):
        from ja_llm.models.decoder import Decoder

        module = Decoder(loaded.config)

        def logits_fn(params: Any, tokens: jax.Array, segment_ids: jax.Array, positions: jax.Array) -> jax.Array:
            return module.apply({"params": params}, tokens, tokens, decoder_segment_ids=segment_ids, decoder_positions=positions)

        self._prepare(logits_fn, loaded.params, loaded.tokenizer, loaded.config.max_length, batch_size, temperature, seed)

    @classmethod
    def from_logits_fn(
        cls,
        logits_fn: LogitsFn,
        params: Any,
        tokenizer: Any,
        max_length: int,
        batch_size: int = 16,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> "Generator":
        """A generator over any function that gives logits."""
        self = cls.__new__(cls)
        self._prepare(logits_fn, params, tokenizer, max_length, batch_size, temperature, seed)
        return self

    def _prepare(
        self, logits_fn: LogitsFn, params: Any, tokenizer: Any, max_length: int, batch_size: int, temperature: float, seed: int
    ) -> None:
        if batch_size < 1 or temperature < 0:
            raise UsageError(f"batch_size ({batch_size}) must be at least 1 and the temperature ({temperature}) at least 0.")
        self._params, self._tokenizer, self._max_length, self._batch_size = params, tokenizer, max_length, batch_size
        self._key = jax.random.key(seed)

        def steps(params: Any, tokens: jax.Array, sizes: jax.Array, done: jax.Array, keys: jax.Array) -> tuple:
            def one(_: Any, state: tuple) -> tuple:
                return _next_token(logits_fn, params, state, keys, temperature, tokenizer.eos_id)

            return jax.lax.fori_loop(0, _STRIDE, one, (tokens, sizes, done))

        self._steps = jax.jit(steps)

    def continue_ids(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str] = (), *, cut_prompts: bool = False
    ) -> list[str]:
        """Texts after prompts that are given as ids (BOS first).

        Args:
          prompts: token ids.
          max_new_tokens: tokens written at most.
          stop: texts before which a continuation ends.
          cut_prompts: shorten a prompt that does not fit on its left, behind BOS, instead of refusing it.

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
        order = sorted(range(len(fitted)), key=lambda n: self._bucket(fitted[n], max_new_tokens))
        start = 0
        while start < len(order):
            width = self._bucket(fitted[order[start]], max_new_tokens)
            rows = [n for n in order[start : start + self._batch_size] if self._bucket(fitted[n], max_new_tokens) == width]
            for number, text in zip(rows, self._batch([fitted[n] for n in rows], rows, width, max_new_tokens, stop), strict=True):
                texts[number] = text
            start += len(rows)
        return texts

    def room(self, max_new_tokens: int) -> int:
        """Tokens that a prompt may have."""
        if not 1 <= max_new_tokens < self._max_length:
            raise UsageError(f"max_new_tokens is {max_new_tokens}; it must be from 1 to {self._max_length - 1} for this model.")
        return self._max_length - max_new_tokens

    def _bucket(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        """Width of the token buffer: what prompt and continuation need, rounded up to a power of two."""
        return min(self._max_length, max(_SMALLEST_BUCKET, 1 << (len(prompt) + max_new_tokens - 1).bit_length()))

    def _batch(
        self, prompts: list[list[int]], numbers: list[int], width: int, max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        tokens = np.zeros((self._batch_size, width), np.int32)
        sizes = np.ones(self._batch_size, np.int32)  # rows beside the prompts continue one token 0, unread
        done = np.arange(self._batch_size) >= len(prompts)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)], sizes[row] = prompt, len(prompt)
        padded = np.array(numbers + [0] * (self._batch_size - len(numbers)))
        keys = jax.vmap(lambda n: jax.random.fold_in(self._key, n))(padded)
        texts = [""] * len(prompts)
        for _ in range(0, max_new_tokens, _STRIDE):
            tokens, sizes, done = map(np.array, self._steps(self._params, tokens, sizes, done, keys))
            for row, prompt in enumerate(prompts):
                ids = tokens[row, len(prompt) : min(sizes[row], len(prompt) + max_new_tokens)].tolist()
                texts[row], stopped = self._text(prompt, ids, stop)
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
        return (text[: min(ends)], True) if ends else (text, ended)


def _next_token(
    logits_fn: LogitsFn, params: Any, state: tuple[jax.Array, jax.Array, jax.Array], keys: jax.Array, temperature: float, eos: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Append one token to each row that is not done. State: tokens [B, W], sizes [B], done [B]."""
    tokens, sizes, done = state
    columns = jnp.arange(tokens.shape[1])
    segments = (columns[None] < sizes[:, None]).astype(jnp.int32)
    logits = logits_fn(params, tokens, segments, jnp.broadcast_to(columns, tokens.shape))
    last = jnp.take_along_axis(logits, (sizes - 1)[:, None, None], axis=1)[:, 0].astype(jnp.float32)
    if temperature:
        draws = jax.vmap(jax.random.fold_in)(keys, sizes)
        chosen = jax.vmap(jax.random.categorical)(draws, last / temperature)
    else:
        chosen = jnp.argmax(last, axis=-1)
    room = sizes < tokens.shape[1]
    write = (columns[None] == sizes[:, None]) & (~done & room)[:, None]
    tokens = jnp.where(write, chosen[:, None].astype(jnp.int32), tokens)
    return tokens, sizes + (~done & room), done | (chosen == eos)
