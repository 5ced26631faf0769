"""Hugging Face folders that can't be imported: one sentence for each, nothing left behind, nothing executed."""

import json
import math
import pickle
import shutil
import struct

import numpy as np
import pytest
import safetensors.numpy

from ja_llm.errors import JaLlmError
from ja_llm.files import write_json
from ja_llm.interop.hf import import_hf
from tests.interop.hf_folders import change_config, change_tensors, lose


def retyped(folder, name: str, kind: str) -> None:
    """The file with one tensor's bytes called another type, as many as that needs."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    blob, new = b"", {}
    for key, entry in header.items():
        if key != "__metadata__":
            begin, end = entry["data_offsets"]
            part = body[begin : begin + math.prod(entry["shape"])] if key == name else body[begin:end]
            new[key] = {
                **entry,
                "dtype": kind if key == name else entry["dtype"],
                "data_offsets": [len(blob), len(blob) + len(part)],
            }
            blob += part
    text = json.dumps(new).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + blob)


def cut(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def shards(folder) -> None:
    """Two files and their index in place of the one."""
    values = safetensors.numpy.load_file(folder / "model.safetensors")
    lose(folder, "model.safetensors")
    names, weight_map = sorted(values), {}
    for n, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-{n:05d}-of-00002.safetensors"
        safetensors.numpy.save_file({name: values[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})


def only_pickles(folder) -> None:
    """A pickle that would leave a file behind if it were loaded."""
    lose(folder, "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(str(folder.parent / "executed"))))


class Trap:
    """Executes when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


GATE = "model.layers.1.mlp.gate_proj.weight"


