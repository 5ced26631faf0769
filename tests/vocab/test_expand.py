"""Expansion: English untouched, every piece reachable, sources right, size aligned, deterministic."""

import io
import random
from collections import Counter

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.vocab.expand import derivation, expand_sentencepiece
from ja_llm.vocab.expand_byte_level import expand_byte_level
from ja_llm.vocab.japanese import JAPANESE, count_runs, is_japanese
from ja_llm.vocab.sentencepiece_tokenizer import CONTROL, NORMAL, USER_DEFINED, SentencePieceTokenizer, parse_proto
from ja_llm.vocab.train import train_sentencepiece
from ja_llm.vocab.unigram import expand_unigram


def with_pieces(base: SentencePieceTokenizer, *pieces: str) -> SentencePieceTokenizer:
    """The base with further merges that are stronger than all of its own."""
    proto = base.proto
    for i, piece in enumerate(pieces):
        proto.pieces.add(piece=piece, score=1.0 + i, type=NORMAL)
    return SentencePieceTokenizer(proto.SerializeToString())


def test_old_pieces_scores_and_ids_stay(base, expansion):
    before, after = base.proto.pieces, expansion.tokenizer.proto.pieces
    assert list(after)[: len(before)] == list(before)
    assert len(after) - len(before) == len(expansion.sources) == len(expansion.pieces) > 100
    lowest = min(p.score for p in before if p.type == NORMAL)
    scores = [p.score for p in list(after)[len(before) :]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert scores[0] < lowest


def test_pieces_are_japanese_new_and_without_the_word_start_mark(base, expansion):
    old = {p.piece for p in base.proto.pieces}
    for piece in expansion.pieces:
        assert is_japanese(piece)
        assert not any(c.isascii() or c == "▁" for c in piece)
        assert piece not in old
    assert len(set(expansion.pieces)) == len(expansion.pieces)


@given(text=st.text(max_size=60).filter(lambda t: not JAPANESE.search(t)))
@settings(max_examples=300, deadline=None)
def test_ids_of_text_without_japanese_never_change(base, expansion, text):
    assert expansion.tokenizer.encode(text) == base.encode(text)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_ids_of_english_and_code_never_change(base, expansion, english, code, data):
    words = (english + code).split(" ")
    text = " ".join(data.draw(st.lists(st.sampled_from(words), max_size=30)))
    assert expansion.tokenizer.encode(text) == base.encode(text)
    assert expansion.tokenizer.encode(english + code) == base.encode(english + code)


def test_every_piece_is_given_for_its_own_surface_in_running_text(expansion):
    for i, piece in enumerate(expansion.pieces):
        ids = expansion.tokenizer.encode(f"(x) {piece}.")
        assert expansion.base_size + i in ids, piece


def test_sources_are_the_old_ids_without_the_space_in_front(base, expansion):
    library = sentencepiece.SentencePieceProcessor(model_proto=base.model_bytes)
    context = library.encode("x")  # the space in front goes into this piece
    for piece, ids in zip(expansion.pieces, expansion.sources, strict=True):
        assert library.encode("x" + piece) == [*context, *ids]
        assert library.decode(ids) == piece
        assert min(ids) > 2


def test_fewer_tokens_for_japanese(base, expansion, japanese):
    assert len(expansion.tokenizer.encode(japanese)) < 0.4 * len(base.encode(japanese))
    assert expansion.tokenizer.decode(expansion.tokenizer.encode(japanese)) == japanese


@pytest.mark.parametrize(("new_pieces", "align"), [(8, 8), (61, 8), (100, 16), *((n, 1) for n in range(230, 330, 9)), (200, 64)])
def test_the_size_is_aligned_by_taking_fewer_pieces(base, japanese, new_pieces, align):
    expansion = expand_sentencepiece(base, [japanese], new_pieces=new_pieces, align=align)
    assert expansion.tokenizer.vocab_size % align == 0
    assert new_pieces - align < len(expansion.pieces) <= new_pieces
    assert expansion.unreachable == []  # wherever the list is cut, a piece's parts stand before it


def test_the_result_does_not_depend_on_order_or_grouping_of_texts(base, japanese):
    lines = japanese.split("\n")
    wanted = expand_sentencepiece(base, [japanese], new_pieces=200)
    for seed in range(3):
        random.Random(seed).shuffle(lines)
        assert expand_sentencepiece(base, lines, new_pieces=200).tokenizer.model_bytes == wanted.tokenizer.model_bytes


def test_pieces_are_closed_under_their_merges(base, expansion):
    have = {p.piece: p.score for p in expansion.tokenizer.proto.pieces if p.type == NORMAL}
    for piece in expansion.pieces:
        assert derivation(piece, have)[-1:] == ([piece] if len(piece) > 1 else [])
        assert set(piece) <= have.keys()


def test_pieces_that_the_bases_own_merges_block_are_replaced(base):
    """With 生証 in the base, 学生証番 = 学生 + 証番 can't be built any more."""
    text = "学生。証番。学生。証番。学生証番。学生証番。" * 5
    free = expand_sentencepiece(base, [text], new_pieces=40, align=1, min_count=1)
    assert "学生証番" in free.pieces
    blocked = expand_sentencepiece(with_pieces(base, "生", "証", "生証"), [text], new_pieces=40, align=1, min_count=1)
    assert blocked.unreachable == ["学生証番"]
    assert {"学生", "証番"} <= set(blocked.pieces)
    assert "学生証番" not in blocked.pieces


def test_characters_spelt_in_bytes_come_before_rarer_merges(base):
    text = "鯨。" * 50 + "海豚海豚。" * 10
    expansion = expand_sentencepiece(base, [text], new_pieces=1, align=1)
    assert expansion.pieces == ["鯨"]
    assert len(expansion.sources[0]) == 3


def test_rare_pieces_are_left_out(base, japanese):
    often = expand_sentencepiece(base, [japanese], new_pieces=4000, align=1, min_count=5)
    counts = Counter(c for c in japanese)
    assert all(2 * counts[p] >= 5 for p in often.pieces if len(p) == 1)
    assert len(often.pieces) < len(expand_sentencepiece(base, [japanese], new_pieces=4000, align=1).pieces)


@pytest.mark.parametrize(
    ("segments", "runs"),
    [
        ("script", ["日本語", "を", "学習", "する", "コンピューター", "、", "らーめん", "です", "。"]),
        ("word", ["日本語を", "学習する", "コンピューター", "、", "らーめん", "です", "。"]),
        ("none", ["日本語を学習するコンピューター、らーめん", "です。"]),
    ],
)
def test_runs_are_cut_by_script(segments, runs):
    assert count_runs(["日本語を学習するコンピューター、らーめん ABC です。"], segments) == Counter(runs)


def test_unknown_segments_no_japanese_and_too_little_text_are_refused(base, english):
    with pytest.raises(JaLlmError, match="'words' is unknown; choose one of script, word, none"):
        expand_sentencepiece(base, ["日本"], segments="words")
    with pytest.raises(JaLlmError, match="no Japanese characters"):
        expand_sentencepiece(base, [english])
    with pytest.raises(JaLlmError, match="too few"):
        expand_sentencepiece(base, ["日本"], new_pieces=100)


@pytest.mark.parametrize("name", ["new_pieces", "align", "max_piece_length", "min_count"])
@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte_level"])
def test_numbers_below_one_are_refused(byte_level, base, kind, name):
    """A byte-level BPE took -1 new pieces for no limit at all."""
    tokenizer = byte_level(["a b"], vocab_size=260) if kind == "byte_level" else base
    expand = {"bpe": expand_sentencepiece, "unigram": expand_unigram, "byte_level": expand_byte_level}[kind]
    with pytest.raises(UsageError, match=f"^{name} is -1; give a whole number from 1"):
        expand(tokenizer, ["日本語です"], **{name: -1})


def test_other_models_are_refused(english, base, tmp_path):
    unigram = train_sentencepiece([english], tmp_path, vocab_size=360, model_type="unigram")
    with pytest.raises(JaLlmError, match="no SentencePiece BPE"):
        expand_sentencepiece(unigram, ["日本"])
    deep = base.proto
    deep.pieces[-1].score = -(2.0**24)
    with pytest.raises(JaLlmError, match="no room"):
        expand_sentencepiece(SentencePieceTokenizer(deep.SerializeToString()), ["日本語" * 9], new_pieces=8, align=1)


def test_a_piece_that_is_a_special_token_already_is_left_out(base, japanese):
    proto = base.proto
    for name, kind in (("設定", CONTROL), ("ファイル", USER_DEFINED)):
        assert name in expand_sentencepiece(base, [japanese * 3], new_pieces=400).pieces
        proto.pieces.add(piece=name, score=0.0, type=kind)
    special = SentencePieceTokenizer(proto.SerializeToString())
    grown = expand_sentencepiece(special, [japanese * 3], new_pieces=400)
    assert not {"設定", "ファイル"} & set(grown.pieces)
    assert {"ファイル", "設定"} <= set(grown.unreachable)  # and told
    names = [grown.tokenizer.id_to_piece(i) for i in range(grown.tokenizer.vocab_size)]
    assert len(set(names)) == len(names)


def test_a_normaliser_that_rewrites_characters_is_named(base):
    proto = base.proto
    proto.normalizer_spec.name = "nmt_nfkc"
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ａｂｃ some words ｶﾅ"] * 5),
        model_writer=writer,
        vocab_size=30,
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    proto.normalizer_spec.precompiled_charsmap = parse_proto(writer.getvalue()).normalizer_spec.precompiled_charsmap
    rewriting = SentencePieceTokenizer(proto.SerializeToString())
    assert rewriting.decode(rewriting.encode("ＡＢＣ")) == "ABC"  # it does lose text
    with pytest.raises(JaLlmError, match="normaliser nmt_nfkc"):
        expand_sentencepiece(rewriting, ["日本"])
