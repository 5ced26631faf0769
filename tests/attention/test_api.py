"""attention(): log-sum-exp and sinks, who is chosen where, what remat keeps, and every refusal."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.attention import attention, for_pairs, interpreted, registry
from ja_llm.attention.flash import SAVED_NAMES
from ja_llm.attention.registry import names
from ja_llm.errors import UsageError
from tests.attention.exact import distance, exact, packed, visible


def arrays(length=48, heads=4, kv_heads=2, width=8, batch=1):
    rng = np.random.default_rng(7)
    q, dout = (rng.normal(size=(batch, length, heads, width)).astype(np.float32) for _ in range(2))
    k, v = (rng.normal(size=(batch, length, kv_heads, width)).astype(np.float32) for _ in range(2))
    return q, k, v, dout, rng.normal(size=(batch, length, heads)).astype(np.float32), rng.normal(size=heads).astype(np.float32)


@pytest.mark.parametrize("implementation", ["xla", "reference", "triton"])
def test_sinks_and_lse_equal_torch(implementation):
    q, k, v, dout, dlse, sinks = arrays()
    segments, positions = (x[None] for x in packed([1, 20, 11], 48))

    def total(q, k, v, sinks):
        out, lse = attention(
            q, k, v, sinks=sinks, return_lse=True, segment_ids=segments, positions=positions, implementation=implementation
        )
        lse = jnp.where(jnp.isneginf(lse), 0.0, lse)
        return (out * dout).sum() + (lse * dlse).sum(), {"out": out, "lse": lse}

    with interpreted():
        (_, found), grads = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3), has_aux=True))(q, k, v, sinks)
    found |= dict(zip(("dq", "dk", "dv", "dsinks"), grads, strict=True))
    theirs = exact(q, k, v, visible(segments), dout, dlse, sinks=sinks)
    for name, value in theirs.items():
        assert distance(found[name], value) <= 3e-6, name
    assert not np.any(found["out"][:, 32:])


def test_without_a_visible_key_the_lse_is_minus_infinity():
    q, k, v, *_ = arrays()
    out, lse = attention(q, k, v, segment_ids=np.zeros((1, 48), np.int32), return_lse=True)
    assert lse.shape == (1, 48, 4) and np.isneginf(lse).all() and not np.any(out)


def test_who_computes_is_said_once(caplog):
    q, k, v, *_ = arrays()
    registry._said.clear()
    with caplog.at_level(logging.INFO, logger="ja_llm.attention.registry"):
        ours = attention(q, k, v)
        attention(q, k, v)
        np.testing.assert_array_equal(ours, attention(q, k, v, implementation="xla"))
        assert [for_pairs("tpu"), for_pairs("tpu"), for_pairs("xla")] == ["xla"] * 3
    first, second = (r.getMessage() for r in caplog.records)
    assert first == "attention: the implementation for this platform is 'xla'"
    assert second.startswith("attention: 'tpu' takes packed rows only; calls with a cache") and second.endswith("by 'xla'")


def test_a_model_and_a_call_have_the_platforms_default():
    from ja_llm.models.config import DecoderConfig

    (field,) = (f for f in dataclasses.fields(DecoderConfig) if f.name == "attention")
    assert field.default == "default"


@pytest.mark.parametrize(("kind", "platform", "name"), [("TPU v5", "tpu", "tpu"), ("NVIDIA H200", "gpu", "triton")])
def test_a_mesh_of_another_machine_decides(kind, platform, name, monkeypatch):
    from jax.sharding import AbstractDevice, AbstractMesh

    mesh = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice(device_kind=kind, num_cores=1, platform=platform))
    monkeypatch.setattr("ja_llm.attention.registry.jax.sharding.get_abstract_mesh", lambda: mesh)
    from ja_llm.attention.registry import chosen

    assert chosen(None) == name and for_pairs(name) == "xla" and for_pairs("reference") == "reference"


def kernels(policy, loss, *arguments):
    """Kernels of a gradient whose results are read: what is recomputed for nobody XLA removes."""
    f = jax.checkpoint(loss, policy=policy) if policy else loss
    with interpreted():
        return read_kernels(jax.make_jaxpr(jax.grad(f))(*arguments).jaxpr)


def read_kernels(jaxpr):
    read = {id(v) for eqn in jaxpr.eqns for v in eqn.invars} | {id(v) for v in jaxpr.outvars}
    count = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "pallas_call":
            count += any(id(v) in read for v in eqn.outvars)
            continue
        inner = [getattr(p, "jaxpr", p) for p in eqn.params.values()]
        count += sum(read_kernels(j) for j in inner if hasattr(j, "eqns"))
    return count


def test_remat_by_name_keeps_what_the_backward_pass_reads():
    q, k, v, *_ = arrays()
    loss = lambda q: (attention(q * 2, k, v, implementation="tpu") ** 2).sum()  # noqa: E731
    policies = jax.checkpoint_policies
    assert kernels(None, loss, q) == 3
    assert kernels(policies.save_only_these_names(*SAVED_NAMES), loss, q) == 3
    assert kernels(policies.nothing_saveable, loss, q) == 4, "the forward kernel runs again"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("width", [64, 80, 96, 128, 256])
def test_triton_kernels_lower_for_cuda_without_a_gpu(width, dtype):
    """Lowering ends in Triton's own IR inside the module; compiling that to a binary needs a GPU."""
    from jax.sharding import AbstractDevice, AbstractMesh

    shape = lambda heads: jax.ShapeDtypeStruct((1, 256, heads, width), dtype)  # noqa: E731
    device = AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="gpu")
    loss = lambda q, k, v: attention(q, k, v, window=100, softcap=5.0).astype(jnp.float32).sum()  # noqa: E731
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(shape(4), shape(2), shape(2))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 3


