"""The exported tokenizer.json: transformers loads it offline and gives our ids."""

import random

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from ja_llm.errors import JaLlmError
from ja_llm.files import canonical_json
from ja_llm.vocab import export
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.expand import expand_sentencepiece
from ja_llm.vocab.export import tokenizer_json
from ja_llm.vocab.sentencepiece_tokenizer import BPE, NORMAL, USER_DEFINED, SentencePieceTokenizer


@pytest.fixture(scope="module", params=["base", "expanded"])
def pair(request, base, expansion, tmp_path_factory):
    """(our tokenizer, what AutoTokenizer makes of its export)."""
    from transformers import AutoTokenizer

    ours = base if request.param == "base" else expansion.tokenizer
    folder = tmp_path_factory.mktemp("export")
    ours.export_hf(folder)
    if request.param == "expanded":  # as in a model folder, where the model's type has a say in the tokenizer's class
        (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    return ours, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def as_text(theirs, text: str) -> list[int]:
    return theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_ids_equal_on_own_texts(pair, tricky, english, japanese, code):
    ours, theirs = pair
    for text in [*tricky, english, japanese, code, *english.split("\n"), *japanese.split("\n"), *code.split("\n")]:
        assert as_text(theirs, text) == ours.encode(text), repr(text)
        if "<" not in text:  # without split_special_tokens too, where the text spells no special token
            assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text), repr(text)


_fragments = st.one_of(
    st.text(max_size=8),
    st.text(alphabet=" \n\t▁\u3000", min_size=1, max_size=20),
    st.sampled_from(
        ["モデルを学習", "ファイルの名前", "することができます", "。「", "ｶﾅ", "する", "です", "した", "のがをにはで"]
    ),
    st.sampled_from(["return values[i];", " the harbour", "The", "    def __init__(self", "</s>", "<unk>", "<0x0A>", "1921"]),
    st.sampled_from(["👨‍👩‍👧", "🇯🇵", "龘", "𠮷", "か\u3099", "é", "\x00", "\ufffd", "\u2047"]),
)


@given(text=st.lists(_fragments, max_size=15).map("".join))
@settings(max_examples=400, deadline=None)
def test_ids_and_decoded_text_equal_on_any_text(pair, text):
    ours, theirs = pair
    ids = ours.encode(text)
    assert as_text(theirs, text) == ids
    assert theirs.decode(ids, clean_up_tokenization_spaces=False) == ours.decode(ids) == text.replace("▁", " ")


@given(text=st.text(alphabet="のがをには日本人すしたまで", max_size=40))
@settings(max_examples=200, deadline=None)
def test_merge_order_is_sentencepieces_where_old_and_new_pieces_overlap(pair, text):
    ours, theirs = pair
    assert as_text(theirs, text) == ours.encode(text)


def test_special_tokens_are_named_and_bos_is_added_by_default(pair):
    ours, theirs = pair
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (ours.bos_id, ours.eos_id, ours.unk_id)
    assert len(theirs) == ours.vocab_size
    assert theirs("日本")["input_ids"] == [ours.bos_id, *ours.encode("日本")]
    assert theirs.decode(ours.document_ids("日本 a"), skip_special_tokens=True) == "日本 a"


