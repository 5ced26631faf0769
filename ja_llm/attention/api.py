"""attention(): what every implementation computes, and which one does."""

from collections.abc import Callable

import jax

from ja_llm.attention import reference, xla
from ja_llm.errors import UsageError

IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {"reference": reference.attention, "xla": xla.attention}

Ids = jax.Array | tuple[jax.Array, jax.Array] | None


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segment_ids: Ids = None,
    positions: Ids = None,
    causal: bool = True,
    window: int | jax.Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    implementation: str = "xla",
) -> jax.Array:
    """Grouped-query attention over packed rows.

    Query i sees key j when both have the same segment id, that id is not 0 (padding), and, with `causal`, the key's position
    is not after the query's and, with `window`, less than that before it. Scores, softmax and sums are float32. A query that sees nothing (padding) gives zeros, with zero
    gradient. What a query does not see has no influence on its output, not even in the last bit.

    Args:
      q: [B, Lq, H, D].
      k: [B, Lk, KV, D]; KV divides H, and query head h reads key-value head h // (H // KV).
      v: [B, Lk, KV, D].
      segment_ids: int [B, L] for queries and keys alike, or a pair ([B, Lq], [B, Lk]); None: one segment, no padding.
      positions: int, as `segment_ids`. One array says that the row is packed in order: inside a segment, a key that stands
        after a query in the row has a later position. Implementations use that to skip work. A pair may be in any order (a
        cache, a prefix that sees itself whole, a sequence split over devices). None: the index in the row.
      causal: see above.
      window: positions that a query sees, its own counted (Longformer, arXiv 2004.05150; Mistral, arXiv 2310.06825); a whole
        number, or an int scalar array where layers of one compiled body differ; None: no bound. With a number, work beyond
        the window is skipped too.
      scale: of the scores; D ** -0.5 when None.
      softcap: the scaled scores s become softcap * tanh(s / softcap) (Gemma 2, arXiv 2408.00118, section 2); None: they stay.
      implementation: "xla" or "reference".

    Returns:
      [B, Lq, H, D] of q's dtype.

    Raises:
      UsageError: an unknown implementation.
      ValueError: shapes do not fit together.
    """
    if implementation not in IMPLEMENTATIONS:
        raise UsageError(f"there is no attention implementation {implementation!r}; choose one of {', '.join(IMPLEMENTATIONS)}.")
    if q.shape[-1] != k.shape[-1] or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2] % k.shape[2]:
        raise ValueError(f"attention shapes do not fit: q {q.shape}, k {k.shape}, v {v.shape}")
    # Only one row of ids for queries and keys, or none at all, promises the order that lets implementations skip work.
    ordered = q.shape[1] == k.shape[1] and not isinstance(positions, tuple)
    return IMPLEMENTATIONS[implementation](
        q,
        k,
        v,
        segments=segment_ids if segment_ids is None or isinstance(segment_ids, tuple) else (segment_ids, segment_ids),
        positions=positions if positions is None or isinstance(positions, tuple) else (positions, positions),
        causal=causal,
        window=window,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        softcap=softcap,
        ordered=ordered,
    )
