"""Every family: transformers computes our logits, the tensors go round bit for bit, and decoding with a cache is the full pass.

Weights are random and far from their initial values, sizes odd, the text is longer than the windows.
"""

import dataclasses
import json
import re
import shutil
import types

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from ja_llm.errors import JaLlmError
from ja_llm.evaluation.generation import Generator
from ja_llm.interop import hf_config
from ja_llm.interop.hf import export_hf, import_hf
from ja_llm.interop.parameters import check_names, read_params
from ja_llm.interop.safetensors_files import TensorFolder
from ja_llm.models import families
from ja_llm.models.config import FAMILIES, DecoderConfig
from ja_llm.models.decode import init_cache, prefill
from ja_llm.models.decoder import Decoder
from ja_llm.train.checkpoints import load_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, LENGTH = 351, 40
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 60,
    "intermediate_size": 77,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 80,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}

# name -> (family, settings of transformers' configuration class)
CASES = {
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama, linear RoPE": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 14}),
    "mistral": ("mistral", {"sliding_window": 11, "head_dim": 14}),
    "mistral without window": ("mistral", {"sliding_window": None, "num_key_value_heads": 6}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, upper layers local": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1, "num_key_value_heads": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 14}),
    "qwen3 with biases and windows": (
        "qwen3",
        {"attention_bias": True, "head_dim": 8, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    ),
    "olmo2": ("olmo2", {"rope_parameters": {**PLAIN, "rope_theta": 5e5}}),
    "olmo2 with biases and heads of their own width": ("olmo2", {"head_dim": 14, "attention_bias": True}),
    "gemma": ("gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma, own head": ("gemma", {"head_dim": 10, "tie_word_embeddings": False, "attention_bias": True}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "sliding_window": 11,
            "query_pre_attn_scalar": 7,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma2 without caps": (
        "gemma2",
        {
            "head_dim": 12,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": ["full_attention"] * 2 + ["sliding_attention"],
            "sliding_window": 8,
        },
    ),
    "starcoder": ("gpt_bigcode", {"n_inner": 77, "activation_function": "gelu"}),
    "gpt_bigcode, a key and value for each head": ("gpt_bigcode", {"multi_query": False, "tie_word_embeddings": False}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 14}),
    "mixtral with window": (
        "mixtral",
        {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 9, "tie_word_embeddings": True},
    ),
}
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
BIGCODE_SIZES = {"vocab_size": VOCAB, "n_embd": 60, "n_layer": 3, "n_head": 6, "n_positions": 80}
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "olmo2": "Olmo2"}
CLASSES |= {"gemma": "Gemma", "gemma2": "Gemma2", "gpt_bigcode": "GPTBigCode", "mixtral": "Mixtral"}


def make(case: str):
    """transformers' model of a case, with random weights."""
    name, settings = CASES[case]
    torch.manual_seed(0)
    config = getattr(transformers, f"{CLASSES[name]}Config")(
        **{**(BIGCODE_SIZES if name == "gpt_bigcode" else SIZES), **settings}
    )
    config._attn_implementation = "eager"  # the other implementations leave the soft-cap out
    config._experts_implementation = "eager"  # the others ask for sizes that are multiples of 4
    model = getattr(transformers, f"{CLASSES[name]}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            noise = torch.randn_like(value) * (0.05 if key.endswith("bias") and "norm" not in key else 0.3)
            value.copy_(value * 8 if value.dim() > 1 else noise + value.mean())  # norms and biases away from their initial ones
    return model


@pytest.fixture(scope="module", params=CASES)
def case(request, tokenizer, tmp_path_factory):
    """(family, model of transformers, its folder, our directory, our model)"""
    model = make(request.param)
    folder, ours = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours") / "model"
    model.save_pretrained(folder)
    tokenizer.save(folder)
    import_hf(folder, ours)
    return CASES[request.param][0], model, folder, ours, load_model(ours)


IDS = np.random.default_rng(0).integers(0, VOCAB, (2, LENGTH))
forward = jax.jit(lambda config, params, ids: Decoder(config).apply({"params": params}, ids, ids), static_argnums=0)
append = jax.jit(prefill, static_argnums=0)


def theirs_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(IDS)).logits.double().numpy()


def distance(a, b) -> float:
    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b))


def contents(folder) -> dict[str, bytes]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def test_transformers_computes_the_same_logits(case):
    name, model, _, _, loaded = case
    expected = theirs_logits(model)
    for attention in ("xla", "reference"):
        config = dataclasses.replace(loaded.config, attention=attention)
        ours = np.asarray(forward(config, loaded.params, IDS))
        assert distance(ours, expected) <= 1e-5
        np.testing.assert_array_equal(ours.argmax(-1), expected.argmax(-1))
    assert loaded.config.family == name and len(np.unique(expected.argmax(-1))) > 10


