"""Spans and tables against brute force over all pairs, for any documents, window and tiles."""

import jax.numpy as jnp
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ja_llm.attention.spans import Spans, key_tiles, packed_spans, pad_spans, query_tiles, visited
from tests.attention.exact import packed, visible

LENGTH = 64
documents = st.lists(st.lists(st.integers(1, 40), max_size=12), min_size=1, max_size=2)
options = [(True, None), (True, 1), (True, 11), (False, None), (False, 11)]


def ids(rows: list[list[int]]) -> np.ndarray:
    return np.stack([packed(lengths, LENGTH)[0] for lengths in rows])


@settings(max_examples=25, deadline=None)
@given(rows=documents, option=st.sampled_from(options), tile=st.sampled_from([(8, 8), (16, 8), (4, 32)]))
@example(rows=[[1] * 64], option=(True, None), tile=(8, 8))  # every token its own document
@example(rows=[[64], []], option=(True, None), tile=(16, 8))  # one document; nothing
@example(rows=[[8, 8, 16, 32]], option=(True, None), tile=(8, 8))  # borders on edges of tiles
@example(rows=[[7, 20, 37]], option=(True, None), tile=(8, 8))  # of a tile of keys the last alone is seen by later queries
@example(rows=[[7, 1, 17, 31]], option=(False, 11), tile=(8, 8))  # and off them
def test_tables_hold_every_visible_pair_and_no_tile_too_many(rows, option, tile):
    segments, (queries, keys) = ids(rows), tile
    spans = packed_spans(jnp.asarray(segments), len(rows), LENGTH, *option)
    mask = visible(segments, *option)
    place = np.arange(LENGTH)
    first, last = (np.asarray(x)[:, :, None] for x in spans)
    np.testing.assert_array_equal((first <= place) & (place <= last), mask)

    by_tile = mask.reshape(len(rows), LENGTH // queries, queries, LENGTH // keys, keys).transpose(0, 1, 3, 2, 4)
    some, whole = by_tile.any((3, 4)), by_tile.all((3, 4))
    for table, turn in ((query_tiles, (0, 1, 2)), (key_tiles, (0, 2, 1))):
        bounds = np.asarray(table(spans, queries, keys, LENGTH))
        assert bounds.dtype == np.int32 and (np.diff(bounds, axis=-1) >= 0).all()
        number = np.arange(some.transpose(turn).shape[2])
        needed = (bounds[..., :1] <= number) & (number < bounds[..., 3:])
        unmasked = (bounds[..., 1:2] <= number) & (number < bounds[..., 2:3])
        np.testing.assert_array_equal(needed, some.transpose(turn))  # exact, not merely enough
        np.testing.assert_array_equal(unmasked, whole.transpose(turn))


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=8), seed=st.integers(0, 99))
def test_queries_in_another_order_are_covered_too(lengths, seed):
    segments = ids([lengths])
    order = np.random.default_rng(seed).permutation(LENGTH)
    spans = Spans(*(x[:, order] for x in packed_spans(jnp.asarray(segments), 1, LENGTH, True)))
    by_tile = visible(segments)[:, order].reshape(8, 8, 8, 8).transpose(0, 2, 1, 3)
    for table, turn in ((query_tiles, (0, 1)), (key_tiles, (1, 0))):
        bounds, number = np.asarray(table(spans, 8, 8, LENGTH))[0], np.arange(8)
        assert not (by_tile.any((2, 3)).transpose(turn) & ~((bounds[:, :1] <= number) & (number < bounds[:, 3:]))).any()
        assert not (((bounds[:, 1:2] <= number) & (number < bounds[:, 2:3])) & ~by_tile.all((2, 3)).transpose(turn)).any()


def test_padding_makes_queries_that_see_nothing():
    spans = pad_spans(packed_spans(None, 1, 10, True), 16)
    assert np.asarray(query_tiles(spans, 8, 8, 16))[0].tolist() == [[0, 0, 0, 1], [0, 2, 2, 2]]
    assert (np.asarray(spans.last)[0, 10:] == -1).all()


def test_the_share_of_visited_tiles_is_that_of_the_arithmetic():
    one = np.ones((1, 64), np.int32)
    assert visited(one, 8, 8) == {"visited": 36, "causal": 36, "share": 1.0, "exact": 1.0}
    eight = np.repeat(np.arange(1, 9), 8)[None]
    assert visited(eight, 8, 8) == {"visited": 8, "causal": 36, "share": 8 / 36, "exact": 8 * 36 / (64 * 65 / 2)}
    assert visited(one, 8, 8, window=1)["visited"] == 8


def test_pairs_of_many_long_rows_are_counted_past_32_bits():
    rows = np.ones((5, 32768), np.int32)  # 2.7e9 visible pairs
    assert visited(rows, 1024, 1024)["exact"] == 1.0
