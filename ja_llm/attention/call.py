"""What an implementation is given: one call of attention(), checked and completed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.attention.spans import Spans, documents, packed_spans

Array = jax.Array | np.ndarray  # numpy's stays concrete inside jit, which cuDNN's packed mode needs of ids
Ids = Array | tuple[Array, Array] | None
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
      order: int [B, L], the place in its packed row of each token of rows that were put in another order; None: as they stand.
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
    order: jax.Array | None = None

    def by_documents(self) -> "Call":
        """The call with segment ids that no two documents of a row share, from ids and positions; ordered rows only.

        So every implementation reads the same from ids that go back and from positions that restart, also under jit, where nobody can
        look at them.
        """
        ids: Any
        given = [pair[0] for pair in (self.segments, self.positions) if pair is not None]
        if not self.ordered or not given:
            return self
        if self.order is None and not any(isinstance(x, jax.core.Tracer) for x in given):
            if self.segments is not None:
                return self  # `checks.check_ids` has looked at them, and cuDNN's packed mode wants them as they are
            begins = np.diff(np.asarray(given[0]), axis=1) != 1
            ids = np.broadcast_to(1 + np.pad(begins, ((0, 0), (1, 0))).cumsum(axis=1, dtype=np.int32), self.q.shape[:2])
            return dataclasses.replace(self, segments=(ids, ids))
        segments, positions = (
            None if pair is None else jnp.broadcast_to(pair[0], self.q.shape[:2]) for pair in (self.segments, self.positions)
        )
        if self.order is not None:
            places = self.places()
            segments, positions = (None if x is None else jnp.take_along_axis(x, places, axis=1) for x in (segments, positions))
        ids = documents(segments, positions)
        if self.order is not None:
            ids = jnp.take_along_axis(ids, self.order, axis=1)
        return dataclasses.replace(self, segments=(ids, ids))

    def spans(self) -> Spans:
        """What each query sees, in places of the packed row; of ordered rows only."""
        batch, length = self.q.shape[:2]
        segments = None if self.segments is None else jnp.broadcast_to(self.segments[0], (batch, length))
        if self.order is None:
            return packed_spans(segments, batch, length, self.causal, self.window)
        if segments is not None:
            segments = jnp.take_along_axis(segments, self.places(), axis=1)
        spans = packed_spans(segments, batch, length, self.causal, self.window)
        return Spans(*(jnp.take_along_axis(x, self.order, axis=1) for x in spans))

    def places(self) -> jax.Array:
        """The inverse of `order`: where the token of each place stands."""
        assert self.order is not None
        return jnp.argsort(self.order, axis=1)
