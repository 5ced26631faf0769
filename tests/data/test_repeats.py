"""Rows that repeat a short span: found exactly, without weight, and nothing else is changed."""

import numpy as np
import pytest

from ja_llm.data.batches import BatchSource
from ja_llm.data.repeats import repeating_rows
from ja_llm.data.stages import Stage, StagedBatches
from ja_llm.documents import Document, document_id

LENGTH, BATCH = 480, 4


def repeats(tokens, longest=13, times=32):
    """By the words of the definition: some span of 1 to 13 tokens that stands 32 times, one behind the other."""
    tokens = list(tokens)
    return any(
        tokens[at : at + span] * times == tokens[at : at + span * times]
        for span in range(1, longest + 1)
        for at in range(len(tokens) - span * times + 1)
    )


def planted(rng, span, tokens, length=500):
    """A row of numbers that all differ, in which a span of so many of them is repeated over `tokens` places somewhere."""
    row = np.arange(1000, 1000 + length, dtype=np.int32)
    at = rng.integers(0, length - tokens + 1)
    row[at : at + tokens] = np.resize(rng.permutation(900)[:span], tokens)
    return row


def pieces(rng, row):
    """A row in some pieces, as documents divide it."""
    return np.split(row, np.sort(rng.integers(0, len(row) + 1, rng.integers(0, 6))))


@pytest.mark.parametrize("span", range(1, 14))
def test_32_repetitions_of_a_span_are_found_wherever_they_stand_and_31_with_a_part_are_not(span):
    rng = np.random.default_rng(span)
    for _ in range(50):
        over, under = planted(rng, span, 32 * span), planted(rng, span, 32 * span - 1)
        assert repeating_rows([pieces(rng, over), pieces(rng, under), pieces(rng, over)]).tolist() == [True, False, True]
    assert repeats(over) and not repeats(under)
    for row in (over[over < 1000], np.resize(over[over < 1000], 500)):  # nothing but the span
        assert repeating_rows([[row]]).tolist() == [True]
    assert repeating_rows([[over[over < 1000][:-1]]]).tolist() == [False]


def test_a_span_of_14_is_none():
    assert not repeating_rows([[planted(np.random.default_rng(0), 14, 14 * 34)]])[0]


def test_random_rows_are_told_as_by_brute_force():
    """Few kinds of tokens, so that much is repeated some times; rows of many lengths, down to none."""
    rng = np.random.default_rng(7)
    seen = []
    for _ in range(40):
        rows = []
        for _ in range(6):
            row = rng.integers(0, rng.integers(2, 4), rng.integers(0, 200)).astype(np.int32)
            for _ in range(rng.integers(0, 4)):
                span, times = rng.integers(1, 14), rng.integers(28, 34)
                filler = rng.integers(0, 3, rng.integers(0, 40))
                row = np.concatenate([row, np.resize(rng.integers(0, 9, span), span * times + rng.integers(0, span)), filler])
            rows.append(row.astype(np.int32))
        found = repeating_rows([pieces(rng, row) for row in rows])
        assert found.tolist() == [repeats(row) for row in rows]
        seen += found.tolist()
    assert 0.2 < np.mean(seen) < 0.8


def test_what_goes_on_in_the_next_row_is_repeated_as_often_as_it_stands_in_each():
    half, rest = np.full(16 * 3, 5, np.int32), np.arange(100, 400, dtype=np.int32)
    tail, head = np.concatenate([rest, half[:31]]), np.concatenate([half[:31], rest])
    assert repeating_rows([[tail], [head], [half[:31]], [half[:31]]]).tolist() == [False] * 4
    assert repeating_rows([[rest, half[:16]], [half[:16], rest], [rest, half[:16], half[:16]]]).tolist() == [False, False, True]
    assert repeating_rows([]).tolist() == [] and repeating_rows([[], []]).tolist() == [False, False]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_cache, documents):
    """Documents, some of which repeat something, and one that ends in a row of its own; where rows are cut wherever they end, some are cut in the middle of that."""
    texts = [d.text for d in documents("en", 150, longest=200)]
    for i in range(20, 60, 8):
        texts[i], texts[i + 2] = "said: " + "ha! " * 32, "said: " + "ha! " * 31
    for i in range(70, 110):  # the same short document over and over: BOS o k EOS
        texts[i] = "ok"
    texts[130], texts[140] = "x" * 32, "".join(map(str, range(100, 200)))[: LENGTH // 2 + 10] * 3
    url = "https://example.org/"
    docs = [
        Document(document_id("test", f"{url}{i}", "", t), t, "test", f"{url}{i}", "en", "", "CC0-1.0")
        for i, t in enumerate(texts)
    ]
    return make_cache(tmp_path_factory.mktemp("repeats") / "cache", {"en": (1.0, docs)})


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_such_rows_have_no_weight_and_all_else_is_as_without_the_filter(folder, packing):
    arguments = {"length": LENGTH, "batch_size": BATCH, "seed": 5, "packing": packing}
    plain, filtered = BatchSource(folder, **arguments), BatchSource(folder, **arguments, repeat_filter=True)
    member = plain._members[0]
    masked, padded = set(), 0
    for step in range(-(-member.plan.rows // BATCH)):
        before, after = plain[step], filtered[step]
        for (_, row), r in zip(plain.row_identity(step), range(BATCH), strict=True):
            spans = member.plan.spans(row)
            tokens = [t for s in spans for t in member.store.read(*_ends(member, s)).tolist()]
            wanted = before["decoder_loss_weights"][r] * (0.0 if repeats(tokens) else 1.0)
            np.testing.assert_array_equal(after["decoder_loss_weights"][r], wanted)
            masked |= {row} if repeats(tokens) else set()
            padded += (before["decoder_segment_ids"][r] == 0).sum() > 40 and not repeats(tokens)
        for name in before.keys() - {"decoder_loss_weights"}:
            np.testing.assert_array_equal(before[name], after[name])
        halves = [filtered.local(step, shard, 2) for shard in range(2)]
        for name, whole in filtered[step].items():
            np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), whole)
    assert 3 <= len(masked) <= member.plan.rows / 2 and padded


def _ends(member, span):
    first = int(member.store.offsets[span.document]) + span.first_pair
    return first, first + span.pairs + 1


def test_the_filter_is_part_of_the_data_and_of_every_stage(folder):
    arguments = {"length": LENGTH, "batch_size": BATCH, "seed": 5}
    plain, filtered = (StagedBatches(folder, **arguments, repeat_filter=on) for on in (False, True))
    assert plain.fingerprint == BatchSource(folder, **arguments).fingerprint != filtered.fingerprint
    assert plain.schedule == filtered.schedule and filtered.repeat_filter and not plain.repeat_filter
    later, whole = (StagedBatches(folder, (Stage(str(folder), 3),), **arguments, repeat_filter=on) for on in (True, False))
    weights = [[b.local((1, step), 0, 1)["decoder_loss_weights"].sum() for step in range(9)] for b in (later, whole)]
    assert weights[0] != weights[1]
