"""Training: Llama's settings, determinism, the sample of documents."""

import random

import pytest

from ja_llm import documents, manifest
from ja_llm.documents import Document, document_id
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.sentencepiece_tokenizer import BYTE
from ja_llm.vocab.train import iter_texts, lines_of, sample, train_sentencepiece
from ja_llm.vocab.train_documents import train_on_documents


def write_set(root, texts: dict[str, list[str]], shards: int = 1):
    """A document set as the corpus job writes it; keys are "lang/split"."""
    entries = []
    for name, group in texts.items():
        lang, split = name.split("/")
        for shard in range(shards):
            path = root / lang / f"{split}-{shard:05d}-of-{shards:05d}.tfrecord"
            path.parent.mkdir(parents=True, exist_ok=True)
            mine = group[shard::shards]
            with open(path, "wb") as file:
                for text in mine:
                    record = Document(id=document_id("test", "", "", text), text=text, source="test", lang=lang)
                    documents.write_record(file, documents.to_example(record))
            counts = {"documents": len(mine), "characters": sum(map(len, mine)), "lang": lang, "split": split}
            entries.append(manifest.file_entry(path, root, **counts))
    manifest.write(root, schema=manifest.DOCUMENTS, job="test", config={"n": 1}, inputs=[], shards=entries)
    return root


def test_settings_are_llamas(base):
    assert [base.id_to_piece(i) for i in range(4)] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert sum(p.type == BYTE for p in base.proto.pieces) == 256
    assert base.vocab_size == 640
    spec, rules = base.proto.trainer_spec, base.proto.normalizer_spec
    assert (spec.pad_id, spec.byte_fallback, spec.split_digits, spec.allow_whitespace_only_pieces) == (-1, True, True, True)
    assert (rules.name, rules.add_dummy_prefix, rules.remove_extra_whitespaces) == ("identity", True, False)


def test_digits_stand_alone_spaces_make_pieces_and_newlines_stay(base):
    pieces = [base.id_to_piece(i) for i in base.encode("in 1873\n        return")]
    assert all(not c.isdigit() or len(p.strip("▁")) == 1 for p in pieces if not p.startswith("<0x") for c in p)
    assert "<0x0A>" in pieces
    assert any(len(p) > 1 and set(p) == {"▁"} for p in pieces)


def test_equal_text_gives_equal_bytes(base, english, code, tmp_path):
    first = train_sentencepiece([english, code], tmp_path / "a", vocab_size=400)
    second = train_sentencepiece(iter([english, code]), tmp_path / "b", vocab_size=400)
    assert first.fingerprint == second.fingerprint != base.fingerprint
    assert (tmp_path / "a/tokenizer.model").read_bytes() == (tmp_path / "b/tokenizer.model").read_bytes()


def test_a_small_text_gives_fewer_pieces_in_a_multiple_of_eight(tmp_path):
    tokenizer = train_sentencepiece(["a few words and a few words more"], tmp_path, vocab_size=5000)
    assert 264 <= tokenizer.vocab_size < 5000
    assert tokenizer.vocab_size % 8 == 0


def test_long_lines_are_cut_not_dropped(tmp_path):
    line = "zebra " * 3000  # 18,000 characters; SentencePiece drops a sentence above 4,192 bytes without an error
    tokenizer = train_sentencepiece([line], tmp_path, vocab_size=280)
    assert len(tokenizer.encode("zebra")) <= 2
    assert "".join(lines_of([line])) == line


@pytest.mark.parametrize("texts", [[], ["", " \n\t\n"]])
def test_no_text_is_refused(texts, tmp_path):
    with pytest.raises(JaLlmError, match="no text"):
        train_sentencepiece(texts, tmp_path / "out", vocab_size=300)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_too_small_for_its_characters_is_refused(english, tmp_path):
    with pytest.raises(JaLlmError, match="can't train 100 pieces"):
        train_sentencepiece([english], tmp_path / "out", vocab_size=100)