def test_tensors_and_configuration_go_round(case, tmp_path):
    _, model, folder, ours, loaded = case
    export_hf(ours, tmp_path / "export")
    assert contents(tmp_path / "export") == contents(folder)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export", **EAGER).eval()
    np.testing.assert_array_equal(theirs_logits(again), theirs_logits(model))
    assert DecoderConfig.from_parts(json.loads(json.dumps(loaded.config.parts()))) == loaded.config


def test_decoding_with_a_cache_is_the_full_pass_at_every_position(case):
    """Row 0 begins with 13 tokens, row 1 with 6: then one by one to the end of the text, past the window."""
    *_, loaded = case
    config, params = loaded.config, loaded.params
    full = np.asarray(forward(config, params, IDS), np.float64)
    held = np.array([13, 6])
    cache, logits = append(config, params, init_cache(config, 2, LENGTH), IDS[:, :13], held)
    seen = [(held.copy(), np.asarray(logits))]
    while held[0] < LENGTH:
        cache, logits = append(config, params, cache, IDS[[0, 1], held][:, None], np.ones(2, np.int32))
        held += 1
        seen.append((held.copy(), np.asarray(logits)))
    decoded = np.stack([logits for _, logits in seen])
    expected = np.stack([full[[0, 1], lengths - 1] for lengths, _ in seen])
    assert distance(decoded, expected) <= 1e-5
    assert max(distance(a, b) for a, b in zip(decoded[:, 0], expected[:, 0], strict=True)) <= 1e-5


NEW = 64


def theirs_greedy(model, prompts) -> list[list[int]]:
    """What transformers writes after prompts that it pads on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        return model.generate(ids, attention_mask=mask, **settings)[:, width:].tolist()


def test_greedy_text_is_transformers_with_and_without_padding(case):
    *_, loaded = case
    model = case[1]
    every_id = types.SimpleNamespace(vocab_size=VOCAB, eos_id=-1)
    ours = Generator(dataclasses.replace(loaded, tokenizer=every_id), batch_size=2)
    long, short = IDS[0, :13].tolist(), IDS[1, :6].tolist()
    expected = theirs_greedy(model, [long, short])
    assert ours.continue_tokens([long, short], NEW, ignore_eos=True) == expected
    assert ours.continue_tokens([short], NEW, ignore_eos=True) == theirs_greedy(model, [short]) == expected[1:]
    assert [len(row) for row in expected] == [NEW, NEW] and len(set(map(tuple, expected))) == 2


def wrong_maps(loaded):
    """The family with one error in its map: each weight lost, each two of one shape exchanged, each kernel's input miscounted."""
    found = families.family(loaded.config.family)
    used = [tensor.weight for tensor in families.tensors(loaded.config)]
    table = [weight for weight in found.weights if weight in used]
    shapes = {t.weight: t.shape for t in families.tensors(loaded.config)}
    parts = {t.weight: [part.shape for part in t.parts] for t in families.tensors(loaded.config)}
    for n, weight in enumerate(table):
        yield weight, [w for w in table if w is not weight]
        for other in table[n + 1 :]:
            if shapes[weight] == shapes[other] and ("{i}" in weight.theirs) == ("{i}" in other.theirs):
                a, b = (dataclasses.replace(w, theirs=v.theirs) for w, v in ((weight, other), (other, weight)))
                yield weight, [{weight: a, other: b}.get(w, w) for w in table]
        if len(weight.paths) > 1:  # the order within a fused tensor
            *first, key, value = weight.ours
            yield weight, [dataclasses.replace(w, ours=(*first, value, key)) if w is weight else w for w in table]
        if weight.inputs and any(shape[1] > 1 for shape in parts[weight]):  # of one head it is the same matrix
            turned = dataclasses.replace(weight, inputs=3 - weight.inputs)
            yield weight, [turned if w is weight else w for w in table]


def test_an_error_in_any_one_entry_of_a_map_is_found(case, monkeypatch):
    """...by the names' and shapes' check or by the logits, so a slip in a table fails the tests above."""
    _, model, folder, _, loaded = case
    found, expected, tried = families.family(loaded.config.family), theirs_logits(model), set()
    every = {tensor.weight for tensor in families.tensors(loaded.config)}
    module = __import__(f"ja_llm.models.families.{found.name}", fromlist=["FAMILY"])
    tensors = TensorFolder(folder)
    for weight, table in list(wrong_maps(loaded)):
        monkeypatch.setattr(module, "FAMILY", dataclasses.replace(found, weights=tuple(table)))
        tried.add(weight)
        try:
            check_names(tensors, loaded.config, folder)
            params = read_params(tensors, loaded.config, folder)
        except (JaLlmError, ValueError):
            continue
        ours = forward(loaded.config, params, IDS)
        assert distance(ours, expected) > 1e-3, (weight, table)
    assert tried == every


