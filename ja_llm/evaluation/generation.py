"""Text from a model: greedy or sampled continuations of prompts, in batches or as a stream.

A row's result depends on its own prompt, number and seed: prompts are padded to bucket lengths that follow from the prompt
alone, batches always have the same number of rows, and random numbers are drawn per (seed, row, token).
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.hosts import gathered
from ja_llm.evaluation.sampling import Sampling, choose
from ja_llm.evaluation.text_stream import BROKEN, TextStream, first_stop

_SMALLEST_BUCKET = 32
_CACHE_STEP = 64  # a cache's length is a multiple, so that nearly equal limits share a compiled program
_STRIDE = 16  # tokens written between two looks at the stop texts
_STREAM_STRIDE = 4  # the same of a stream, where somebody waits
_GREEDY = Sampling()


def generate(
    loaded: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    *,
    sampling: Sampling = _GREEDY,
    seed: int = 0,
    batch_size: int = 16,
) -> list[str]:
    """Continue texts.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      prompts: texts; each begins a document (BOS stands before it).
      max_new_tokens: tokens written at most.
      stop: the continuation ends before the first of these texts.
      sampling: how each token is chosen.
      seed: of the draws.
      batch_size: rows in a forward pass.

    Returns:
      The continuations, without prompt, stop text and EOS.

    Raises:
      UsageError: a value is out of range, or a prompt and `max_new_tokens` exceed the model's `max_length`.
    """
    ids = [[loaded.tokenizer.bos_id, *loaded.tokenizer.encode(prompt)] for prompt in prompts]
    return Generator(loaded, batch_size).continue_ids(ids, max_new_tokens, stop, sampling=sampling, seed=seed)


# (parameters, tokens int32 [B, L], lengths int32 [B], cache length) -> (cache, logits [B, V] after each prompt)
PrefillFn = Callable[[Any, Any, Any, int], tuple[Any, jax.Array]]
# (parameters, cache, tokens int32 [B]) -> (cache, logits [B, V] of the next tokens)
DecodeFn = Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]]


class Generator:
    """Continues token sequences with one model and its key-value cache; compiled programs are kept between calls.

    Parameters that are spread over a mesh stay so: call it within `ja_llm.sharding.use(mesh)`.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      batch_size: rows in a forward pass.
      ends: ids beside the tokenizer's EOS that end a text, as chat models have them.
    """

    _ends: frozenset[int] = frozenset()

    def __init__(self, loaded: Any, batch_size: int = 16, ends: Iterable[int] = ()):
        prefill, step, prepare = decoder_functions(loaded.config)
        self._ends = frozenset(ends)
        self._prepare(prefill, step, loaded.params, loaded.tokenizer, loaded.config.max_length, batch_size)
        self._step_params = prepare(loaded.params)

    @classmethod
    def from_functions(
        cls, prefill: PrefillFn, step: DecodeFn, params: Any, tokenizer: Any, max_length: int, batch_size: int = 16
    ) -> "Generator":
        """A generator over any pair of functions that read prompts and single tokens."""
        self = cls.__new__(cls)
        self._prepare(prefill, step, params, tokenizer, max_length, batch_size)
        return self

    def _prepare(self, prefill: PrefillFn, step: DecodeFn, params: Any, tokenizer: Any, max_length: int, batch_size: int) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size ({batch_size}) must be at least 1.")
        self._params, self._tokenizer, self._max_length, self._batch_size = params, tokenizer, max_length, batch_size
        self._step_params, self._prefill, self._step = params, prefill, step

    def share_prefixes(self, cache: Any) -> None:
        """Compute what all prompts of a batch begin with only once, in this `prefix_cache.PrefixCache` of the same model."""
        self._prefill = cache.prefill(self._prefill, _for_step(cache.config))

    def continue_ids(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        stop: Sequence[str] = (),
        *,
        sampling: Sampling = _GREEDY,
        seed: int = 0,
        cut_prompts: bool = False,
        numbers: Sequence[int] | None = None,
    ) -> list[str]:
        """Texts after prompts that are given as ids (BOS first).

        Args:
          prompts: token ids.
          max_new_tokens: tokens written at most, to all or to each.
          stop: texts before which a continuation ends.
          sampling: how each token is chosen.
          seed: of the draws.
          cut_prompts: shorten a prompt that does not fit on its left, behind its first token, instead of refusing it.
          numbers: which draw each prompt takes, below 2^32; 0, 1, 2, ... when left out.

        Raises:
          UsageError: a prompt does not fit, or `max_new_tokens` is below 1.
        """
        rows = self._rows(prompts, max_new_tokens, stop, sampling, seed, cut_prompts, numbers)
        return [self._text(prompt, ids, stop)[0] for prompt, ids in rows]

    def continue_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        sampling: Sampling = _GREEDY,
        seed: int = 0,
        ignore_eos: bool = False,
    ) -> list[list[int]]:
        """Token ids after prompts that are given as ids: up to EOS, without it; arguments as of `continue_ids`.

        Args:
          prompts: token ids.
          max_new_tokens: tokens written at most.
          sampling: how each token is chosen.
          seed: of the draws.
          ignore_eos: write on behind EOS, which is a token like any other then.
        """
        rows = self._rows(prompts, max_new_tokens, (), sampling, seed, False, None, ignore_eos)
        return [ids if ignore_eos else self._until_eos(ids)[0] for _, ids in rows]

    def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        sampling: Sampling = _GREEDY,
        seed: int = 0,
        number: int = 0,
    ) -> Iterator[str]:
        """The text after one prompt in pieces, as soon as they are sure; never a part of a character or of a stop text.

        Args:
          prompt: token ids, BOS first.
          max_new_tokens: tokens written at most.
          stop: texts before which it ends.
          sampling: how each token is chosen.
          seed: of the draws.
          number: which draw it takes; the same as the row of that number of `continue_ids`.

        Raises:
          UsageError: the prompt does not fit, or `max_new_tokens` is below 1.
        """
        prompt = self._fitted([prompt], [max_new_tokens], False)[0]
        text = TextStream(self._tokenizer, self._context(prompt), stop)
        strides = self._strides(
            [prompt], [number], max_new_tokens, self._bucket(prompt) + max_new_tokens, sampling, seed, _STREAM_STRIDE
        )
        for chosen, done in strides:
            ids, ended = self._until_eos(chosen[0].tolist())
            yield text.add(ids)
            done[:] = ended or text.stopped
        yield text.finish()

    def room(self, max_new_tokens: int) -> int:
        """Tokens that a prompt may have."""
        if not 1 <= max_new_tokens < self._max_length:
            raise UsageError(
                f"this model writes 1 to {self._max_length - 1} tokens, and {max_new_tokens} are asked for (max_new_tokens, --max_tokens)."
            )
        return self._max_length - max_new_tokens

    def _fitted(self, prompts: Sequence[Sequence[int]], limits: Sequence[int], cut: bool) -> list[list[int]]:
        fitted: list[list[int]] = []
        for number, (prompt, max_new_tokens) in enumerate(zip(map(list, prompts), limits, strict=True)):
            room = self.room(max_new_tokens)
            if not prompt:
                raise JaLlmError(f"prompt {number} has no token, not even BOS.")
            if len(prompt) > room and not cut:
                raise UsageError(
                    f"prompt {number} has {len(prompt)} tokens; with {max_new_tokens} new ones it exceeds the model's "
                    f"{self._max_length} positions; shorten it or ask for fewer tokens."
                )
            fitted.append(prompt if len(prompt) <= room else prompt[:1] + prompt[len(prompt) - room + 1 :])
        return fitted

    def _rows(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        stop: Sequence[str],
        sampling: Sampling,
        seed: int,
        cut_prompts: bool,
        numbers: Sequence[int] | None,
        ignore_eos: bool = False,
    ) -> list[tuple[list[int], list[int]]]:
        """Each prompt as it was read, and its new ids; prompts of one bucket share batches."""
        each = not isinstance(max_new_tokens, int)
        limits = list(max_new_tokens) if not isinstance(max_new_tokens, int) else [max_new_tokens] * len(prompts)
        fitted = self._fitted(prompts, limits, cut_prompts)
        found: list[list[int]] = [[] for _ in fitted]
        order = sorted(range(len(fitted)), key=lambda n: self._bucket(fitted[n]))
        start = 0
        while start < len(order):
            width = self._bucket(fitted[order[start]])
            rows = [n for n in order[start : start + self._batch_size] if self._bucket(fitted[n]) == width]
            draws = [numbers[n] for n in rows] if numbers is not None else rows
            most = max(limits[n] for n in rows)
            # As long as these prompts can become. One limit for all: a function of the prompt's bucket, not of what else is in the batch.
            room = max(width, *(len(fitted[n]) + limits[n] for n in rows)) if each else width + most
            for chosen, done in self._strides([fitted[n] for n in rows], draws, most, room, sampling, seed, _STRIDE):
                for row, n in enumerate(rows):
                    found[n] = (found[n] + chosen[row].tolist())[: limits[n]]
                    full = each and len(found[n]) == limits[n]
                    done[row] = full or (not ignore_eos and (done[row] or self._text(fitted[n], found[n], stop)[1]))
            start += len(rows)
        return list(zip(fitted, found, strict=True))

    def _bucket(self, prompt: Sequence[int]) -> int:
        """Padded length of a prompt: a power of two or the model's `max_length`."""
        return min(self._max_length, max(_SMALLEST_BUCKET, 1 << (len(prompt) - 1).bit_length()))

    def _strides(
        self, prompts: list[list[int]], numbers: list[int], most: int, room: int, sampling: Sampling, seed: int, stride: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Write up to `most` tokens to prompts of one bucket, in a cache for `room` tokens: (new ids [B, stride or what is left],
        done bool [B]) until all rows are done.

        `done` of a row beside the prompts is set; whoever reads sets it for the others, between two strides.
        """
        if not -(2**63) <= seed < 2**63:
            raise UsageError(f"the seed is {seed}; it must fit into 64 bits.")
        width = self._bucket(prompts[0])
        tokens = np.zeros((self._batch_size, width), np.int32)
        sizes: Any = np.ones(self._batch_size, np.int32)
        done = np.arange(self._batch_size) >= len(prompts)  # rows beside the prompts are computed and not read
        penalised = sampling.repetition_penalty != 1
        seen: Any = np.zeros((self._batch_size, self._tokenizer.vocab_size if penalised else 0), bool)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)], sizes[row] = prompt, len(prompt)
            if penalised:
                seen[row, prompt] = True
        padded = np.array(numbers + [0] * (self._batch_size - len(numbers)))
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(padded)
        length = -(-room // _CACHE_STEP) * _CACHE_STEP
        cache, logits = self._prefill(self._params, tokens, sizes, min(self._max_length, length))
        sizes, seen = jnp.asarray(sizes), jnp.asarray(seen)  # of one kind in every call, else it is compiled twice
        write = _compiled_stride(self._step, self._tokenizer.vocab_size, sampling, stride)
        for start in range(0, most, stride):
            cache, logits, sizes, seen, written = write(self._step_params, cache, logits, sizes, seen, keys)
            yield gathered(written)[:, : most - start], done
            if done.all():
                return

    def _until_eos(self, ids: list[int]) -> tuple[list[int], bool]:
        """The ids before EOS, and whether there is one."""
        place = next((n for n, i in enumerate(ids) if i == self._tokenizer.eos_id or i in self._ends), None)
        return (ids, False) if place is None else (ids[:place], True)

    def _context(self, prompt: list[int]) -> list[int]:
        """The prompt without its BOS."""
        return prompt[prompt[0] == getattr(self._tokenizer, "bos_id", prompt[0]) :]

    def _text(self, prompt: list[int], ids: list[int], stop: Sequence[str]) -> tuple[str, bool]:
        """Text of the new ids up to EOS or the first stop text, and whether one of them was met."""
        ids, ended = self._until_eos(ids)
        # Decoded with the prompt: a tokenizer may drop a leading space of what it takes for a text's beginning.
        context = self._context(prompt)
        before, whole = self._tokenizer.decode(context), self._tokenizer.decode([*context, *ids])
        text = whole[len(before) :] if whole.startswith(before) else self._tokenizer.decode(ids)
        place = first_stop(text, stop)
        if place is not None or ended:
            return text[:place], True
        # The limit may fall between the bytes of a character.
        return text.rstrip(BROKEN), False


@functools.lru_cache(maxsize=8)
def decoder_functions(config: Any) -> tuple[PrefillFn, DecodeFn, Callable[[Any], Any]]:
    """The Decoder of a `DecoderConfig` as two plain functions, and what makes the parameters of the second from the model's.

    Equal configurations share them, and what is compiled for them. On a CPU single tokens are computed layer by layer: a
    scan copies each layer's weights out of the stack before it multiplies with them (benchmarks/decode_speed.py), so the
    step has a second copy of the parameters, one array a layer.
    """
    from ja_llm.models import decode

    apart, finish = _apart(config), _for_step(config)
    stepped = decode.unscanned(config) if apart else config

    def prefill(params: Any, tokens: jax.Array, lengths: jax.Array, cache_length: int) -> tuple[Any, jax.Array]:
        cache = decode.init_cache(config, tokens.shape[0], cache_length)
        cache, logits = decode.prefill(config, params, cache, tokens, lengths)
        return finish(cache), logits

    def step(params: Any, cache: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        return decode.decode_step(stepped, params, cache, tokens)

    return jax.jit(prefill, static_argnums=3), step, finish


def _apart(config: Any) -> bool:
    return config.scan_layers and jax.default_backend() == "cpu"


@functools.lru_cache(maxsize=8)
def _for_step(config: Any) -> Callable[[Any], Any]:
    """What makes parameters, or a cache, of the step from the model's."""
    from ja_llm.models import decode

    return jax.jit(functools.partial(decode.layers_apart, config)) if _apart(config) else (lambda tree: tree)


@functools.lru_cache(maxsize=32)
def _compiled_stride(step: DecodeFn, vocab_size: int, sampling: Sampling, length: int) -> Callable[..., Any]:
    def stride(params: Any, cache: Any, logits: jax.Array, sizes: jax.Array, seen: jax.Array, keys: jax.Array) -> Any:
        """Write `length` tokens to each row: (cache, logits, sizes, seen, tokens [B, length]). Rows that are done are written
        on, unread; what exceeds the cache is dropped by it, unread too."""

        def one(state: tuple, _: None) -> tuple[tuple, jax.Array]:
            cache, logits, sizes, seen = state
            draws = jax.vmap(jax.random.fold_in)(keys, sizes)
            chosen = choose(logits[:, :vocab_size], seen, draws, sampling)
            if seen.shape[-1]:
                seen = seen.at[jnp.arange(seen.shape[0]), chosen].set(True)
            cache, logits = step(params, cache, chosen)
            return (cache, logits, sizes + 1, seen), chosen

        state, tokens = jax.lax.scan(one, (cache, logits, sizes, seen), None, length=length)
        return (*state, tokens.T)

    return jax.jit(stride, donate_argnums=1)
