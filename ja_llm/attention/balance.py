"""Which queries a device of the sequence axis computes, so that all have about the same tiles to do.

In rows of packed documents, equal shares of tokens are unequal shares of work: a causal row gives the last of four devices seven times the
tiles of the first, and documents of different lengths are no better. So tiles of queries are dealt by how many tiles of keys
they need. The whole batch is put in that order once, before the model (embedding, norms and products do not care where a token
stands), and attention() is told by `order` where each token belongs.
"""

import jax
import jax.numpy as jnp

from ja_llm.attention.call import Window
from ja_llm.attention.spans import packed_spans, query_tiles


def balanced_order(
    segment_ids: jax.Array, parts: int, *, tile: int = 512, window: Window = None, causal: bool = True
) -> jax.Array:
    """An order of each row's tokens in which `parts` equal pieces need about equally many tiles.

    Args:
      segment_ids: int [B, L] of packed rows; L is a multiple of parts * tile.
      parts: devices along the sequence.
      tile: how many tokens stay together; the kernels' tile of queries or a multiple.
      window: as in `attention`.
      causal: as in `attention`.

    Returns:
      int32 [B, L]: the place that the token at each index has in its packed row. Reorder every array of the batch with
      `jnp.take_along_axis(array, order, axis=1)`.
    """
    batch, length = segment_ids.shape
    spans = packed_spans(segment_ids, batch, length, causal, window)
    table = query_tiles(spans, tile, tile, length)
    # Largest first, dealt there and back (0 1 2 3 3 2 1 0 ...): each part gets as many tiles, and about as much to do.
    rank = jnp.argsort(jnp.argsort(table[..., 0] - table[..., 3], axis=1), axis=1)
    turn, place = rank // parts, rank % parts
    part = jnp.where(turn % 2 == 0, place, parts - 1 - place)
    tiles = jnp.argsort(part, axis=1, stable=True)  # inside a part in the row's order
    return (tiles[..., None] * tile + jnp.arange(tile)).reshape(batch, length).astype(jnp.int32)
