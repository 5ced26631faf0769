"""What a source has beside its numbers comes out of an export again: tokenizer files, settings, ids, dtype; and nobody's files are lost."""

import io
import json

import numpy as np
import pytest
import sentencepiece

from ja_llm import manifest
from ja_llm.cli import main
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json
from ja_llm.interop import hf, safetensors_files
from ja_llm.interop.hf import export_hf, import_hf
from ja_llm.train.checkpoints import load_model, save_model
from ja_llm.train.ledger import carried, carried_ids, new_ledger, parent_entry
from ja_llm.vocab import published
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.sentencepiece_tokenizer import SentencePieceTokenizer


@pytest.fixture(scope="module")
def with_user_defined(texts):
    """As Gemma's: pieces that are taken whole wherever they stand."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text * 3 for text in texts] * 20),
        model_writer=model,
        vocab_size=345,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<unused0>", "<mask>"],
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return SentencePieceTokenizer(model.getvalue())


def go_round(folder, tmp_path) -> None:
    import_hf(folder, tmp_path / "model")
    export_hf(tmp_path / "model", tmp_path / "export")


@pytest.mark.parametrize("added", [False, True])
def test_a_tokenizer_that_no_tokenizer_json_can_say_is_exported_as_it_came(
    plain_source, with_user_defined, tokenizer, tmp_path, added
):
    used = tokenizer if added else with_user_defined
    folder = plain_source(used, rows=360)
    if added:  # a plain token behind the pieces, as chat models of Llama's have
        token = {"id": used.vocab_size, "content": "<|tool|>", "special": False}
        write_json(folder / "tokenizer.json", {"added_tokens": [token]})
    go_round(folder, tmp_path)
    for name in ("tokenizer.model", *(["tokenizer.json"] if added else [])):
        assert (tmp_path / "export" / name).read_bytes() == (folder / name).read_bytes()
    again, ours = load_tokenizer(tmp_path / "export"), load_model(tmp_path / "model").tokenizer
    assert again.fingerprint == ours.fingerprint and again.vocab_size == used.vocab_size + added
    import_hf(tmp_path / "export", tmp_path / "second")
    export_hf(tmp_path / "second", tmp_path / "third")
    assert (tmp_path / "third" / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()


def test_the_import_says_what_an_export_would_have(plain_source, with_user_defined, tmp_path):
    summary = hf.format_summary(import_hf(plain_source(with_user_defined, rows=360), tmp_path / "model"))
    assert "an export would have the source's own tokenizer files, unchanged; " in summary
    assert "has user-defined pieces such as '<mask>' and also puts a space before each text" in summary


def test_a_full_disk_is_not_taken_for_a_tokenizer_that_can_not_be_said(tokenizer, tmp_path, monkeypatch):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    loaded.published = published.read(tmp_path)

    def full(self, directory):
        raise JaLlmError("the disk is full") from OSError(28, "No space left on device")

    monkeypatch.setattr(SentencePieceTokenizer, "export_hf", full)
    with pytest.raises(JaLlmError, match="the disk is full"):
        published.export(loaded, tmp_path)


SETTINGS = {
    "tokenizer_class": "LlamaTokenizer",
    "pad_token": "<unk>",
    "padding_side": "left",
    "model_max_length": 64,
    "additional_special_tokens": ["<s>", "<absent>"],
    "legacy": False,
}


def test_settings_of_the_tokenizer_come_out_again(plain_source, tokenizer, tmp_path):
    folder = plain_source(tokenizer)
    tokenizer.export_hf(folder)
    write_json(folder / "tokenizer_config.json", SETTINGS)
    go_round(folder, tmp_path)
    for name in ("tokenizer_config.json", "tokenizer.json", "tokenizer.model"):
        assert (tmp_path / "export" / name).read_bytes() == (folder / name).read_bytes()


def test_settings_go_with_a_vocabulary_that_was_changed_as_far_as_they_hold(plain_source, tokenizer, with_user_defined, tmp_path):
    tokenizer.export_hf(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {**SETTINGS, "mask_token": {"content": "<mask>", "lstrip": True}})
    proto = tokenizer.proto
    proto.pieces.add(piece="<mask>", score=-1e4, type=3)
    changed = SentencePieceTokenizer(proto.SerializeToString())
    changed.published = published.settings(published.read(tmp_path))
    (tmp_path / "out").mkdir()
    published.export(changed, tmp_path / "out")
    written = read_json(tmp_path / "out" / "tokenizer_config.json")
    kept = {"pad_token": "<unk>", "padding_side": "left", "model_max_length": 64, "mask_token": "<mask>"}
    assert kept.items() <= written.items() and written["additional_special_tokens"] == ["<s>"]
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast" and written["eos_token"] == "</s>"
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (theirs.pad_token, theirs.padding_side, theirs.model_max_length) == ("<unk>", "left", 64)


def test_a_published_tokenizer_json_with_other_ids_is_not_handed_on(plain_source, tokenizer, texts, tmp_path):
    folder = plain_source(tokenizer)
    tokenizer.export_hf(folder)
    value = read_json(folder / "tokenizer.json")
    value["model"]["merges"] = value["model"]["merges"][:5]
    write_json(folder / "tokenizer.json", value)
    go_round(folder, tmp_path)
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tmp_path / "export" / "tokenizer.json"))
    for text in texts:
        assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def test_token_ids_of_the_configuration_come_out_again_also_after_training(plain_source, tokenizer, tmp_path):
    folder = plain_source(tokenizer)
    ids = {"pad_token_id": 3, "eos_token_id": [tokenizer.eos_id, 5]}
    write_json(folder / "config.json", read_json(folder / "config.json") | ids)
    go_round(folder, tmp_path)
    assert ids.items() <= read_json(tmp_path / "export" / "config.json").items()
    base = load_model(tmp_path / "model")
    ledger = new_ledger("train", {}, [parent_entry(base.directory, 0, base.ledger)])
    save_model(tmp_path / "run", config=base.config, params=base.params, tokenizer=base.tokenizer, ledger=ledger, step=4)
    export_hf(tmp_path / "run", tmp_path / "trained")
    assert ids.items() <= read_json(tmp_path / "trained" / "config.json").items()


def test_token_ids_are_renumbered_with_the_vocabulary():
    base = new_ledger(
        "import", {}, generation={"top_p": 0.9, "eos_token_id": [2, 7], "pad_token_id": 9}, token_ids={"pad_token_id": 7}
    )
    trained = new_ledger("train", {}, [parent_entry("base", 0, base)])
    trimmed = carried_ids(trained, kept=[0, 1, 2, 7])
    assert trimmed == {"generation": {"top_p": 0.9, "eos_token_id": [2, 3]}, "token_ids": {"pad_token_id": 3}}
    later = new_ledger("vocab trim", {}, [parent_entry("run", 3, trained)], **trimmed)
    assert carried(later, "token_ids") == {"pad_token_id": 3}
    assert carried_ids(base) == {"generation": base["generation"], "token_ids": {"pad_token_id": 7}}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_an_import_goes_out_in_its_sources_dtype_and_a_trained_model_in_its_own(plain_source, tokenizer, tmp_path, dtype):
    folder = plain_source(tokenizer, dtype=dtype)
    go_round(folder, tmp_path)
    assert load_model(tmp_path / "model").params["decoder_norm"]["scale"].dtype == np.float32
    name = "model.safetensors"
    assert (tmp_path / "export" / name).stat().st_size == pytest.approx((folder / name).stat().st_size, rel=0.02)
    assert read_json(tmp_path / "export" / "config.json")["torch_dtype"] == dtype
    base = load_model(tmp_path / "model")
    ledger = new_ledger("train", {}, [parent_entry(base.directory, 0, base.ledger)])
    save_model(tmp_path / "run", config=base.config, params=base.params, tokenizer=base.tokenizer, ledger=ledger)
    assert export_hf(tmp_path / "run", tmp_path / "trained")["dtype"] == "float32"


def test_what_lies_beside_a_model_or_an_export_is_not_lost(plain_source, tokenizer, tmp_path, capsys):
    folder = plain_source(tokenizer)
    model, export = tmp_path / "model", tmp_path / "export"
    go_round(folder, tmp_path)
    (model / "eval").mkdir()
    (model / "eval" / "results.json").write_text("{}")
    (export / ".git").mkdir()
    for command in (["import", str(folder), "--out", str(model)], ["export", str(model), "--out", str(export)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "would be lost; move it away" in error and ("eval" in error or ".git" in error)
    assert (model / "eval" / "results.json").exists() and (export / ".git").exists()
    assert main(["export", str(model), "--out", str(export), "--overwrite"]) == 0 and not (export / ".git").exists()
    assert (
        main(["import", str(folder), "--out", str(model), "--overwrite", "--no_text_check"]) == 0
        and not (model / "eval").exists()
    )
    export_hf(model, export)  # an earlier export of ours is replaced as before


def test_an_import_into_a_training_run_is_refused_before_anything_is_read(plain_source, tokenizer, tmp_path, monkeypatch):
    folder = plain_source(tokenizer)
    write_json(tmp_path / "run" / "run.json", {"job": "train"})
    (folder / "model.safetensors").write_bytes(b"unreadable")
    with pytest.raises(UsageError, match="holds a training run"):
        import_hf(folder, tmp_path / "run")


def test_a_model_appears_when_it_is_compared_and_an_earlier_one_stays_until_then(plain_source, tokenizer, tmp_path, monkeypatch):
    folder, model = plain_source(tokenizer), tmp_path / "model"
    real, seen = hf.compare, []

    def looking(*args):
        seen.append(model.exists())
        return real(*args)

    monkeypatch.setattr(hf, "compare", looking)
    import_hf(folder, model)
    assert seen == [False]
    before = read_json(model / "run.json")

    def failing(*args):
        raise JaLlmError("other numbers")

    monkeypatch.setattr(hf, "compare", failing)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.raises(JaLlmError, match="other numbers"):
        import_hf(folder, model)
    assert read_json(model / "run.json") == before and load_model(model).step == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "src"]


def test_each_byte_of_the_weights_is_read_once_and_their_hash_is_of_what_was_read(plain_source, tokenizer, tmp_path, monkeypatch):
    folder, hashed, read = plain_source(tokenizer), [], []
    real, filled = manifest.sha256_file, safetensors_files._filled

    def counted(path, file, room):
        for piece in filled(path, file, room):
            read.append((path, len(piece)))
            yield piece

    monkeypatch.setattr(manifest, "sha256_file", lambda path: hashed.append(path) or real(path))
    monkeypatch.setattr(safetensors_files, "_filled", counted)
    summary = import_hf(folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    assert hashed == [folder / "config.json"] and {path for path, _ in read} == {weights}
    assert sum(size for _, size in read) == weights.stat().st_size
    assert summary["files"] == {"model.safetensors": real(weights)}
    entries = {entry["name"]: entry["sha256"] for entry in load_model(tmp_path / "model").ledger["identity"]["files"]}
    assert entries == {name: real(folder / name) for name in ("config.json", "model.safetensors")}
    written = export_hf(tmp_path / "model", tmp_path / "export")["files"]
    assert written == {"model.safetensors": real(tmp_path / "export" / "model.safetensors")}


def test_an_export_counts_to_its_end_and_cuts_its_files_where_it_is_told(plain_source, tokenizer, tmp_path, capsys):
    import_hf(plain_source(tokenizer), tmp_path / "model")
    capsys.readouterr()
    command = ["export", str(tmp_path / "model"), "--out", str(tmp_path / "export"), "--max_shard_size"]
    assert main([*command, "40KB"]) == 0
    assert "export: 21/21 tensors" in capsys.readouterr().err
    sizes = [path.stat().st_size for path in (tmp_path / "export").glob("model-*.safetensors")]
    assert len(sizes) == 3 and max(sizes) < 42_000
    for wrong in ("0", "5 apples", "-1GB"):
        with pytest.raises(SystemExit) as ended:
            main([*command[:-1], f"--max_shard_size={wrong}"])
        assert ended.value.code == 2 and "is no size; write bytes" in capsys.readouterr().err


def test_a_dry_run_checks_and_writes_nothing(plain_source, tokenizer, tmp_path, capsys):
    folder = plain_source(tokenizer)
    assert main(["import", str(folder), "--out", str(tmp_path / "model"), "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("would import") and "21 tensors" in told and not (tmp_path / "model").exists()
    value = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**value, "intermediate_size": 33})
    assert main(["import", str(folder), "--out", str(tmp_path / "model"), "--dry_run"]) == 1
    assert "config.json asks for (33, 24)" in capsys.readouterr().err
