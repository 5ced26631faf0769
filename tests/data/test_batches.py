import collections
import dataclasses
import itertools
import json
import threading
import time

import numpy as np
import pytest

from ja_llm.data.batches import BatchSource, ReadAhead, trace_text
from ja_llm.data.schedule import DataSchedule
from ja_llm.errors import JaLlmError, UsageError

LENGTH, BATCH = 32, 8
GOLDEN = "e78 j166 j134 j69 j265 j7 j41 j50 j92 j74 e7 j245 j30 j16 j20 j247 j208 j258 j215 j239 e92 j88 j257 j136"


@pytest.fixture(scope="module")
def docs(documents):
    return {"ja": documents("ja", 60), "en": documents("en", 50, longest=120)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_cache, docs):
    return make_cache(tmp_path_factory.mktemp("data") / "cache", {"ja": (0.9, docs["ja"]), "en": (0.1, docs["en"])})


@pytest.fixture(scope="module")
def source(folder):
    return BatchSource(folder, LENGTH, BATCH, seed=3)


def rows_of_epoch(source, task, epoch):
    """{row: (batch, row in batch)} of one member's epoch, read off the order of batches."""
    rows = source.statistics()[task]["rows"]
    seen, step = [], 0
    while len(seen) < rows * (epoch + 1):
        seen += [(row, step, b) for b, (t, row) in enumerate(source.row_identity(step)) if t == task]
        step += 1
    return {row: (step, b) for row, step, b in seen[rows * epoch : rows * (epoch + 1)]}


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_of_an_epoch_are_the_documents_and_nothing_else(folder, docs, byte_tokenizer, monkeypatch, in_memory):
    if not in_memory:
        monkeypatch.setattr("ja_llm.data.batches.SMALL_BYTES", 0)
    source = BatchSource(folder, LENGTH, BATCH, seed=3)
    assert all(m.store.in_memory == in_memory for m in source._members)
    for task in ("ja", "en"):
        pieces = collections.defaultdict(list)
        places = rows_of_epoch(source, task, epoch=1)
        assert sorted(places) == list(range(len(places)))
        for step, r in places.values():
            batch = {name: value[r] for name, value in source[step].items()}
            segments = batch["decoder_segment_ids"]
            for segment, (identity, start, stop) in enumerate(source.trace(step, r), start=1):
                here = segments == segment
                pieces[identity].append(
                    (start, batch["decoder_input_tokens"][here].tolist(), batch["decoder_target_tokens"][here].tolist())
                )
                assert batch["decoder_positions"][here].tolist() == list(range(start, stop - 1))
        cut = 0
        for document in docs[task]:
            parts = sorted(pieces.pop(document.id))
            inputs = [t for _, part, _ in parts for t in part]
            targets = [t for _, _, part in parts for t in part]
            stream = byte_tokenizer.document_ids(document.text)
            assert inputs == stream[:-1] and targets == stream[1:]
            cut += len(parts) > 1
        assert not pieces and cut > 5


def test_the_batch_contract(source):
    names = {
        "input_tokens": np.int32,
        "target_tokens": np.int32,
        "segment_ids": np.int32,
        "positions": np.int32,
        "loss_weights": np.float32,
    }
    padded = 0
    for step in range(40):
        batch = source[step]
        assert {k: (v.dtype, v.shape) for k, v in batch.items()} == {
            f"decoder_{k}": (dtype, (BATCH, LENGTH)) for k, dtype in names.items()
        }
        segments, inputs, targets = (batch[f"decoder_{k}"] for k in ("segment_ids", "input_tokens", "target_tokens"))
        assert np.array_equal(batch["decoder_loss_weights"], (segments > 0).astype(np.float32))
        real = segments > 0
        assert (segments[:, 0] == 1).all() and (segments[real] >= 1).all()
        steps = np.diff(segments, axis=1)
        assert np.isin(steps[real[:, 1:]], (0, 1)).all()
        same = (steps == 0) & real[:, 1:]
        assert (inputs[:, 1:][same] == targets[:, :-1][same]).all()
        # A segment that begins inside a row begins a document: BOS at position 0, after a segment that ended in EOS.
        begins = np.pad((steps == 1) & real[:, 1:], ((0, 0), (1, 0)))
        assert (inputs[begins] == 256).all() and (batch["decoder_positions"][begins] == 0).all()
        assert (targets[:, :-1][begins[:, 1:]] == 257).all()
        padded += (~real).any(axis=1).sum()
    assert padded > 0


