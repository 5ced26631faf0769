"""Keys and values of token prefixes that many rows share (worked examples, instructions), computed once each.

A shared prefix is cut at a multiple of BLOCK tokens, as paged caches do: texts that happen to agree in a few more tokens still
share one prefix, and what is kept of a prefix is a function of its tokens alone, whatever was computed before. All functions
have few shapes: lengths come from `bucket`.
"""

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.models import decode
from ja_llm.models.config import DecoderConfig

BLOCK = 64
_SMALLEST = 8
Ids = tuple[int, ...]


def bucket(size: int, largest: int) -> int:
    """The padded length for `size` tokens: 8, 16, 32, 64, then also the halfway points 96, 128, 192, 256, ...; at most `largest`."""
    power = max(_SMALLEST, 1 << (size - 1).bit_length())
    halfway = power * 3 // 4
    return min(halfway if power > BLOCK and size <= halfway else power, largest)


def shared_blocks(contexts: Sequence[Ids], fewest: int) -> list[int]:
    """For each context how many of its first tokens count as a shared prefix: a multiple of BLOCK, 0 for none.

    The longest that at least `fewest` different contexts begin with.
    """
    different = list(dict.fromkeys(contexts))
    counts: collections.Counter = collections.Counter()
    for context in different:
        counts.update(context[:end] for end in range(BLOCK, len(context) + 1, BLOCK))
    longest = {
        context: max((end for end in range(BLOCK, len(context) + 1, BLOCK) if counts[context[:end]] >= fewest), default=0)
        for context in different
    }
    return [longest[context] for context in contexts]


class PrefixCache:
    """Caches (`models/decode.py`) that begin with a shared prefix.

    Args:
      config: of the model.
      params: of the model.
      keep: prefixes that are kept; the one that was not asked for longest goes first.
    """

    def __init__(self, config: DecoderConfig, params: Any, keep: int = 4):
        self.config, self._keep = config, keep
        self._functions = functions(config)
        self._known: collections.OrderedDict[Ids, Any] = collections.OrderedDict()
        self.params = params
        self.computed = 0  # tokens that went through the model for prefixes

    def use(self, params: Any) -> None:
        """Take these parameters from now on; what was kept is of the old ones."""
        self.params = params
        self._known.clear()

    def rows(self, prefix: Ids, batch: int, length: int) -> Any:
        """A cache of `batch` rows and `length` slots, each row filled with the prefix (() for an empty cache)."""
        if not prefix:
            return self._functions.empty(batch, length)
        if prefix not in self._known:
            size = bucket(len(prefix), self.config.max_length)
            tokens = np.zeros((1, size), np.int32)
            tokens[0, : len(prefix)] = prefix
            start = self._functions.empty(1, size)
            self._known[prefix] = self._functions.extend(self.params, start, tokens, np.array([len(prefix)], np.int32))
            self.computed += len(prefix)
        self._known.move_to_end(prefix)
        while len(self._known) > self._keep:
            self._known.popitem(last=False)
        return self._functions.rows(self._known[prefix], batch, length)

    def prefill(
        self, plain: Callable[..., tuple[Any, jax.Array]], finish: Callable[[Any], Any] = lambda cache: cache
    ) -> Callable[..., tuple[Any, jax.Array]]:
        """A generator's prefill that computes what all prompts of a batch begin with, and prompts that are equal, only once.

        Args:
          plain: (parameters, tokens [B, L], lengths [B], cache length) -> (cache, logits [B, vocab]), used where nothing is shared.
          finish: makes of a cache what `plain` gives.

        Returns:
          The same function of the same arguments.
        """

        def prefill(params: Any, tokens: Any, lengths: Any, cache_length: int) -> tuple[Any, jax.Array]:
            tokens, sizes = np.asarray(tokens), np.asarray(lengths)
            if tokens.shape[1] <= BLOCK:  # so a row of one token below is none of the prompts
                return plain(params, tokens, lengths, cache_length)
            first: dict[Ids, int] = {}  # prompt -> its first row; rows beside the prompts are read by nobody
            same = [
                first.setdefault(tuple(row[:size].tolist()), n) if size > 1 else 0
                for n, (row, size) in enumerate(zip(tokens, sizes, strict=True))
            ]
            kept = list(first.values())
            kept += kept[:1] * ((1 << (len(kept) - 1).bit_length()) - len(kept)) if kept else []  # few numbers of rows
            if kept and len(kept) < len(tokens):  # several texts are drawn for a prompt
                cache, logits = prefill(params, tokens[kept], sizes[kept], cache_length)
                index = np.array([kept.index(row) if row in kept else 0 for row in same], np.int32)
                return self._functions.take(cache, index), logits[index]
            prompts = [tuple(row[: size - 1].tolist()) for row, size in zip(tokens, sizes, strict=True) if size > 1]
            shared = min(shared_blocks(prompts, len(set(prompts))), default=0) if len(set(prompts)) > 1 else 0
            if not shared:
                return plain(params, tokens, lengths, cache_length)
            rest = np.where(sizes > shared, sizes - shared, 0).astype(np.int32)  # 0: a row beside the prompts
            width = bucket(int(rest.max()), self.config.max_length)
            own = np.zeros((len(tokens), width), np.int32)
            part = tokens[:, shared : shared + width]
            own[:, : part.shape[1]] = part
            cache = self.rows(prompts[0][:shared], len(tokens), max(cache_length, shared))
            cache, logits = self._functions.prefill(self.params, cache, own, rest)
            return finish(cache), logits

        return prefill


class Functions:
    """Compiled functions on the caches of one configuration.

    Attributes:
      extend: (params, cache, tokens int32 [B, n], lengths int32 [B]) -> the cache with the tokens.
      prefill: the same -> (cache, logits float32 [B, vocab] after each row's last token).
      rows: (cache of one row, rows, slots) -> a cache of so many copies with so many slots, at least as many as it has.
      take: (cache, rows int32 [n]) -> a cache of these of its rows.
      empty: (rows, slots) -> an empty cache.
    """

    def __init__(self, config: DecoderConfig):
        self.extend = jax.jit(lambda *rest: decode.prefill(config, *rest)[0])
        self.prefill = jax.jit(functools.partial(decode.prefill, config))
        self.rows = jax.jit(_rows, static_argnums=(1, 2))
        self.take = jax.jit(_take)
        self.empty = functools.lru_cache(maxsize=4)(functools.partial(decode.init_cache, config))


@functools.lru_cache(maxsize=8)
def functions(config: DecoderConfig) -> Functions:
    """The functions of a configuration; equal ones share what is compiled."""
    return Functions(config)


def _row_axis(array: jax.Array) -> int:
    return 0 if array.ndim == 2 else array.ndim - 4  # "filled" is [B, slots]; keys and values [..., B, slots, heads, width]


def _take(cache: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda array: jnp.take(array, rows, axis=_row_axis(array)), cache)


def _rows(cache: Any, rows: int, slots: int) -> Any:
    def one(array: jax.Array) -> jax.Array:
        axis = _row_axis(array)
        more = [(0, slots - size if place == axis + 1 else 0) for place, size in enumerate(array.shape)]
        return jnp.repeat(jnp.pad(array, more), rows, axis=axis)

    return jax.tree.map(one, cache)
