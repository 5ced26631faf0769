"""Hugging Face folders in and out: transformers computes our logits, nothing is lost on the way, bad sources get a sentence."""

import copy as pycopy
import dataclasses
import errno
import json
import math
import os
import pickle
import random
import shutil
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json
from ja_llm.interop import hf, hf_config, self_check
from ja_llm.interop.hf import LEDGER, export_hf, format_summary, import_hf
from ja_llm.interop.importing import import_checkpoint
from ja_llm.interop.self_check import TEXTS
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.models.families import base
from ja_llm.quickstart.pages import load_pages
from ja_llm.train import array_files
from ja_llm.train.checkpoints import load_model, save_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 60, "intermediate_size": 77, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}


@pytest.fixture(scope="session")
def source(tokenizer, tmp_path_factory):
    """source(...) -> (a folder that transformers wrote, its model): random weights, odd sizes, a head width of its own."""

    def make(**more):
        torch.manual_seed(0)
        rope = {"rope_type": "default", "rope_theta": more.pop("theta", 50000.0)}
        settings = {**SIZES, "vocab_size": 351, "head_dim": 14, "rope_parameters": rope, "max_position_embeddings": 64, **more}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).eval()
        with torch.no_grad():
            for name, value in model.named_parameters():  # norms and logits away from their initial ones
                value.copy_(torch.randn_like(value) * 0.3 + 1 if "norm" in name else value * 4)
        folder = tmp_path_factory.mktemp("source")
        model.save_pretrained(folder)
        tokenizer.save(folder)
        return folder, model

    return make


@pytest.fixture(scope="session")
def untied(source):
    return source()


@pytest.fixture
def copy(untied, tmp_path):
    """A copy of the source to spoil."""
    return shutil.copytree(untied[0], tmp_path / "src")


IDS = np.random.default_rng(0).integers(0, 351, (2, 40))


def distance(loaded, model) -> float:
    ours = np.asarray(Decoder(loaded.config).apply({"params": loaded.params}, IDS, IDS), np.float64)
    with torch.no_grad():
        theirs = model(torch.from_numpy(IDS)).logits.double().numpy()
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def contents(folder) -> dict[str, bytes]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    "settings",
    [{}, {"tie_word_embeddings": True, "theta": 1e6}, {"num_key_value_heads": 6, "head_dim": 10, "rms_norm_eps": 1e-3}],
)
def test_transformers_and_we_give_the_same_logits_in_both_directions(source, tmp_path, settings, tokenizer, texts):
    folder, model = source(**settings)
    summary = import_hf(folder, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert distance(loaded, model) < 1e-5
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    export_hf(tmp_path / "model", tmp_path / "export")
    assert contents(tmp_path / "export") == contents(folder)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    assert again.dtype == torch.float32 and distance(loaded, again) < 1e-5
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    for text in texts:
        assert theirs(text)["input_ids"] == [tokenizer.bos_id, *tokenizer.encode(text)]


def test_our_own_model_comes_back_bit_for_bit_scanned_or_not(tokenizer, tmp_path):
    for scan in (True, False):
        sizes = {
            "embed_dim": 24,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 6,
            "mlp_dim": 40,
            "max_length": 32,
        }
        config = DecoderConfig(vocab_size=tokenizer.vocab_size, **sizes, scan_layers=scan)
        params = init_params(config, jax.random.key(1))
        ledger = {"job": "train", "identity_hash": "ab" * 32, "identity": {"data": "cd" * 32, "batch_size": 2, "length": 32}}
        save_model(tmp_path / f"model{scan}", config=config, params=params, tokenizer=tokenizer, ledger=ledger, step=7)
        export_hf(f"{tmp_path / f'model{scan}'}@7", tmp_path / "export")
        import_hf(tmp_path / "export", tmp_path / "back")
        back = load_model(tmp_path / "back")
        stacked = params
        if not scan:
            stacked = {k: v for k, v in params.items() if not k.startswith("layers_")}
            stacked["layers"] = jax.tree.map(lambda *x: np.stack(x), *(params[f"layers_{i}"] for i in range(2)))
        jax.tree.map(np.testing.assert_array_equal, back.params, stacked)
        assert back.config == dataclasses.replace(config, scan_layers=True)
        assert back.tokenizer.fingerprint == tokenizer.fingerprint
        card = (tmp_path / "export" / "README.md").read_text()
        assert "448 in rows of 32" in card and "cd" * 32 in card
        assert back.ledger["parents"][0]["identity_hash"] == "ab" * 32 and back.ledger["parents"][0]["step"] == 7
        shutil.rmtree(tmp_path / "back")


def test_bfloat16_and_several_files_are_read_and_written(copy, untied, tmp_path):
    # A copy: .to(bfloat16) rounds the rotary frequencies too, and .to(float32) does not bring them back.
    half = pycopy.deepcopy(untied[1]).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "parts", dtype=torch.float32)
    for name in ("tokenizer.model", "special_ids.json"):
        shutil.copy(copy / name, tmp_path / "parts" / name)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    import_hf(tmp_path / "parts", tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.params["decoder_norm"]["scale"].dtype == np.float32 and distance(loaded, model) < 1e-5
    summary = export_hf(tmp_path / "model", tmp_path / "small", dtype="bfloat16", max_shard_bytes=100_000)
    assert len(summary["files"]) > 2 and all(name in format_summary(summary) for name in summary["files"])
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert again.dtype == torch.bfloat16
    for (name, a), (_, b) in zip(again.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(a.float(), b), name


def test_an_export_can_be_read_by_whom_the_umask_lets(copy, untied, tmp_path):
    import_hf(copy, tmp_path / "ours")
    export_hf(tmp_path / "ours", tmp_path / "theirs")
    umask = os.umask(0)
    os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "theirs").iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}, modes


