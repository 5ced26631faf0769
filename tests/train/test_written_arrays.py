"""Parameters that are written at once or in pieces: the files are the numbers, and orbax reads all of it back."""

import concurrent.futures
import errno
import math
import os
import random
import threading
import time
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from ja_llm.errors import JaLlmError
from ja_llm.train import array_files
from ja_llm.train.array_files import Differs, NewArrays, RawArray
from ja_llm.train.stored_arrays import read_params
from ja_llm.train.written_arrays import first_difference, read_on_host, write_params

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
    monkeypatch.setattr(array_files, "_SMALL", 400)
    monkeypatch.setattr(array_files, "_CHUNK", 900)


def abstract_of(values):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=device), values)


def check_all_there(item, meant):
    """orbax, and ours, read what was meant."""
    jax.tree.map(np.testing.assert_array_equal, read_params(item, abstract_of(meant)), meant)
    jax.tree.map(np.testing.assert_array_equal, read_on_host(item, abstract_of(meant)), meant)
    assert first_difference(item, meant) is None


def pieces_of(value, rng):
    """(first byte, numbers) of stretches of random length."""
    flat, begin = value.reshape(-1), 0
    while begin < flat.size:
        size = rng.randrange(1, 300)
        yield begin * value.itemsize, flat[begin : begin + size]
        begin += size


def leaves_of(tree):
    return {tuple(key.key for key in keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float32)])
def test_what_is_written_at_once_is_what_everybody_reads(tmp_path, dtype):
    meant = numbers(dtype)
    write_params(tmp_path, meant, tmp_path)
    check_all_there(tmp_path / "checkpoints" / "0" / "params", meant)


