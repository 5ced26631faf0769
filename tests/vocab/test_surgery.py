"""A whole model expanded: files, ledger, certificate, determinism, refusals; logits of old ids stay."""

import dataclasses
import shutil

import numpy as np
import pytest

from ja_llm import manifest
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json
from ja_llm.train.checkpoints import load_model, save_model
from ja_llm.vocab import surgery
from ja_llm.vocab.initialise import expand_params
from ja_llm.vocab.kinds import kind_of
from ja_llm.vocab.sentencepiece_tokenizer import SentencePieceTokenizer
from ja_llm.vocab.surgery import certify_models, expand_model, sample_texts

HELDOUT = "評価用の文章です。"
SECRET = "鰯鯖鰯鯖鰯鯖鰯鯖"  # stands in the held-out split only


@pytest.fixture(scope="module")
def model(tmp_path_factory, base, params_of):
    from ja_llm.models.config import DecoderConfig

    config = DecoderConfig(
        vocab_size=base.vocab_size, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=24, max_length=64
    )
    folder = tmp_path_factory.mktemp("models") / "base"
    return save_model(
        folder, config=config, params=params_of(config), tokenizer=base, ledger={"job": "import", "identity_hash": "abc"}, step=3
    )


@pytest.fixture(scope="module")
def expanded(model, document_set):
    out = model.parent / "expanded"
    return out, expand_model(model, document_set, out, new_pieces=200, pad_to=1)


def test_the_new_model_directory_holds_everything(expanded, model, document_set):
    out, certificate = expanded
    assert certificate["passed"]
    assert read_json(out / "certificate.json") == certificate
    assert certificate["new"]["fingerprint"] in (out / "certificate.html").read_text(encoding="utf-8")
    new, old = load_model(out), load_model(model)
    assert new.config == dataclasses.replace(old.config, vocab_size=new.tokenizer.vocab_size)
    assert new.tokenizer.vocab_size == 840
    assert new.ledger["job"] == "vocab expand"
    assert new.ledger["parents"][0]["step"] == 3
    assert new.ledger["identity"]["documents"] == manifest.fingerprint(manifest.read(document_set, manifest.DOCUMENTS))
    assert certify_models(model, out, document_set)["passed"]


def test_the_model_and_its_certificate_appear_together_or_not_at_all(model, document_set, tmp_path, monkeypatch):
    from ja_llm.train import checkpoints

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.ocp.Checkpointer, "save", full)
    with pytest.raises(JaLlmError, match="the disk is full"):
        expand_model(model, document_set, tmp_path / "out", new_pieces=200)
    assert not any(tmp_path.iterdir())


def test_optimizer_state_stays_behind(model, document_set, tmp_path):
    """A run's checkpoint has moments of the old tables' shapes, which fit no new one."""
    import jax
    import optax

    from ja_llm.train.checkpoints import Checkpoints

    loaded = load_model(model)
    save_model(
        tmp_path / "run", config=loaded.config, params=loaded.params, tokenizer=loaded.tokenizer, ledger=loaded.ledger, step=3
    )
    checkpoints = Checkpoints(tmp_path / "run", asynchronous=False)
    params = jax.tree.map(jax.numpy.asarray, loaded.params)
    checkpoints.save(5, params, optax.adam(1e-3).init(params))
    checkpoints.close()
    assert any((tmp_path / "run/checkpoints/5").glob("optimizer*"))
    assert expand_model(tmp_path / "run", document_set, tmp_path / "out", new_pieces=40)["passed"]
    assert load_model(tmp_path / "out").ledger["parents"][0]["step"] == 5
    assert not any(path.name.startswith("optimizer") for path in (tmp_path / "out").rglob("*"))


def test_only_the_train_split_is_learnt_from(expanded):
    from ja_llm.vocab.base import load_tokenizer

    tokenizer = load_tokenizer(expanded[0] / "vocab")
    assert not {tokenizer.id_to_piece(i) for i in range(tokenizer.vocab_size)} & set(SECRET)


def test_logits_over_old_ids_are_what_they_were(expanded, model, forward):
    old, new = load_model(model), load_model(expanded[0])
    ids = np.array([[1, *old.tokenizer.encode("The harbour master keeps a notebook.")]], np.int32)
    before, after = forward(old.config, old.params, ids), forward(new.config, new.params, ids)
    assert after.shape[-1] == 840
    np.testing.assert_allclose(after[..., :640], before, rtol=1e-5, atol=1e-6)


