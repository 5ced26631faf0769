"""The tiled implementations against torch in float64, in the interpreters of Pallas: TPU, Triton, and plain XLA's loop."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ja_llm.attention import flash, interpreted
from ja_llm.attention.spans import packed_spans
from tests.attention.exact import NAMES, distance, exact, packed, two_rows, visible

BACKENDS = ("tpu", "triton", "blocks")
T = flash.Tiles
SMALL = flash.BlockSizes(T(16, 16, 32), T(32, 16, 16), T(16, 32, 32))


def compute(backend, q, k, v, segments, window, dout, dlse, *, softcap=None, sizes=SMALL, causal=True):
    """{name: array}; a query without keys has lse 0, as in `exact`."""
    batch, length = segments.shape
    spans = packed_spans(segments, batch, length, causal, window)

    def run(q, k, v):
        module = importlib.import_module(f"ja_llm.attention.{backend}")
        out, lse = flash.attention(q, k, v, spans, backend=module, scale=q.shape[-1] ** -0.5, softcap=softcap, sizes=sizes)
        return out, jnp.where(jnp.isneginf(lse), 0.0, lse)

    results, vjp = jax.vjp(run, q, k, v)
    return dict(zip(NAMES, (*results, *vjp((dout, dlse))), strict=True))


@functools.cache
def compiled(backend, how=True, **options):
    f = jax.jit(functools.partial(compute, backend, **options))

    def call(*arrays):
        with interpreted(how):  # read when the kernel is traced, at the first call
            return {name: np.asarray(x) for name, x in f(*arrays).items()}

    return call


def arrays(length, heads, kv_heads, width, dtype=np.float32, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    q, dout = (rng.normal(size=(batch, length, heads, width)).astype(np.float32) for _ in range(2))
    k, v = (rng.normal(size=(batch, length, kv_heads, width)).astype(np.float32) for _ in range(2))
    dlse = rng.normal(size=(batch, length, heads)).astype(np.float32)
    return [jnp.asarray(x, dtype) for x in (q, k, v, dout)] + [jnp.asarray(dlse)]


EVERYTHING = 1 << 20  # a window


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("length", "width", "softcap", "window"), [(1, 16, None, EVERYTHING), (70, 16, None, EVERYTHING), (41, 80, 1.5, 9)]
)
def test_float32_equals_float64(backend, length, width, softcap, window):
    q, k, v, dout, dlse = arrays(length, 4, 2, width)
    segments = two_rows(length)
    ours = compiled(backend, softcap=softcap)(q, k, v, segments, window, dout, dlse)
    theirs = exact(q, k, v, visible(segments, True, window), dout, dlse, softcap=softcap)
    for name in NAMES:
        assert np.abs(ours[name] - theirs[name]).max() <= 2e-5 * max(1, np.abs(theirs[name]).max()), name
        assert distance(ours[name], theirs[name]) <= 2e-6, name


@pytest.mark.parametrize(("backend", "width"), [("tpu", 256), ("triton", 96), ("blocks", 256)])
def test_without_causal_every_token_of_a_document_is_seen_in_float16(backend, width):
    q, k, v, dout, dlse = arrays(41, 2, 1, width, jnp.float16)
    segments = two_rows(41)
    ours = compiled(backend, causal=False)(q, k, v, segments, EVERYTHING, dout, dlse)
    theirs = exact(*(np.asarray(x, np.float64) for x in (q, k, v)), visible(segments, False), np.asarray(dout, np.float64), dlse)
    for name in NAMES:
        assert distance(ours[name], theirs[name]) <= 1.5e-3, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_is_no_worse_than_products_of_bfloat16_have_to_be(backend):
    q, k, v, dout, dlse = arrays(70, 4, 2, 64, jnp.bfloat16)
    segments = two_rows(70)
    ours = compiled(backend)(q, k, v, segments, EVERYTHING, dout, dlse)
    theirs = exact(*(np.asarray(x, np.float64) for x in (q, k, v)), visible(segments), np.asarray(dout, np.float64), dlse)

    def plain(q, k, v):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, jnp.repeat(k, 2, 2), preferred_element_type=jnp.float32) * 64**-0.5
        mask = jnp.asarray(visible(segments))[:, None]
        weights = jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1), 0)
        lse = jnp.where(mask.any(-1), jax.nn.logsumexp(jnp.where(mask, scores, -1e30), axis=-1), 0)
        return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), jnp.repeat(v, 2, 2)), jnp.swapaxes(lse, 1, 2)

    results, vjp = jax.vjp(plain, q, k, v)
    naive = dict(zip(NAMES, (*results, *vjp((dout, dlse))), strict=True))
    for name in NAMES:
        error = distance(ours[name], theirs[name])
        assert error <= 2 * distance(naive[name], theirs[name]) + 1e-3, name
        assert error <= (4e-3 if name in ("out", "lse") else 6e-3), name


LENGTH = 40  # no multiple of a tile
of_documents = st.lists(st.integers(1, 30), max_size=8)
some = functools.partial(settings, max_examples=5, deadline=None)
CASE = [np.asarray(x) for x in arrays(LENGTH, 2, 1, 8, batch=1, seed=3)]


def on(backend, segments, case=CASE, window=EVERYTHING):
    q, k, v, dout, dlse = case
    return compiled(backend)(q, k, v, segments, window, dout, dlse)


def begins(segments):
    """[(start, end)] of the documents of a row."""
    return [(int(x[0]), int(x[-1]) + 1) for x in (np.flatnonzero(segments == n) for n in range(1, segments.max() + 1))]


@pytest.mark.parametrize("backend", BACKENDS)
@some()
@given(lengths=of_documents)
@example(lengths=[1] * LENGTH)
@example(lengths=[16, 16, 8])
@example(lengths=[])
def test_packed_equals_each_document_alone_and_padding_is_zero(backend, lengths):
    segments, _ = packed(lengths, LENGTH)
    together = on(backend, segments[None])
    for x in together.values():
        assert np.isfinite(x).all() and not x[0, segments == 0].any()
    for start, end in begins(segments):
        alone = [np.zeros_like(x) for x in CASE]
        for x, whole in zip(alone, CASE, strict=True):
            x[:, : end - start] = whole[:, start:end]
        found = on(backend, packed([end - start], LENGTH)[0][None], alone)
        for name in NAMES:
            np.testing.assert_allclose(together[name][:, start:end], found[name][:, : end - start], atol=3e-6, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@some()
@given(lengths=st.lists(st.integers(1, 20), min_size=2, max_size=6), which=st.integers(0, 5))
def test_a_changed_document_leaves_the_others_bits(backend, lengths, which):
    segments, _ = packed(lengths, LENGTH)
    mine = segments == 1 + which % segments.max()
    changed = [x.copy() for x in CASE]
    for x in changed:
        x[:, mine] = x[:, mine] * 7 - 3
    before, after = on(backend, segments[None]), on(backend, segments[None], changed)
    for name in NAMES:
        np.testing.assert_array_equal(before[name][:, ~mine], after[name][:, ~mine])
        assert not np.array_equal(before[name][:, mine], after[name][:, mine])


@pytest.mark.parametrize("backend", BACKENDS)
@some()
@given(lengths=of_documents, seed=st.integers(0, 99))
def test_relabelling_changes_no_bit_and_permuted_documents_permute(backend, lengths, seed):
    segments, _ = packed(lengths, LENGTH)
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0], 1 + rng.permutation(90)])
    before, relabelled = on(backend, segments[None]), on(backend, labels[segments][None].astype(np.int32))
    for name in NAMES:
        np.testing.assert_array_equal(before[name], relabelled[name])
    spans = begins(segments) if segments.max() else []
    order = np.concatenate([np.arange(*spans[i]) for i in rng.permutation(len(spans))] + [np.flatnonzero(segments == 0)]).astype(
        int
    )
    moved = on(backend, segments[order][None], [x[:, order] for x in CASE])
    for name in NAMES:
        np.testing.assert_allclose(moved[name], before[name][:, order], atol=3e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@some()
@given(at=st.integers(0, LENGTH - 2), window=st.integers(LENGTH, 2**31 - 1))
def test_later_tokens_are_not_seen_and_a_wide_window_is_none(backend, at, window):
    one = np.ones((1, LENGTH), np.int32)
    before = on(backend, one)
    wide = on(backend, one, window=window)
    changed = [x.copy() for x in CASE]
    for x in changed[:3]:
        x[:, at + 1 :] += 5
    after = on(backend, one, changed)
    for name in NAMES:
        np.testing.assert_array_equal(before[name], wide[name])
    np.testing.assert_array_equal(before["out"][:, : at + 1], after["out"][:, : at + 1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_key_heads_equal_repeated_ones_and_tiles_change_nothing(backend):
    q, k, v, dout, dlse = arrays(LENGTH, 4, 2, 8, batch=1)
    segments = packed([17, 20], LENGTH)[0][None]
    shared = compiled(backend)(q, k, v, segments, EVERYTHING, dout, dlse)
    other = flash.BlockSizes(T(32, 32, 64), T(16, 64, 64), T(64, 16, 64))
    repeated = compiled(backend, sizes=other)(q, *(jnp.repeat(x, 2, 2) for x in (k, v)), segments, EVERYTHING, dout, dlse)
    for name in NAMES:
        theirs = repeated[name]
        if name in ("dk", "dv"):
            theirs = theirs.reshape(1, LENGTH, 2, 2, 8).sum(3)
        np.testing.assert_allclose(shared[name], theirs, atol=3e-6, err_msg=name)


@pytest.fixture
def races(monkeypatch):
    """A list that gets, for each kernel that the careful interpreter runs, what it says about races (jax keeps the last one's only)."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as module

    seen = []

    class Recorded(module.RaceDetectionState):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            seen.append(self)

    monkeypatch.setattr(module, "RaceDetectionState", Recorded)
    return seen


# Two cores, as on v5p: with one (the default) all programs run one after the other, and no race can be found.
CAREFUL = {"detect_races": True, "num_cores_or_threads": 2, "uninitialized_memory": "nan", "out_of_bounds_reads": "raise"}


def test_no_race_no_unwritten_memory_in_any_order_of_the_grid(races):
    """Scratch starts as NaN, reads beyond an array raise, programs of parallel dimensions run on two cores in a random order."""
    from jax.experimental.pallas import tpu as pltpu

    # The first core gets half of the grid: of odd numbers of heads, tiles and pieces, so that the cut goes through all of them.
    q, k, v, dout, dlse = arrays(41, 3, 1, 8, batch=1)
    segments, sizes = two_rows(41)[:1], flash.BlockSizes(*[T(16, 16, 16)] * 3)
    how = pltpu.InterpretParams(random_seed=5, **CAREFUL)
    careful = compiled("tpu", how, sizes=sizes)(q, k, v, segments, EVERYTHING, dout, dlse)
    simple = compiled("tpu", sizes=sizes)(q, k, v, segments, EVERYTHING, dout, dlse)
    for name in NAMES:
        np.testing.assert_allclose(careful[name], simple[name], atol=1e-6, err_msg=name)
    assert [kernel.races_found for kernel in races] == [False] * 3


def test_a_race_would_be_found(races):
    """Every program of a parallel dimension adds to the same block."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    def add(x, out):
        out[...] = out[...] + x[...]

    racing = pl.pallas_call(
        add,
        grid=(4,),
        in_specs=[pl.BlockSpec((8, 128), lambda i: (i, 0))],
        out_specs=pl.BlockSpec((8, 128), lambda i: (0, 0)),
        out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=pltpu.InterpretParams(random_seed=5, **CAREFUL),
    )
    jax.block_until_ready(jax.jit(racing)(jnp.ones((32, 128))))
    assert [kernel.races_found for kernel in races] == [True]


def products(jaxpr):
    """All dot_general of a jaxpr, those inside kernels and loops too."""
    found = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    for eqn in jaxpr.eqns:
        inner = [getattr(x, "jaxpr", x) for p in eqn.params.values() for x in (p if isinstance(p, tuple | list) else (p,))]
        found += [x for j in inner if hasattr(j, "eqns") for x in products(j)]
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_products_of_the_kernels_are_not_rounded_on_an_accelerator(backend):
    """The default precision of float32 is bfloat16's on TPUs, TF32's on GPUs; an interpreter on the CPU shows neither."""
    shape = [x[:1] for x in arrays(16, 1, 1, 16)]
    with interpreted():
        made = jax.make_jaxpr(lambda *x: compute(backend, *x[:3], two_rows(16)[:1], EVERYTHING, *x[3:]))(*shape)
    seen = [eqn.params["precision"] for eqn in products(made.jaxpr)]
    # Masked before, unmasked, masked behind: three times 2 products forward, 3 for dq, 4 for dk and dv; and delta.
    assert len(seen) == 3 * (2 + 3 + 4) + 1 and set(seen) == {(jax.lax.Precision.HIGHEST,) * 2}
