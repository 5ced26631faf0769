"""Tokenizers: the same ids as the libraries behind them, text as text, offsets, round trips, fingerprints."""

import json
import pickle
import unicodedata

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.hf_tokenizer import HFTokenizer
from ja_llm.vocab.sentencepiece_tokenizer import CONTROL, SentencePieceTokenizer
from ja_llm.vocab.train import train_sentencepiece
from ja_llm.vocab.train_byte_level import train_byte_level as train_byte_level_here
from ja_llm.vocab.train_joint import Part, train_joint


@pytest.fixture(scope="module")
def byte_level(english, code, japanese) -> HFTokenizer:
    """A byte-level BPE as GPT-2, SmolLM2 and Llama 3 have, trained here."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([english, code, japanese], trainer)
    return HFTokenizer(model.to_str(), bos_id=0, eos_id=1)


@pytest.fixture(scope="module", params=["base", "expanded", "byte_level"])
def tokenizer(request, base, expansion, byte_level):
    return {"base": base, "expanded": expansion.tokenizer, "byte_level": byte_level}[request.param]


@pytest.fixture(scope="module")
def every_kind(family, base, expansion, english, code, japanese, tmp_path_factory):
    """A tokenizer of each kind, by name; the families of byte-level BPE trained on Japanese too."""
    folder = tmp_path_factory.mktemp("kinds")
    made = {"base": base, "expanded": expansion.tokenizer}
    for kind in ("smollm2", "llama3", "qwen"):
        made[kind] = family([english, code, japanese], kind)
    made["unigram"] = train_sentencepiece([english, japanese], folder / "u", vocab_size=700, model_type="unigram")
    made["joint"] = train_joint([Part("ja", [japanese], 400, 8, True), Part("en", [english], 300)], folder / "j")
    made["trained byte level"] = train_byte_level_here([english, japanese], folder / "b", vocab_size=700)
    return made


KINDS = ["base", "expanded", "smollm2", "llama3", "qwen", "unigram", "joint", "trained byte level"]


def as_decoded(tokenizer, text: str) -> str:
    """SentencePiece writes a space as U+2581, so a U+2581 in the text comes back as a space; Qwen's NFC composes; nothing else is lost."""
    if not isinstance(tokenizer, HFTokenizer):
        return text.replace("▁", " ")
    return unicodedata.normalize("NFC", text) if tokenizer.model_json.get("normalizer") else text


def texts() -> st.SearchStrategy[str]:
    pieces = st.sampled_from(
        ["日本語", "ファイル", "する", " ", "  ", "\n", "</s>", "<0x0A>", "▁", "the", "return x", "👨‍👩‍👧", "龘", "1", "。"]
    )
    return st.lists(st.one_of(pieces, st.text(max_size=6)), max_size=12).map("".join)


def test_sentencepiece_ids_are_the_librarys(base, tricky, english, japanese, code):
    processor = sentencepiece.SentencePieceProcessor(model_proto=base.model_bytes)
    for text in [*tricky, english, japanese, code]:
        assert base.encode(text) == processor.encode(text)
    assert (base.unk_id, base.bos_id, base.eos_id, base.vocab_size) == (0, 1, 2, processor.vocab_size())


def test_byte_level_ids_are_the_librarys(byte_level, english, japanese, code):
    library = tokenizers.Tokenizer.from_str(byte_level._model)
    for text in [english, japanese, code, "日本語 text"]:
        assert byte_level.encode(text) == library.encode(text, add_special_tokens=False).ids


@given(text=texts())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_and_holds_no_control_id(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == as_decoded(tokenizer, text)
    assert tokenizer.bos_id not in ids
    assert tokenizer.eos_id not in ids
    assert tokenizer.document_ids(text) == [tokenizer.bos_id, *ids, tokenizer.eos_id]
    assert tokenizer.decode(tokenizer.document_ids(text)) == as_decoded(tokenizer, text)


def test_control_strings_are_spelt_as_text(tokenizer, tricky):
    for text in ["</s>", "<s>", "<unk>", "<|endoftext|>", "a</s>b", *tricky]:
        ids = tokenizer.encode(text)
        assert not {tokenizer.bos_id, tokenizer.eos_id} & set(ids)
        assert tokenizer.decode(ids) == as_decoded(tokenizer, text)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_equal_one_by_one(every_kind, kind, tricky):
    tokenizer = every_kind[kind]
    rows = tokenizer.encode_batch(tricky)
    assert rows == [tokenizer.encode(t) for t in tricky]
    assert tokenizer.decode_batch(rows) == [tokenizer.decode(ids) for ids in rows] == [as_decoded(tokenizer, t) for t in tricky]
    assert tokenizer.encode_batch([]) == tokenizer.decode_batch([]) == []
    with pytest.raises(JaLlmError, match="outside this vocabulary"):
        tokenizer.decode_batch([[3], [tokenizer.vocab_size]])


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts())
@settings(max_examples=80, deadline=None)
def test_offsets_cover_the_text_in_order(every_kind, kind, text):
    tokenizer = every_kind[kind]
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert len(offsets) == len(ids)
    covered = set()
    last = 0
    for start, end in offsets:
        assert last <= start <= end <= len(text)
        covered.update(range(start, end))
        last = start
    assert covered == set(range(len(text)))  # every character belongs to some token