def test_a_second_run_gives_the_same_and_says_where_it_is(expanded, model, document_set, tmp_path, capsys):
    again = expand_model(model, document_set, tmp_path / "again", new_pieces=200, pad_to=1)
    assert again == expanded[1]
    told = capsys.readouterr().err.splitlines()
    for line in (
        "read ja/train: 1/1 documents",
        "find Japanese runs: 1 texts",
        "read by SentencePiece, which then trains in silence",
        "count tokens saved: ",
        "choose pieces: ",
        "read ja/heldout: 1/1 documents",
        "count tokens of the new vocabulary: ",
        "certify: ",
    ):
        assert any(got.startswith(line) for got in told), line
    for name in ("vocab/tokenizer.model", "model.json", "certificate.json"):
        assert (tmp_path / "again" / name).read_bytes() == (expanded[0] / name).read_bytes()
    one, two = load_model(expanded[0]), load_model(tmp_path / "again")
    assert np.array_equal(one.params["token_embedder"]["embedding"], two.params["token_embedder"]["embedding"])
    assert one.ledger["identity_hash"] == two.ledger["identity_hash"]


def test_a_model_that_is_no_expansion_of_the_base_fails(expanded, model, document_set):
    report = certify_models(model, model, document_set)
    assert report["passed"]  # nothing added, nothing changed
    assert not certify_models(expanded[0], model, document_set)["passed"]


def test_a_vocabulary_that_was_changed_with_its_note_fails_by_the_ledger_and_by_learning_it_again(
    expanded, model, document_set, tmp_path
):
    """Two new pieces change places, and so do their rows: a sound expansion, but not the one that was made."""
    report = certify_models(model, expanded[0], document_set, rebuild=True)
    assert report["passed"] and report["checks"]["recorded"]["passed"] and report["checks"]["rebuilt"]["passed"]
    shutil.copytree(expanded[0], tmp_path / "out")
    loaded = load_model(expanded[0])
    proto = loaded.tokenizer.proto
    pieces = proto.pieces
    pieces[-1].piece, pieces[-2].piece = pieces[-2].piece, pieces[-1].piece
    other = SentencePieceTokenizer(proto.SerializeToString())
    sources = kind_of(model_base := load_model(model).tokenizer).sources(other)
    params = expand_params(surgery.as_numpy(load_model(model).params), sources, base_size=model_base.vocab_size)
    save_model(tmp_path / "out", config=loaded.config, params=params, tokenizer=other, ledger=loaded.ledger)
    report = certify_models(model, tmp_path / "out", document_set, rebuild=True)
    assert [failure.split(":")[0] for failure in report["failures"]] == ["recorded", "rebuilt"]
    with pytest.raises(UsageError, match="not written by `vocab expand`"):
        certify_models(model, model, document_set, rebuild=True)
    ledger = {**loaded.ledger, "identity": {**loaded.ledger["identity"], "documents": "0" * 64}}
    with pytest.raises(UsageError, match="learnt on another document set, 000000000000"):
        surgery.rebuilt_fingerprint(tmp_path, ledger, model_base, document_set)


def test_a_model_that_fails_its_certificate_is_not_written(model, document_set, tmp_path, monkeypatch):
    def first_source_only(params, sources, **options):
        return expand_params(params, [ids[:1] for ids in sources], **options)

    monkeypatch.setattr(surgery, "expand_params", first_source_only)
    with pytest.raises(JaLlmError, match="fails its certificate"):
        expand_model(model, document_set, tmp_path / "out", new_pieces=40)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("init", "head_init"), [("frequency", None), ("nearest", "random")])
def test_rows_by_another_rule_are_certified_as_such(model, document_set, tmp_path, init, head_init):
    certificate = expand_model(model, document_set, tmp_path / "out", new_pieces=40, embedding_init=init, head_init=head_init)
    said = {"frequency": "weighted_means", "nearest": "nearest_rows", "random": "random_rows"}
    assert certificate["checks"][f"embedding_rows_are_{said[init]}"]["passed"]
    assert certificate["checks"][f"head_rows_are_{said[head_init or init]}"]["passed"]
    assert certify_models(model, tmp_path / "out", document_set)["passed"]
    note = read_json(tmp_path / "out/certificate.json")
    note["rows"]["embedding"] = {"method": "mean"}
    write_json(tmp_path / "out/certificate.json", note)
    assert not certify_models(model, tmp_path / "out", document_set)["passed"]
    with pytest.raises(UsageError, match="can't be made by 'magic'"):
        expand_model(model, document_set, tmp_path / "none", new_pieces=40, embedding_init="magic")


