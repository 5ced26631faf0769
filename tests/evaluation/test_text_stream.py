"""Streamed text is the whole text, in whole characters, whatever tokens it comes in; stop texts may straddle tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.evaluation.text_stream import TextStream, first_stop
from ja_llm.vocab.train import train_sentencepiece

TEXTS = ["The harbour wakes before the sun does.", "朝の市場には、採れたての野菜が並びます。", "a b  c   d"]
JAPANESE = st.text("朝市場の a、🙂é\n ", max_size=12)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """SentencePiece with byte fallback: a character that is no piece comes in two to four tokens."""
    return train_sentencepiece([t * 3 for t in TEXTS] * 20, tmp_path_factory.mktemp("vocab"), vocab_size=340)


@pytest.fixture(scope="module")
def byte_level():
    """Byte-level BPE whose tokens may begin and end within characters."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from ja_llm.vocab.hf_tokenizer import HFTokenizer

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    model.train_from_iterator([t + "🙂🙃、。" for t in TEXTS] * 20, trainer)
    return HFTokenizer(json.dumps(json.loads(model.to_str())), 0, 0)


def streamed(tokenizer, prompt, ids, stop=(), step=1):
    stream = TextStream(tokenizer, prompt, stop)
    out = [stream.add(ids[n : n + step]) for n in range(0, len(ids), step)]
    return [*out, stream.finish()], stream.stopped


def test_a_token_without_text_does_not_swallow_the_space_behind_it(pieces):
    ids = [*pieces.encode("The"), pieces.bos_id, *pieces.encode("harbour")]
    out, _ = streamed(pieces, pieces.encode("a"), ids)
    assert "".join(out) == pieces.decode([*pieces.encode("a"), *ids])[1:] == " The harbour"


@settings(max_examples=200, deadline=None)
@given(prompt=JAPANESE, text=JAPANESE, step=st.integers(1, 4))
def test_a_text_comes_whole_in_pieces_without_broken_characters(pieces, byte_level, prompt, text, step):
    for tokenizer in (pieces, byte_level):
        ids = tokenizer.encode(prompt + text)
        for cut in range(len(ids) + 1):
            before, whole = tokenizer.decode(ids[:cut]), tokenizer.decode(ids)
            out, _ = streamed(tokenizer, ids[:cut], ids[cut:], step=step)
            assert "\ufffd" not in "".join(out)
            if not before.endswith("\ufffd"):
                assert "".join(out) == whole[len(before) :]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_ids_give_text_without_broken_characters_and_lose_no_good_one(pieces, byte_level, data):
    ids = data.draw(st.lists(st.integers(1, 339), max_size=14))  # control pieces too, which give no text
    for tokenizer in (pieces, byte_level):
        text = "".join(streamed(tokenizer, [], ids)[0])
        assert "\ufffd" not in text
        whole = tokenizer.decode(ids)
        if tokenizer is byte_level or "\ufffd" not in whole:
            assert text == whole.replace("\ufffd", "")


@settings(max_examples=200, deadline=None)
@given(
    text=st.text("ab\n", max_size=14), stop=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), step=st.integers(1, 3)
)
def test_stop_texts_end_it_wherever_the_tokens_end(byte_level, text, stop, step):
    expected = text
    for end in range(len(text) + 1):  # the first that is complete when characters come one by one
        if found := [s for s in stop if text[:end].endswith(s)]:
            expected = text[: end - max(map(len, found))]
            break
    out, stopped = streamed(byte_level, [], byte_level.encode(text), stop, step)
    assert "".join(out) == expected and stopped == any(s in text for s in stop)
    place = first_stop(text, stop)
    assert text[:place] == expected


def test_what_may_become_a_stop_text_is_held_back_and_given_at_the_end(byte_level):
    stream = TextStream(byte_level, [], ["\nQuestion:"])
    assert stream.add(byte_level.encode("yes\nQuest")) == "yes"
    assert stream.add(byte_level.encode("s")) == "\nQuests"
    assert stream.add(byte_level.encode("\nQue")) == "" and stream.finish() == "\nQue" and not stream.stopped