def test_offsets_hold_the_spaces_that_a_post_processor_would_cut_off(byte_level):
    value = json.loads(byte_level.model_text)
    value["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = byte_level.with_model(value)
    text = " the harbour  master"
    assert "".join(text[a:b] for a, b in tokenizer.encode_with_offsets(text)[1]) == text


def test_each_byte_piece_covers_its_whole_character(base):
    ids, offsets = base.encode_with_offsets("aの龘龘b")
    assert [base.id_to_piece(i) for i in ids[-7:-1]] == ["<0xE9>", "<0xBE>", "<0x98>"] * 2
    assert offsets[-7:] == [(2, 3)] * 3 + [(3, 4)] * 3 + [(4, 5)]


def test_offsets_give_the_pieces_own_text(expansion, japanese):
    tokenizer = expansion.tokenizer
    ids, offsets = tokenizer.encode_with_offsets(japanese)
    for i, (start, end) in zip(ids, offsets, strict=True):
        piece = tokenizer.id_to_piece(i)
        if not piece.startswith("<0x") and start < end:
            assert piece.replace("▁", "") == japanese[start:end].replace(" ", "")


def test_save_and_load_keep_the_fingerprint_and_the_ids(tokenizer, tricky, tmp_path):
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.bos_id, again.eos_id, again.unk_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id)
    assert again.encode_batch(tricky) == tokenizer.encode_batch(tricky)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == tokenizer.fingerprint


def test_fingerprint_changes_with_piece_score_type_normaliser_and_special_ids(base):
    prints = {base.fingerprint}
    for change in ("piece", "score", "type", "prefix", "bos"):
        proto = sentencepiece_model_pb2.ModelProto.FromString(base.model_bytes)
        if change == "piece":
            proto.pieces[300].piece += "q"
        elif change == "score":
            proto.pieces[300].score -= 0.25
        elif change == "type":
            proto.pieces[300].type = CONTROL
        elif change == "prefix":
            proto.normalizer_spec.add_dummy_prefix = False
        prints.add(SentencePieceTokenizer(proto.SerializeToString(), bos_id=2 if change == "bos" else None).fingerprint)
    assert len(prints) == 6


def test_fingerprint_ignores_what_does_not_decide_ids(base):
    proto = sentencepiece_model_pb2.ModelProto.FromString(base.model_bytes)
    proto.trainer_spec.model_prefix = "elsewhere"
    proto.trainer_spec.num_threads = 7
    assert SentencePieceTokenizer(proto.SerializeToString()).fingerprint == base.fingerprint


