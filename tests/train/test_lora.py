"""Adapters: the frozen model stays, the merged model is what the adapted one computes, a run goes on, memory is that of the adapters."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm import sharding
from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, abstract_params, init_params, param_axes
from ja_llm.train import stored_arrays
from ja_llm.train.checkpoint_errors import Damaged
from ja_llm.train.checkpoints import load_model
from ja_llm.train.lora import Adapted, Lora, weights_of
from ja_llm.train.memory import needed_bytes
from ja_llm.train.optimizers import AdamW
from ja_llm.train.settings import name_of
from ja_llm.train.state import plan_state
from ja_llm.train.step import StepOptions, loss_sums, make_train_step
from ja_llm.train.stored_arrays import read_item

CONFIG = DecoderConfig(
    vocab_size=32, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=24, max_length=8
)
EVERYTHING = Lora(rank=2, alpha=4.0, parameters=("*/kernel", "*/embedding"), base_dtype="float32")


def flip(item):
    """Change one byte in the middle of the numbers that a checkpoint holds."""
    path = max(item.glob("ocdbt.process_*/d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "changes", [{}, {"num_experts": 2, "experts_per_token": 1}, {"scan_layers": False, "remat_policy": "full"}]
)
def test_the_merged_model_is_what_the_adapted_one_computes(changes):
    config = dataclasses.replace(CONFIG, **changes)
    base = init_params(config, jax.random.key(0))
    abstract, axes = EVERYTHING.adapters(abstract_params(config), param_axes(config))
    adapters = EVERYTHING.start(jax.random.key(1), abstract, axes)
    merged = EVERYTHING.merged(base, adapters)
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(base), strict=True):
        np.testing.assert_array_equal(a, b)  # B is zero at the beginning
    adapters = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), adapters)
    merged = EVERYTHING.merged(base, adapters)
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    own = Adapted(Decoder(config), base, EVERYTHING).apply({"params": adapters}, tokens, tokens)
    whole = Decoder(config).apply({"params": merged}, tokens, tokens)
    np.testing.assert_allclose(own, whole, rtol=2e-4, atol=2e-5)
    assert not np.allclose(own, Decoder(config).apply({"params": base}, tokens, tokens), atol=1e-3)
    outer = weights_of(Adapted(Decoder(config), base, EVERYTHING), adapters)
    np.testing.assert_allclose(outer["logits_dense"]["kernel"], merged["logits_dense"]["kernel"], rtol=1e-5, atol=1e-6)
    assert weights_of(Decoder(config), base) is base
    # One kernel by hand: alpha / rank = 2.
    names = {name_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(adapters)}
    a, b = names["logits_dense/kernel_a"], names["logits_dense/kernel_b"]
    np.testing.assert_allclose(
        merged["logits_dense"]["kernel"], np.asarray(base["logits_dense"]["kernel"]) + 2 * a @ b, rtol=1e-5, atol=1e-6
    )


def test_a_run_trains_adapters_alone_and_goes_on(training, straight, metrics, tmp_path):
    macros = {"INITIAL_CHECKPOINT_PATH": str(straight), "PEAK_LEARNING_RATE": 1e-2, "FINAL_LEARNING_RATE": 1e-3}
    lora = ["--gin.LORA=@lora.Lora()", "--gin_bindings=lora.Lora.rank = 4", "--gin_bindings=lora.Lora.base_dtype = 'float32'"]

    def train(directory, steps):
        from ja_llm.cli import main

        assert main([*training.command(directory, 20, **macros)[3:], *lora, f"--gin_bindings=train.total_steps = {steps}"]) == 0

    train(tmp_path / "whole", 10)
    train(tmp_path / "parts", 5)
    train(tmp_path / "parts", 10)
    assert [line["loss"] for line in metrics(tmp_path / "parts") if "loss" in line] == [
        line["loss"] for line in metrics(tmp_path / "whole") if "loss" in line
    ]
    before, after = load_model(straight).params, load_model(tmp_path / "parts").params
    changed = {
        name_of(p): not np.array_equal(a, b)
        for (p, a), b in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    }
    assert {name for name, value in changed.items() if value} == {
        name for name in changed if name.endswith("kernel") and name.startswith("layers/")
    }
    assert json.loads((tmp_path / "parts/run.json").read_text())["identity"]["lora"]["rank"] == 4


def test_a_run_with_the_settings_as_they_are_gives_a_model_that_loads(training, straight, tmp_path):
    """The base is frozen in bfloat16, and so the merged model lies in the checkpoint; the model's own dtype is float32."""
    from ja_llm.cli import main

    command = training.command(tmp_path / "run", 2, INITIAL_CHECKPOINT_PATH=str(straight), CHECKPOINT_PERIOD=2, WARMUP_STEPS=1)[
        3:
    ]
    assert main([*command, "--gin.LORA=@lora.Lora()"]) == 0
    loaded, stored = load_model(tmp_path / "run"), read_item(tmp_path / "run/checkpoints/2/params")
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(stored), strict=True):
        assert (a.dtype, b.dtype) == (jnp.float32, jnp.bfloat16)
        np.testing.assert_array_equal(a, b.astype(jnp.float32))
    flip(tmp_path / "run/checkpoints/2/params")
    with pytest.raises(Damaged, match="damaged"):
        load_model(tmp_path / "run")


