"""New rows are means of old rows; everything else stays the same object."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.errors import JaLlmError
from ja_llm.vocab.initialise import expand_params, mean_rows


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_rows_are_brute_force_means(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    table = rng.normal(size=(13, 5)).astype(np.float32)
    sources = data.draw(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=9), max_size=6))
    rows = mean_rows(table, sources)
    assert rows.shape == (len(sources), 5)
    for row, ids in zip(rows, sources, strict=True):
        for d in range(5):
            exact = sum(float(table[i, d]) for i in ids) / len(ids)
            assert abs(float(row[d]) - exact) <= 2e-7 * max(1.0, abs(exact))


def test_known_numbers_and_an_id_that_stands_twice():
    table = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 8.0]], np.float32)
    assert mean_rows(table, [[0, 1], [2], [0, 0, 2]]).tolist() == [
        [1.0, 2.0],
        [4.0, 8.0],
        [np.float32(4 / 3), np.float32(10 / 3)],
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_sums_are_exact_before_the_one_rounding(dtype):
    """In bfloat16 256 + 1 is 256: a sum in the table's own dtype would lose the ones."""
    table = np.array([[256.0], [1.0]], dtype)
    rows = mean_rows(table, [[0, 1, 1, 1, 1]])
    assert rows.dtype == dtype
    assert rows[0, 0] == dtype(52.0)


def tree(tied: bool, vocab: int = 6, width: int = 4) -> dict:
    rng = np.random.default_rng(0)
    params = {
        "token_embedder": {"embedding": rng.normal(size=(vocab, width)).astype(np.float32), "other": np.zeros(3)},
        "decoder": {"layers": {"mlp": {"wi": rng.normal(size=(width, 8))}}},
    }
    return params if tied else params | {"logits_dense": {"kernel": rng.normal(size=(width, vocab)).astype(np.float32)}}


@pytest.mark.parametrize("tied", [True, False])
def test_both_tables_grow_and_other_leaves_are_the_same_objects(tied):
    old, sources = tree(tied), [[3, 4, 5], [1]]
    kept = {k: v.copy() for k, v in old["token_embedder"].items()}
    new = expand_params(old, sources)
    embedding = new["token_embedder"]["embedding"]
    assert embedding.shape == (8, 4)
    assert np.array_equal(embedding[:6], old["token_embedder"]["embedding"])
    assert np.allclose(embedding[6], old["token_embedder"]["embedding"][3:6].mean(0), atol=1e-7)
    assert np.array_equal(embedding[7], old["token_embedder"]["embedding"][1])
    assert new["decoder"] is old["decoder"]
    assert new["token_embedder"]["other"] is old["token_embedder"]["other"]
    assert ("logits_dense" in new) == (not tied)
    if not tied:
        kernel = new["logits_dense"]["kernel"]
        assert kernel.shape == (4, 8)
        assert np.array_equal(kernel[:, :6], old["logits_dense"]["kernel"])
        assert np.allclose(kernel[:, 6], old["logits_dense"]["kernel"][:, 3:6].mean(1), atol=1e-7)
    assert all(np.array_equal(old["token_embedder"][k], v) for k, v in kept.items())  # the old tree is as it was


def test_wrong_sources_and_trees_are_refused():
    table = np.zeros((4, 2), np.float32)
    for ids in ([], [4], [-1]):
        with pytest.raises(JaLlmError, match="new piece 1 has the sources"):
            mean_rows(table, [[0], ids])
    with pytest.raises(JaLlmError, match="no token_embedder/embedding"):
        expand_params({"decoder": {}}, [[0]])
    bad = tree(False)
    bad["logits_dense"]["kernel"] = np.zeros((4, 5), np.float32)
    with pytest.raises(JaLlmError, match="the head"):
        expand_params(bad, [[0]])
