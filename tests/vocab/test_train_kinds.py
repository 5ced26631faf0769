"""Training beside plain SentencePiece: byte-level BPE, shares of sources, morphemes, and LLM-jp's joint unigram."""

import math
import sys

import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.japanese import JAPANESE, Runs, count_runs, is_japanese
from ja_llm.vocab.sentencepiece_tokenizer import BYTE, NORMAL, WORD_START
from ja_llm.vocab.train import sample, sample_by_source, train_sentencepiece
from ja_llm.vocab.train_byte_level import train_byte_level
from ja_llm.vocab.train_documents import checked, train_on_documents
from ja_llm.vocab.train_joint import Part, count_stretches, train_joint


class Text(str):
    """Counts how many of its kind are held."""

    alive = 0

    def __init__(self, _):
        Text.alive += 1

    def __del__(self):
        Text.alive -= 1


def test_byte_level_merges_are_the_most_frequent_pairs_in_order(tmp_path):
    """By hand: ab 8 times, then abc 5 (c never follows b elsewhere), then de 3."""
    tokenizer = train_byte_level(["ab ab ab", "abc " * 4 + "abc", "de de de"], tmp_path, vocab_size=259 + 3)
    pieces = [tokenizer.id_to_piece(i) for i in range(259, 262)]
    assert pieces[0] == "ab" and set(pieces[1:]) <= {"Ġab", "abc", "Ġabc"}
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint


def test_byte_level_spells_anything_keeps_0_for_padding_and_repeats(tmp_path, english, code, japanese, tricky):
    texts = [english, code, japanese]
    one = train_byte_level(texts, tmp_path / "a", vocab_size=600, special_tokens=("<|im_start|>",))
    two = train_byte_level(texts, tmp_path / "b", vocab_size=600, special_tokens=("<|im_start|>",))
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    assert (one.vocab_size, one.bos_id, one.eos_id, one.id_to_piece(3)) == (600, 1, 2, "<|im_start|>")
    for text in [*texts, *tricky, "<|padding|><|bos|>"]:
        ids = two.encode(text)
        assert two.decode(ids) == text and not {0, 1, 2, 3} & set(ids)
    assert all(len(piece) <= 16 for piece in one.model_json["model"]["vocab"] if not piece.startswith("<|"))


def test_byte_level_reads_its_texts_once_and_holds_none(tmp_path, english, japanese, code):
    """Where the text has too few pieces, the first of them are what the trainer gives when it is asked for so many."""

    most, Text.alive = 0, 0

    def texts():
        nonlocal most
        for n in range(2000):
            most = max(most, Text.alive)
            yield Text(f"{(english, japanese, code)[n % 3]} {n // 3}")

    whole = train_byte_level(texts(), tmp_path / "a", vocab_size=20000, align=64)
    assert most < 20  # what one text on its way takes, not all
    assert whole.vocab_size % 64 == 0 and 1000 < whole.vocab_size < 20000
    asked = train_byte_level(texts(), tmp_path / "b", vocab_size=whole.vocab_size)
    assert asked.model_text == whole.model_text
    with pytest.raises(JaLlmError, match="in another language than they say"):
        train_byte_level(checked(iter([english * 2]), "ja"), tmp_path / "c", vocab_size=300)
    assert train_byte_level(["ab ab"], tmp_path / "d", vocab_size=5000, align=128).vocab_size == 259  # bytes are never left out


def test_byte_level_has_a_multiple_of_eight_where_the_text_has_no_more(tmp_path):
    assert train_byte_level(["some few words, some few words"], tmp_path, vocab_size=5000).vocab_size % 8 == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"texts": []}, "no text to train"),
        ({"texts": [" \n"]}, "no text to train"),
        ({"vocab_size": 250}, "always there"),
        ({"special_tokens": ("<|bos|>",)}, "must differ"),
        ({"special_tokens": ("",)}, "must differ"),
    ],
)
def test_byte_level_refusals(tmp_path, options, sentence):
    with pytest.raises(JaLlmError, match=sentence):
        train_byte_level(**{"texts": ["some text"], "out_dir": tmp_path, **options})