def refused(message, **change):
    q, k, v, *_ = arrays()
    arguments = {"q": q, "k": k, "v": v} | change
    with pytest.raises(ValueError, match=message) as raised:
        attention(**arguments)
    assert isinstance(raised.value, UsageError)


def test_what_does_not_fit_is_refused():
    q, k, v, *_ = arrays()
    refused(r"q \(1, 48, 3, 8\).*3 query heads and 2 key-value heads; the second must divide", q=q[:, :, :3])
    refused(r"shapes do not fit.*k \(1, 48, 2, 4\)", k=k[..., :4], v=v[..., :4])
    refused("dimension of 0", q=q[:, :0])
    refused("dtypes are int32.*float32, bfloat16, float16", q=q.astype(np.int32), k=k.astype(np.int32), v=v.astype(np.int32))
    refused("dtypes are float32, bfloat16", k=jnp.asarray(k, jnp.bfloat16))
    for zero in (0, np.int64(0), np.zeros((), np.int32), jnp.zeros((), jnp.int32)):
        refused("window is 0; .*1 or more", window=zero)
    for wrong in (3.5, True, "4", np.ones(2, np.int32), np.float32(3)):
        refused("the attention window is .*; give a whole number", window=wrong)
    np.testing.assert_array_equal(attention(q, k, v, window=2**31), attention(q, k, v))
    refused("attention's q is a list; give an array", q=q.tolist())
    refused("attention's sinks is a list", sinks=[1.0] * 4)
    refused("segment_ids are a list; give one array, or a pair", segment_ids=[[1] * 48])
    refused("segment_ids are a tuple of 1; give one array, or a pair", segment_ids=(np.ones((1, 48), np.int32),))
    for wrong, said in (
        ("2", "'2'"),
        (-2.0, r"-2\.0"),
        ([1.0], r"\[1\.0\]"),
        (True, "True"),
        (float("nan"), "nan"),
        (0, "0"),
        (1j, "1j"),
    ):
        for name in ("softcap", "scale"):
            refused(f"the attention {name} is {said}; give a positive number", **{name: wrong})
    refused(r"softcap is float32 \[2\]; give a positive number", softcap=np.ones(2, np.float32))
    refused(r"scale is float32 \[1\]; give a positive number", scale=jnp.ones(1))
    for name in ("softcap", "scale"):
        with pytest.raises(ValueError, match=f"{name} is an array of a traced program.*static_argnames"):
            jax.jit(lambda x, name=name: attention(q, k, v, **{name: x}))(2.0)
        scalars = (2, np.float64(2), jnp.float32(2), np.full((), 2))
        for same in [attention(q, k, v, **{name: x}) for x in scalars]:
            np.testing.assert_array_equal(same, attention(q, k, v, **{name: 2.0}))
    refused("causal is 'no'; give True or False", causal="no")
    refused("causal is a ndarray; give True or False", causal=np.ones(2, bool))
    refused(r"no attention implementation \['xla'\]; choose one of xla, reference", implementation=["xla"])
    refused("no attention implementation 3; choose one of xla, reference", implementation=3)
    refused(r"sinks are float32 \(2,\); .*4 query heads", sinks=np.zeros(2, np.float32))
    refused(r"segment_ids are int\d+ \(1, 47\); integers \[1, 48\]", segment_ids=np.ones((1, 47), np.int32))
    refused(r"positions are float32", positions=np.zeros((1, 48), np.float32))


