"""Packed rows through seqio are our batches; an example's row weighs its targets alone, also where id 0 is a token."""

import numpy as np
import pytest

from ja_llm.data.batches import BatchSource
from ja_llm.errors import JaLlmError, UsageError

LENGTH, BATCH = 24, 4


@pytest.fixture(scope="module")
def rows():
    from ja_llm.data import packed_rows

    return packed_rows


@pytest.fixture(scope="module")
def cache(tmp_path_factory, make_cache, documents):
    members = {"web_ja": (0.75, documents("ja", 30)), "web_en": (0.25, documents("en", 30))}
    return make_cache(tmp_path_factory.mktemp("rows") / "tokens", members)


@pytest.fixture(scope="module")
def task(rows, cache, byte_tokenizer):
    from ja_llm.data.seqio_vocabulary import SeqioVocabulary

    return rows.add_rows_task(cache, SeqioVocabulary(byte_tokenizer), LENGTH, seed=3)


def read(rows, task, count, shard=(0, 1), lengths=None):
    import seqio

    dataset = seqio.get_dataset(
        task.name,
        {"targets": LENGTH} if lengths is None else lengths,
        dataset_split="train",
        shuffle=True,  # the stock gin files ask for it
        feature_converter=rows.ModelFeatures(pack=True),
        shard_info=seqio.ShardInfo(*shard),
        use_cached=True,
        seed=7,
        batch_size=BATCH // shard[1],
    )
    return list(dataset.take(count).as_numpy_iterator())


def test_batches_through_seqio_are_ours(rows, task, cache):
    source = BatchSource(cache, LENGTH, BATCH, 3)
    zeros = 0
    for step, batch in enumerate(read(rows, task, 6)):
        assert batch.keys() == source[step].keys()
        for name, value in source[step].items():
            np.testing.assert_array_equal(batch[name], value)
        zeros += int(((batch["decoder_target_tokens"] == 0) & (batch["decoder_loss_weights"] == 1)).sum())
    assert zeros, "id 0 is a token of this vocabulary and must keep its weight"


def test_two_hosts_share_each_batch(rows, task, cache):
    source = BatchSource(cache, LENGTH, BATCH, 3)
    halves = [read(rows, task, 3, shard=(index, 2)) for index in range(2)]
    for step in range(3):
        both = np.concatenate([half[step]["decoder_input_tokens"] for half in halves])
        assert sorted(map(tuple, both)) == sorted(map(tuple, source[step]["decoder_input_tokens"]))


def test_a_run_that_goes_on_begins_at_its_row(rows, cache, byte_tokenizer):
    from ja_llm.data.seqio_vocabulary import SeqioVocabulary

    later = rows.add_rows_task(cache, SeqioVocabulary(byte_tokenizer), LENGTH, seed=3, first_row=2 * BATCH)
    (batch,) = read(rows, later, 1)
    np.testing.assert_array_equal(batch["decoder_input_tokens"], BatchSource(cache, LENGTH, BATCH, 3)[2]["decoder_input_tokens"])


def test_wrong_use_is_a_sentence(rows, task, cache, byte_tokenizer):
    from ja_llm.data.seqio_vocabulary import SeqioVocabulary

    class Other(type(byte_tokenizer)):
        fingerprint = "0" * 64

    with pytest.raises(JaLlmError, match="another vocabulary than the model's"):
        rows.add_rows_task(cache, SeqioVocabulary(Other()), LENGTH)
    with pytest.raises(UsageError, match="first_row is -1"):
        rows.add_rows_task(cache, SeqioVocabulary(byte_tokenizer), LENGTH, first_row=-1)
    with pytest.raises(UsageError, match="rows of 32 tokens, but the rows were made of 24"):
        read(rows, task, 1, lengths={"targets": 32})


@pytest.mark.parametrize(
    ("inputs", "targets", "length"), [([9, 0, 4], [0, 7], 8), ([9, 0, 4], [0, 7], 4), ([5], [0], 1), ([1, 2, 3], [4], 2)]
)
def test_a_row_of_one_example_weighs_its_targets_alone(rows, inputs, targets, length):
    row = {name: value.numpy() for name, value in rows.example_row(np.int32(inputs), np.int32(targets), length).items()}
    assert {value.shape for value in row.values()} == {(length,)}
    tokens = [*inputs, *targets]
    pairs = min(length, len(tokens) - 1)
    assert row["decoder_input_tokens"][:pairs].tolist() == tokens[:pairs]
    assert row["decoder_target_tokens"][:pairs].tolist() == tokens[1 : pairs + 1]
    weighed = [place for place in range(length) if row["decoder_loss_weights"][place]]
    assert weighed == [place for place in range(pairs) if place + 1 >= len(inputs)]
    assert row["decoder_causal_attention"].sum() == min(len(inputs), length)
    assert row["decoder_segment_ids"].tolist() == [1] * pairs + [0] * (length - pairs)
    assert row["decoder_positions"].tolist() == [*range(pairs), *[0] * (length - pairs)]
