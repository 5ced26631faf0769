"""New rows are means of old rows; everything else stays the same object."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.vocab.initialise import RowRule, count_sources, expand_params, mean_rows, new_rows
from ja_llm.vocab.prove_rows import prove_rows


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


def test_frequency_weighs_by_counts_plus_one():
    table = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 8.0]], np.float32)
    rule = RowRule("frequency", counts={0: 2, 1: 0})
    assert new_rows(table, [[0, 1]], rule).tolist() == [[0.5, 1.5]]  # weights 3/4 and 1/4
    assert count_sources([[0, 0, 5], [1, 0]], [[0, 1], [2]]) == {0: 3, 1: 1, 2: 0}
    assert np.array_equal(new_rows(table, [[0, 1], [2]], RowRule("frequency")), mean_rows(table, [[0, 1], [2]]))


def test_nearest_is_the_brute_force_cosine_neighbour():
    rng = np.random.default_rng(3)
    table = rng.normal(size=(40, 6)).astype(np.float32)
    sources = [list(rng.integers(0, 40, rng.integers(1, 5))) for _ in range(300)]
    rows = new_rows(table, sources, RowRule("nearest"))
    for row, ids in zip(rows, sources, strict=True):
        mean = table[ids].astype(np.float64).mean(0)
        best = max(range(40), key=lambda i: table[i] @ mean / (np.linalg.norm(table[i]) * np.linalg.norm(mean)))
        assert np.array_equal(row, table[best])
    assert np.array_equal(new_rows(table, [[7]], RowRule("nearest"))[0], table[7])
    for spoilt in (None, 299):  # beyond the first block of rows that are proven together
        if spoilt:
            rows[spoilt] = table[np.flatnonzero((table != rows[spoilt]).any(1))[0]]
        told = []
        prove_rows(
            lambda *entry, told=told, **figures: told.append((entry, figures)),
            "embedding",
            table,
            rows,
            sources,
            RowRule("nearest"),
            0,
        )
        ((_, passed, reason), figures) = told[0]
        assert passed == (spoilt is None) and figures["wrong"] == (spoilt is not None) and (not spoilt or "[299]" in reason)


def test_random_rows_have_the_tables_spread_a_seed_and_a_stream():
    table = np.random.default_rng(0).normal(0, 0.05, size=(500, 16)).astype(np.float32)
    sources = [[1]] * 2000
    one = new_rows(table, sources, RowRule("random", seed=1))
    assert one.std() == pytest.approx(0.05, rel=0.03) and abs(one.mean()) < 1e-3
    assert np.array_equal(one, new_rows(table, sources, RowRule("random", seed=1)))
    assert not np.array_equal(one, new_rows(table, sources, RowRule("random", seed=2)))
    assert not np.array_equal(one, new_rows(table, sources, RowRule("random", seed=1), stream=1))


def test_embedding_and_head_take_rules_of_their_own_and_padding_is_zero():
    old, sources = tree(False), [[3, 4], [1, 2]]
    new = expand_params(old, sources, base_size=5, padding=3, embedding=RowRule("nearest"), head=RowRule("random", seed=4))
    embedding, kernel = new["token_embedder"]["embedding"], new["logits_dense"]["kernel"]
    assert embedding.shape == (10, 4) and kernel.shape == (4, 10)
    assert np.array_equal(embedding[:5], old["token_embedder"]["embedding"][:5])
    assert not embedding[7:].any() and not kernel[:, 7:].any()
    assert np.array_equal(kernel[:, 5:7].T, new_rows(old["logits_dense"]["kernel"].T[:5], sources, RowRule("random", seed=4), 1))
    with pytest.raises(UsageError, match="no rows of its own"):
        expand_params(tree(True), sources, head=RowRule("mean"))
    with pytest.raises(UsageError, match="can't be made by 'median'"):
        RowRule("median")


@pytest.mark.parametrize("method", ["mean", "frequency", "nearest", "random"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_each_rule_is_proven_and_one_wrong_row_is_found(method, dtype):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(30, 8)).astype(dtype)
    sources = [list(rng.integers(0, 30, rng.integers(1, 5))) for _ in range(50)]
    rule = RowRule(method, counts={i: int(i) for i in range(30)}, seed=5)
    assert RowRule.from_json(json.loads(json.dumps(rule.to_json()))).method == method
    rows = new_rows(table, sources, RowRule.from_json(rule.to_json()), stream=1)
    told = {}

    def add(name, passed, reason, **figures):
        told[name] = (passed, reason, figures)

    prove_rows(add, "head", table, rows, sources, rule, 1)
    ((name, (passed, _, figures)),) = told.items()
    assert passed and name.startswith("head_rows_are") and figures["wrong"] == 0
    if dtype is np.float32 and method in ("mean", "frequency"):
        assert figures["max_abs_error"] <= 1e-6
    for spoil in (lambda r: r.__setitem__((7, 2), r[7, 2] + dtype(0.05)), lambda r: r.__setitem__((7, 2), np.nan)):
        wrong = rows.copy()
        spoil(wrong)
        prove_rows(add, "head", table, wrong, sources, rule, 1)
        assert not told[name][0] and "[7]" in told[name][1]
