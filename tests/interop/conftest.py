"""A small tokenizer, and model folders of random numbers."""

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