def test_real_tokens_of_id_0_are_trained_on(source, docs, byte_tokenizer):
    expected = sum(byte_tokenizer.encode(d.text).count(0) for d in docs["ja"])
    found = 0
    for step, r in rows_of_epoch(source, "ja", 0).values():
        batch = source[step]
        found += ((batch["decoder_target_tokens"][r] == 0) & (batch["decoder_loss_weights"][r] == 1)).sum()
    assert found == expected > 500


@pytest.mark.parametrize("rates", [{"ja": 0.9, "en": 0.1}, {"ja": 0.7, "en": 0.3}, {"ja": 2 / 3, "en": 1 / 6, "more": 1 / 6}])
def test_shares_of_tokens_are_the_rates(tmp_path, make_cache, documents, rates):
    members = {task: (rate, documents("ja" if task == "ja" else "en", 200, seed=task)) for task, rate in rates.items()}
    source = BatchSource(make_cache(tmp_path / "c", members), LENGTH, 100, seed=0)
    tokens: collections.Counter = collections.Counter()
    for step in range(10):
        weights = source[step]["decoder_loss_weights"].sum(axis=1)
        for (task, _), weight in zip(source.row_identity(step), weights, strict=True):
            tokens[task] += int(weight)
    for task, rate in rates.items():
        assert tokens[task] / sum(tokens.values()) == pytest.approx(rate, abs=0.01)


def test_the_order_of_rows_is_what_it_was(source):
    # Grain 0.2.18's shuffle, and what its mix gave. A change here means that a resumed run would read other batches: pin Grain back.
    order = " ".join(f"{task[0]}{row}" for step in range(3) for task, row in source.row_identity(step))
    assert order == GOLDEN


def test_every_epoch_has_its_own_order_and_members_theirs(source):
    first, second = (list(rows_of_epoch(source, "ja", epoch)) for epoch in (0, 1))
    assert first != second and sorted(first) == sorted(second)
    assert first != sorted(first)


def test_the_order_in_which_a_mixture_lists_its_tasks_decides_nothing(tmp_path, make_cache, docs, source):
    swapped = make_cache(tmp_path / "c", {"en": (0.1, docs["en"]), "ja": (0.9, docs["ja"])})
    other = BatchSource(swapped, LENGTH, BATCH, seed=3)
    assert (other.mixture, other.fingerprint) == (source.mixture, source.fingerprint)
    assert_equal(other[5], source[5])


def test_another_seed_gives_another_order(folder, source):
    other = BatchSource(folder, LENGTH, BATCH, seed=4)
    assert other.row_identity(0) != source.row_identity(0)
    assert other.fingerprint == source.fingerprint
    assert BatchSource(folder, LENGTH * 2, BATCH, seed=3).fingerprint != source.fingerprint


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_a_batch_is_the_same_after_reopening_and_on_any_number_of_hosts(folder, source, hosts):
    again = BatchSource(folder, LENGTH, BATCH, seed=3)
    for step in (0, 7, 10_000_019):
        parts = [again.local(step, host, hosts) for host in range(hosts)]
        assert_equal(source[step], {k: np.concatenate([p[k] for p in parts]) for k in parts[0]})


def test_a_batch_that_hosts_can_not_share_is_refused(source):
    with pytest.raises(UsageError, match="multiple of the number of hosts"):
        source.local(0, 0, 3)


def test_200_tokens_lead_to_their_text(source, docs, byte_tokenizer):
    texts = {d.id: d.text for group in docs.values() for d in group}
    rng = np.random.default_rng(0)
    checked = 0
    while checked < 200:
        step, row, column = int(rng.integers(0, 50)), int(rng.integers(0, BATCH)), int(rng.integers(0, LENGTH))
        batch = {name: value[row] for name, value in source[step].items()}
        segment = batch["decoder_segment_ids"][column]
        if not segment:
            continue
        identity, start, _ = source.trace(step, row)[segment - 1]
        at = start + column - int(np.argmax(batch["decoder_segment_ids"] == segment))
        for token, index in ((batch["decoder_input_tokens"][column], at), (batch["decoder_target_tokens"][column], at + 1)):
            piece = trace_text(texts[identity], byte_tokenizer, index, index + 1)
            if token >= 256:
                assert piece == ""
            else:
                assert len(piece) == 1 and token in byte_tokenizer.encode(piece)
        checked += 1
    for step in range(5):
        for row in range(BATCH):
            inputs = source[step]["decoder_input_tokens"][row]
            for identity, start, stop in source.trace(step, row):
                stream = byte_tokenizer.document_ids(texts[identity])[start:stop]
                assert byte_tokenizer.decode(stream).strip("\ufffd") in trace_text(texts[identity], byte_tokenizer, start, stop)
                assert set(stream[:-1]) <= set(inputs.tolist())