def test_hf_fingerprint_is_the_same_for_both_ways_to_write_merges(byte_level):
    value = json.loads(byte_level._model)
    value["model"]["merges"] = [" ".join(m) for m in value["model"]["merges"]]
    assert HFTokenizer(json.dumps(value, indent=2), bos_id=0, eos_id=1).fingerprint == byte_level.fingerprint
    value["model"]["merges"].pop()
    assert HFTokenizer(json.dumps(value), bos_id=0, eos_id=1).fingerprint != byte_level.fingerprint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"bos_token": {"content": "<|endoftext|>"}, "eos_token": "</s>"}),
        ("config.json", {"bos_token_id": 0, "eos_token_id": [1, 5]}),
    ],
)
def test_hf_special_ids_are_read_from_the_files_beside(byte_level, tmp_path, name, content):
    (tmp_path / "tokenizer.json").write_text(byte_level._model, encoding="utf-8")
    with pytest.raises(JaLlmError, match="BOS and EOS"):
        load_tokenizer(tmp_path)
    (tmp_path / name).write_text(json.dumps(content))
    assert (load_tokenizer(tmp_path).bos_id, load_tokenizer(tmp_path).eos_id) == (0, 1)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer.model", b"", "no pieces"),
        ("tokenizer.model", b"not a model at all", "no SentencePiece model"),
        ("tokenizer.json", b"{}", "no tokenizer.json"),
        ("tokenizer.json", b"\xff\xfe\x00", "can't be read"),
        ("special_ids.json", b'{"bos": "one"}', "an object such as"),
    ],
)
def test_damaged_files_end_in_a_sentence_that_names_them(base, tmp_path, name, content, sentence):
    if name == "special_ids.json":
        base.save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JaLlmError, match=sentence) as caught:
        load_tokenizer(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize("field", ["model", "piece"])
def test_a_sentencepiece_model_of_a_newer_format_is_refused(base, tmp_path, field):
    """A type that this library does not know: it would be read as the default one, unigram or a normal piece."""
    proto = base.proto
    part = proto.trainer_spec if field == "model" else proto.pieces[300]
    part.MergeFromString(bytes([3 << 3, 9]))  # field 3 of both, an enum, as a varint
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(JaLlmError, match="tokenizer.model.*newer format"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("field", "named"),
    [("pre_tokenizer", "PreTokenizer"), ("normalizer", "Normalizer"), ("decoder", "Decoder"), ("model", "Model")],
)
def test_a_tokenizer_json_with_a_part_of_a_newer_format_is_refused(byte_level, tmp_path, field, named):
    value = {**byte_level.model_json, field: {"type": "Unheard", "vocab": {}}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(JaLlmError, match=f"tokenizer.json: the {named} .*newer format.*update the tokenizers library"):
        load_tokenizer(tmp_path)


def test_duplicate_and_empty_pieces_are_refused(base, byte_level):
    for name in (base.id_to_piece(400), ""):
        proto = base.proto
        proto.pieces[500].piece = name
        with pytest.raises(JaLlmError, match="SentencePiece refuses this model"):
            SentencePieceTokenizer(proto.SerializeToString())
    twice = byte_level.model_text.replace('"vocab":{', '"vocab":{"Ġthe":7,').replace('"vocab": {', '"vocab": {"Ġthe":7,')
    assert twice.count('"Ġthe":') == 2
    with pytest.raises(JaLlmError, match="'Ġthe' stands twice"):
        HFTokenizer(twice, bos_id=0, eos_id=1).fingerprint  # noqa: B018


TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize("kind", ["base", "smollm2"])
@pytest.mark.parametrize("beside", ["chat_template.jinja", "tokenizer_config.json", "named"])
def test_a_chat_template_goes_along_to_transformers(every_kind, kind, beside, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = every_kind[kind]
    tokenizer.save(tmp_path / "in")
    if beside == "chat_template.jinja":
        (tmp_path / "in" / beside).write_text(TEMPLATE)
    else:
        value = TEMPLATE if beside != "named" else [{"name": "tool", "template": "x"}, {"name": "default", "template": TEMPLATE}]
        (tmp_path / "in/tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    loaded = load_tokenizer(tmp_path / "in")
    assert loaded.chat_template == TEMPLATE and pickle.loads(pickle.dumps(loaded)).chat_template == TEMPLATE
    assert loaded.fingerprint == tokenizer.fingerprint and tokenizer.chat_template is None
    loaded.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").chat_template == TEMPLATE
    loaded.export_hf(tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    said = theirs.apply_chat_template([{"role": "user", "content": "港"}], tokenize=False)
    assert said == "<|im_start|>user\n港<|im_end|>\n"


def test_a_chat_template_that_is_no_text_is_refused(base, tmp_path):
    base.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": 5}')
    with pytest.raises(JaLlmError, match="its chat_template is no text"):
        load_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(JaLlmError, match="this chat template can't be read"):
        load_tokenizer(tmp_path)


def test_a_cut_off_model_is_refused(base, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(base.model_bytes[: len(base.model_bytes) // 2])
    with pytest.raises(JaLlmError, match="no SentencePiece model"):
        load_tokenizer(tmp_path)


def test_missing_folders_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="neither"):
        load_tokenizer(tmp_path)


def test_ids_of_another_vocabulary_and_surrogates_are_refused(tokenizer):
    with pytest.raises(JaLlmError, match="outside this vocabulary"):
        tokenizer.decode([3, tokenizer.vocab_size])
    with pytest.raises(JaLlmError, match="outside this vocabulary"):
        tokenizer.id_to_piece(-1)
    for call in (tokenizer.encode, tokenizer.encode_with_offsets, lambda t: tokenizer.encode_batch([t])):
        with pytest.raises(JaLlmError, match="lone surrogate U\\+DC80"):
            call("a\udc80b")


def both_files(base, folder, *tokens):
    """A folder with tokenizer.model and a tokenizer.json that adds tokens behind it, as chat models of the Llama 2 kind have."""
    base.export_hf(folder)
    value = json.loads((folder / "tokenizer.json").read_text())
    value["added_tokens"] += [{"id": i, "content": content, "special": special} for i, content, special in tokens]
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return folder


def test_added_tokens_of_the_other_file_are_taken_along(base, tmp_path):
    size = base.vocab_size
    whole = load_tokenizer(both_files(base, tmp_path, (size + 1, "<tool>", False), (size, "<|im_start|>", True)))
    assert whole.vocab_size == size + 2
    assert [whole.id_to_piece(size), whole.id_to_piece(size + 1)] == ["<|im_start|>", "<tool>"]
    assert whole.encode("<|im_start|>") == base.encode("<|im_start|>")  # special: text stays text
    assert size + 1 in whole.encode("a <tool> b") and whole.decode(whole.encode("a <tool> b")) == "a <tool> b"
    assert whole.decode([size, *base.encode("a")]) == "a"
    assert whole.encode("The harbour") == base.encode("The harbour")


def test_added_tokens_that_leave_a_gap_are_refused(base, tmp_path):
    with pytest.raises(JaLlmError, match="its added tokens do not fit"):
        load_tokenizer(both_files(base, tmp_path, (base.vocab_size + 7, "<x>", True)))