def test_an_order_that_is_no_permutation_is_refused():
    place = np.arange(48, dtype=np.int32)[None]
    refused("order is a list; give an array of integers", order=[1])
    refused(r"order is int32 \[?\(?1, 47.*integers \[1, 48\] are needed", order=place[:, :47])
    for wrong, lacks in ((np.zeros_like(place), 1), (place + 1, 0), (-place, 1), (np.where(place == 7, 8, place), 7)):
        refused(
            f"order is no permutation in row 0: it lacks the place {lacks}; each row holds every place from 0 to 47", order=wrong
        )
    q, k, v, *_ = arrays()
    back = [x[:, ::-1] for x in (q, k, v)]
    np.testing.assert_allclose(attention(*back, order=place[:, ::-1])[:, ::-1], attention(q, k, v), atol=2e-6)


def test_ids_that_go_back_and_positions_that_disagree_are_refused():
    refused("segment_ids go back to 1 in row 0", segment_ids=np.repeat([1, 2, 1, 0], 12)[None])
    ids = np.repeat([1, 2], 24)[None]
    refused("positions disagree.*from 0 to 2", segment_ids=ids, positions=np.tile(np.arange(24) * 2, 2)[None])
    q, k, v, *_ = arrays()
    cut = np.concatenate([np.arange(7, 31), np.arange(24)])[None]  # a document that goes on from the row before
    attention(q, k, v, segment_ids=ids, positions=cut)


@pytest.mark.parametrize("implementation", ["xla", "reference", "blocks"])
def test_documents_begin_where_positions_or_ids_say_also_under_jit(implementation, monkeypatch):
    if implementation == "blocks":  # what "xla" does with long rows
        monkeypatch.setattr("ja_llm.attention.xla._SHORT", 0)
        implementation = "xla"
    q, k, v, *_ = arrays()
    f = jax.jit(lambda ids, places: attention(q, k, v, segment_ids=ids, positions=places, implementation=implementation))
    segments, places = (x[None] for x in packed([5, 20, 23], 48))
    right = f(segments, None)
    alone = attention(*(x[:, 5:25] for x in (q, k, v)), implementation="reference")
    np.testing.assert_allclose(right[:, 5:25], alone, atol=2e-6)
    outside = attention(q, k, v, positions=places, implementation=implementation)
    back = f(np.where(segments == 3, 1, segments), None)  # ids that go back
    for found in (
        outside,
        back,
        f(None, places),
        f(np.ones_like(segments), places),
    ):  # the last: positions that disagree with ids
        np.testing.assert_allclose(found, right, atol=1e-6)


def test_an_implementation_that_this_platform_lacks_is_refused_by_name():
    refused("'tpu' runs on tpu, this platform is cpu; choose one of xla, reference", implementation="tpu")
    refused("'triton' runs on gpu, this platform is cpu", implementation="triton")
    refused("no attention implementation 'mosaic_gpu' .it is not written.*choose one of xla", implementation="mosaic_gpu")
    for name in ("cudnn", "splash", "tokamax"):
        refused(f"{name!r} runs on", implementation=name)
    assert registry.IMPLEMENTATIONS["tokamax"].platforms == ("gpu",), "no k_start on TPUs"
    pair = (np.arange(48)[None], np.arange(48)[None])
    with interpreted():
        refused("'tpu' takes packed rows in order.*choose xla or reference", implementation="tpu", positions=pair)
        wide = np.zeros((1, 48, 4, 12), np.float32)
        refused("head dimension is 12; 'tpu' takes multiples of 8 up to 256", q=wide, k=wide, v=wide, implementation="tpu")


def test_adapters_refuse_what_they_do_not_compute(monkeypatch):
    monkeypatch.setattr("ja_llm.attention.registry.platform", lambda: "gpu")
    refused("'cudnn' takes bfloat16 and float16 only", implementation="cudnn")
    refused("'cudnn' is adapted without log-sum-exp", implementation="cudnn", return_lse=True)
    refused("'cudnn' has no soft-cap", implementation="cudnn", softcap=3.0)
    refused("'tokamax' needs the package tokamax", implementation="tokamax")
    q, k, v, *_ = (jnp.asarray(x, jnp.bfloat16) for x in arrays())
    half = {"q": q, "k": k, "v": v, "implementation": "cudnn"}
    refused("'cudnn' can't run here: .*cuDNN.*choose xla or reference", **half)
    order = np.arange(48, dtype=np.int32)[None]
    for name in ("cudnn", "tokamax"):
        refused(f"{name!r} computes rows as they stand and takes no order", **half | {"implementation": name, "order": order})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused("'tokamax' needs the package", implementation="tokamax")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.9")
    refused("'tokamax' needs tokamax 0.0.12 or newer, not 0.0.9", implementation="tokamax")
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.dot_product_attention", lambda q, k, v: q)
    refused("'cudnn' has no packed mode in jax", **half | {"segment_ids": np.ones((1, 48), np.int32)})


