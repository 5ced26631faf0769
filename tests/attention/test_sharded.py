"""Attention and loss over a mesh equal those of one device: rows, heads, vocabulary and sequence spread over four."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec

from ja_llm.attention import attention, interpreted
from ja_llm.attention.balance import balanced_order
from tests.attention.exact import packed, visible

PROGRAM = """
import json, jax, jax.numpy as jnp, numpy as np
from ja_llm import sharding
from ja_llm.attention import attention, blocks, flash, sharded, xla
from ja_llm.attention.balance import balanced_order
from ja_llm.attention.spans import packed_spans
from ja_llm.losses.linear_cross_entropy import linear_cross_entropy
rng = np.random.default_rng(0)
B, L, H, KV, D, V = 2, 64, 4, 2, 8, 48
shape = (B, L, H, D)
q, dout = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
k, v = (rng.normal(size=(B, L, KV, D)).astype(np.float32) for _ in range(2))
ids = np.stack([np.repeat([1, 2, 3, 0], [9, 30, 20, 5]), np.ones(64)]).astype(np.int32)
head, targets = rng.normal(size=(H * D, V)).astype(np.float32), rng.integers(0, V - 4, (B, L))
tiles = flash.Tiles(16, 16)
sizes = flash.BlockSizes(tiles, tiles, tiles)

def local(q, k, v, spans):
    return flash.attention(q, k, v, spans, backend=blocks, scale=0.3, softcap=None, sizes=sizes)

def step(q, k, v, head):
    out, lse = sharded.over_mesh(local, q, k, v, packed_spans(jnp.asarray(ids), B, L, True))
    found = linear_cross_entropy(out.reshape(B, L, H * D), head, targets, (ids > 0) * 0.5, z_loss=1e-2, padding_rows=4, slab=16)
    return found.loss_sum + jnp.where(ids[..., None] > 0, lse, 0).sum(), (out, lse, found.loss)

def run():
    (_, aux), grads = jax.jit(jax.value_and_grad(step, (0, 1, 2, 3), has_aux=True))(q, k, v, head)
    return jax.tree.map(np.asarray, (aux, grads))

alone = run()
for axes in ({"data": 2, "tensor": 2}, {"context": 2, "fsdp": 2}, {"tensor": 4}, {"context": 4}):
    with sharding.use(sharding.make_mesh(axes, jax.devices())):
        spread = run()
    far = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(*map(jax.tree.leaves, (spread, alone)))]
    print(json.dumps(far))

order = balanced_order(jnp.asarray(ids), 4, tile=8)

@jax.jit
def ordered(q, k, v, dout, order):
    put = lambda x: jnp.take_along_axis(x, order.reshape(B, L, *(1,) * (x.ndim - 2)), axis=1)
    def total(*x):
        out = attention(*map(put, x), segment_ids=put(jnp.asarray(ids)), order=order, implementation="xla")
        return (out * put(dout)).sum()
    return jax.value_and_grad(total, (0, 1, 2))(q, k, v)

def error(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))

# Six query heads on three key-value heads over two devices: keys are repeated. By every tiled implementation.
six, three = (rng.normal(size=(B, L, n, D)).astype(np.float32) for n in (6, 3))

def uneven(implementation):
    def total(*x):
        return (attention(*x, segment_ids=ids, implementation=implementation) ** 2).sum()
    with flash.interpreted():
        return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(total, (0, 1, 2)))(six, three, three))

one, xla._SHORT = uneven("xla"), 0  # then in tiles, as above 512
for implementation in ("xla", "tpu", "triton"):
    with sharding.use(sharding.make_mesh({"tensor": 2, "context": 2}, jax.devices())):
        print(json.dumps([error(a, b) for a, b in zip(*map(jax.tree.leaves, (uneven(implementation), one)))]))
xla._SHORT = 512

# A model whose tokens are put in a balanced order over the sequence axis.
from ja_llm.attention import balance
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
config = DecoderConfig(vocab_size=32, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32, max_length=L)
params, tokens = init_params(config, jax.random.key(0)), rng.integers(1, 32, (B, L))
places = np.concatenate([np.arange(n) for n in (9, 30, 20, 5)])
model_ids, model_places = ids, np.stack([places, np.arange(64)])

def model():
    def total(p):
        x = Decoder(config).apply({"params": p}, tokens, model_ids, model_places, method="hidden")
        return (x * jnp.arange(64)[:, None] * (model_ids > 0)[..., None]).sum(), x * (model_ids > 0)[..., None]
    return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(total, has_aux=True))(params))

# In a user's own shard_map, with its check of varying axes: short rows and tiles.
own = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
P = jax.sharding.PartitionSpec
def spread(*x):
    one = lambda q, k, v, i: attention(q, k, v, segment_ids=i, implementation="xla")
    specs = (P("a", None, "b"), P("a"), P("a"), P("a"))
    return jax.shard_map(one, mesh=own, in_specs=specs, out_specs=specs[0])(*x)