def test_a_folder_named_by_way_of_another_is_the_folder(tmp_path, monkeypatch):
    """TensorStore takes no "..": what stands behind it is the folder that the system finds there, by a link as well."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    monkeypatch.chdir(tmp_path / "real")
    for folder in (Path("../model"), Path("../link/../model")):
        folder.mkdir()
        write_params(folder, numbers(np.float32), folder)
        check_all_there(folder / "checkpoints" / "0" / "params", numbers(np.float32))
    assert (tmp_path / "model" / "checkpoints").is_dir() and (tmp_path / "real" / "model" / "checkpoints").is_dir()


def test_pieces_in_any_order_and_from_any_thread_lie_there_at_the_end(tmp_path):
    meant, rng = numbers(BF16), random.Random(0)
    parts = [(path, *piece) for path, leaf in leaves_of(meant).items() for piece in pieces_of(leaf, rng)]
    rng.shuffle(parts)
    new = NewArrays(tmp_path, meant, tmp_path)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(lambda part: new.write(*part), parts))
    new.close()
    item = tmp_path / "checkpoints" / "0" / "params"
    check_all_there(item, meant)
    # the files are the numbers: a layer of each kernel, rows of the tables, one file where it is small
    assert (item / "layers.kernel" / "1.0.0.0").read_bytes() == meant["layers"]["kernel"][1].tobytes()
    assert (item / "layers.norm" / "0.0").read_bytes() == meant["layers"]["norm"].tobytes()
    assert (item / "token_embedder.embedding" / "1.0").read_bytes() == meant["token_embedder"]["embedding"][20:].tobytes()
    sizes = [file.stat().st_size for folder in item.iterdir() if folder.is_dir() for file in folder.glob("[0-9]*")]
    assert max(sizes) <= 900 and sum(sizes) == sum(value.nbytes for value in jax.tree.leaves(meant))


def test_a_bit_that_the_disk_turned_is_seen_where_it_is_written(tmp_path, monkeypatch):
    meant = numbers(BF16)
    new, real = NewArrays(tmp_path, meant, tmp_path), array_files.write_at

    def failing(number, data, offset):
        real(number, data, offset)
        real(number, bytes([data[-1] ^ 1]), offset + len(data) - 1)

    new.write(("head",), 0, meant["head"][:5])
    monkeypatch.setattr(array_files, "write_at", failing)
    with pytest.raises(Differs):
        new.write(("head",), meant["head"][:5].nbytes, meant["head"][5:])


@pytest.mark.parametrize(
    ("begin", "end", "message"),
    [
        (5, 10, "was given some of its numbers twice"),  # the very same
        (9, 12, "was given some of its numbers twice"),  # an end of it
        (0, 40 * 12, "was given some of its numbers twice"),  # all around it, in several files
        (40 * 12 - 1, 40 * 12 + 1, "has no place for numbers that came for it"),
    ],
)
def test_numbers_that_come_twice_or_have_no_place_are_refused_and_the_first_stay(tmp_path, begin, end, message):
    meant = numbers(BF16)
    new, flat = NewArrays(tmp_path, meant, tmp_path), meant["head"].reshape(-1)
    new.write(("head",), 10, flat[5:10])
    with pytest.raises(JaLlmError, match=f"the array head {message}"):
        new.write(("head",), 2 * begin, np.zeros(end - begin, BF16))
    assert (tmp_path / "checkpoints" / "0" / "params" / "head" / "0.0").read_bytes()[10:20] == flat[5:10].tobytes()


def test_a_system_that_takes_and_gives_a_few_bytes_at_a_time_loses_none(tmp_path, monkeypatch):
    meant, pwrite, preadv = numbers(BF16), os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda number, data, offset: pwrite(number, data[:7], offset))
    monkeypatch.setattr(os, "preadv", lambda number, rooms, offset: preadv(number, [rooms[0][:5]], offset))
    with NewArrays(tmp_path, meant, tmp_path) as new:
        for path, leaf in leaves_of(meant).items():
            new.write(path, 0, leaf)
    check_all_there(tmp_path / "checkpoints" / "0" / "params", meant)
    monkeypatch.setattr(os, "pwrite", lambda number, data, offset: 0)
    with pytest.raises(JaLlmError, match="Input/output error"):
        NewArrays(tmp_path / "other", meant, tmp_path).write(("head",), 0, meant["head"])


def test_files_that_wait_for_the_disk_are_not_open_and_an_error_leaves_them(tmp_path, monkeypatch):
    meant, synced, there = numbers(BF16), [], Path("/proc/self/fd")

    def slow(number):
        synced.append(number)
        while not new._disk._pool._shutdown:
            time.sleep(0.01)

    monkeypatch.setattr(os, "fsync", slow)
    before = len(list(there.iterdir()))
    with pytest.raises(ZeroDivisionError), NewArrays(tmp_path, meant, tmp_path) as new:
        for path, leaf in leaves_of(meant).items():
            new.write(path, 0, leaf)
        assert len(new._files) > 8 and len(list(there.iterdir())) <= before + 1
        raise ZeroDivisionError
    assert len(synced) == 1


def test_a_disk_that_is_full_behind_the_writes_is_told_by_one_of_the_next(tmp_path, monkeypatch):
    meant, gone = numbers(BF16), threading.Event()

    def full(number):
        gone.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    new = NewArrays(tmp_path, meant, tmp_path / "model")
    new.write(("alone",), 0, meant["alone"])  # one file
    assert gone.wait(10)
    time.sleep(0.1)
    with pytest.raises(JaLlmError, match="model: the disk is full; free some space"):
        new.write(("layers", "kernel"), 0, meant["layers"]["kernel"])


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_not_whole_at_the_end_is_said(tmp_path, lost):
    meant = numbers(BF16)
    new = NewArrays(tmp_path, meant, tmp_path)
    for path, leaf in leaves_of(meant).items():
        if lost or path != ("head",):
            new.write(path, 0, leaf)
    if not lost:
        with pytest.raises(JaLlmError, match=f"{tmp_path}: the array head was not written whole"):
            new.close()
        return
    (tmp_path / "checkpoints" / "0" / "params" / "layers.kernel" / "2.0.0.0").unlink()
    with pytest.raises(JaLlmError, match="checkpoints/0: this checkpoint is damaged"):
        new.close()


def test_parts_are_read_from_the_files_when_they_are_asked_for(tmp_path):
    meant = numbers(BF16)
    write_params(tmp_path, meant, tmp_path)
    item = tmp_path / "checkpoints" / "0" / "params"
    there = read_on_host(item, abstract_of(meant), in_parts=True)
    assert all(isinstance(leaf, RawArray) for leaf in leaves_of(there).values())
    for path, leaf in leaves_of(meant).items():
        stored = leaves_of(there)[path]
        for at in [(), *((n,) for n in range(min(leaf.ndim, 1) * len(np.atleast_1d(leaf))))]:
            np.testing.assert_array_equal(stored[at], leaf[at])
    np.testing.assert_array_equal(there["layers"]["experts"][2, 1], meant["layers"]["experts"][2, 1])
    np.testing.assert_array_equal(np.asarray(there["head"]), meant["head"])
    file = item / "layers.kernel" / "2.0.0.0"
    file.write_bytes(file.read_bytes()[:-2])
    np.testing.assert_array_equal(there["layers"]["kernel"][1,], meant["layers"]["kernel"][1])
    with pytest.raises(JaLlmError, match="checkpoints/0: this checkpoint is damaged"):
        there["layers"]["kernel"][2,]
    with pytest.raises(JaLlmError, match="checkpoints/0: this checkpoint is damaged"):
        read_on_host(item, abstract_of(meant), in_parts=True)


@pytest.mark.parametrize("group", ["layers", "head"])
def test_files_are_stretches_that_divide_the_array_and_have_room(group):
    rng = random.Random(0)
    for _ in range(300):
        shape = tuple(rng.choice([1, 2, 3, 7, 8, 30, 64]) for _ in range(rng.randrange(4)))
        chunk = array_files._chunk(group, shape, 2)
        assert len(chunk) == len(shape) and all(size % step == 0 for size, step in zip(shape, chunk, strict=True))
        assert RawArray(None, shape, BF16, chunk).are_stretches
        assert 2 * math.prod(chunk) <= 900


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
