"""Which queries a device of the sequence axis computes, so that all have about the same tiles to do.

In rows of packed documents, equal shares of tokens are unequal shares of work: a causal row gives the last of four devices seven times the
tiles of the first, and documents of different lengths are no better. So tiles of queries are dealt by how many tiles of keys
they need. The decoder puts a batch's tokens in that order before its first layer and its hidden states back after the last one
(embedding, norms and products do not care where a token stands), and tells attention() by `order` where each token belongs.
"""

import jax
import jax.numpy as jnp

from ja_llm import sharding
from ja_llm.attention.call import Window
from ja_llm.attention.registry import IMPLEMENTATIONS, chosen
from ja_llm.attention.spans import packed_spans, query_tiles

TILE = 512  # tokens that stay together; a multiple of the kernels' tiles of queries


def order_over_mesh(name: str | None, segment_ids: jax.Array | None, batch: int, length: int, window: Window) -> jax.Array | None:
    """`balanced_order` for the mesh in use, int32 [B, L]; None where there is nothing to balance.

    That is: the sequence is not spread, or a device has fewer than two tiles, or they do not divide, or the implementation is somebody
    else's, which computes rows as they stand.

    Args:
      name: of the implementation; None: the platform's own.
      segment_ids: int [B or 1, L] of packed rows; None: each row is one document.
      batch: B.
      length: L.
      window: as in `attention`.
    """
    spec = sharding.fitted_spec(("batch", "length"), (batch, length))
    if spec is None or spec[1] is None or not IMPLEMENTATIONS[chosen(name)].own:
        return None
    parts = sharding.parts(jax.sharding.get_abstract_mesh(), spec[1])
    if length % (parts * TILE) or length < 2 * parts * TILE:
        return None
    segment_ids = jnp.ones((batch, length), jnp.int32) if segment_ids is None else jnp.broadcast_to(segment_ids, (batch, length))
    return balanced_order(segment_ids, parts, tile=TILE, window=window)


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
