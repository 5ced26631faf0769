"""`ja-llm vocab` as it is typed: every verb to its end, what gin binds, what is said of too few pieces, and what is refused."""

import json

import pytest

from ja_llm.cli import main
from ja_llm.files import read_json
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.sentencepiece_tokenizer import USER_DEFINED, SentencePieceTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory, base, params_of):
    from ja_llm.models.config import DecoderConfig
    from ja_llm.train.checkpoints import save_model

    folder = tmp_path_factory.mktemp("commands")
    config = DecoderConfig(
        vocab_size=base.vocab_size, embed_dim=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_dim=8, max_length=32
    )
    save_model(folder / "base", config=config, params=params_of(config), tokenizer=base, ledger={"job": "import"})
    return folder


def vocab(verb: str, folder, document_set, *options: str) -> int:
    paths = [text.replace("DIR", str(folder)) for text in options]
    return main(["vocab", verb, *([] if verb == "rollback" else ["--documents", str(document_set)]), *paths])


def test_every_verb_to_its_end(folder, document_set, capsys):
    def run(verb, *options):
        assert vocab(verb, folder, document_set, *options) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    told = run("expand", "--model", "DIR/base", "--pieces", "300", "--out", "DIR/out", "--gin.expand_sentencepiece.min_count=4")
    added = read_json(folder / "out/certificate.json")["checks"]["pieces"]["added"]
    assert 0 < added < 300 and "fewer than the 300 that were asked for" in told
    assert read_json(folder / "out/run.json")["identity"]["expansion"]["min_count"] == 4
    assert read_json(folder / "out/model.json")["architecture"]["vocab_size"] % 128 == 0
    run("certify", "--old", "DIR/base", "--new", "DIR/out", "--rebuild", "--out", "DIR/certificate")
    certificate = read_json(folder / "certificate/certificate.json")
    assert certificate["passed"] and {"recorded", "rebuilt"} <= certificate["checks"].keys()
    assert "base \u2192 out" in (folder / "certificate/certificate.html").read_text(encoding="utf-8")
    run("sweep", "--model", "DIR/base", "--sizes", "16,40", "--share", "1", "--out", "DIR/sweep")
    result = read_json(folder / "sweep/sweep.json")
    assert [row["added"] for row in result["rows"]] == [0, 16, 40] and (folder / "sweep/sweep.svg").exists()
    run("trim", "--model", "DIR/out", "--min_count", "3", "--out", "DIR/small")
    page = (folder / "small/certificate.html").read_text(encoding="utf-8")
    assert "a vocabulary that was trimmed" in page and "out \u2192 small" in page and "logits equal" in page
    told = run("rollback", "--model", "DIR/out", "--base", "DIR/base", "--out", "DIR/back")
    assert "of the base" in told and load_tokenizer(folder / "back/vocab").vocab_size == 640


def test_what_no_export_can_write_is_said_before_any_training(folder, document_set, params_of, base, capsys):
    from ja_llm.models.config import DecoderConfig
    from ja_llm.train.checkpoints import save_model

    assert vocab("train", folder, document_set, "--size", "640", "--lang", "ja", "--type", "unigram", "--out", "DIR/uni") == 0
    assert "note for" not in capsys.readouterr().out
    proto = base.proto
    proto.pieces.add(piece="<go>", score=0.0, type=USER_DEFINED)
    own = SentencePieceTokenizer(proto.SerializeToString())
    config = DecoderConfig(
        vocab_size=own.vocab_size, embed_dim=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_dim=8, max_length=32
    )
    save_model(folder / "own", config=config, params=params_of(config), tokenizer=own, ledger={})
    assert vocab("expand", folder, document_set, "--model", "DIR/own", "--pieces", "40", "--out", "DIR/own_out") == 0
    assert "note for `ja-llm export`: this vocabulary can't be written" in capsys.readouterr().out


