"""Parameters that are written while they are being read: nothing is written before it is there, and orbax reads all of it back."""

import random
import threading
import time

import jax
import ml_dtypes
import numpy as np
import pytest

from ja_llm.errors import JaLlmError
from ja_llm.train import written_arrays
from ja_llm.train.stored_arrays import read_params
from ja_llm.train.written_arrays import Filling, first_difference, read_on_host, write_params

SHAPES = {
    "token_embedder": {"embedding": (40, 12)},
    "layers": {"norm": (3, 5), "kernel": (3, 12, 2, 16), "experts": (3, 2, 12, 8)},
    "head": (12, 40),
    "alone": (),
}
BF16 = np.dtype(ml_dtypes.bfloat16)


def is_shape(value):
    return isinstance(value, tuple)


def numbers(dtype):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda shape: rng.normal(size=shape).astype(dtype), SHAPES, is_leaf=is_shape)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """A layer in a file of its own from 400 bytes on, and no file above 900."""
    monkeypatch.setattr(written_arrays, "_SMALL", 400)
    monkeypatch.setattr(written_arrays, "_CHUNK", 900)


def parts_of(params):
    """A whole array, a layer of it, or (of experts) a part of a layer."""
    parts = []
    for keys, _ in jax.tree_util.tree_leaves_with_path(params):
        path = tuple(key.key for key in keys)
        for layer in range(3) if path[0] == "layers" else [None]:
            at = () if layer is None else (layer,)
            parts += [(path, (*at, e)) for e in range(2)] if path[-1] == "experts" else [(path, at)]
    return parts


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float32)])
def test_what_comes_in_any_order_and_from_any_thread_lies_there_at_the_end(tmp_path, dtype):
    meant = numbers(dtype)
    params = jax.tree.map(lambda value: np.full(value.shape, 7, value.dtype), meant)  # what would be read too early
    parts = parts_of(params)
    random.Random(0).shuffle(parts)
    filling = Filling(parts)

    def fill():
        for path, at in parts:
            time.sleep(0.01)
            into, value = params, meant
            for name in path:
                into, value = into[name], value[name]
            into[(*at, ...)] = value[(*at, ...)]
            filling.filled(path, at)

    reader = threading.Thread(target=fill)
    reader.start()
    write_params(tmp_path, params, tmp_path, filling=filling)
    reader.join()
    item = tmp_path / "checkpoints" / "0" / "params"
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=device), meant)
    jax.tree.map(np.testing.assert_array_equal, read_params(item, abstract), meant)
    jax.tree.map(np.testing.assert_array_equal, read_on_host(item, abstract), meant)
    assert first_difference(item, meant) is None
    if dtype == BF16:  # the files are the numbers: a layer of each kernel, rows of the tables, one file where it is small
        assert (item / "layers.kernel" / "1.0.0.0").read_bytes() == meant["layers"]["kernel"][1].tobytes()
        assert (item / "layers.norm" / "0.0").read_bytes() == meant["layers"]["norm"].tobytes()
        sizes = [file.stat().st_size for folder in item.iterdir() if folder.is_dir() for file in folder.glob("[0-9]*")]
        assert max(sizes) <= 900 and sum(sizes) == sum(value.nbytes for value in jax.tree.leaves(meant))


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (2, 11, 1, 15), (1, 4, 0, 3)])
def test_the_first_number_that_differs_is_named(tmp_path, place):
    params = numbers(BF16)
    write_params(tmp_path, params, tmp_path)
    params["layers"]["kernel"].view(np.uint16)[place] ^= 1
    assert first_difference(tmp_path / "checkpoints" / "0" / "params", params) == (("layers", "kernel"), place)


@pytest.mark.parametrize("spoil", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-2])])
def test_a_file_that_is_lost_or_cut_off_is_damage_and_no_zeros(tmp_path, spoil):
    params = numbers(BF16)
    write_params(tmp_path, params, tmp_path)
    spoil(tmp_path / "checkpoints" / "0" / "params" / "layers.kernel" / "2.0.0.0")
    with pytest.raises(JaLlmError, match="checkpoints/0: this checkpoint is damaged"):
        first_difference(tmp_path / "checkpoints" / "0" / "params", params)
    with pytest.raises(JaLlmError, match="checkpoints/0: this checkpoint is damaged"):
        read_on_host(tmp_path / "checkpoints" / "0" / "params", params)


def test_numbers_that_do_not_come_end_the_writing(tmp_path):
    params = numbers(BF16)
    filling = Filling(parts_of(params))
    threading.Timer(0.2, filling.end).start()
    with pytest.raises(JaLlmError, match="the numbers did not come"):
        write_params(tmp_path, params, tmp_path, filling=filling)
