"""Who sees whom, pair by pair: the definition of the mask, for rows in any order (packed rows in order have `spans`)."""

import jax
import jax.numpy as jnp

from ja_llm.attention.call import Pair, Window


def visible(
    segments: Pair, positions: Pair, causal: bool, q_length: int, k_length: int, window: Window = None
) -> jax.Array | None:
    """Bool [B or 1, Lq, Lk]: query i sees key j; None when everything is visible.

    Args:
      segments: ([B, Lq], [B, Lk]) or None.
      positions: ([B, Lq], [B, Lk]) or None for indices.
      causal: hide keys at later positions.
      q_length: Lq.
      k_length: Lk.
      window: hide keys whose position is this much or more before the query's.
    """
    mask = None
    q, k = positions if positions is not None else (jnp.arange(q_length)[None], jnp.arange(k_length)[None])
    if causal:
        mask = k[:, None, :] <= q[:, :, None]
    if window is not None:
        near = q[:, :, None] - k[:, None, :] < window
        mask = near if mask is None else mask & near
    if segments is not None:
        q, k = segments
        same = (q[:, :, None] == k[:, None, :]) & (k[:, None, :] != 0)
        mask = same if mask is None else mask & same
    return mask