def by(f):
    total = lambda q, k, v: (f(q, k, v, jnp.asarray(ids)) * dout).sum()
    return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(total, (0, 1, 2)))(q, k[:, :, :1], v[:, :, :1]))
right = by(lambda q, k, v, i: attention(q, k, v, segment_ids=i, implementation="reference"))
for xla._SHORT in (0, 512):
    print(json.dumps([error(a, b) for a, b in zip(*map(jax.tree.leaves, (by(spread), right)))]))

one, balance.TILE, seen = model(), 8, []
original = balance.balanced_order
balance.balanced_order = lambda *a, **k: seen.append(1) or original(*a, **k)
with sharding.use(sharding.make_mesh({"context": 4}, jax.devices())):
    spread = model()
assert seen, "balanced"
print(json.dumps([error(a, b) for a, b in zip(*map(jax.tree.leaves, (spread, one)))]))

plain = jax.value_and_grad(lambda *x: (attention(*x, segment_ids=ids) * dout).sum(), (0, 1, 2))(q, k, v)
with sharding.use(sharding.make_mesh({"context": 4}, jax.devices())):
    spread = jax.tree.map(np.asarray, ordered(q, k, v, dout, order))
print(json.dumps([float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(*map(jax.tree.leaves, (spread, plain)))]))
"""


def test_four_devices_equal_one():
    flags = "--xla_force_host_platform_device_count=4 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [len(line) for line in lines][:9] == [7, 7, 7, 7, 4, 4, 4, 4, 4] and len(lines) == 11
    assert max(map(max, lines)) <= 4e-6, lines


def in_own_shard_map(implementation, length, mesh, **options):
    """Gradients of attention inside a user's shard_map over heads that share a key-value head: (function, shapes)."""
    ids = np.repeat([1, 2], [length // 3, length - length // 3])[None].astype(np.int32)
    heads = PartitionSpec(None, None, "x")

    def one(q, k, v):
        return attention(q, k, v, segment_ids=jnp.asarray(ids), implementation=implementation)

    spread = jax.shard_map(one, mesh=mesh, in_specs=(heads, PartitionSpec(), PartitionSpec()), out_specs=heads, **options)
    shapes = [jax.ShapeDtypeStruct((1, length, n, 64), jnp.float32) for n in (2, 1, 1)]
    return jax.jit(jax.grad(lambda *x: (spread(*x) ** 2).sum(), (0, 1, 2))), shapes


def mesh_of(number, **options):
    return AbstractMesh((number,), ("x",), axis_types=(AxisType.Auto,), **options)


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize(
    ("implementation", "kind", "lowered", "call"),
    [("tpu", "TPU v5p", "tpu", "tpu_custom_call"), ("triton", "NVIDIA H200", "cuda", "custom_call @__gpu$xla.gpu.triton")],
)
def test_kernels_lower_inside_a_users_shard_map(implementation, kind, lowered, call, checked):
    device = AbstractDevice(device_kind=kind, num_cores=1, platform="tpu" if lowered == "tpu" else "gpu")
    mesh = mesh_of(2, abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        f, shapes = in_own_shard_map(implementation, 256, mesh, check_vma=checked)
        assert f.trace(*shapes).lower(lowering_platforms=(lowered,)).as_text().count(call) == 3


@pytest.mark.parametrize("length", [64, 600])
def test_xla_inside_a_users_shard_map_is_traced_and_an_interpreted_kernel_refused(length):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))
    f, shapes = in_own_shard_map("xla", length, mesh)
    assert [x.shape for x in f.trace(*shapes).out_info] == [x.shape for x in shapes]
    with interpreted():
        f, shapes = in_own_shard_map("triton", length, mesh)
        with pytest.raises(ValueError, match="Pallas' interpreter can't run inside.*check_vma=False, or choose xla"):
            f.trace(*shapes)
        f, shapes = in_own_shard_map("triton", length, mesh, check_vma=False)
        f.trace(*shapes)


def test_balanced_order_gives_each_part_as_much_to_do():
    segments = np.stack([np.ones(512), np.repeat(np.arange(1, 9), 64), packed([300, 5, 5, 90, 60], 512)[0]]).astype(np.int32)
    order = np.asarray(balanced_order(jnp.asarray(segments), 4, tile=8))
    for row, place in zip(segments, order, strict=True):
        assert sorted(place) == list(range(512)) and (place.reshape(-1, 8) - place.reshape(-1, 8)[:, :1] == np.arange(8)).all()
        pairs = (
            visible(row[None])[0].reshape(512, 64, 8).any(2).reshape(64, 8, 64).any(1).sum(1)
        )  # tiles of keys of each tile of queries
        work = pairs[place.reshape(4, -1, 8)[:, :, 0] // 8].sum(1)
        assert work.max() <= 1.06 * work.mean(), work
    assert pairs.reshape(4, -1).sum(1).max() > 1.4 * pairs.reshape(4, -1).sum(1).mean(), "unbalanced as it stands"
