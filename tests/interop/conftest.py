"""A small tokenizer, and model folders of random numbers."""

import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ja_llm.files import write_json
from ja_llm.interop import hf_config
from ja_llm.models.config import DecoderConfig
from ja_llm.models.families import tensors
from ja_llm.vocab.train import train_sentencepiece

TEXTS = [
    "The harbour wakes before the sun does.",
    "朝の市場には、採れたての野菜が並びます。",
    "A good map tells you what it leaves out.",
]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return train_sentencepiece([t * 3 for t in TEXTS] * 20, tmp_path_factory.mktemp("vocab"), vocab_size=340)


@pytest.fixture(scope="session")
def texts():
    return TEXTS


@pytest.fixture
def plain_source(tmp_path):
    """plain_source(tokenizer, dtype=..., family=..., rows=..., **DecoderConfig fields) -> a Hugging Face folder of random numbers."""

    def make(tokenizer, dtype="float32", family="llama", rows=351, **more):
        sizes = {
            "embed_dim": 24,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 6,
            "mlp_dim": 32,
            "max_length": 64,
        }
        config = DecoderConfig(vocab_size=rows, family=family, **{**sizes, **more})
        rng, folder = np.random.default_rng(0), tmp_path / "src"
        folder.mkdir()
        values = {t.name: rng.normal(size=t.shape) * 0.1 + (len(t.shape) == 1) for t in tensors(config)}
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        safetensors.numpy.save_file({name: v.astype(kind) for name, v in values.items()}, folder / "model.safetensors")
        write_json(folder / "config.json", hf_config.to_hf(config, dtype, tokenizer.bos_id, tokenizer.eos_id))
        tokenizer.save(folder)
        return folder

    return make


SIZES = {"hidden_size": 60, "intermediate_size": 77, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}


@pytest.fixture(scope="session")
def source(tokenizer, tmp_path_factory):
    """source(...) -> (a folder that transformers wrote, its model): random weights, odd sizes, a head width of its own."""

    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

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
