"""What an implementation is given: one call of attention(), checked and completed."""

import dataclasses

import jax

from ja_llm.attention.spans import Spans, packed_spans

Ids = jax.Array | tuple[jax.Array, jax.Array] | None
Pair = tuple[jax.Array, jax.Array] | None
Window = int | jax.Array | None
Result = tuple[jax.Array, jax.Array | None]


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments of `ja_llm.attention.attention`.

    Attributes:
      q: [B, Lq, H, D].
      k: [B, Lk, KV, D].
      v: [B, Lk, KV, D].
      segments: ([B, Lq], [B, Lk]) or None.
      positions: ([B, Lq], [B, Lk]) or None for indices.
      causal: hide keys at later positions.
      window: hide keys this much or more before the query.
      scale: of the scores.
      softcap: of the scores.
      ordered: queries and keys are the same packed rows in order, so that what a query sees is one interval (`spans`).
      want_lse: the log-sum-exp is asked for.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    segments: Pair
    positions: Pair
    causal: bool
    window: Window
    scale: float
    softcap: float | None
    ordered: bool
    want_lse: bool

    def spans(self) -> Spans:
        """What each query sees; of ordered rows only."""
        batch, length = self.q.shape[:2]
        return packed_spans(None if self.segments is None else self.segments[0], batch, length, self.causal, self.window)
