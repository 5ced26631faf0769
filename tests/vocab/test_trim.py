"""Trimming: what is kept is spelt as before; a trimmed model's logits; and the way back."""

import dataclasses
import json

import numpy as np
import pytest
import tokenizers

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json
from ja_llm.vocab.surgery import expand_model
from ja_llm.vocab.train import train_sentencepiece
from ja_llm.vocab.trim import trim_tokenizer
from ja_llm.vocab.trim_model import rollback_model, trim_model


@pytest.fixture(scope="module", params=["bpe", "unigram", "smollm2", "llama3"])
def tokenizer(request, byte_level, english, code, japanese, tmp_path_factory):
    texts = [english, code, japanese]
    if request.param in ("bpe", "unigram"):
        return train_sentencepiece(texts, tmp_path_factory.mktemp("t"), vocab_size=700, model_type=request.param)
    return byte_level(texts, request.param)


def test_texts_of_kept_pieces_get_the_same_pieces(tokenizer, english, code, japanese):
    lines = [line for text in (english, japanese, code) for line in text.split("\n") if line]
    chosen = lines[::3]
    keep = {i for line in chosen for i in tokenizer.encode(line)}
    trimmed = trim_tokenizer(tokenizer, keep)
    small = trimmed.tokenizer
    assert small.vocab_size == len(trimmed.kept) < tokenizer.vocab_size and keep <= set(trimmed.kept)
    assert [small.id_to_piece(n) for n in range(small.vocab_size)] == [tokenizer.id_to_piece(i) for i in trimmed.kept]
    place = {old: n for n, old in enumerate(trimmed.kept)}
    inside = [line for line in lines if keep >= set(tokenizer.encode(line))]
    assert set(chosen) <= set(inside)
    for line in inside:
        assert small.encode(line) == [place[i] for i in tokenizer.encode(line)], line
    for line in lines:  # what is not kept is spelt with smaller pieces
        assert small.decode(small.encode(line)) == line
    assert (place[tokenizer.bos_id], place[tokenizer.eos_id]) == (small.bos_id, small.eos_id)


def test_special_tokens_of_a_tokenizer_json_get_their_new_ids(byte_level, english):
    base = byte_level([english], "llama3", vocab_size=400)
    small = trim_tokenizer(base, range(100)).tokenizer
    whole = tokenizers.Tokenizer.from_str(small.model_text)
    ids = whole.encode("a<|im_end|> <tool call>").ids
    assert ids[0] == small.bos_id and whole.token_to_id("<|im_end|>") in ids and whole.token_to_id("<tool call>") in ids
    assert [t["id"] for t in small.model_json["added_tokens"]] == [
        whole.token_to_id(t["content"]) for t in small.model_json["added_tokens"]
    ]


def test_nothing_to_trim_and_foreign_ids_are_refused(tokenizer):
    with pytest.raises(UsageError, match="nothing can be trimmed"):
        trim_tokenizer(tokenizer, range(tokenizer.vocab_size))
    with pytest.raises(UsageError, match="is to be kept, but"):
        trim_tokenizer(tokenizer, [tokenizer.vocab_size])


@pytest.fixture(scope="module", params=["sentencepiece", "byte level, tied"])
def models(request, base, byte_level, english, code, params_of, document_set, tmp_path_factory):
    """(base model, expanded model, trimmed model, certificate of the last)."""
    from ja_llm.models.config import DecoderConfig
    from ja_llm.train.checkpoints import save_model

    vocab = base if request.param == "sentencepiece" else byte_level([english, code], "llama3")
    sizes = dict(embed_dim=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=24, max_length=64)
    config = DecoderConfig(vocab_size=vocab.vocab_size, **sizes, tie_embeddings=request.param != "sentencepiece")
    folder = tmp_path_factory.mktemp("models")
    save_model(
        folder / "base", config=config, params=params_of(config), tokenizer=vocab, ledger={"job": "import", "identity_hash": "a"}
    )
    expand_model(folder / "base", document_set, folder / "expanded", new_pieces=150, pad_to=64)
    certificate = trim_model(folder / "expanded", document_set, folder / "trimmed", min_count=2, pad_to=32)
    return folder, certificate


