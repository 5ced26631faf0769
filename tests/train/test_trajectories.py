"""Forty steps of AdamW have the same losses on any mesh, in any number of microbatches, with and without remat and scan; so have
experts that are spread over a mesh axis of their own."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import dataclasses, json, sys
import jax, jax.numpy as jnp, numpy as np
from ja_llm import sharding
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params, param_axes
from ja_llm.train.learning_rates import WarmupCosine
from ja_llm.train.optimizers import AdamW
from ja_llm.train.state import plan_state
from ja_llm.train.step import StepOptions, TrainState, init_optimizer, loss_sums, make_train_step

CONFIG = DecoderConfig(
    vocab_size=64, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=4, mlp_dim=32, max_length=16
)
rng = np.random.default_rng(0)
ROWS, LENGTH, STEPS = 16, 16, 40
def batches():
    for step in range(STEPS):
        draw = np.random.default_rng(step)
        tokens = (draw.integers(0, 8, (ROWS, LENGTH + 1)) * 7).astype(np.int32)
        filled = np.arange(LENGTH)[None] < draw.integers(1, LENGTH + 1, ROWS)[:, None]  # rows filled very unevenly
        segments = (1 + (np.arange(LENGTH)[None] >= 5)) * filled
        positions = np.where(np.arange(LENGTH) >= 5, np.arange(LENGTH) - 5, np.arange(LENGTH))[None] * filled
        yield {
            "decoder_input_tokens": tokens[:, :-1], "decoder_target_tokens": tokens[:, 1:],
            "decoder_loss_weights": filled.astype(np.float32), "decoder_segment_ids": segments.astype(np.int32),
            "decoder_positions": positions.astype(np.int32),
        }

def train(axes, microbatches=1, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    params = jax.tree.map(np.asarray, init_params(dataclasses.replace(config, scan_layers=True), jax.random.key(0)))
    if not config.scan_layers:
        layers = params["layers"]
        params = {k: v for k, v in params.items() if k != "layers"}
        params |= {f"layers_{i}": jax.tree.map(lambda x: x[i], layers) for i in range(config.num_layers)}
    size = int(np.prod(list(axes.values()), dtype=int))
    mesh = sharding.make_mesh(axes, jax.devices()[:size])
    options = StepOptions(microbatches=microbatches, z_loss=1e-4, balance_loss=0.1)
    plan, optimizer = plan_state(config, AdamW(), options, mesh, sharding.DEFAULT_RULES)
    rows = sharding.batch_sharding(mesh)
    schedule = WarmupCosine(peak=1e-3, final=1e-4, warmup_steps=5, total_steps=STEPS)
    step = jax.jit(
        make_train_step(loss_sums, Decoder(config), optimizer, schedule, options), in_shardings=(plan.shardings, rows),
        out_shardings=(plan.shardings, sharding.replicated(mesh)),
    )
    params = jax.device_put(params, plan.shardings.params)
    moments = jax.jit(lambda p: init_optimizer(optimizer, p), out_shardings=plan.shardings.optimizer)(params)
    state = TrainState(jax.device_put(jnp.int32(0), sharding.replicated(mesh)), params, moments)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    parts = {
        jax.tree_util.keystr(path, simple=True, separator="/"): [x.shape, x.addressable_shards[0].data.shape]
        for path, x in leaves if "/mlp/" in jax.tree_util.keystr(path, simple=True, separator="/") and x.ndim == 4
    }
    losses = []
    with sharding.use(mesh):
        for batch in batches():
            state, metrics = step(state, jax.device_put(batch, rows))
            losses.append(float(metrics["loss"]))
    return losses, parts

for name, axes, changes in json.loads(sys.argv[1]):
    print(json.dumps([name, train(axes, **changes)]), flush=True)
"""

CASES = [
    ("one", {}, {}),
    ("one again", {}, {}),
    ("data 8", {"data": 8}, {}),
    ("fsdp 8", {"fsdp": 8}, {}),
    ("data 2 x tensor 4", {"data": 2, "tensor": 4}, {}),
    ("fsdp 4 x context 2", {"fsdp": 4, "context": 2}, {}),
    ("microbatches 2", {}, {"microbatches": 2}),
    ("microbatches 8", {}, {"microbatches": 8}),
    ("data 2, microbatches 8", {"data": 2}, {"microbatches": 8}),
    ("remat", {}, {"remat_policy": "full"}),
    ("no scan", {}, {"scan_layers": False}),
]
# Mixtral's shape: fewer heads of keys, four experts of which a token goes through two.
MIXTRAL = {"num_kv_heads": 2, "num_experts": 4, "experts_per_token": 2}
EXPERTS = [
    ("experts on one", {}, MIXTRAL),
    ("expert 4", {"expert": 4}, MIXTRAL),
    ("data 2 x expert 2", {"data": 2, "expert": 2}, MIXTRAL),
    ("data 2 x fsdp 2 x tensor 2", {"data": 2, "fsdp": 2, "tensor": 2}, MIXTRAL),
    ("fsdp 2 x context 2 x expert 2, remat", {"fsdp": 2, "context": 2, "expert": 2}, {**MIXTRAL, "remat_policy": "minimal"}),
    ("fsdp 2 x expert 2 x tensor 2, microbatches 2", {"fsdp": 2, "expert": 2, "tensor": 2}, {**MIXTRAL, "microbatches": 2}),
    ("fsdp 8, no scan", {"fsdp": 8}, {**MIXTRAL, "scan_layers": False}),
]


def run(cases, devices):
    # The rendezvous of simulated devices on busy cores may take longer than XLA's default patience.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_cpu_collective_call_terminate_timeout_seconds=900"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(cases)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return dict(json.loads(line) for line in result.stdout.splitlines())


@pytest.fixture(scope="module")
def trajectories():
    return {name: losses for name, (losses, _) in run(CASES, 8).items()}


@pytest.fixture(scope="module")
def experts():
    return run(EXPERTS, 8)


@pytest.mark.timeout(3600)  # a busy machine, on which eight simulated devices wait for each other; a minute on a quiet one
@pytest.mark.parametrize("name", [name for name, _, _ in CASES[1:]])
def test_a_trajectory_is_that_of_one_device(trajectories, name):
    one, other = trajectories["one"], trajectories[name]
    assert len(one) == 40 and one[-1] < 0.9 * one[0]
    if name == "one again":
        assert other == one
    print(name, max(abs(a / b - 1) for a, b in zip(other, one, strict=True)))
    assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for name, _, _ in EXPERTS[1:]])
def test_experts_train_on_any_mesh_as_on_one_device(experts, name):
    (one, _), (other, _) = experts["experts on one"], experts[name]
    assert len(one) == 40 and one[-1] < 0.9 * one[0]
    assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "axis"), [("expert 4", 4), ("data 2 x expert 2", 2)])
def test_experts_are_spread_over_their_own_axis(experts, name, axis):
    """Kernels [layers, expert, ...] and their two moments: each device has its own experts, of one device all."""
    (_, whole), (_, parts) = experts["experts on one"], experts[name]
    assert len(parts) == 9 and all(name.endswith("kernel") for name in parts)
    for kernel, (shape, shard) in parts.items():
        assert shape[1] == 4 and shard == [shape[0], 4 // axis, *shape[2:]] and whole[kernel][1] == shape
