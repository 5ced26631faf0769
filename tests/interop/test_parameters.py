"""Numbers on their way in: which are let through, and that those that are streamed into a checkpoint's files are those that arrays get."""

import os
import re
import threading

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ja_llm.errors import JaLlmError
from ja_llm.files import sha256_file
from ja_llm.interop import parameters, safetensors_files
from ja_llm.interop.hf import import_hf
from ja_llm.interop.parameters import NUMPY, all_finite, check_names, read_params, read_to_files
from ja_llm.interop.safetensors_files import TensorFolder, write_tensors
from ja_llm.models.config import FAMILIES, DecoderConfig
from ja_llm.models.decoder import abstract_params
from ja_llm.models.families import base, family, tensors
from ja_llm.train import array_files
from ja_llm.train.array_files import NewArrays
from ja_llm.train.written_arrays import read_on_host

# Of float32: the least and the greatest that is finite, the infinities, NaNs of either sign, quiet and signalling.
EDGES = [0, 1, 0x007FFFFF, 0x3F800000, 0x7F7FFFFF, 0x80000000, 0x80000001, 0xBF800000, 0xFF7FFFFF]
EDGES += [0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFC00000, 0xFFFFFFFF]


@pytest.mark.parametrize("dtype", NUMPY)
def test_an_infinity_or_nan_of_either_sign_is_seen_wherever_it_is_and_nothing_else(dtype, monkeypatch):
    """All that there are of two bytes; what is finite says the conversion to float64."""
    monkeypatch.setattr(parameters, "_CACHED", 40_000)  # the finite ones take several pieces
    kind = NUMPY[dtype]
    every = np.array(EDGES, np.uint32) if kind.itemsize == 4 else np.arange(1 << 16, dtype=np.uint16)
    values = every.view(kind)
    with np.errstate(invalid="ignore"):
        is_finite = np.isfinite(values.astype(np.float64))
    good, bad = np.resize(values[is_finite], 90_001), values[~is_finite]
    assert len(bad) == {"float32": 8, "float16": 2 * 1024, "bfloat16": 2 * 128}[dtype]
    assert all_finite(good) and all_finite(good[:0]) and all_finite(good[:90_000].reshape(300, 300).T)
    assert not any(all_finite(np.append(good[:5], value)) for value in bad) and not any(all_finite(value) for value in bad[:8])
    for place in (0, 39_999, 40_000, 90_000):  # the ends of pieces
        for value in (bad[0], bad[-1]):
            spoilt = good.copy()
            spoilt[place] = value
            assert not all_finite(spoilt)


def test_other_types_are_asked_of_numpy():
    assert all_finite(np.array([1.0, -1e308])) and not all_finite(np.array([np.nan])) and not all_finite(np.array([-np.inf]))


@pytest.mark.parametrize(
    ("number", "source", "target", "advice"),
    [
        (65520.0, "float32", "float16", "bfloat16 or float32"),  # IEEE 754: what rounds up to 2^16
        (-1e38, "bfloat16", "float16", "bfloat16 or float32"),
        (3.4e38, "float32", "bfloat16", "float32"),  # above the greatest of bfloat16, 3.39e38
        (65519.0, "float32", "float16", None),
        (-3.39e38, "float32", "bfloat16", None),
        (65504.0, "float16", "bfloat16", None),
        (3.4e38, "float32", "float32", None),
    ],
)
def test_what_a_type_has_no_room_for_is_refused_and_what_rounds_to_its_greatest_is_not(number, source, target, advice):
    value = np.array([1.0, number], np.float64).astype(NUMPY[source])
    if advice is None:
        assert np.array_equal(parameters._finite(value, "x", "here", target), value.astype(NUMPY[target]))
        return
    message = f"here: the tensor x has numbers too large for {target}; choose {advice}."
    with pytest.raises(JaLlmError, match=f"^{re.escape(message)}$"):
        parameters._finite(value, "x", "here", target)


SIZES = {"embed_dim": 24, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "mlp_dim": 20, "max_length": 16}
MORE = {
    "llama with biases": {"family": "llama", "attention_bias": "qkvo", "mlp_bias": True},
    "llama, tied": {"family": "llama", "tie_embeddings": True},
    "gemma": {"tie_embeddings": True, "num_kv_heads": 1},
    "gpt_bigcode": {"tie_embeddings": True, "num_kv_heads": 1},
    "gpt_bigcode, a key and value for each head": {"family": "gpt_bigcode", "num_kv_heads": 4},
    "mixtral": {"num_experts": 3, "experts_per_token": 2},
}
MODELS = {name: {"family": name, **MORE.get(name, {})} for name in (*FAMILIES, *MORE)}


