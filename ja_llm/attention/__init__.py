"""Attention over packed documents: one function, implementations by name."""

import jax

from ja_llm.attention import reference, xla
from ja_llm.attention.masks import document_mask
from ja_llm.errors import UsageError

IMPLEMENTATIONS = {"reference": reference.attention, "xla": xla.attention}

__all__ = ["IMPLEMENTATIONS", "attention", "document_mask"]


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, mask: jax.Array, scale: float | None = None, implementation: str = "xla"
) -> jax.Array:
    """Masked attention with grouped key-value heads.

    Args:
      q: [B, Lq, H, D].
      k: [B, Lk, KV, D].
      v: [B, Lk, KV, D].
      mask: bool [B, Lq, Lk], see `document_mask`.
      scale: of the logits; D ** -0.5 when None.
      implementation: a name of IMPLEMENTATIONS; nothing falls back in silence.

    Returns:
      [B, Lq, H, D]; zeros where a query may see no key.
    """
    if implementation not in IMPLEMENTATIONS:
        raise UsageError(f"there is no attention {implementation!r}; there are {', '.join(IMPLEMENTATIONS)}.")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return IMPLEMENTATIONS[implementation](q, k, v, mask=mask, scale=scale)
