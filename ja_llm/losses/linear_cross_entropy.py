"""Cross-entropy of the head's logits without the logits: tokens go through in slabs, and a slab's gradient is made while its logits are there.

For 32k tokens and 131k ids the logits are 17 GB in float32, and their gradient as much again. A slab of some two thousand
tokens needs its own part only; as its gradients of hidden states and head are computed in the forward pass (as in Liger, arXiv
2410.10989, section 3), nothing has to be computed twice: three products, as with logits that are kept. What remains for the
backward pass is a multiplication by the loss's cotangent, so a loss may be scaled by anything that is one number for the batch.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ja_llm import sharding
from ja_llm.attention.registry import platform
from ja_llm.errors import InputError

# float32 logits of a slab on one device, by platform. At 131k ids and width 4096 each slab reads and writes 4 GB for the gradient of the
# head beside its products (3 * 2 * 2048 * 4096 * 131k = 6.6 TFLOP in 2048 tokens), so that product does a FLOP a byte for every 4
# tokens: 512 where a slab is 2048 tokens. A TPU v6e needs about as many to be kept busy (918 TFLOP/s, 1.6 TB/s), and smaller slabs save a
# TPU nothing, as XLA lays a slab's logits where the result will stand (benchmarks/results/attention_aot.json). A Hopper GPU needs 150 to
# 200, so there half a slab costs little and leaves the memory that the compiler may not share.
SLAB_BYTES = {"gpu": 2**29}
_SLAB_BYTES = 2**30  # elsewhere
_LEAST_SLAB = 128
_NO_ID = -1e30  # logit of a padding row: `ja_llm.models.decoder.PADDING_LOGIT`


class TokenLosses(NamedTuple):
    """Sums over the batch, and each token's part of them.

    Attributes:
      loss_sum: float32, sum of weight * (lse - logit of the target + z_loss * lse^2); the only one with a gradient: what is derived
        through another one raises InputError, or under jit gives gradients that are no numbers.
      z_loss_sum: float32, the last term's share of it.
      weight_sum: float32.
      loss: float32 [B, L], unweighted, 0 where the weight is 0.
      lse: float32 [B, L], 0 where the weight is 0.
    """

    loss_sum: jax.Array
    z_loss_sum: jax.Array
    weight_sum: jax.Array
    loss: jax.Array
    lse: jax.Array


class _Settings(NamedTuple):
    z_loss: float
    softcap: float | None
    rows: int
    ids: int
    slab: int | None


def linear_cross_entropy(
    x: jax.Array,
    w: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
    padding_rows: int = 0,
    slab: int | None = None,
) -> TokenLosses:
    """What `cross_entropy(x @ w, targets, weights, z_loss)` gives, in bounded memory.

    Products are of x's dtype with float32 results; log-sum-exp, losses and the sum of the head's gradient over slabs are
    float32; products of float32 are not rounded on the way, on any device. A token of weight 0 adds nothing, whatever its hidden state
    and target are, not even where they are not finite or out of range. Over a mesh (`ja_llm.sharding.use`) each device computes its
    tokens and its part of the vocabulary. Outside a gradient no gradient is computed.

    Args:
      x: float [B, L, embed], hidden states.
      w: float [embed, vocab], the head; used in x's dtype, its gradient is made in float32 and given in w's own.
      targets: int [B, L], ids: from 0 to vocab - padding_rows - 1 where the weight is not 0 (looked at outside jit only; a padding row as
        a target costs 1e30).
      weights: float [B, L].
      z_loss: coefficient of the squared log-normaliser (PaLM, arXiv 2204.02311, section 5).
      softcap: logits become softcap * tanh(logit / softcap) (Gemma 2, arXiv 2408.00118, section 2).
      padding_rows: columns at the end of `w` that stand for no id: they have no probability and no gradient.
      slab: tokens at once on a device; None: as many as have the platform's `SLAB_BYTES` of logits.

    Raises:
      InputError (a ValueError): shapes or dtypes do not fit, or a number is out of range.
    """
    _check_arrays(x, w, targets, weights)
    _check_options(w.shape[1], z_loss, softcap, padding_rows, slab)
    _check_targets(targets, weights, w.shape[1] - padding_rows)
    settings = _Settings(float(z_loss), softcap, w.shape[1], w.shape[1] - padding_rows, slab)
    weights = weights.astype(jnp.float32)
    loss_sum, (z_sum, loss, lse) = _losses(settings, x, w, targets, weights)
    return TokenLosses(loss_sum, z_sum, weights.sum(), loss, lse)


def _check_arrays(x: Any, w: Any, targets: Any, weights: Any) -> None:
    for name, array in (("x", x), ("w", w), ("targets", targets), ("weights", weights)):
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise InputError(f"the loss's {name} is a {type(array).__name__}; give an array.")
    if x.ndim != 3 or w.ndim != 2 or x.shape[2] != w.shape[0] or targets.shape != x.shape[:2] or weights.shape != x.shape[:2]:
        raise InputError(
            f"loss shapes do not fit: x {tuple(x.shape)}, w {tuple(w.shape)}, targets {tuple(targets.shape)}, weights "
            f"{tuple(weights.shape)}; they are [B, L, embed], [embed, vocab], [B, L] and [B, L]."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating) or not jnp.issubdtype(w.dtype, jnp.floating):
        raise InputError(f"loss dtypes are x {x.dtype}, w {w.dtype}; both have to be floats.")
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise InputError(f"loss targets are {targets.dtype}; they have to be integers.")


def _check_options(rows: int, z_loss: float, softcap: float | None, padding_rows: int, slab: int | None) -> None:
    if not 0 <= z_loss < math.inf:
        raise InputError(f"the coefficient z_loss is {z_loss!r}; give 0 or a positive number.")
    if not 0 <= padding_rows < rows:
        raise InputError(f"padding_rows is {padding_rows} of {rows} rows; at least one must be an id.")
    if softcap is not None and not 0 < softcap < math.inf:
        raise InputError(f"the loss's softcap is {softcap!r}; give a positive number, or None.")
    if slab is not None and slab < 1:
        raise InputError(f"the loss's slab is {slab} tokens; give 1 or more, or None.")


def _check_targets(targets: Any, weights: Any, ids: int) -> None:
    if any(isinstance(x, jax.core.Tracer) for x in (targets, weights)):
        return
    counted = np.asarray(targets)[np.asarray(weights) != 0]
    wrong = counted[(counted < 0) | (counted >= ids)]
    if len(wrong):
        raise InputError(f"a target is {wrong[0]}, where the head has the ids 0 to {ids - 1}; give such a token the weight 0.")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(settings: _Settings, x: jax.Array, w: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, tuple]:
    """(loss sum, (z sum, loss [B, L], lse [B, L]))."""
    loss_sum, *rest, _ = _over_mesh(settings, x, w, targets, weights, False)
    return loss_sum, tuple(rest)


def _save(settings: _Settings, x: jax.Array, w: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[tuple, tuple]:
    loss_sum, z_sum, loss, lse, gradients = _over_mesh(settings, x, w, targets, weights, True)
    return (loss_sum, (z_sum, loss, lse)), (*gradients, loss, w)


def _backward(settings: _Settings, saved: tuple, cotangents: tuple) -> tuple:
    dx, dw, loss, w = saved
    by, others = cotangents[0], jax.tree.leaves(cotangents[1])
    used = functools.reduce(jnp.logical_or, [(other != 0).any() for other in others])
    if not isinstance(used, jax.core.Tracer) and used:
        raise InputError(
            "a gradient is asked for through z_loss_sum, loss or lse of linear_cross_entropy, which have none; derive loss_sum, with the "
            "wanted weights."
        )
    by = jnp.where(used, jnp.nan, by)  # under jit nothing can be raised, and gradients of 0 would go unnoticed
    return (dx * by).astype(dx.dtype), (dw * by).astype(w.dtype), None, loss * by


_losses.defvjp(_save, _backward)


def _over_mesh(settings: _Settings, x: jax.Array, w: jax.Array, targets: jax.Array, weights: jax.Array, gradient: bool) -> tuple:
    """(loss sum, z sum, loss [B, L], lse [B, L], (dx, dw) or ()), each device with its tokens and its columns of `w`."""
    of_x = sharding.fitted_spec(("batch", "length", None), x.shape)
    of_w = sharding.fitted_spec((None, "vocab"), w.shape)
    if of_x is None or of_w is None:
        return _on_device(settings, (), (), x, w, targets, weights, gradient=gradient)
    over_tokens = sharding.as_tuple(of_x[0]) + sharding.as_tuple(of_x[1])
    over_ids = tuple(axis for axis in sharding.as_tuple(of_w[1]) if axis not in over_tokens)
    of_w, of_ids = PartitionSpec(None, over_ids or None), PartitionSpec(*of_x[:2])
    return jax.shard_map(
        functools.partial(_on_device, settings, over_tokens, over_ids, gradient=gradient),
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(of_x, of_w, of_ids, of_ids),
        out_specs=(PartitionSpec(), PartitionSpec(), of_ids, of_ids, (of_x, of_w) if gradient else ()),
        check_vma=False,
    )(x, w, targets, weights)


def _on_device(
    settings: _Settings, over_tokens: tuple, over_ids: tuple, x: Any, w: Any, targets: Any, weights: Any, gradient: bool
) -> tuple:
    """As `_over_mesh`, from a device's own part."""
    batch, length, embed = x.shape
    tokens, columns = batch * length, w.shape[1]
    slab = min(settings.slab or _slab_tokens(columns), tokens)
    number = -(-tokens // slab)
    head = w.astype(x.dtype)
    start = jax.lax.axis_index(over_ids) * columns if over_ids else 0

    def split(array: jax.Array) -> jax.Array:
        array = array.reshape(tokens, *array.shape[2:])
        array = jnp.pad(array, ((0, number * slab - tokens), *((0, 0),) * (array.ndim - 1)))
        return array.reshape(number, slab, *array.shape[1:])

    def one(dw: Any, part: Any) -> Any:
        losses, g = _slab(settings, over_ids, start, head, part[0], part[1], part[2], gradient)
        if g is None:
            return dw, losses
        dx = _product(g, head, 1, 1)
        if over_ids:
            dx = jax.lax.psum(dx, over_ids)
        dw = dw + _product(_counted(part[0], part[2]), g, 0, 0)
        return dw, (*losses, dx.astype(x.dtype))

    parts = tuple(split(array) for array in (x, targets, weights))
    dw = jnp.zeros(w.shape, jnp.float32) if gradient else None
    if number == 1:  # no loop: nothing for a compiler to copy in and out of
        dw, parts = one(dw, tuple(part[0] for part in parts))
    else:
        dw, parts = jax.lax.scan(one, dw, parts)
    loss, z_term, lse, *dx = (part.reshape(-1, *part.shape[(1 if number == 1 else 2) :])[:tokens] for part in parts)
    weights = weights.reshape(tokens)
    sums = (jnp.where(weights != 0, weights * term, 0.0).sum() for term in (loss, z_term))
    loss_sum, z_sum = (jax.lax.psum(term, over_tokens) if over_tokens else term for term in sums)
    gradients = (dx[0].reshape(x.shape), jax.lax.psum(dw, over_tokens) if over_tokens else dw) if gradient else ()
    return loss_sum, z_sum, loss.reshape(batch, length), lse.reshape(batch, length), gradients


def _slab_tokens(columns: int) -> int:
    """A power of two."""
    return max(_LEAST_SLAB, 2 ** int(math.log2(max(SLAB_BYTES.get(platform(), _SLAB_BYTES) // (4 * columns), 1))))


def _product(a: jax.Array, b: jax.Array, of_a: int, of_b: int) -> jax.Array:
    """Over one dimension of each, summed in float32; float32 inputs are not rounded to fewer bits, as accelerators do by default."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, (((of_a,), (of_b,)), ((), ())), precision=precision, preferred_element_type=jnp.float32)


def _counted(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Zeros in place of the states that do not count: 0 times what is not finite is no 0."""
    return jnp.where(weights[:, None] != 0, x, 0)


def _slab(
    settings: _Settings, over_ids: tuple, start: Any, head: Any, x: Any, targets: Any, weights: Any, gradient: bool
) -> tuple[tuple, jax.Array | None]:
    """Losses, z terms and lse, each [n], of the tokens x [n, embed]; and the weighted gradient of their logits [n, columns]."""
    raw = _product(x, head, 1, 0)
    cap = settings.softcap
    tanh = None if cap is None else jnp.tanh(raw / cap)
    logits = raw if cap is None or tanh is None else cap * tanh
    column = jax.lax.broadcasted_iota(jnp.int32, raw.shape, 1) + start
    if settings.ids < settings.rows:
        logits = jnp.where(column < settings.ids, logits, _NO_ID)

    def over_all(f: Any, value: jax.Array) -> jax.Array:
        return f(value, over_ids) if over_ids else value

    largest = over_all(jax.lax.pmax, jax.lax.stop_gradient(logits.max(axis=1)))
    total = over_all(jax.lax.psum, jnp.exp(logits - largest[:, None]).sum(axis=1))
    lse = largest + jnp.log(total)
    place = jnp.clip(targets, 0, settings.rows - 1).astype(jnp.int32) - start  # among this device's columns, or beyond them
    chosen = jnp.take_along_axis(logits, place[:, None], axis=1, mode="clip")[:, 0]
    chosen = over_all(jax.lax.psum, jnp.where((place >= 0) & (place < raw.shape[1]), chosen, 0.0))
    counted = weights != 0
    z_term = settings.z_loss * lse**2
    losses = tuple(jnp.where(counted, value, 0.0) for value in (lse - chosen + z_term, z_term, lse))
    if not gradient:
        return losses, None
    probability = jnp.exp(logits - lse[:, None])
    g = weights[:, None] * (probability * (1.0 + 2.0 * settings.z_loss * lse)[:, None] - (column == (place + start)[:, None]))
    if tanh is not None:
        g = g * (1.0 - tanh * tanh)
    if settings.ids < settings.rows:
        g = jnp.where(column < settings.ids, g, 0.0)
    return losses, jnp.where(counted[:, None], g, 0.0).astype(x.dtype)  # 0 * inf is no 0