@pytest.mark.parametrize("source_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_streamed_into_files_is_what_arrays_get(name, source_dtype, tmp_path, monkeypatch):
    """Bit for bit, of each family; float32 is rounded. In blocks of a few rows, into files of a layer or a few rows."""
    more = {**SIZES, **family(MODELS[name]["family"]).fixed, **MODELS[name]}
    config = DecoderConfig(vocab_size=50, **more, param_dtype="bfloat16" if source_dtype == "float32" else source_dtype)
    monkeypatch.setattr(base, "_BLOCK", 500)
    monkeypatch.setattr(base, "_LINES", 32)
    monkeypatch.setattr(array_files, "_SMALL", 400)
    monkeypatch.setattr(array_files, "_CHUNK", 900)
    rng, kind = np.random.default_rng(0), NUMPY[source_dtype]
    values = {tensor.name: rng.normal(size=tensor.shape).astype(kind) for tensor in tensors(config)}
    plan = [(name, kind, value.shape) for name, value in values.items()]
    whole = source_dtype == "bfloat16"
    files = write_tensors(tmp_path, plan, lambda name: iter([values[name].reshape(-1)]), 1 << 30 if whole else 3000)
    assert (len(files) == 1) == whole
    folder = TensorFolder(tmp_path)
    check_names(folder, config, tmp_path)
    ordinary, abstract = read_params(folder, config, tmp_path), abstract_params(config)
    digests = read_to_files(folder, config, tmp_path, NewArrays(tmp_path / "model", abstract, tmp_path))
    streamed = read_on_host(tmp_path / "model" / "checkpoints" / "0" / "params", abstract)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.view(np.uint16), b.view(np.uint16)), streamed, ordinary)
    assert digests == {name: sha256_file(tmp_path / name) for name in files}


def test_a_file_goes_to_the_disk_while_it_is_written_and_when_it_is_whole(tmp_path, monkeypatch):
    sent, gone, kind = [], threading.Event(), np.dtype(np.float32)
    monkeypatch.setattr(os, "fsync", lambda number: (sent.append(os.fstat(number).st_size), gone.set()))
    monkeypatch.setattr(safetensors_files, "_SENT", 400)

    def blocks(name):
        yield np.zeros(100, kind)
        if name == "b":
            assert gone.wait(60)  # of the first tensor, which is there
        yield np.zeros(20, kind)

    write_tensors(tmp_path, [(name, kind, (120,)) for name in "abc"], blocks, 1 << 20)
    whole = (tmp_path / "model.safetensors").stat().st_size
    assert 400 <= sent[0] < whole and sent[-1] == whole and len(sent) == 4  # thrice after 400 bytes, and at the end


@pytest.mark.parametrize(
    ("count", "kind", "message"),
    [(3, np.float32, "did not come whole"), (9, np.float32, "comes with too many numbers"), (4, np.float16, "comes as float16")],
)
def test_numbers_that_are_not_those_that_were_planned_are_one_sentence(tmp_path, count, kind, message):
    plan = [("a", np.dtype(np.float32), (4,))]
    with pytest.raises(JaLlmError, match=rf"model.safetensors: the tensor a, planned as float32 \(4,\), {message}"):
        write_tensors(tmp_path, plan, lambda _: iter([np.zeros(count, kind)]), 99)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("number", [np.nan, -np.inf])
def test_a_source_of_two_bytes_that_is_not_finite_leaves_nothing(number, dtype, plain_source, tokenizer, tmp_path):
    source = plain_source(tokenizer, "bfloat16")
    values = safetensors.numpy.load_file(source / "model.safetensors")
    values["model.layers.1.mlp.up_proj.weight"][3, 5] = number
    safetensors.numpy.save_file(values, source / "model.safetensors")
    with pytest.raises(JaLlmError, match="src: the tensor model.layers.1.mlp.up_proj.weight holds numbers that are not finite"):
        import_hf(source, tmp_path / "model", dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def changed(values):
    values["model.norm.weight"] = np.ones((24, 1), ml_dtypes.bfloat16)


@pytest.mark.parametrize("change", [changed, lambda values: values.pop("model.norm.weight")])
def test_a_file_that_changes_between_the_check_and_the_reading_is_one_sentence(change, plain_source, tokenizer):
    source = plain_source(tokenizer, "bfloat16")
    config = DecoderConfig(351, 24, 2, 4, 2, 6, 32, 64, param_dtype="bfloat16")
    folder = TensorFolder(source)
    check_names(folder, config, source)
    values = safetensors.numpy.load_file(source / "model.safetensors")
    change(values)
    safetensors.numpy.save_file(values, source / "model.safetensors")
    with pytest.raises(JaLlmError, match="model.safetensors: this file was changed while it was read; let nothing write there"):
        read_params(folder, config, source)
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:8] + b"x" * (path.stat().st_size - 8))
    with pytest.raises(JaLlmError, match="model.safetensors: this file was changed while it was read; let nothing write there"):
        read_params(folder, config, source)