@pytest.mark.parametrize("family", ["smollm2", "llama3", "qwen", "unigram"])
def test_other_kinds_of_vocabulary_go_the_same_way(byte_level, family, english, code, params_of, document_set, tmp_path):
    from ja_llm.models.config import DecoderConfig
    from ja_llm.vocab.train import train_sentencepiece

    if family == "unigram":
        vocab = train_sentencepiece([english, code], tmp_path / "v", vocab_size=400, model_type="unigram")
    else:
        vocab = byte_level([english, code], family)
    sizes = dict(embed_dim=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_dim=8, max_length=32)
    config = DecoderConfig(vocab_size=vocab.vocab_size, **sizes)
    save_model(
        tmp_path / "base",
        config=config,
        params=params_of(config),
        tokenizer=vocab,
        ledger={"job": "import", "identity_hash": "a"},
    )
    certificate = expand_model(tmp_path / "base", document_set, tmp_path / "out", new_pieces=160)
    assert certificate["passed"]
    gain = certificate["checks"]["tokens_per_japanese_character"]
    assert gain["after"] < gain["before"]
    assert load_model(tmp_path / "out").config.vocab_size % 128 == 0  # the default too
    assert certify_models(tmp_path / "base", tmp_path / "out", document_set)["passed"]


def test_a_vocabulary_that_does_not_fit_is_refused(model, expanded, document_set, base, tmp_path):
    loaded = load_model(model)

    def rows(count):
        return {"token_embedder": {"embedding": np.zeros((count, 16), np.float32)}}

    with pytest.raises(JaLlmError, match="640 pieces but the embedding has 639 rows"):
        surgery.check_fit(loaded, rows(639))
    assert surgery.check_fit(loaded, rows(640 + 1024)) is loaded.tokenizer
    with pytest.raises(JaLlmError, match="1665 rows for the 640 pieces.*looks like another model's.*--spare_rows 1025"):
        surgery.check_fit(loaded, rows(640 + 1025))
    assert surgery.check_fit(loaded, rows(640 + 1025), 1025)
    masked = dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, vocab_size=640 + 4000, padding_ids=4000))
    assert surgery.check_fit(masked, rows(640 + 4000))  # what the model says that it masks is no other vocabulary's

    save_model(tmp_path / "other", config=loaded.config, params=loaded.params, tokenizer=base, ledger={})
    description = read_json(tmp_path / "other/model.json")
    write_json(tmp_path / "other/model.json", description | {"vocabulary": "0" * 64})
    with pytest.raises(JaLlmError, match="does not fit the checkpoint"):
        expand_model(tmp_path / "other", document_set, tmp_path / "out", new_pieces=40)
    assert not (tmp_path / "out").exists()


def test_a_result_of_other_settings_is_not_replaced(model, document_set, tmp_path):
    out, same = tmp_path / "out", {"new_pieces": 40, "pad_to": 128}
    first = expand_model(model, document_set, out, **same)
    ledger = (out / "run.json").read_bytes()
    for other, says in (
        ({"new_pieces": 30}, "expansion.new_pieces was 40, now it is 30"),
        ({"seed": 1}, "seed was 0, now it is 1"),
        ({"pad_to": 64}, "pad_to was 128, now it is 64"),
        ({"segments": "none"}, "expansion.segments was word, now it is none"),
        ({"embedding_init": "nearest"}, "rows.embedding.method was mean, now it is nearest"),
    ):
        with pytest.raises(UsageError, match=f"expanded with other settings: {says}"):
            expand_model(model, document_set, out, **{**same, **other})
    with pytest.raises(UsageError, match="a model of `import`, which would be lost"):
        expand_model(model, document_set, model, **same)
    assert (out / "run.json").read_bytes() == ledger and expand_model(model, document_set, out, **same) == first


def test_wrong_paths_languages_and_targets_are_refused(model, document_set, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        expand_model(tmp_path / "nowhere", document_set, tmp_path / "out", new_pieces=40)
    with pytest.raises(JaLlmError, match=r"no manifest\.json"):
        expand_model(model, tmp_path, tmp_path / "out", new_pieces=40)
    with pytest.raises(UsageError, match="no train documents in the language 'ko'"):
        expand_model(model, document_set, tmp_path / "out", new_pieces=40, lang="ko")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/diary.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="holds something else"):
        expand_model(model, document_set, tmp_path / "mine", new_pieces=40)
    assert not (tmp_path / "out").exists()


def test_the_certificates_samples_are_held_out_where_there_are_some(document_set, english):
    assert sample_texts(document_set, 10**6, 0) == {"en": [english], "ja": [HELDOUT + SECRET * 20]}
