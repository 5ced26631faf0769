"""Who may see whom in a packed row."""

import jax


def document_mask(segment_ids: jax.Array, positions: jax.Array) -> jax.Array:
    """Causal inside each document, nothing between documents.

    Args:
      segment_ids: int [B, L]; 0 is padding, which sees nothing and is seen by nothing.
      positions: int [B, L], ascending inside a segment.

    Returns:
      bool [B, L, L]: query (axis 1) may see key (axis 2).
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    causal = positions[:, :, None] >= positions[:, None, :]
    return same & causal & (segment_ids[:, :, None] > 0)