def test_sources_have_their_shares_as_far_as_the_scarcest_goes():
    entries = [
        (source, f"{source}{i}", source * 10) for source, count in (("a", 100), ("b", 400), ("c", 50)) for i in range(count)
    ]
    taken = list(sample_by_source(entries, {"a": 1, "b": 3}, None, 0))
    assert [sum(text[0] == source for text in taken) for source in "abc"] == [100, 300, 0]
    taken = list(sample_by_source(reversed(entries), {"a": 1, "b": 1}, 400, 0))
    assert [sum(text[0] == source for text in taken) for source in "abc"] == [20, 20, 0]
    assert taken == list(sample_by_source(entries, {"b": 2, "a": 2}, 400, 0))
    most, Text.alive = 0, 0

    def stream():
        nonlocal most
        for source, key, text in entries:
            most = max(most, Text.alive)
            yield source, key, Text(text)

    found = list(sample_by_source(stream(), {"a": 1}, 100, 0))
    assert found == list(sample((entry[1:] for entry in entries[:100]), 100, 0)) and len(found) == 10
    assert most <= 12  # other sources are not held, and of this one no more than is asked for
    with pytest.raises(UsageError, match="no text of the source 'd'; the sources here are a, b, c"):
        list(sample_by_source(entries, {"d": 1}, None, 0))
    with pytest.raises(UsageError, match="above 0"):
        list(sample_by_source(entries, {"a": 0}, None, 0))


def test_morphemes_are_mecabs_words():
    fugashi = pytest.importorskip("fugashi")
    pytest.importorskip("unidic_lite")
    text = "東京都に住んでいる人、ABCは全角　空白。"
    spans = list(Runs("morpheme").spans(text))
    words = [w.surface for part in ("東京都に住んでいる人、", "は全角　空白。") for w in fugashi.Tagger("-Owakati")(part)]
    assert [text[a:b] for a, b in spans] == words and "東京" in words and "住ん" in words
    assert count_runs([text], "morpheme")["東京"] == 1


def test_without_the_analyser_a_sentence_says_what_to_install(monkeypatch):
    from ja_llm.vocab import japanese

    japanese._analyser.cache_clear()
    monkeypatch.setitem(sys.modules, "fugashi", None)
    with pytest.raises(JaLlmError, match=r"needs the package fugashi.*pip install 'ja_llm\[eval-ja\]'"):
        Runs("morpheme")
    with pytest.raises(JaLlmError, match="choose one of script, word, none, morpheme"):
        Runs("letters")


def test_no_trained_piece_crosses_a_cut(tmp_path, japanese):
    free = train_sentencepiece([japanese], tmp_path / "a", vocab_size=700)
    cut = train_sentencepiece([japanese], tmp_path / "b", vocab_size=700, segments="script")
    run = Runs("script")

    def crossing(tokenizer):
        pieces = [p.piece.strip(WORD_START) for p in tokenizer.proto.pieces if p.type == NORMAL]
        return [p for p in pieces if len(p) > 1 and is_japanese(p) and not run.one(p)]

    assert not crossing(cut)
    assert cut.vocab_size > 500 and cut.decode(cut.encode(japanese)) == japanese
    assert cut.fingerprint != free.fingerprint


@pytest.fixture(scope="module")
def joint(tmp_path_factory, japanese, english, code):
    folder = tmp_path_factory.mktemp("joint")
    parts = [
        Part("ja", [japanese], 420, 8, True, "word"),
        Part("en", [english, "和文 in English"], 300),
        Part("code", [code], 180),
    ]
    return folder, train_joint(parts, folder, special_tokens=("<|user|>",))