def test_trace_text_of_whole_and_of_edges(byte_tokenizer):
    text = "aあb"
    assert trace_text(text, byte_tokenizer, 0, 7) == text
    assert [trace_text(text, byte_tokenizer, i, i + 1) for i in range(7)] == ["", "a", "あ", "あ", "あ", "b", ""]
    with pytest.raises(JaLlmError, match="outside this document"):
        trace_text(text, byte_tokenizer, 3, 9)


def test_a_store_of_another_cache_is_refused(tmp_path, make_cache, documents):
    docs = documents("ja", 20)
    # The same sizes throughout, one token differs.
    changed = [dataclasses.replace(docs[0], text=docs[0].text[:-1] + ("す" if docs[0].text[-1] != "す" else "で")), *docs[1:]]
    a, b = make_cache(tmp_path / "a", {"ja": (1.0, docs)}), make_cache(tmp_path / "b", {"ja": (1.0, changed)})
    (a / "ja").rename(tmp_path / "old")
    (b / "ja").rename(a / "ja")
    with pytest.raises(JaLlmError, match="not the one that the mixture was made with|bytes, but the manifest says"):
        BatchSource(a, LENGTH, BATCH, seed=0)
    mixture = json.loads((a / "manifest.json").read_text())
    entry = next(s for s in mixture["shards"] if s["name"] == "ja/train/manifest.json")
    entry["bytes"] = (a / "ja" / "train" / "manifest.json").stat().st_size
    (a / "manifest.json").write_text(json.dumps(mixture))
    with pytest.raises(JaLlmError, match="not the one that the mixture was made with"):
        BatchSource(a, LENGTH, BATCH, seed=0)
    with pytest.raises(JaLlmError, match="unfinished"):
        BatchSource(tmp_path / "old", LENGTH, BATCH, seed=0)


def test_a_changed_rate_is_refused(tmp_path, make_cache, documents):
    folder = make_cache(tmp_path / "a", {"ja": (1.0, documents("ja", 20))})
    value = json.loads((folder / "manifest.json").read_text())
    value["config"]["rates"]["ja"] = 0.5
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(JaLlmError, match="configuration was changed"):
        BatchSource(folder, LENGTH, BATCH, seed=0)


def test_a_split_that_is_not_there_is_named(folder):
    with pytest.raises(JaLlmError, match="no 'heldout' documents of ja, en"):
        BatchSource(folder, LENGTH, BATCH, seed=0, split="heldout")


def opened(source, positions, prefetch, shard=0, shards=1):
    return ReadAhead(lambda position: source.local(position[1], shard, shards), positions, prefetch)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_reading_ahead_gives_each_position_of_the_schedule_its_batch(source, prefetch):
    schedule = DataSchedule.single(source.mixture).with_skip(2, 5)
    with opened(source, map(schedule.position, range(1, 5)), prefetch) as batches:
        got = list(batches)
    assert [position for position, _ in got] == [(0, 1), (0, 7), (0, 8), (0, 9)]
    for (_, data_step), batch in got:
        assert_equal(batch, source[data_step])
    with opened(source, map(schedule.position, range(2, 99)), prefetch, shard=1, shards=2) as batches:
        assert_equal(next(batches)[1], source.local(7, 1, 2))


def test_closing_ends_the_thread_and_errors_reach_the_caller(source):
    before = threading.active_count()
    batches = opened(source, ((0, step) for step in itertools.count()), prefetch=2)
    next(batches)
    time.sleep(0.05)  # the queue is full now
    batches.close()
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(batches)
    with opened(source, [(0, -3)], prefetch=1) as broken, pytest.raises(IndexError):
        next(broken)
    assert threading.active_count() == before


def test_positions_stay_within_a_table_of_them(tmp_path, make_cache, documents):
    """As without a limit where a document's part ends within it, else counted from 0; never a position that the table has not."""
    folder = make_cache(tmp_path / "c", {"en": (1.0, documents("en", 12, longest=150))})
    free, bound = (BatchSource(folder, 32, 16, seed=0) for _ in range(2))
    bound.positions = 64
    beyond = 0
    for step in range(3):
        one, other = free[step], bound[step]
        for row in range(16):
            segments = one["decoder_segment_ids"][row]
            for segment in set(segments[segments > 0]):
                mine = segments == segment
                was, now = one["decoder_positions"][row][mine], other["decoder_positions"][row][mine]
                beyond += int(was[-1] >= 64)
                np.testing.assert_array_equal(now, was if was[-1] < 64 else np.arange(len(was)))
        np.testing.assert_array_equal(one["decoder_input_tokens"], other["decoder_input_tokens"])
    assert beyond > 3
