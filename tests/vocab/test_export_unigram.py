"""A unigram model as tokenizer.json: transformers and tokenizers give SentencePiece's ids on ten thousand lines, and any text."""

import random

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.errors import JaLlmError
from ja_llm.files import canonical_json
from ja_llm.vocab.export import tokenizer_json
from ja_llm.vocab.export_unigram import equally_likely
from ja_llm.vocab.sentencepiece_tokenizer import CONTROL, NORMAL, USER_DEFINED, SentencePieceTokenizer
from ja_llm.vocab.train import train_sentencepiece
from ja_llm.vocab.train_joint import Part, train_joint
from ja_llm.vocab.unigram import expand_unigram


@pytest.fixture(scope="module", params=["plain", "expanded", "joint", "without <", "with <s"])
def ours(request, english, code, japanese, base_japanese, tmp_path_factory):
    folder = tmp_path_factory.mktemp("v")
    if request.param == "joint":
        parts = [Part("ja", [japanese], 420, 8, True, "word"), Part("en", [english], 300), Part("code", [code], 180)]
        return train_joint(parts, folder, special_tokens=("<|user|>",))
    texts = [english, *([] if request.param == "without <" else [code, "<x>"]), base_japanese]
    if request.param == "with <s":  # every pair of these names stands in a piece, so they are never spelt by their scores
        base = train_sentencepiece(texts, folder, vocab_size=480, model_type="unigram", character_coverage=1.0)
        proto = base.proto
        for piece in ("<s", "s>", "</", "/s", "<0", "0x", "x0", "x1", "00", "0A", "0>", "A>"):
            proto.pieces.add(piece=piece, score=-9.0, type=NORMAL)
        return SentencePieceTokenizer(proto.SerializeToString())
    base = train_sentencepiece(texts, folder, vocab_size=480, model_type="unigram", character_coverage=1.0)
    return base if request.param != "expanded" else expand_unigram(base, [japanese], new_pieces=160).tokenizer


@pytest.fixture(scope="module")
def theirs(ours):
    other = tokenizers.Tokenizer.from_str(canonical_json(tokenizer_json(ours)))
    other.encode_special_tokens = True
    return other


def test_ids_on_ten_thousand_lines(ours, theirs, english, japanese, code, tricky):
    draw = random.Random(0)
    words = [w for text in (english, japanese, code) for w in text.replace("\u3001", "\u3001 ").split(" ")]
    words += ["<0x0A>", "<s>", "</s>", "<unk>", "<|user|>", "\u9f98", "<", ">", "\n", "  ", "\U0001f600", "----", "\u30fc\u30fc"]
    lines = [line for text in (english, japanese, code) for line in text.split("\n")] + tricky
    lines += [draw.choice(("", " ")).join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(10_000)]
    found = [entry.ids for entry in theirs.encode_batch(lines, add_special_tokens=False)]
    other = [(line, a, b) for line, a, b in zip(lines, ours.encode_batch(lines), found, strict=True) if a != b]
    assert all(equally_likely(ours.proto, a, b) for _, a, b in other), other[:2]
    assert len(other) <= 10  # by float32's rounding alone: a tie


@given(text=st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_ids_and_decoded_text_on_any_text(ours, theirs, text):
    ids = ours.encode(text)
    found = theirs.encode(text, add_special_tokens=False).ids
    assert found == ids or equally_likely(ours.proto, ids, found)
    assert theirs.decode(ids) == ours.decode(ids)


def test_transformers_loads_it(ours, japanese, tmp_path):
    from transformers import AutoTokenizer

    ours.export_hf(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert len(loaded) == ours.vocab_size
    for line in japanese.split("\n"):
        assert loaded(line)["input_ids"] == [ours.bos_id, *ours.encode(line)]
        assert loaded.decode(ours.encode(line)) == line


def test_what_can_not_be_said_with_equal_ids_is_refused(english, tmp_path):
    ours = train_sentencepiece([english], tmp_path, vocab_size=360, model_type="unigram", character_coverage=1.0)
    cases = {"user-defined piece 'th'": [("th", USER_DEFINED)]}
    cases |= {"'\u9bad' of a piece is no piece itself": [("\u9bad\u9bc9\u9bad", NORMAL), ("\u9bad\u9bc9", CONTROL)]}
    cases |= {"special piece '\u9bad' is a single character": [("\u9bad", CONTROL)]}
    for reason, pieces in cases.items():
        proto = ours.proto
        for piece, kind in pieces:
            proto.pieces.add(piece=piece, score=-5.0, type=kind)
        with pytest.raises(JaLlmError, match=reason):
            SentencePieceTokenizer(proto.SerializeToString()).export_hf(tmp_path / "out")
    assert not (tmp_path / "out").exists()