def test_a_frozen_model_is_read_without_standing_whole_in_float32(straight, monkeypatch):
    """At 7B that would be 27 GB, which a GPU of 24 GB has not."""
    held, read = [], stored_arrays.read_arrays

    def look(*arguments, **named):
        before = sum(x.nbytes for x in jax.live_arrays())
        found = read(*arguments, **named)
        held.append(sum(x.nbytes for x in jax.live_arrays()) - before)
        return found

    monkeypatch.setattr(stored_arrays, "read_arrays", look)
    params = load_model(straight, dtype="bfloat16").params
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))
    assert max(held) == 4 * max(leaf.size for leaf in jax.tree.leaves(params))
    whole = load_model(straight).params
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b.astype(jnp.bfloat16))


def test_what_is_no_matrix_and_what_does_not_go_together_is_refused():
    with pytest.raises(UsageError, match="decoder_norm/scale, which is no matrix"):
        Lora(parameters=("decoder_norm/*",)).adapters(abstract_params(CONFIG), param_axes(CONFIG))
    with pytest.raises(UsageError, match="names 'attention', which no parameter fits"):
        Lora(parameters=("attention",)).check(abstract_params(CONFIG))
    with pytest.raises(UsageError, match="LORA can't be used with GROUPS or EMA_DECAY"):
        plan_state(
            CONFIG,
            AdamW(),
            StepOptions(lora=Lora(), ema_decay=0.9),
            sharding.make_mesh({}, jax.devices()[:1]),
            sharding.DEFAULT_RULES,
        )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_step_of_seven_billion_parameters_fits_into_24_gib(optimized):
    config = DecoderConfig(
        vocab_size=32000, embed_dim=4096, num_layers=32, num_heads=32, num_kv_heads=32, head_dim=128, mlp_dim=11008,
        max_length=4096, dtype="bfloat16", remat_policy="full",
    )  # fmt: skip
    mesh, options = sharding.make_mesh({}, jax.devices()[:1]), StepOptions(lora=Lora())
    plan, transformation = plan_state(config, AdamW(), options, mesh, sharding.DEFAULT_RULES)
    step = jax.jit(make_train_step(loss_sums, Decoder(config), transformation, lambda _: 1e-4, options), donate_argnums=0)
    shape = jax.ShapeDtypeStruct((1, 2048), "int32")
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids", "decoder_positions")
    batch = {**dict.fromkeys(names, shape), "decoder_loss_weights": jax.ShapeDtypeStruct((1, 2048), "float32")}
    # A CPU multiplies bfloat16 as float32, and XLA would convert the weights of all layers before the scan: 24 GiB that no GPU needs.
    outside = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion,while-loop-expensive-invariant-code-motion"}
    needed = needed_bytes(step.lower(plan.abstract, batch, plan.model).compile(compiler_options=outside))
    print(f"{needed / 2**30:.2f} GiB")
    assert needed < 24 * 2**30
