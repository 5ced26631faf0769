"""Other people's kernels behind attention(): opponents in benchmarks, and a way out where one of ours has a fault.

Each is guarded: what an installed release can't do, or lacks, is refused by name and version. None of them is a dependency.

cudnn: `jax.nn.dot_product_attention` for rows of one document; packed rows by jax's private cuDNN call with offsets (a release of jax
    may move it).
splash: jax's own TPU kernel; it compares segment ids in every tile and computes all tiles under the diagonal.
tokamax: `openxla/tokamax`, whose API is marked as under development; from 0.0.12, the first one for this jax.
"""

import importlib.metadata
import importlib.util
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.attention.call import Call, Result
from ja_llm.errors import InputError


def refuses(name: str, call: Call) -> str | None:
    """Why adapter `name` can't do the call, as the end of a sentence; None: it can."""
    if not call.causal:
        return "is adapted for causal attention only"
    if call.order is not None:
        return "computes rows as they stand and takes no order"
    if call.want_lse:
        return "is adapted without log-sum-exp (return_lse, sinks)"
    if call.window is not None and (name != "cudnn" or not isinstance(call.window, int)):
        return "is adapted without sliding windows" if name != "cudnn" else "takes a window that is a number, not an array"
    if name == "cudnn":
        if call.softcap is not None:
            return "has no soft-cap"
        if jnp.dtype(call.q.dtype) == jnp.float32:
            return "takes bfloat16 and float16 only"
        if call.segments is not None and _packed_cudnn() is None:
            return f"has no packed mode in jax {jax.__version__} (it is a private function there)"
        if call.segments is not None and isinstance(call.segments[0], jax.core.Tracer):
            return "needs the documents' offsets outside jit in its packed mode"
    if name == "splash":
        if importlib.util.find_spec(_SPLASH) is None:
            return f"is not part of jax {jax.__version__}"
        if call.q.shape[1] % 128:
            return f"takes lengths that are multiples of 128, not {call.q.shape[1]}"
    if name == "tokamax":
        if importlib.util.find_spec("tokamax") is None:
            return "needs the package tokamax, which is not installed"
        version = importlib.metadata.version("tokamax")
        if tuple(int(n) for n in re.findall(r"\d+", version)[:3]) < _TOKAMAX:
            return f"needs tokamax {'.'.join(map(str, _TOKAMAX))} or newer, not {version}"
        if call.softcap is not None:
            return "is adapted without soft-cap"
    return None


_SPLASH = "jax.experimental.pallas.ops.tpu.splash_attention"
_TOKAMAX = (0, 0, 12)
_PACKED_CUDNN = {"q_seqlen", "kv_seqlen", "q_offsets", "kv_offsets", "mask_type", "qkv_layout", "sliding_window_length"}


def _packed_cudnn() -> Any:
    """jax's private function with documents' offsets, or None where this jax has none with these arguments."""
    try:
        from jax._src.cudnn import fused_attention_stablehlo as module
    except ImportError:
        return None
    found = getattr(module, "dot_product_attention", None)
    return found if found is not None and inspect.signature(found).parameters.keys() >= _PACKED_CUDNN else None


def cudnn(call: Call) -> Result:
    """cuDNN's fused attention.

    Raises:
      InputError: this machine's JAX has no cuDNN.
    """
    try:
        return _cudnn(call)
    except RuntimeError as error:
        if "cudnn" not in str(error).lower():
            raise
        raise InputError(
            f"the attention implementation 'cudnn' can't run here: {str(error).splitlines()[0]} Install JAX's CUDA plugin with its cuDNN, or "
            "choose xla or reference."
        ) from error


def _cudnn(call: Call) -> Result:
    if call.segments is None:
        window: Any = None if call.window is None else (call.window - 1, 0)
        out = jax.nn.dot_product_attention(
            call.q, call.k, call.v, scale=call.scale, is_causal=True, local_window_size=window, implementation="cudnn"
        )
        return out, None
    segments = np.broadcast_to(np.asarray(call.segments[0]), call.q.shape[:2])  # one row of ids may stand for all
    offsets, lengths = document_offsets(segments)
    options: dict[str, Any] = {} if call.window is None else {"sliding_window_length": call.window}
    module = _packed_cudnn()
    out = module(
        call.q,
        call.k,
        call.v,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=call.scale,
        mask_type=_causal_mask_type(),
        qkv_layout="BTNH",
        **options,
    )
    real = jnp.asarray(segments)[..., None, None] != 0
    return jnp.where(real, out, 0), None


def _causal_mask_type() -> Any:
    from jax._src.cudnn.fused_attention_stablehlo import MaskType

    return MaskType.CAUSAL


def document_offsets(segment_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where documents begin and how long they are, in cuDNN's packed form.

    Args:
      segment_ids: int [B, L], 0 for padding.

    Returns:
      (offsets int32 [B, most + 1], lengths int32 [B, most]); unused places are -1.
    """
    rows = []
    for ids in segment_ids:
        edges = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1))
        ends = np.append(edges[1:], len(ids))
        rows.append([(start, end - start) for start, end in zip(edges, ends, strict=True) if ids[start] != 0])
    most = max((len(row) for row in rows), default=0)
    offsets, lengths = np.full((len(rows), most + 1), -1, np.int32), np.full((len(rows), most), -1, np.int32)
    for i, row in enumerate(rows):
        for j, (start, length) in enumerate(row):
            offsets[i, j], lengths[i, j] = start, length
    return offsets, lengths


def splash(call: Call) -> Result:
    """jax's splash attention on TPUs."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads = call.q.shape[1], call.q.shape[2]
    causal = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
    block = next(b for b in (512, 256, 128) if length % b == 0)
    names = (
        "block_q",
        "block_kv",
        "block_kv_compute",
        "block_q_dkv",
        "block_kv_dkv",
        "block_kv_dkv_compute",
        "block_q_dq",
        "block_kv_dq",
    )
    blocks: Any = dict.fromkeys(names, block)
    run = kernel.make_splash_mha(
        causal,
        block_sizes=kernel.BlockSizes(**blocks),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=call.softcap,
    )
    ids = None
    if call.segments is not None:
        segments = jnp.broadcast_to(call.segments[0], call.q.shape[:2])
        ids = kernel.SegmentIds(segments, segments)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (call.q * call.scale, call.k, call.v))
    out = jnp.swapaxes(jax.vmap(run)(q.astype(call.q.dtype), k, v, ids), 1, 2)
    return out if call.segments is None else jnp.where(call.segments[0][..., None, None] != 0, out, 0), None


def tokamax(call: Call) -> Result:
    """tokamax.dot_product_attention, with first and last visible key of each query."""
    import tokamax as package

    spans = call.spans()
    mask = package.Mask(k_start=jnp.minimum(spans.first, call.k.shape[1])[:, None], k_end=(spans.last + 1)[:, None])
    out = package.dot_product_attention(call.q, call.k, call.v, scale=call.scale, mask=mask)
    return jnp.where((spans.last >= 0)[..., None, None], out, 0), None
