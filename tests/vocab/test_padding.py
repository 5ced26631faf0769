"""Rows that pad a table: zero at first, masked, zero after training, never written, absent from an export."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder
from ja_llm.vocab.initialise import expand_params, padding_for

SIZES = dict(embed_dim=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=24, max_length=32)


def pair(tied: bool, params_of):
    """(plain configuration, its parameters, padded configuration, its parameters)."""
    plain = DecoderConfig(vocab_size=50, tie_embeddings=tied, **SIZES)
    params = jax.tree.map(jnp.asarray, params_of(plain))
    padded = dataclasses.replace(plain, vocab_size=64, padding_ids=14)
    return plain, params, padded, jax.tree.map(jnp.asarray, expand_params(params, [], padding=14))


def test_rows_to_the_next_multiple():
    assert [padding_for(n, 128) for n in (1, 127, 128, 129, 32000)] == [127, 1, 0, 127, 0]
    assert padding_for(77, 1) == 0
    with pytest.raises(UsageError, match="pad_to is 0"):
        padding_for(5, 0)


def test_the_field_is_checked_and_absent_where_it_is_nothing(params_of):
    with pytest.raises(UsageError, match="at least one must be an id"):
        DecoderConfig(vocab_size=8, padding_ids=8, **SIZES)
    with pytest.raises(UsageError, match="from 0"):
        DecoderConfig(vocab_size=8, padding_ids=-1, **SIZES)
    plain, _, padded, _ = pair(True, params_of)
    assert "padding_ids" not in plain.parts()["architecture"]  # hashes of ledgers from before stay
    assert padded.parts()["architecture"]["padding_ids"] == 14
    assert DecoderConfig.from_parts(padded.parts()) == padded and DecoderConfig.from_parts(plain.parts()) == plain


@pytest.mark.parametrize("tied", [True, False])
def test_probabilities_and_losses_are_those_without_padding(tied, params_of, forward):
    from ja_llm.losses.cross_entropy import cross_entropy

    plain, params, padded, wide = pair(tied, params_of)
    tokens = jnp.arange(40).reshape(2, 20)
    old, new = forward(plain, params, tokens), forward(padded, wide, tokens)
    assert new.shape[-1] == 64
    np.testing.assert_allclose(jax.nn.softmax(new)[..., :50], jax.nn.softmax(old), rtol=1e-5)
    assert float(jax.nn.softmax(new)[..., 50:].max()) == 0.0
    weights = jnp.ones(tokens.shape)
    for z_loss in (0.0, 1e-2):
        np.testing.assert_allclose(
            cross_entropy(new, tokens, weights, z_loss), cross_entropy(old, tokens, weights, z_loss), rtol=1e-5
        )


@pytest.mark.parametrize("tied", [True, False])
def test_training_leaves_padding_at_zero_and_all_else_as_without_it(tied, params_of):
    from ja_llm.train.optimizers import AdamW
    from ja_llm.train.step import StepOptions, TrainState, init_optimizer, loss_sums, make_train_step

    plain, params, padded, wide = pair(tied, params_of)
    tokens = np.random.default_rng(0).integers(0, 50, (4, 21))
    ones = np.ones((4, 20), np.int32)
    batch = {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_loss_weights": ones.astype(np.float32),
        "decoder_segment_ids": ones,
        "decoder_positions": np.broadcast_to(np.arange(20), (4, 20)),
    }
    ends = []
    for config, start in ((plain, params), (padded, wide)):
        optimizer = AdamW().transformation()
        step = jax.jit(make_train_step(loss_sums, Decoder(config), optimizer, lambda n: 1e-2, StepOptions(z_loss=1e-3)))
        state = TrainState(jnp.zeros((), jnp.int32), start, init_optimizer(optimizer, start))
        for _ in range(5):
            state, metrics = step(state, batch)
        ends.append((state.params, float(metrics["loss"])))
    (old, loss), (new, padded_loss) = ends
    assert padded_loss == pytest.approx(loss, rel=1e-4)
    table = np.asarray(new["token_embedder"]["embedding"])
    assert not table[50:].any() and np.allclose(table[:50], old["token_embedder"]["embedding"], atol=1e-3)
    if not tied:
        assert not np.asarray(new["logits_dense"]["kernel"])[:, 50:].any()


@pytest.fixture(scope="module")
def padded_model(tmp_path_factory, base, params_of, document_set):
    from ja_llm.train.checkpoints import save_model
    from ja_llm.vocab.surgery import expand_model

    folder = tmp_path_factory.mktemp("padded")
    config = DecoderConfig(vocab_size=base.vocab_size + 5, **SIZES)  # five rows that no id has, as in Qwen's tables
    save_model(
        folder / "base",
        config=config,
        params=params_of(config, 1),
        tokenizer=base,
        ledger={"job": "import", "identity_hash": "a"},
    )
    certificate = expand_model(folder / "base", document_set, folder / "out", new_pieces=100, pad_to=128)
    return folder, certificate


def test_a_padded_base_is_expanded_and_padded_anew(padded_model, document_set):
    from ja_llm.train.checkpoints import load_model
    from ja_llm.vocab.surgery import certify_models

    folder, certificate = padded_model
    assert certificate["passed"] and certificate["padding"] == 768 - 736
    assert certificate["checks"]["embedding_padding_is_zero"]["rows"] == 32
    assert certificate["checks"]["old_embedding_rows_identical"]["base_padding_dropped"] == 5
    model = load_model(folder / "out")
    assert (model.config.vocab_size, model.config.padding_ids, model.tokenizer.vocab_size) == (768, 32, 736)
    assert certify_models(folder / "base", folder / "out", document_set)["passed"]


def test_a_padded_id_is_never_written_and_the_export_has_none(padded_model, forward, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from ja_llm.evaluation.generation import generate
    from ja_llm.evaluation.sampling import Sampling
    from ja_llm.interop.hf import export_hf
    from ja_llm.train.checkpoints import load_model

    model = load_model(padded_model[0] / "out")
    hot = generate(
        model, ["港の船"] * 4, max_new_tokens=16, sampling=Sampling(temperature=50.0)
    )  # nearly uniform over what may be drawn
    assert len(hot) == 4
    export_hf(padded_model[0] / "out", tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", local_files_only=True)
    assert theirs.get_input_embeddings().weight.shape[0] == 736
    ids = np.arange(1, 21)[None]
    ours = forward(model.config, model.params, ids)[..., :736]
    with torch.no_grad():
        np.testing.assert_allclose(ours, theirs(torch.from_numpy(ids)).logits.numpy(), atol=2e-5)


def test_a_vocabulary_that_reaches_into_the_padding_is_refused(base, params_of, tmp_path):
    from ja_llm.train.checkpoints import save_model

    config = DecoderConfig(vocab_size=640, padding_ids=1, **SIZES)
    with pytest.raises(JaLlmError, match="640 ids but the model has 639"):
        save_model(tmp_path / "m", config=config, params=params_of(config), tokenizer=base, ledger={})