def other(key, value):
    """Another value of a configuration key, None where there is but one that is computed here."""
    if key.values is not None:
        return next((v for v, ours in key.values.items() if ours != key.values[value]), None)
    return {bool: lambda v: not v, float: lambda v: v * 1.5, type(None): lambda v: 64}.get(type(value), lambda v: 2 * v)(value)


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_and_their_defaults_are_those_of_transformers(name):
    found = families.family(name)
    stored = getattr(transformers, f"{CLASSES[name]}Config")().to_dict() | {"architectures": [found.architecture]}
    required = {key.theirs for key in found.keys if key.default is families.base.REQUIRED} | {"model_type", "architectures"}
    config = hf_config.from_hf(stored, "whole", "float32")
    # A file that says the least means what transformers' class means by it.
    assert hf_config.from_hf({key: stored[key] for key in required}, "least", "float32") == config
    changed = 0
    for key in found.keys:
        assert key.theirs in stored
        if (value := other(key, stored[key.theirs])) is not None:
            changes = {key.theirs: value, **({"layer_types": None} if key.ours == "num_layers" else {})}
            again = hf_config.from_hf({**stored, **changes}, "changed", "float32")
            assert getattr(again, key.ours) != getattr(config, key.ours), key
            changed += 1
    assert changed >= 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types is 1 entries for 26 layers"),
        ({"layer_types": ["full_attention"] * 27}, "layer_types is 27 entries for 26 layers"),
        ({"layer_types": 3}, "layer_types is 3 for 26 layers"),
        ({"layer_types": None, "num_hidden_layers": "2"}, "num_hidden_layers is '2'; a whole number"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ],
)
def test_layers_that_do_not_fit_their_number_are_refused(change, message):
    stored = transformers.Gemma2Config().to_dict() | {"architectures": ["Gemma2ForCausalLM"]}
    with pytest.raises(JaLlmError, match=message):
        hf_config.from_hf({**stored, **change}, "config.json", "float32")


@pytest.mark.parametrize("name", FAMILIES)
def test_published_files_have_no_key_that_is_not_known(name):
    """What transformers writes for a model, and what old files and others' tools add."""
    found = families.family(name)
    stored = getattr(transformers, f"{CLASSES[name]}Config")(architectures=[found.architecture]).to_dict()
    notes = {
        "_name_or_path": "x",
        "use_flash": False,
        "rope_scaling": None,
        "unsloth_fixed": True,
        "pretraining_tp": 2,
        "max_length": 20,
    }
    assert hf_config.from_hf({**stored, **notes}, "config.json", "float32") == hf_config.from_hf(stored, "config.json", "float32")
    with pytest.raises(JaLlmError, match="dual_chunk_attention_config is .* not known here"):
        hf_config.from_hf({**stored, "dual_chunk_attention_config": {"chunk_size": 9}}, "config.json", "float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_goes_round_bit_for_bit(case, tmp_path, dtype, tokenizer):
    _, _, folder, _, _ = case
    (tmp_path / "src").mkdir()
    values = safetensors.numpy.load_file(folder / "model.safetensors")
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    safetensors.numpy.save_file({name: v.astype(kind) for name, v in values.items()}, tmp_path / "src" / "model.safetensors")
    for name in ("config.json", "tokenizer.model", "special_ids.json"):
        shutil.copy(folder / name, tmp_path / "src")
    import_hf(tmp_path / "src", tmp_path / "ours")
    export_hf(tmp_path / "ours", tmp_path / "export")
    assert contents(tmp_path / "export") == contents(tmp_path / "src")


LLAMA_CPP = {"mistral": "llama", "mixtral": "llama", "gpt_bigcode": "starcoder"}


def test_llama_cpps_converter_knows_every_name_that_is_exported(case):
    """By the table of names that it reads with, which the gguf package has."""
    gguf = pytest.importorskip("gguf")
    name, *_, loaded = case
    known = {word: arch for arch, word in gguf.MODEL_ARCH_NAMES.items()}[LLAMA_CPP.get(name, name)]
    names = gguf.get_tensor_name_map(known, loaded.config.num_layers)
    for tensor in families.tensors(loaded.config):
        if name.startswith("gemma") and tensor.name == "lm_head.weight":  # llama.cpp's Gemma always ties its head
            continue
        whole = re.sub(r"experts\.\d+\.", "experts.", tensor.name)  # its experts become one tensor
        assert names.get_name(whole, try_suffixes=(".weight", ".bias")), tensor.name


def test_every_family_has_a_case_and_a_file_of_its_name():
    assert {name for name, _ in CASES.values()} == set(FAMILIES) == {families.family(name).name for name in FAMILIES}


def test_what_a_family_has_no_word_for_is_not_written():
    config = DecoderConfig(
        vocab_size=9,
        embed_dim=8,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        mlp_dim=8,
        max_length=8,
        sliding_window=4,
    )
    with pytest.raises(JaLlmError, match="'llama' has no word for sliding_window = 4"):
        hf_config.to_hf(config, "float32", 1, 2)
    biased = dataclasses.replace(config, family="mistral", attention_bias="qkv")
    with pytest.raises(JaLlmError, match="'mistral' has no word for attention_bias = 'qkv'"):
        hf_config.to_hf(biased, "float32", 1, 2)
