"""Mesh and rules: t5x's meaning of the rules, refusals by name, and four devices that compute what one does."""

import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from ja_llm import sharding
from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params, param_axes

CONFIG = DecoderConfig(
    vocab_size=96, embed_dim=24, num_layers=2, num_heads=6, num_kv_heads=2, head_dim=4, mlp_dim=48, max_length=32
)


def mesh(**sizes: int) -> AbstractMesh:
    shape = tuple(sizes.get(name, 1) for name in sharding.MESH_AXES)
    return AbstractMesh(shape, sharding.MESH_AXES, axis_types=(AxisType.Auto,) * len(shape))


def specs(config: DecoderConfig = CONFIG, rules=sharding.DEFAULT_RULES, **sizes: int) -> dict:
    tree = sharding.shardings(param_axes(config), abstract_params(config), mesh(**sizes), rules)
    return jax.tree.map(lambda s: tuple(s.spec), tree)


def test_default_rules_spread_each_parameter_as_documented():
    tree = specs(fsdp=2, tensor=2)
    assert tree["token_embedder"]["embedding"] == ("tensor", "fsdp")
    assert tree["layers"]["self_attention"]["query"]["kernel"] == (None, "fsdp", "tensor", None)
    assert tree["layers"]["self_attention"]["out"]["kernel"] == (None, "tensor", None, "fsdp")
    assert tree["layers"]["mlp"]["wo"]["kernel"] == (None, "tensor", "fsdp")
    assert tree["decoder_norm"]["scale"] == ("fsdp",)
    assert sharding.batch_sharding(mesh(data=2, context=2)).spec == PartitionSpec(("data", "fsdp"), "context")


def test_the_first_rule_whose_mesh_axis_is_free_wins():
    rules = (("a", "tensor"), ("b", "tensor"), ("b", "fsdp"), ("b", "data"), ("c", "data"))
    assert sharding.partition_spec(("a", "b", "c"), rules) == PartitionSpec("tensor", "fsdp", "data")
    assert sharding.partition_spec(("b",), rules) == PartitionSpec("tensor")
    # in the order of the rules, not of the dimensions: "a" takes tensor although "b" stands first
    assert sharding.partition_spec(("b", "a"), rules) == PartitionSpec("fsdp", "tensor")
    assert sharding.partition_spec(("d", None), rules) == PartitionSpec(None, None)


def test_a_dimension_that_does_not_divide_is_refused_with_parameter_and_axis():
    with pytest.raises(UsageError) as caught:
        specs(tensor=4)
    message = str(caught.value)
    assert (
        "layers/self_attention/key/kernel (2, 24, 2, 4)" in message and "2 along 'kv_heads'" in message and "tensor 4" in message
    )
    without = tuple(rule for rule in sharding.DEFAULT_RULES if rule[0] not in ("kv_heads", "heads"))
    assert specs(rules=without, tensor=4)["layers"]["self_attention"]["key"]["kernel"] == (None, "fsdp", None, None)
    with pytest.raises(UsageError, match="BATCH_SIZE is 6.*data 4.*multiple of 4"):
        sharding.check_batch(mesh(data=4), sharding.DEFAULT_RULES, 6, 32)
    with pytest.raises(UsageError, match="BATCH_SIZE is 12.*2 microbatches.*multiple of 8"):
        sharding.check_batch(mesh(data=4), sharding.DEFAULT_RULES, 12, 32, microbatches=2)
    sharding.check_batch(mesh(data=4), sharding.DEFAULT_RULES, 16, 32, microbatches=2)


def test_wrong_meshes_and_rules_are_refused():
    for axes, message in [
        ({"model": 2}, "'model'; the axes are data, fsdp, context, expert, tensor"),
        ({"data": 0}, "whole number from 1"),
        ({"data": -1, "fsdp": -1}, "one of them may be -1"),
        ({"tensor": 3}, "tensor 3 does not make up the 1 devices"),
        ({"data": -1, "tensor": 2}, "does not make up"),
    ]:
        with pytest.raises(UsageError, match=message):
            sharding.make_mesh(axes, jax.devices()[:1])
    for slices, message in [
        ({"model": 2}, "DCN_MESH is"),
        ({"data": 0}, "DCN_MESH is"),
        ({"data": 2}, "does not make up the 1 devices"),
    ]:
        with pytest.raises(UsageError, match=message):
            sharding.make_mesh({}, jax.devices()[:1], slices)
    with pytest.raises(UsageError, match=r"DCN_MESH \{'data': 2\} does not fit the slices or hosts .* or leave DCN_MESH out"):
        sharding.make_mesh({"data": 2}, jax.devices()[:1] * 4, {"data": 2})  # four devices of one host
    with pytest.raises(UsageError, match="MESH data 4 in each of the parts of DCN_MESH does not make up the 4 devices"):
        sharding.make_mesh({"data": 4}, jax.devices()[:1] * 4, {"data": 2})
    with pytest.raises(UsageError, match="'modle'"):
        sharding.partition_spec(("embed",), (("embed", "modle"),))
    assert sharding.make_mesh({"data": -1}, jax.devices()[:1]).shape["data"] == 1


