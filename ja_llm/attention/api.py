"""attention(): what every implementation computes, and which one does."""

import jax
import jax.numpy as jnp

from ja_llm.attention import checks
from ja_llm.attention.call import Call, Ids
from ja_llm.attention.registry import check_available, chosen


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
    sinks: jax.Array | None = None,
    implementation: str | None = None,
    return_lse: bool = False,
    order: jax.Array | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Grouped-query attention over packed rows.

    Query i sees key j when both have the same segment id, that id is not 0 (padding), and, with `causal`, the key's position
    is not after the query's and, with `window`, less than that before it. Scores, softmax and sums are float32. A query that
    sees nothing (padding) gives zeros, with zero gradient. What a query does not see has no influence on its output, not even
    in the last bit, as long as it is finite: a hidden value has the weight 0, and 0 times NaN is no 0. Gradients are the same bits in
    every run.

    Args:
      q: [B, Lq, H, D] of float32, bfloat16 or float16.
      k: [B, Lk, KV, D] of the same dtype; KV divides H, and query head h reads key-value head h // (H // KV).
      v: [B, Lk, KV, D].
      segment_ids: int [B, L] for queries and keys alike, or a pair ([B, Lq], [B, Lk]); None: one segment, no padding. In one
        array equal ids stand together; which id a document has does not matter.
      positions: int, as `segment_ids`. One array says that the row is packed in order: inside a document each token's position
        is the one before it plus 1, and where it is not, the next document begins (segment ids may then be left out). Implementations use
        that to skip work. A pair may be in any order (a cache, a prefix that sees itself whole). None: the index in the row.
      causal: see above.
      window: positions that a query sees, its own counted (Longformer, arXiv 2004.05150; Mistral, arXiv 2310.06825); a whole
        number, or an int scalar array where layers of one compiled body differ; None: no bound.
      scale: of the scores; D ** -0.5 when None.
      softcap: the scaled scores s become softcap * tanh(s / softcap) (Gemma 2, arXiv 2408.00118, section 2); None: they stay.
      sinks: float [H], a further score of each head that takes weight and gives no value (arXiv 2309.17453, section 3.3, as a
        learned scalar); None: none. The returned lse counts them.
      implementation: a name of `ja_llm.attention.registry.IMPLEMENTATIONS`; None: the platform's own (said once in the log):
        "tpu" on TPUs, "triton" on GPUs, "xla" elsewhere. What the named one can't do is refused; there is no other one in its place.
      order: int [B, L]: the rows were put in another order over devices (`ja_llm.attention.balance`), and this is the place that each token has in
        its packed row; all other arrays are in the new order. None: as they stand.
      return_lse: also give the natural log-sum-exp of the visible scores.

    Returns:
      [B, Lq, H, D] of q's dtype; with `return_lse` also float32 [B, Lq, H], -inf where a query sees nothing.

    Raises:
      InputError (a ValueError): shapes, dtypes, head dimension, ids or positions do not fit, or the implementation is not known, not
        on this platform, or can't do what is asked. Values of ids, positions and order are looked at outside jit only; inside, an id that goes
        back or a position that disagrees with the ids begins a document.
    """
    checks.check_arrays(q, k, v, sinks)
    window = checks.checked_window(window)
    softcap, scale = checks.checked_number("softcap", softcap), checks.checked_number("scale", scale)
    checks.check_causal(causal)
    name = chosen(implementation)
    ordered = q.shape[1] == k.shape[1] and not isinstance(positions, tuple) and not isinstance(segment_ids, tuple)
    call = Call(
        q=q,
        k=k,
        v=v,
        segments=checks.checked_pair("segment_ids", segment_ids),
        positions=checks.checked_pair("positions", positions),
        causal=bool(causal),
        window=window,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        softcap=softcap,
        ordered=ordered,
        want_lse=return_lse or sinks is not None,
        order=order,
    )
    checks.check_ids(call)
    call = call.by_documents()
    out, lse = check_available(name, call).compute(call)
    if sinks is not None:
        assert lse is not None
        out, lse = _with_sinks(out, lse, sinks)
    return (out, lse) if return_lse else out  # type: ignore[return-value]


def _with_sinks(out: jax.Array, lse: jax.Array, sinks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weight that goes to nobody: the softmax over one more score is the old one times sigmoid(lse - score)."""
    nothing = jnp.isneginf(lse)
    finite, scores = jnp.where(nothing, 0.0, lse), sinks.astype(jnp.float32)
    kept = jnp.where(nothing, 0.0, jax.nn.sigmoid(finite - scores))
    return (out * kept[..., None]).astype(out.dtype), jnp.where(nothing, -jnp.inf, jnp.logaddexp(finite, scores))