def test_a_trimmed_model_has_equal_logits_over_what_it_keeps(models, forward):
    from ja_llm.train.checkpoints import load_model

    folder, certificate = models
    assert certificate["passed"]
    assert certificate["checks"]["logits_equal"]["max_abs_error"] <= 1e-5
    assert certificate["checks"]["ids_identical"]["lines"] > 0
    full, small = load_model(folder / "expanded"), load_model(folder / "trimmed")
    kept = read_json(folder / "trimmed/kept_ids.json")
    assert small.tokenizer.vocab_size == len(kept) < full.tokenizer.vocab_size
    assert small.config.vocab_size % 32 == 0 and small.config.padding_ids == small.config.vocab_size - len(kept)
    ids = np.array([kept[5:45]], np.int32)
    mine = np.arange(5, 45, dtype=np.int32)[None]
    old = forward(full.config, full.params, ids).astype(np.float64)[..., kept]
    new = forward(small.config, small.params, mine).astype(np.float64)[..., : len(kept)]
    old, new = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (old, new))
    assert np.abs(old - new).max() <= 1e-5


def test_back_to_the_base_from_an_expansion_and_from_a_trimming(models, tmp_path):
    import jax

    from ja_llm.train.checkpoints import load_model

    folder, _ = models
    rows = rollback_model(folder / "expanded", folder / "base", tmp_path / "back")
    old, back = load_model(folder / "base"), load_model(tmp_path / "back")
    assert rows["from_base"] == 0 and rows["dropped"] > 100
    assert back.tokenizer.fingerprint == old.tokenizer.fingerprint and back.config == old.config
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), old.params, back.params)))
    assert [p["step"] for p in back.ledger["parents"]] == [0, 0]

    rows = rollback_model(folder / "trimmed", folder / "expanded", tmp_path / "wide")
    wide, full = load_model(tmp_path / "wide"), load_model(folder / "expanded")
    assert rows["dropped"] == 0 < rows["from_base"]
    assert wide.config == full.config
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), full.params, wide.params)))


def test_what_was_learnt_comes_along_and_what_is_not_the_base_is_refused(models, base, tmp_path):
    from ja_llm.train.checkpoints import load_model, save_model

    folder, _ = models
    model = load_model(folder / "expanded")
    table = np.array(model.params["token_embedder"]["embedding"])
    table[:700] += 1.0
    learnt = {**model.params, "token_embedder": {"embedding": table}}
    save_model(tmp_path / "run", config=model.config, params=learnt, tokenizer=model.tokenizer, ledger={})
    rollback_model(tmp_path / "run", folder / "base", tmp_path / "back")
    back, old = (load_model(p).params["token_embedder"]["embedding"] for p in (tmp_path / "back", folder / "base"))
    assert np.allclose(np.asarray(back)[:600], np.asarray(old)[:600] + 1.0)

    with pytest.raises(JaLlmError, match="neither an expansion nor a trimming"):
        other = train_sentencepiece(["some other words, quite other words"], tmp_path / "v", vocab_size=300)
        config = dataclasses.replace(model.config, vocab_size=300, padding_ids=0)
        small = {k: v for k, v in learnt.items() if k != "logits_dense"} | {"token_embedder": {"embedding": table[:300]}}
        if "logits_dense" in learnt:
            small["logits_dense"] = {"kernel": np.asarray(learnt["logits_dense"]["kernel"])[:, :300]}
        save_model(tmp_path / "other", config=config, params=small, tokenizer=other, ledger={})
        rollback_model(tmp_path / "other", folder / "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_of_ids_is_taken_and_a_wrong_one_refused(models, document_set, tmp_path):
    folder, _ = models
    (tmp_path / "keep.json").write_text(json.dumps(list(range(300))))
    certificate = trim_model(folder / "base", document_set, tmp_path / "out", keep_file=tmp_path / "keep.json")
    assert certificate["asked"] == 300
    (tmp_path / "keep.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match="JSON list of ids"):
        trim_model(folder / "base", document_set, tmp_path / "out2", keep_file=tmp_path / "keep.json")