def test_joint_pieces_are_each_languages_own_once(joint, japanese, english, code):
    folder, tokenizer = joint
    pieces = list(tokenizer.proto.pieces)
    names = [p.piece for p in pieces]
    assert len(set(names)) == len(names) and len(names) % 8 == 0
    assert names[:5] == ["<unk>", "<s>", "</s>", "<|user|>", "\n"] and [p.type for p in pieces[5:261]] == [BYTE] * 256
    assert all(p.score == 0 for p in pieces[:261])
    normal = [p for p in pieces[261:]]
    for piece in normal:  # a piece is Japanese through and through and short, or not at all
        assert piece.type == NORMAL
        assert not JAPANESE.search(piece.piece) or (is_japanese(piece.piece) and len(piece.piece) <= 8), piece.piece
    assert sum(map(is_japanese, names)) > 200 and any(name.startswith(WORD_START) and len(name) > 3 for name in names)
    assert load_tokenizer(folder).fingerprint == tokenizer.fingerprint
    for text in (japanese, english, code, "a\nb  c\td 1873 龘😀"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("a\nb").count(names.index("\n")) == 1
    assert len(tokenizer.encode(japanese)) < 0.75 * len(japanese)


def test_a_japanese_word_that_begins_every_line_stays_without_the_space_mark(tmp_path):
    lines = [f"港湾局{end}" for end in ("です", "から", "まで", "には")] * 9
    tokenizer = train_joint([Part("ja", ["\n".join(lines)], 40, 8, True)], tmp_path, align=1)
    names = [p.piece for p in tokenizer.proto.pieces if p.type == NORMAL]
    assert any(name.startswith("港湾局") for name in names) and not any(name.startswith(WORD_START) for name in names)


def test_joint_scores_are_one_distribution_and_a_fixed_point_nearly(joint, japanese, english, code):
    """EM's own statement: after its step the probabilities are the expected counts; a further step must not lower the likelihood."""
    from ja_llm.vocab.unigram import reestimate

    _, tokenizer = joint
    scores = {p.piece: p.score for p in tokenizer.proto.pieces if p.type == NORMAL}
    assert math.isclose(math.fsum(map(math.exp, scores.values())), 1.0, abs_tol=1e-6)
    lines = [line for text in (japanese, english, code) for line in text.split("\n") if line]
    stretches = count_stretches(lines, scores)
    _, _, likelihoods = reestimate(stretches, scores, {}, 3)
    assert likelihoods == sorted(likelihoods)
    assert likelihoods[-1] - likelihoods[0] < 0.01 * abs(likelihoods[0])


def test_joint_scores_stay_a_distribution_however_many_pieces_are_left_out_for_the_size(tmp_path, japanese, english):
    parts = [Part("ja", [japanese], 420, 8, True, "word"), Part("en", [english], 300)]
    tokenizer = train_joint(parts, tmp_path, align=128)
    scores = [p.score for p in tokenizer.proto.pieces if p.type == NORMAL]
    assert tokenizer.vocab_size % 128 == 0
    assert math.isclose(math.fsum(map(math.exp, scores)), 1.0, abs_tol=1e-6)


def test_no_piece_crosses_the_end_of_a_stretch_and_stretches_are_the_text():
    pieces = ["ab", "bc", "▁a", "c", "d", "日本", "本語"]
    counts = count_stretches(["abcd abd", "日本語d日"], pieces)
    assert dict(counts) == {"▁abc": 1, "d": 3, "▁ab": 1, "▁": 1, "日本語": 1, "日": 1}


def test_joint_refusals(tmp_path, japanese, english):
    with pytest.raises(JaLlmError, match="no piece of that language"):
        train_joint([Part("ja", [english], 300, 8, True)], tmp_path / "a")
    with pytest.raises(JaLlmError, match="no text to train"):
        train_joint([Part("en", [], 300)], tmp_path / "b")
    with pytest.raises(JaLlmError, match="must differ"):
        train_joint([Part("en", [english], 300)], tmp_path / "c", special_tokens=("<s>",))
    assert not any((tmp_path / name).exists() for name in "abc")


def test_the_verb_takes_every_kind(document_set, tmp_path, capsys):
    from ja_llm.cli import main

    def train(*options, out="out"):
        return main(["vocab", "train", "--documents", str(document_set), "--out", str(tmp_path / out), *options])

    assert train("--size", "ja=400,en=300", "--segments", "script", out="joined") == 0
    note = read_json(tmp_path / "joined/training.json")
    assert note["config"]["vocab_size"] == {"ja": 400, "en": 300} and note["config"]["segments"] == "script"
    assert train("--size", "500", "--type", "byte_level", "--lang", "ja", out="bytes") == 0
    assert load_tokenizer(tmp_path / "bytes").vocab_size == 500
    assert train("--size", "500", "--type", "byte_level", "--lang", "ja", out="joined") == 2  # another result is there
    assert train("--size", "ja=400,en", "--segments", "script") == 2
    assert train("--size", "many") == 2
    assert train("--size", "ja=400,en=300", "--type", "bpe") == 2
    assert train("--size", "400", "--source", "nowhere=1") == 2
    told = capsys.readouterr().err
    for clause in ("ja=30000,en=20000", "joined by their unigram scores", "no text of the source 'nowhere'"):
        assert clause in told


def test_texts_in_another_language_than_they_say_are_refused(english, japanese, document_set, tmp_path):
    assert list(checked(iter([japanese]), "ja")) == [japanese]
    for text, lang in ((english * 2, "ja"), (japanese * 4, "en")):
        with pytest.raises(JaLlmError, match="in another language than they say"):
            list(checked(iter([text]), lang))
    chinese = "我们在这个城市住了很多年，每天都去图书馆看书。" * 40
    with pytest.raises(JaLlmError, match="kanji but only 0 kana, as Chinese does"):
        count_runs([chinese])
    assert count_runs([chinese, japanese * 3])  # Japanese with quotations
    with pytest.raises(JaLlmError, match="kanji but only 0 kana, as Chinese does"):
        list(checked(iter([chinese]), "ja"))
    assert list(checked(iter([chinese, japanese * 3]), "ja")) and list(checked(iter([chinese]), "zh"))
    with pytest.raises(UsageError, match="no type of vocabulary 'wordpiece'"):
        train_on_documents(document_set, tmp_path / "x", model_type="wordpiece")