def change_tensors(folder, change) -> None:
    path = folder / "model.safetensors"
    values = safetensors.numpy.load_file(path)
    change(values)
    safetensors.numpy.save_file(values, path, metadata={"format": "pt"})


def change_config(folder, **values) -> None:
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **values})


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


def lose(folder, name: str) -> None:
    (folder / name).unlink()


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


def test_folders_that_hold_something_else_are_kept(copy, tmp_path):
    import_hf(copy, tmp_path / "model")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    for target in (copy, tmp_path / "thesis"):
        with pytest.raises(UsageError, match="holds something"):
            import_hf(copy, target)
        with pytest.raises(UsageError, match="no export of ours"):
            export_hf(tmp_path / "model", target)
    with pytest.raises(UsageError, match="no export of ours"):
        export_hf(tmp_path / "model", tmp_path / "model")
    assert (tmp_path / "thesis" / "chapter.tex").exists() and (tmp_path / "model" / "model.json").exists()
    export_hf(tmp_path / "model", tmp_path / "export")
    before = contents(tmp_path / "export")
    export_hf(tmp_path / "model", tmp_path / "export")  # an earlier export may be replaced
    assert contents(tmp_path / "export") == before


def test_the_licence_goes_with_the_weights(copy, tmp_path):
    (copy / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Someone's model\n")
    import_hf(copy, tmp_path / "model")
    export_hf(tmp_path / "model", tmp_path / "export")
    assert "license: apache-2.0" in (tmp_path / "export" / "README.md").read_text()
    import_hf(tmp_path / "export", tmp_path / "second")
    assert load_model(tmp_path / "second").ledger["licence"] == "apache-2.0"
    assert json.loads((tmp_path / "export" / LEDGER).read_text())["job"] == "import"


def test_an_export_whose_configuration_reads_back_differently_does_not_appear(copy, tmp_path, monkeypatch):
    import_hf(copy, tmp_path / "model")
    real = hf_config.to_hf
    monkeypatch.setattr(hf_config, "to_hf", lambda *args: {**real(*args), "rms_norm_eps": 0.5})
    with pytest.raises(JaLlmError, match="config.json reads back with another norm_eps"):
        export_hf(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_generation_settings_go_with_the_weights(copy, tmp_path, tokenizer):
    settings = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "eos_token_id": [tokenizer.eos_id, 5], "pad_token_id": 3}
    write_json(copy / "generation_config.json", {**settings, "bos_token_id": 99, "transformers_version": "4.0"})
    import_hf(copy, tmp_path / "model")
    export_hf(tmp_path / "model", tmp_path / "export")
    assert read_json(tmp_path / "export" / "generation_config.json") == {**settings, "bos_token_id": tokenizer.bos_id}
    (copy / "generation_config.json").write_text("[1]")
    with pytest.raises(JaLlmError, match="generation_config.json: a JSON object is needed"):
        import_hf(copy, tmp_path / "second")


def test_code_in_a_folder_is_never_run(copy, tmp_path):
    (copy / "modeling_trap.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    change_config(copy, auto_map={"AutoModelForCausalLM": "modeling_trap.Model", "AutoConfig": "modeling_trap.Config"})
    import_hf(copy, tmp_path / "model")
    assert (tmp_path / "model").exists() and not (tmp_path / "executed").exists()


def test_a_chat_template_goes_with_the_weights(copy, tmp_path):
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    write_json(copy / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template})
    import_hf(copy, tmp_path / "model")
    export_hf(tmp_path / "model", tmp_path / "export")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    assert theirs.apply_chat_template([{"role": "user", "content": "港"}], tokenize=False) == "<user>港"
    import_hf(tmp_path / "export", tmp_path / "second")
    assert load_model(tmp_path / "second").tokenizer.chat_template == template


def test_the_self_check_tells_what_it_saw(copy, tmp_path):
    summary = import_checkpoint(copy, tmp_path / "model", try_texts=True)
    loaded, told = load_model(tmp_path / "model"), format_summary(summary)
    assert "all 30 tensors read back" in told and "340 ids for 351 rows, 11 rows without an id" in told
    for name, text in TEXTS.items():
        ids = np.array([[loaded.tokenizer.bos_id, *loaded.tokenizer.encode(text)]])[:, :65]
        logits = np.asarray(Decoder(loaded.config).apply({"params": loaded.params}, ids, ids)[0], np.float64)
        if ids.shape[1] <= 64:  # the model's positions: one window
            picked = logits[np.arange(ids.size - 1), ids[0, 1:]] - np.log(np.exp(logits[:-1]).sum(-1))
            bits = -picked.sum() / np.log(2) / len(text.encode())
            assert summary["check"]["texts"][name]["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
        assert f"{summary['check']['texts'][name]['bits_per_byte']:.3f} bits/byte" in told


def test_a_model_at_chance_is_warned_of_and_one_that_reads_is_not():
    def told(*bits):
        texts = {
            name: {"bits_per_byte": b, "uniform": 8.0, "tokens_per_character": 1.0}
            for name, b in zip(("English", "Japanese"), bits, strict=True)
        }
        return "\n".join(self_check.report(9, {"rows": 5, "ids": 5, "texts": texts}))

    assert "WARNING: the model reads no better than chance" in told(8.0, 9.0) and "WARNING" in told(float("nan"), 8.5)
    assert "it reads Japanese no better than chance" in told(1.0, 8.0)
    assert "chance)" in told(1.0, 2.0) and "no better" not in told(1.0, 2.0)


def spoiling(real, file, place):
    """`real`, a writer into a folder, after which one bit of a file is another, or the file is lost."""

    def write(folder, *args, **more):
        real(folder, *args, **more)
        path = folder / "checkpoints" / "0" / "params" / file
        content = bytearray(path.read_bytes())
        path.unlink()
        if place is not None:
            content[place] ^= 1
            path.write_bytes(content)

    return write


def test_numbers_that_read_back_differently_leave_no_model(copy, tmp_path, monkeypatch):
    """One bit that the disk turned, in the second layer's part of a file that is compared when it is whole, and as it is written."""
    with monkeypatch.context() as patch:
        real = hf.write_params
        patch.setattr(array_files, "is_raw", lambda params: True)
        patch.setattr(hf, "write_params", spoiling(real, "layers.mlp.wo.kernel/0.0.0", 4 * 77 * 60 + 2))
        with pytest.raises(
            JaLlmError, match="model.layers.1.mlp.down_proj.weight reads back from the model directory with other"
        ):
            import_hf(copy, tmp_path / "model")
    real = array_files.write_at

    def failing(number, data, offset):
        real(number, data, offset)
        if len(data) == 2 * 77 * 60 and offset == len(data):  # gate, up or down of layer 1
            real(number, bytes([data[9] ^ 1]), offset + 9)

    with monkeypatch.context() as patch:
        patch.setattr(array_files, "write_at", failing)
        with pytest.raises(
            JaLlmError, match=r"model.layers.1.mlp.(gate|up|down)_proj.weight reads back from the model directory"
        ):
            import_hf(copy, tmp_path / "model", "bfloat16")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_file_that_the_disk_lost_leaves_no_model(copy, tmp_path, monkeypatch, dtype):
    lost = "layers.mlp.wo.kernel/0.0.0"
    if dtype == "float32":
        monkeypatch.setattr(hf, "write_params", spoiling(hf.write_params, lost, None))
    else:
        real = hf.NewArrays.close

        def close(self):
            next(file for file in self._left if str(file).endswith(lost)).unlink()
            real(self)

        monkeypatch.setattr(hf.NewArrays, "close", close)
    with pytest.raises(JaLlmError, match="this checkpoint is damaged"):
        import_hf(copy, tmp_path / "model", dtype)
    assert not (tmp_path / "model").exists()


def test_a_disk_that_fills_up_while_the_source_is_read_ends_the_import(copy, tmp_path, monkeypatch):
    def full(number, data, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(array_files, "write_at", full)
    with pytest.raises(JaLlmError, match="model: the disk is full; free some space"):
        import_hf(copy, tmp_path / "model", "bfloat16")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_numbers_in_blocks_are_those_of_the_whole(copy, tmp_path, monkeypatch):
    """Out of a bfloat16 source into files and back, with blocks of a few rows: the very bytes, and those that float32 gives."""
    change_tensors(copy, lambda t: t.update({name: value.astype(ml_dtypes.bfloat16) for name, value in t.items()}))
    monkeypatch.setattr(base, "_BLOCK", 500)
    monkeypatch.setattr(base, "_LINES", 32)
    import_hf(copy, tmp_path / "half", "bfloat16")
    import_hf(copy, tmp_path / "whole")
    half, whole = load_model(tmp_path / "half").params, load_model(tmp_path / "whole").params
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a, np.float32), b), half, whole)
    for name in ("half", "whole"):
        export_hf(tmp_path / name, tmp_path / f"{name}.export")
        assert contents(tmp_path / f"{name}.export") == contents(copy)


def test_a_model_that_lost_a_file_is_damaged_and_not_full_of_zeros(copy, tmp_path):
    import_hf(copy, tmp_path / "model")
    (tmp_path / "model" / "checkpoints" / "0" / "params" / "token_embedder.embedding" / "0.0").unlink()
    with pytest.raises(JaLlmError, match="this checkpoint is damaged"):
        load_model(tmp_path / "model")


def test_auto_tokenizer_gives_our_ids_on_ten_thousand_lines(copy, tmp_path, tokenizer):
    """Lines of the embedded pages, and as many of random stretches of them with odd characters between."""
    import_hf(copy, tmp_path / "model")
    export_hf(tmp_path / "model", tmp_path / "export")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    lines = [line for page in load_pages() for line in page.text.splitlines() if line.strip()]
    draw = random.Random(0)
    odd = [" ", "  ", "\t", "🙂", "é", "\u3000", "ｶﾞ", "\n", "1234", "--", "\u200d", "한"]
    while len(lines) < 10_000:
        a, b = draw.choices(lines[:2000], k=2)
        lines.append(a[draw.randrange(len(a)) :] + draw.choice(odd) + b[: draw.randrange(1, 40)])
    assert theirs(lines, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(lines)