SPOILT = {
    "cut off": (cut, "model.safetensors: this file is damaged or cut off"),
    "a shard is missing": (
        lambda f: (shards(f), lose(f, "model-00002-of-00002.safetensors")),
        "names model-00002-of-00002.safetensors, which is not here; the download is incomplete",
    ),
    "a shard is of another model": (
        lambda f: (shards(f), shutil.copy(f / "model-00001-of-00002.safetensors", f / "model-00002-of-00002.safetensors")),
        "the tensor .* is in two files",
    ),
    "only pickles": (only_pickles, r"no model.safetensors here; convert its \*.bin with transformers"),
    "no weights": (lambda f: lose(f, "model.safetensors"), "there is no model.safetensors here"),
    "no configuration": (lambda f: lose(f, "config.json"), "there is no config.json"),
    "no tokenizer": (lambda f: lose(f, "tokenizer.model"), "neither tokenizer.model nor tokenizer.json"),
    "half a download": (lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors"), "incomplete"),
    "half a configuration": (lambda f: (f / "config.json").write_text('{"model_type": "lla'), "can't be read as JSON"),
    "other architecture": (
        lambda f: change_config(f, model_type="falcon", architectures=["FalconForCausalLM"]),
        "'falcon' model .FalconForCausalLM.; what can be imported is LlamaForCausalLM, ",
    ),
    "scaled RoPE": (lambda f: change_config(f, rope_parameters={"rope_type": "yarn", "rope_theta": 5e5}), "'yarn' RoPE"),
    "half a scaled RoPE": (lambda f: change_config(f, rope_parameters={"rope_type": "llama3"}), "rope_parameters has no factor"),
    "other activation": (lambda f: change_config(f, hidden_act="relu"), "hidden_act is 'relu'"),
    "scaling that is no object": (
        lambda f: change_config(f, rope_parameters=None, rope_scaling="linear"),
        "rope_scaling is 'linear'; an object",
    ),
    "RoPE of no name": (lambda f: change_config(f, rope_parameters={"rope_type": ["x"]}), r"asks for \['x'\] RoPE"),
    "half of each head turned": (
        lambda f: change_config(f, partial_rotary_factor=0.5),
        "partial_rotary_factor is 0.5, which is not known",
    ),
    "... as RoPE's setting": (
        lambda f: change_config(f, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
        "rope_parameters has partial_rotary_factor = 0.5, which is not computed",
    ),
    "a setting of another family": (lambda f: change_config(f, final_logit_softcapping=30.0), "final_logit_softcapping is 30.0"),
    "layers as text": (lambda f: change_config(f, num_hidden_layers="3"), "num_layers is '3'; a whole number"),
    "architectures as a number": (lambda f: change_config(f, architectures=5), "architectures is 5; a list"),
    "an index of numbers": (
        lambda f: write_json(f / "model.safetensors.index.json", {"weight_map": {GATE: 5}}),
        "there is no weight_map of file names",
    ),
    "8 bits in a head that is tied": (
        lambda f: (change_config(f, tie_word_embeddings=True), retyped(f, "lm_head.weight", "F8_E4M3")),
        "lm_head.weight is F8_E4M3; .* not quantised",
    ),
    "64 bits": (
        lambda f: change_tensors(f, lambda t: t.update({GATE: t[GATE].astype(np.float64)})),
        f"{GATE} is F64; .* convert it to float32",
    ),
    "quantised": (lambda f: change_config(f, quantization_config={"bits": 4}), "quantization_config"),
    "biases in words only": (
        lambda f: change_config(f, attention_bias=True),
        "self_attn.q_proj.bias.* of this llama model missing",
    ),
    "odd heads": (lambda f: change_config(f, num_key_value_heads=4), "num_kv_heads 4 does not divide"),
    "missing tensor": (lambda f: change_tensors(f, lambda t: t.pop(GATE)), f"{GATE} is of this llama model missing"),
    "left-over tensor": (
        lambda f: change_tensors(f, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(84, np.float32)})),
        "q_proj.bias is unknown to the llama family",
    ),
    "other shape": (lambda f: change_config(f, intermediate_size=78), r"\(77, 60\), config.json asks for \(78, 60\)"),
    "not a number": (
        lambda f: change_tensors(f, lambda t: t.update({GATE: t[GATE] * np.float32(np.nan)})),
        f"{GATE} holds numbers that are not finite",
    ),
    "integers": (lambda f: change_tensors(f, lambda t: t.update({GATE: t[GATE].astype(np.int8)})), f"{GATE} is I8"),
    "tied in words only": (lambda f: change_config(f, tie_word_embeddings=True), "lm_head.weight differs"),
    "small table": (
        lambda f: (
            change_config(f, vocab_size=300),
            change_tensors(
                f,
                lambda t: t.update(
                    {n: np.ascontiguousarray(t[n][:300]) for n in ("model.embed_tokens.weight", "lm_head.weight")}
                ),
            ),
        ),
        "340 pieces but the embedding has 300 rows",
    ),
    **{
        f"a ledger that is {value}": (
            lambda f, value=value: write_json(f / "ja_llm_ledger.json", value),
            "ja_llm_ledger.json: this is no ledger that ja_llm wrote; export the model again",
        )
        for value in ([1], "x", {"parents": 5}, {"parents": [{"parents": 5}]}, {"step": "3"}, {"generation": 5})
    },
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_source_gets_one_sentence_and_leaves_nothing(copy, tmp_path, name):
    spoil, message = SPOILT[name]
    spoil(copy)
    with pytest.raises(JaLlmError, match=message) as caught:
        import_hf(copy, tmp_path / "model")
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)
    assert (
        not (tmp_path / "model").exists()
        and not (tmp_path / "executed").exists()
        and [p.name for p in tmp_path.iterdir()] == ["src"]
    )


def test_rotary_frequencies_of_old_files_are_no_error(copy, tmp_path):
    change_tensors(copy, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(7, np.float32)}))
    import_hf(copy, tmp_path / "model")


def test_code_in_a_folder_is_never_run(copy, tmp_path):
    (copy / "modeling_trap.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    change_config(copy, auto_map={"AutoModelForCausalLM": "modeling_trap.Model", "AutoConfig": "modeling_trap.Config"})
    import_hf(copy, tmp_path / "model")
    assert (tmp_path / "model").exists() and not (tmp_path / "executed").exists()
