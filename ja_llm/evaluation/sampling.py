"""Which token comes next: the settings of a draw, and the draw itself."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ja_llm.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits; the steps are taken in the order of the attributes, as transformers takes them.

    Attributes:
      repetition_penalty: logits of tokens that the row already has, its prompt counted in, are divided by it where positive
        and multiplied where negative (CTRL, arXiv 1909.05858, section 4.1, as transformers has it for both signs); 1: none.
      temperature: 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
      top_k: draw from so many likeliest tokens only (arXiv 1805.04833, section 5.4), and those that tie with the last; 0: all.
      top_p: draw from the likeliest tokens alone that together have this probability (arXiv 1904.09751, section 3.1).
      min_p: leave out tokens whose probability is below this share of the likeliest one's (arXiv 2407.01082, section 3).

    Raises:
      UsageError: a value is out of range.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        ranges = {
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "a number above 0"),
            "temperature": (0 <= self.temperature < math.inf, "a number from 0"),
            "top_k": (self.top_k >= 0, "a whole number from 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
        }
        for name, (fits, wanted) in ranges.items():
            if not fits:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {wanted}.")


def choose(logits: jax.Array, seen: jax.Array, draws: jax.Array, sampling: Sampling) -> jax.Array:
    """The next token of each row.

    Args:
      logits: [B, V], without the rows that pad an embedding table.
      seen: bool [B, V], the tokens that each row has; of any shape where there is no repetition penalty.
      draws: a random key a row; not read by a greedy choice.
      sampling: the settings.

    Returns:
      int32 [B].
    """
    logits = logits.astype(jnp.float32)
    if sampling.repetition_penalty != 1:
        penalty = jnp.float32(sampling.repetition_penalty)
        logits = jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
    if not sampling.temperature:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(draws, drawn_from(logits, sampling)).astype(jnp.int32)


def drawn_from(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits float32 [B, V] of the distribution that tokens are drawn from: -inf for what is left out."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        last = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < last, -jnp.inf, logits)
    if sampling.top_p < 1:
        logits = nucleus(logits, sampling.top_p)
    if sampling.min_p > 0:
        shares = jax.nn.softmax(logits, axis=-1)
        logits = jnp.where(shares < sampling.min_p * shares.max(axis=-1, keepdims=True), -jnp.inf, logits)
    return logits


def nucleus(logits: jax.Array, top_p: float) -> jax.Array:
    """The logits, -inf where the likelier tokens alone have the probability `top_p` already; the likeliest one always stays."""
    order = jnp.argsort(-logits, axis=-1)
    shares = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    dropped = jnp.cumsum(shares, axis=-1) - shares >= top_p
    ranks = jnp.argsort(order, axis=-1)
    return jnp.where(jnp.take_along_axis(dropped, ranks, axis=-1), -jnp.inf, logits)
