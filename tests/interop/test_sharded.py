"""Tensors go straight into arrays that are spread over a mesh, and are the numbers that numpy arrays get."""

import json
import os
import subprocess
import sys

import numpy as np
import safetensors.numpy

from ja_llm.models.config import DecoderConfig
from ja_llm.models.families import tensors

CONFIG = DecoderConfig(
    vocab_size=96,
    embed_dim=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_dim=32,
    max_length=32,
    num_experts=4,
    experts_per_token=2,
    family="mixtral",
)
PROGRAM = """
import json, sys, jax, numpy as np
from pathlib import Path
from ja_llm import sharding
from ja_llm.interop.parameters import check_names, read_params
from ja_llm.interop.safetensors_files import TensorFolder
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params, param_axes
config, source = DecoderConfig(**json.loads(sys.argv[1])), Path(sys.argv[2])
folder = TensorFolder(source)
check_names(folder, config, source)
expected = read_params(folder, config, source)
for axes in ({"fsdp": 2, "tensor": 2}, {"expert": 4}):
    spread = sharding.shardings(param_axes(config), abstract_params(config), sharding.make_mesh(axes))
    params = read_params(folder, config, source, spread)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert jax.tree.map(lambda p: p.sharding, params) == spread
    print(json.dumps(params["layers"]["mlp"]["wi_0"]["kernel"].addressable_shards[0].data.shape))
"""


def test_four_devices_hold_their_parts_of_the_tensors(tmp_path):
    rng = np.random.default_rng(0)
    values = {tensor.name: rng.normal(size=tensor.shape).astype(np.float32) for tensor in tensors(CONFIG)}
    safetensors.numpy.save_file(values, tmp_path / "model.safetensors")
    flags = "--xla_force_host_platform_device_count=4 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(CONFIG.to_json()), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert [json.loads(line) for line in result.stdout.splitlines()] == [[2, 4, 12, 16], [2, 1, 24, 32]]


GENERATE = """
import json, sys, dataclasses, jax, numpy as np, types
from ja_llm import sharding
from ja_llm.evaluation.generation import Generator
from ja_llm.evaluation.sampling import Sampling
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params, init_params, param_axes
config = DecoderConfig(**json.loads(sys.argv[1]))
params = jax.tree.map(lambda x: 8 * x if x.ndim > 2 else x, init_params(config, jax.random.key(0)))
tokenizer = types.SimpleNamespace(vocab_size=config.vocab_size, eos_id=-1)
prompts, settings = [[5, 9, 1, 30], [7]], {"ignore_eos": True, "sampling": Sampling(temperature=0.7)}
def write(params):
    loaded = types.SimpleNamespace(config=config, params=params, tokenizer=tokenizer)
    return Generator(loaded, 2).continue_tokens(prompts, 16, **settings)
expected = write(params)
for axes in ({"data": 2, "tensor": 2}, {"expert": 4}):
    mesh = sharding.make_mesh(axes)
    spread = sharding.shardings(param_axes(config), abstract_params(config), mesh)
    with sharding.use(mesh):
        assert write(jax.device_put(params, spread)) == expected
print(json.dumps(expected))
"""


def test_four_devices_write_what_one_writes():
    flags = "--xla_force_host_platform_device_count=4 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", GENERATE, json.dumps(CONFIG.to_json())]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert len(set(sum(json.loads(result.stdout), []))) > 5


COMMANDS = """
import sys, jax, numpy as np
from ja_llm.cli import main
from ja_llm.train.checkpoints import load_model
source, one, two = sys.argv[1:]
assert main(["import", source, "--out", one, "--no_text_check"]) == 0
assert main(["import", source, "--out", two, "--no_text_check", "--mesh", "fsdp=2", "--device", "cpu"]) == 0
jax.tree.map(np.testing.assert_array_equal, load_model(one).params, load_model(two).params)
for checkpoint, more in ((one, []), (one, ["--mesh", "data=1,fsdp=2"]), (two, ["--mesh", "fsdp=2"])):
    print("====")
    assert main(["generate", "--checkpoint", checkpoint, "--prompt", "The harbour", "--max_tokens", "12", *more]) == 0
"""


def test_the_commands_import_and_write_on_two_devices_as_on_one(plain_source, tokenizer, tmp_path):
    flags = "--xla_force_host_platform_device_count=2 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", COMMANDS, *map(str, (plain_source(tokenizer), tmp_path / "one", tmp_path / "two"))]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    _, *texts = result.stdout.split("====\n")
    assert len(texts) == 3 and len(set(texts)) == 1 and len(texts[0].strip()) > 8


BALANCE = """
import json, sys, jax, numpy as np
from ja_llm import sharding
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, abstract_params, init_params, param_axes
from ja_llm.train.step import accumulate, loss_sums
config = DecoderConfig(**json.loads(sys.argv[1]))
params = jax.tree.map(lambda x: 5 * x if x.ndim > 2 else x, init_params(config, jax.random.key(0)))
tokens = np.random.default_rng(0).integers(0, 96, (4, 17)).astype(np.int32)
filled = np.arange(16)[None, :] < np.array([16, 9, 2, 16])[:, None]
batch = {
    "decoder_input_tokens": tokens[:, :-1],
    "decoder_target_tokens": tokens[:, 1:],
    "decoder_loss_weights": filled.astype(np.float32),
    "decoder_segment_ids": filled.astype(np.int32),
    "decoder_positions": np.broadcast_to(np.arange(16, dtype=np.int32), (4, 16)) * filled,
}
grad = jax.jit(lambda p, b: accumulate(lambda *x: loss_sums(Decoder(config), *x, 0.0, 1.0), p, b, 1))
one, sums = grad(params, batch)
mesh = sharding.make_mesh({"data": 2, "expert": 2})
spread = sharding.shardings(param_axes(config), abstract_params(config), mesh)
with sharding.use(mesh):
    rows = jax.device_put(batch, sharding.batch_sharding(mesh))
    four, four_sums = grad(jax.device_put(params, spread), rows)
for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four)):
    np.testing.assert_allclose(np.asarray(b), np.asarray(a), atol=2e-5 * float(np.abs(a).max()) + 1e-9)
print(json.dumps([float(sums["balance_loss_sum"]), float(four_sums["balance_loss_sum"]), float(sums["weight_sum"])]))
"""


def test_the_balance_loss_and_its_gradients_do_not_depend_on_the_mesh():
    flags = "--xla_force_host_platform_device_count=4 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", BALANCE, json.dumps(CONFIG.to_json())]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    one, four, weights = json.loads(result.stdout.splitlines()[-1])
    assert abs(one - four) <= 1e-5 * one and one >= 0.99 * weights