def test_the_export_loads_here_too(expansion, tmp_path):
    expansion.tokenizer.export_hf(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == expansion.tokenizer.fingerprint
    (tmp_path / "tokenizer.model").unlink()
    other = load_tokenizer(tmp_path)
    assert other.encode("日本語を学習する </s>") == expansion.tokenizer.encode("日本語を学習する </s>")
    assert (other.bos_id, other.eos_id, other.unk_id) == (1, 2, 0)


def model_of(pieces: list[tuple[str, float]]) -> SentencePieceTokenizer:
    proto = sentencepiece_model_pb2.ModelProto()
    for piece, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in pieces:
        proto.pieces.add(piece=piece, score=score, type=NORMAL)
    proto.trainer_spec.model_type = BPE
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    return SentencePieceTokenizer(proto.SerializeToString())


def test_random_vocabularies_with_scores_in_any_order():
    """BPE over a score order that no trainer made: ids of the sentencepiece library and of tokenizers agree."""
    draw = random.Random(0)
    for trial in range(60):
        letters = "ab " if trial % 2 else "abc"
        pieces = list(letters.replace(" ", "▁"))
        while len(pieces) < draw.randint(6, 16):
            pieces.append(draw.choice(pieces) + draw.choice(pieces))
            pieces = list(dict.fromkeys(pieces))
        scores = draw.sample(range(-100, 0), len(pieces))
        ours = model_of([(p, float(s)) for p, s in zip(pieces, scores, strict=True)])
        theirs = tokenizers.Tokenizer.from_str(canonical_json(tokenizer_json(ours)))
        for _ in range(50):
            text = "".join(draw.choices(letters + "z", k=draw.randint(1, 25)))  # z is unknown; runs of it are one <unk>
            assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text), (text, pieces, scores)


OWN = ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "<unused0>", "<table>", "</table>", "harbour", "<ta"]


@pytest.fixture(scope="module")
def gemma_like(base, japanese, tmp_path_factory):
    """As Gemma's: pieces that are taken whole wherever they stand, and no space before a text. (the base, it expanded, transformers' of that)"""
    from transformers import AutoTokenizer

    proto = base.proto
    proto.normalizer_spec.add_dummy_prefix = False
    kept = [piece for piece in proto.pieces if piece.piece not in OWN]
    del proto.pieces[:]
    proto.pieces.extend(kept)
    for piece in OWN:
        proto.pieces.add(piece=piece, score=0.0, type=USER_DEFINED)
    before = SentencePieceTokenizer(proto.SerializeToString())
    after = expand_sentencepiece(before, [japanese], new_pieces=120).tokenizer
    folder = tmp_path_factory.mktemp("gemma")
    after.export_hf(folder)
    return before, after, AutoTokenizer.from_pretrained(folder, local_files_only=True)


@given(text=st.lists(st.one_of(_fragments, st.sampled_from([*OWN, " ", "   ", "<", "table>"])), max_size=15).map("".join))
@settings(max_examples=400, deadline=None)
def test_an_expanded_vocabulary_with_user_defined_pieces_gives_equal_ids(gemma_like, text):
    before, after, theirs = gemma_like
    ids = after.encode(text)
    assert as_text(theirs, text) == ids
    assert theirs.decode(ids, clean_up_tokenization_spaces=False) == after.decode(ids) == text.replace("▁", " ")
    assert after.vocab_size > before.vocab_size == len(before.proto.pieces)


def test_the_self_check_finds_wrong_merges(base, tmp_path, monkeypatch):
    right = export.merges(base.proto)
    monkeypatch.setattr(export, "merges", lambda proto: right[5:] + right[:5])
    with pytest.raises(JaLlmError, match="would give other ids for"):
        base.export_hf(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_can_not_be_said_with_equal_ids_is_refused(base, english, tmp_path):
    user, normaliser = base.proto, base.proto
    user.pieces[300].type = USER_DEFINED
    normaliser.normalizer_spec.remove_extra_whitespaces = True
    cases = {
        "user-defined pieces such as .* and also puts a space before each text": SentencePieceTokenizer(user.SerializeToString()),
        "normaliser": SentencePieceTokenizer(normaliser.SerializeToString()),
        "same score": model_of([("a", -9.0), ("b", -9.0), ("ab", -1.0), ("ba", -1.0)]),
        "no piece itself": model_of([("a", -2.0), ("ab", -1.0)]),
    }
    for reason, tokenizer in cases.items():
        with pytest.raises(JaLlmError, match=reason):
            tokenizer.export_hf(tmp_path / "out")
    assert not (tmp_path / "out").exists()