def test_what_gin_binds_decides_a_trained_vocabulary_and_is_noted(folder, document_set, capsys):
    assert vocab("train", folder, document_set, "--size", "600", "--out", "DIR/plain", "--lang", "ja") == 0
    options = ("--gin.train_sentencepiece.max_piece_length=2", "--gin_bindings", "train_on_documents.lang = 'ja'")
    assert vocab("train", folder, document_set, "--size", "600", "--out", "DIR/short", *options) == 0
    assert "gin" not in read_json(folder / "plain/training.json")
    note = read_json(folder / "short/training.json")
    assert note["config"]["lang"] == "ja" and "train_sentencepiece.max_piece_length = 2" in note["gin"]
    pieces = [load_tokenizer(folder / "short").id_to_piece(i) for i in range(259, 600)]
    assert max(map(len, pieces)) == 2
    assert vocab("train", folder, document_set, "--size", "400", "--out", "DIR/x", "--gin.train_sentencepiece.coverage=1") == 2
    assert "near names: character_coverage" in capsys.readouterr().err
    assert vocab("train", folder, document_set, "--size", "20000", "--lang", "ja", "--out", "DIR/most") == 0
    assert "fewer than the 20000 that were asked for" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["train", "expand", "trim", "sweep"])
def test_help_names_what_gin_can_bind(verb, capsys):
    from importlib import import_module

    from ja_llm.gin_utils import parsed, split_gin_flags

    of = {"train": "train_documents", "expand": "surgery", "trim": "trim_model", "sweep": "sweep"}
    import_module(f"ja_llm.vocab.{of[verb]}")  # what the verb itself imports before it binds
    with pytest.raises(SystemExit):
        main(["vocab", verb, "--help"])
    examples = [word for word in capsys.readouterr().out.split() if word.startswith("--gin.")]
    rest, bindings = split_gin_flags(examples)
    assert bindings and not rest
    with parsed([], bindings):  # each names a function and an argument that exist
        pass


@pytest.mark.parametrize(
    ("verb", "options", "sentence"),
    [
        ("train", ["--size", "-5"], "--size -5: give a whole number from 1"),
        ("train", ["--size", "ja=0"], "--size ja=0: give a whole number from 1"),
        ("train", ["--size", "ja=1.5"], "--size ja=1.5: give a whole number from 1"),
        ("train", ["--size", "300", "--source", "wiki=\u00b2"], "--source wiki=\u00b2: give each name once with a number"),
        ("train", ["--size", "ja=300,en=200", "--lang", "ja"], "names the languages itself; leave --lang out"),
        ("train", ["--size", "300", "--sise", "3"], "unrecognized arguments: --sise 3"),
        ("expand", ["--model", "DIR/base", "--pieces", "-1"], "new_pieces is -1; give a whole number from 1"),
    ],
)
def test_wrong_use_ends_in_a_sentence(folder, document_set, capsys, verb, options, sentence):
    try:
        code = vocab(verb, folder, document_set, "--out", "DIR/none", *options)
    except SystemExit as ended:
        code = ended.code
    assert code == 2 and sentence in capsys.readouterr().err
    assert not (folder / "none").exists()


def test_a_table_with_far_more_rows_than_ids_is_refused_unless_it_is_said(folder, document_set, base, params_of, capsys):
    from ja_llm.models.config import DecoderConfig
    from ja_llm.train.checkpoints import save_model

    config = DecoderConfig(
        vocab_size=2000, embed_dim=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_dim=8, max_length=32
    )
    save_model(folder / "wide", config=config, params=params_of(config), tokenizer=base, ledger={})
    expand = ("expand", folder, document_set, "--model", "DIR/wide", "--pieces", "40", "--out", "DIR/from_wide")
    assert vocab(*expand) == 1
    assert "2000 rows for the 640 pieces of the vocabulary" in capsys.readouterr().err
    assert vocab(*expand, "--spare_rows", "1360") == 0
    assert json.loads((folder / "from_wide/certificate.json").read_text())["passed"]