def test_the_sample_is_the_smallest_prefix_by_hash_whatever_the_order():
    draw = random.Random(0)
    items = [(f"key{i}", "x" * draw.randint(1, 50)) for i in range(200)]
    wanted = list(sample(items, 500, seed=3))
    total = sum(map(len, wanted))
    assert total - len(wanted[-1]) < 500 <= total
    for _ in range(5):
        draw.shuffle(items)
        assert list(sample(items, 500, seed=3)) == wanted
    assert list(sample(items, 500, seed=4)) != wanted
    assert sorted(sample(items, 10**9, seed=3)) == sorted(text for _, text in items)
    assert list(sample([], 500, seed=3)) == list(sample(items, 0, seed=3)) == []


def test_documents_are_sampled_by_language_and_split_and_not_by_shard(tmp_path):
    texts = {"ja/train": [f"文書{i}です。" * 9 for i in range(40)], "ja/heldout": ["別の文書です。"], "en/train": ["A page."]}
    one, three = write_set(tmp_path / "one", texts), write_set(tmp_path / "three", texts, shards=3)
    assert list(iter_texts(one, "ja")) == texts["ja/train"]
    assert list(iter_texts(one, "ja", "heldout")) == texts["ja/heldout"]
    picked = list(iter_texts(one, "ja", limit_chars=600, seed=1))
    assert picked == list(iter_texts(three, "ja", limit_chars=600, seed=1))
    assert set(picked) < set(texts["ja/train"])
    with pytest.raises(UsageError, match="no train documents in the language 'ko'; it has 'en', 'ja'; choose one of these"):
        list(iter_texts(one, "ko"))
    with pytest.raises(UsageError, match="no heldout documents in 'en', only train"):
        list(iter_texts(one, "en", "heldout"))


def test_training_on_documents_notes_what_it_was_made_of(tmp_path, english):
    root = write_set(tmp_path / "set", {"en/train": [english], "en/heldout": ["held out zzzz qqqq"]})
    tokenizer = train_on_documents(root, tmp_path / "out", lang="en", vocab_size=400)
    assert load_tokenizer(tmp_path / "out").fingerprint == tokenizer.fingerprint
    note = read_json(tmp_path / "out/training.json")
    assert note["vocabulary"] == tokenizer.fingerprint
    assert note["parents"] == [manifest.fingerprint(manifest.read(root, manifest.DOCUMENTS))]
    (root / "manifest.json").unlink()
    with pytest.raises(JaLlmError, match="unfinished"):
        train_on_documents(root, tmp_path / "out2", lang="en", vocab_size=400)


def test_a_vocabulary_is_replaced_whole_or_not_at_all(tmp_path, english, monkeypatch):
    root = write_set(tmp_path / "set", {"en/train": [english]})
    out = tmp_path / "out"
    train_on_documents(root, out, lang="en", vocab_size=400)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with monkeypatch.context() as broken:  # the note is written last: what breaks there leaves the old vocabulary and its note
        broken.setattr("ja_llm.vocab.train.manifest.software", lambda *names: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_on_documents(root, out, lang="en", vocab_size=400)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    train_on_documents(root, out, lang="en", vocab_size=400)  # the same once more
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    with pytest.raises(UsageError, match="other settings: vocab_size was 400, now it is 380"):
        train_on_documents(root, out, lang="en", vocab_size=380)
    other = write_set(tmp_path / "other", {"en/train": [english, "One more page."]})
    with pytest.raises(UsageError, match="other settings: documents was"):
        train_on_documents(other, out, lang="en", vocab_size=400)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    foreign = tmp_path / "letters"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear reader")
    with pytest.raises(UsageError, match="did not make"):
        train_on_documents(root, foreign, lang="en", vocab_size=380)
    assert [p.name for p in foreign.iterdir()] == ["letter.txt"]