def test_float32_products_are_not_rounded_on_an_accelerator():
    """Seen in the programs of both ways of `xla`: the default precision of float32 is bfloat16's on TPUs, TF32's on GPUs."""
    for length in (64, 600):
        shape = [jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32) for heads in (2, 1, 1)]
        f = jax.grad(lambda *x: attention(*x, implementation="xla").sum(), (0, 1, 2))
        products = [line for line in jax.jit(f).lower(*shape).as_text().splitlines() if "stablehlo.dot_general" in line]
        assert products and all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def extra_bytes(length, kv_length=None):
    shape = [jax.ShapeDtypeStruct((1, n, heads, 16), jnp.float32) for n, heads in ((length, 2), *[(kv_length or length, 1)] * 2)]
    ids = tuple(jax.ShapeDtypeStruct((1, n), jnp.int32) for n in (length, kv_length or length)) if kv_length else None

    def total(q, k, v, ids):
        return attention(q, k, v, positions=ids, implementation="xla").sum()

    made = jax.jit(jax.grad(total, (0, 1, 2))).lower(*shape, ids).compile()
    return made.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_length_and_not_with_its_square(monkeypatch):
    few, many = extra_bytes(1024), extra_bytes(4096)
    assert many <= 4.2 * few and many < 4096 * 4096 * 4
    # Rows in any order have all keys in a chunk, whose length then shrinks.
    monkeypatch.setattr("ja_llm.attention.xla._CHUNK_BYTES", 2**20)
    assert extra_bytes(1024, 8192) < 8 * 2**20 < 2 * 512 * 8192 * 4


def test_a_configuration_takes_every_name():
    from ja_llm.models.config import ATTENTIONS

    assert names() == ATTENTIONS


def test_splash_of_jax_computes_the_same_in_its_interpreter(monkeypatch):
    """Not written here: a check of ours by it, and of the adapter by ours."""
    from jax.experimental.pallas import tpu as pltpu

    monkeypatch.setattr("ja_llm.attention.registry.platform", lambda: "tpu")
    q, k, v, *_ = arrays(length=256, width=128)
    segments, positions = (x[None] for x in packed([100, 1, 90], 256))
    ids = {"segment_ids": segments, "positions": positions}
    with pltpu.force_tpu_interpret_mode():
        theirs = attention(q, k, v, implementation="splash", **ids)
    assert distance(attention(q, k, v, implementation="xla", **ids), theirs) <= 2e-6


def test_one_row_of_ids_gives_cudnn_the_documents_of_every_row(monkeypatch):
    asked = {}

    def fake(q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type, qkv_layout, sliding_window_length=None):
        asked.update(q_seqlen=q_seqlen, kv_seqlen=kv_seqlen, q_offsets=q_offsets, kv_offsets=kv_offsets)
        return q

    monkeypatch.setattr("ja_llm.attention.registry.platform", lambda: "gpu")
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.dot_product_attention", fake)
    q = jnp.ones((3, 8, 2, 8), jnp.bfloat16)
    out = attention(q, q, q, segment_ids=np.array([[4, 4, 4, 9, 9, 9, 9, 0]]), implementation="cudnn")
    assert {name: x.tolist() for name, x in asked.items()} == {
        "q_seqlen": [[3, 4]] * 3,
        "kv_seqlen": [[3, 4]] * 3,
        "q_offsets": [[0, 3, -1]] * 3,
        "kv_offsets": [[0, 3, -1]] * 3,
    }
    assert np.all(out[:, :7] == 1) and not np.any(out[:, 7])


def test_documents_as_cudnn_wants_them():
    from ja_llm.attention.adapters import document_offsets

    offsets, lengths = document_offsets(np.array([[1, 1, 2, 0], [5, 5, 5, 5]]))
    assert offsets.tolist() == [[0, 2, -1], [0, -1, -1]] and lengths.tolist() == [[2, 1], [4, -1]]
