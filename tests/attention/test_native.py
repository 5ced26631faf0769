"""The kernels on the device that they are for, compiled and not interpreted: the cases of test_tiled, and full tiles.

    python -m pytest -m gpu tests/attention/test_native.py       # on a GPU or a TPU; `make sweep-attention` begins with it

Nothing here has a CPU's place: there the interpreters of test_tiled compute the same kernels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.attention import attention
from ja_llm.attention.registry import DEFAULTS, platform
from tests.attention.exact import NAMES, distance, exact, packed, two_rows, visible

pytestmark = pytest.mark.gpu
NATIVE = DEFAULTS.get(platform())
# What rounding leaves: of float32 products, and of bfloat16's and float16's (the facts' bounds of output and gradients).
BOUNDS = {"float32": (2e-5, 2e-5), "bfloat16": (4e-3, 6e-3), "float16": (1e-3, 2e-3)}


@pytest.fixture(autouse=True)
def device():
    if NATIVE is None:
        pytest.skip("no device with a kernel of its own")


def computed(length, width, dtype, segments, **options):
    """({name: array}, the same in float64) of the native implementation."""
    rng = np.random.default_rng(length + width)
    shape = (2, length, 4, width)
    q, dout = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))
    k, v = (jnp.asarray(rng.normal(size=(2, length, 2, width)), dtype) for _ in range(2))
    dlse = jnp.asarray(rng.normal(size=shape[:3]), jnp.float32)

    @jax.jit
    def run(q, k, v):
        def f(*x):
            out, lse = attention(*x, segment_ids=jnp.asarray(segments), return_lse=True, implementation=NATIVE, **options)
            return out, jnp.where(jnp.isneginf(lse), 0.0, lse)

        results, vjp = jax.vjp(f, q, k, v)
        return *results, *vjp((dout, dlse))

    wide = [np.asarray(x, np.float64) for x in (q, k, v)]
    mask = visible(segments, options.get("causal", True), options.get("window"))
    theirs = exact(*wide, mask, np.asarray(dout, np.float64), dlse, softcap=options.get("softcap"))
    return dict(zip(NAMES, map(np.asarray, run(q, k, v)), strict=True)), theirs


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("width", [64, 80, 96, 128, 256])
@pytest.mark.parametrize(
    ("length", "options"),
    [(1, {}), (130, {"window": 33, "softcap": 2.0}), (1100, {}), (700, {"causal": False})],
    ids=["one", "windowed", "long", "not_causal"],
)
def test_compiled_kernels_equal_float64(dtype, width, length, options):
    ours, theirs = computed(length, width, dtype, two_rows(length), **options)
    for name in NAMES:
        limit = BOUNDS[dtype][name not in ("out", "lse")]
        assert np.isfinite(np.asarray(ours[name], np.float32)).all() and distance(ours[name], theirs[name]) <= limit, name


def test_another_document_changes_no_bit_and_two_runs_are_the_same():
    segments = np.stack([packed([300, 700], 1024)[0]] * 2)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 1024, h, 128)), jnp.bfloat16) for h in (4, 2, 2, 4)]
    changed = [x.at[:, 300:1000].multiply(3) for x in arrays]

    @jax.jit
    def run(q, k, v, dout):
        out, vjp = jax.vjp(lambda *x: attention(*x, segment_ids=jnp.asarray(segments), implementation=NATIVE), q, k, v)
        return out, *vjp(dout)

    for first, again, other in zip(run(*arrays), run(*arrays), run(*changed), strict=True):
        np.testing.assert_array_equal(np.asarray(first, np.float32), np.asarray(again, np.float32))
        np.testing.assert_array_equal(np.asarray(first[:, :300], np.float32), np.asarray(other[:, :300], np.float32))