PROGRAM = """
import json, sys, jax, numpy as np, optax
from ja_llm import sharding
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, abstract_params, init_params, param_axes
from ja_llm.losses.cross_entropy import cross_entropy
config = DecoderConfig(**json.loads(sys.argv[1]))
rng = np.random.default_rng(0)
tokens = rng.integers(0, 96, (4, 33)).astype(np.int32)
segments = np.repeat([1, 2, 0], [14, 15, 3])[None].repeat(4, 0).astype(np.int32)
positions = np.concatenate([np.arange(14), np.arange(15), np.zeros(3)])[None].repeat(4, 0).astype(np.int32)
def run(axes, devices):
    mesh = sharding.make_mesh(axes, devices)
    spread = sharding.shardings(param_axes(config), abstract_params(config), mesh)
    rows = sharding.batch_sharding(mesh)
    params = jax.device_put(start, spread)
    batch = [jax.device_put(x, rows) for x in (tokens[:, :-1], tokens[:, 1:], segments, positions)]
    def loss(p, inputs, targets, segments, positions):
        logits = Decoder(config).apply({"params": p}, inputs, targets, decoder_segment_ids=segments, decoder_positions=positions)
        total, _, weight = cross_entropy(logits, targets, (segments > 0).astype(np.float32))
        return total / weight
    step = jax.jit(jax.value_and_grad(loss), in_shardings=(spread, rows, rows, rows, rows), out_shardings=(sharding.replicated(mesh), spread))
    losses = []
    with sharding.use(mesh):
        for _ in range(3):
            value, grads = step(params, *batch)
            losses.append(float(value))
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    part = params["layers"]["mlp"]["wi_0"]["kernel"].addressable_shards[0].data.shape
    return losses, jax.tree.map(np.asarray, params), part
start = jax.tree.map(np.asarray, init_params(config, jax.random.key(0)))
one, expected, _ = run({}, jax.devices()[:1])
for axes in ({"data": 2, "tensor": 2}, {"fsdp": 2, "context": 2}):
    losses, params, part = run(axes, jax.devices())
    far = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected)))
    print(json.dumps({"one": one, "four": losses, "parameters": far, "part": part}))
"""


def test_four_devices_give_the_losses_and_parameters_of_one():
    # The rendezvous of simulated devices on busy cores may take longer than XLA's default patience.
    flags = "--xla_force_host_platform_device_count=4 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(CONFIG.to_json())]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    tensor, fsdp = map(json.loads, result.stdout.splitlines())
    assert tensor["part"] == [2, 24, 24] and fsdp["part"] == [2, 12, 48]
    for got in (tensor, fsdp):
        assert got["four"] == pytest.approx(got["one"], rel=1e-6) and got["one"][2] < got["one"][0]
        assert got["parameters"] < 1e-5


class Hosts:
    """As much of a mesh as says which host has which device: hosts take devices in order, as a pod's do."""

    def __init__(self, per_host: int, **sizes: int):
        self.axis_names = sharding.MESH_AXES
        self.shape = {name: sizes.get(name, 1) for name in self.axis_names}
        count = np.prod(list(self.shape.values()))
        owners = [types.SimpleNamespace(process_index=i // per_host) for i in range(count)]
        self.devices = np.array(owners, object).reshape(tuple(self.shape.values()))


@pytest.mark.parametrize(
    ("per_host", "sizes"),
    [
        (1, {"data": 2}),
        (1, {"fsdp": 4}),
        (2, {"data": 2, "expert": 2}),
        (4, {"data": 2, "tensor": 4}),
        (2, {"fsdp": 4, "tensor": 2}),
    ],
)
def test_hosts_read_different_rows_and_together_all(per_host, sizes):
    hosts = Hosts(per_host, **sizes)
    count = hosts.devices.size // per_host
    assert [sharding.host_shard(hosts, host=host) for host in range(count)] == [(host, count) for host in range(count)]


def test_a_host_reads_the_rows_that_it_holds():
    hosts = Hosts(1, data=2)
    hosts.devices = hosts.devices[::-1]  # the second host's device stands first in the mesh
    assert [sharding.host_shard(hosts, host=host) for host in range(2)] == [(1, 2), (0, 2)]


@pytest.mark.parametrize(
    ("per_host", "sizes", "rules"),
    [
        (1, {"expert": 2}, sharding.DEFAULT_RULES),
        (1, {"tensor": 2}, sharding.DEFAULT_RULES),
        (1, {"context": 2}, sharding.DEFAULT_RULES),
        (1, {"fsdp": 2}, (("batch", "data"), ("embed", "fsdp"))),
        (2, {"data": 2, "tensor": 4}, sharding.DEFAULT_RULES),
    ],
)
def test_a_mesh_that_gives_two_hosts_the_same_rows_is_refused(per_host, sizes, rules):
    with pytest.raises(UsageError, match="gives several hosts parts of the same rows"):
        sharding.host_shard(Hosts(per_host, **sizes), rules, host=0)
