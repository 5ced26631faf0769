"""DecoderConfig: JSON round trip, refusals, and the sizes of the models in gin_configs/models."""

import dataclasses
import math
import subprocess
import sys

import jax
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params

BASE = {
    "vocab_size": 100,
    "embed_dim": 16,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 4,
    "mlp_dim": 24,
    "max_length": 32,
}


def test_json_round_trip_gives_an_equal_configuration():
    config = DecoderConfig(**BASE, rope_theta=500000, tie_embeddings=True, param_dtype="bfloat16")
    assert DecoderConfig.from_json(config.to_json()) == config
    assert config.to_json()["rope_theta"] == 500000.0 and isinstance(config.rope_theta, float)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_kv_heads", 3, "num_heads is 4, which num_kv_heads 3 does not divide"),
        ("head_dim", 5, "even"),
        ("embed_dim", 0, "whole number from 1"),
        ("num_layers", 2.0, "whole number from 1"),
        ("rope_theta", -1.0, "positive"),
        ("dtype", "float64", "float32, bfloat16, float16"),
        ("remat_policy", "some", "none, minimal, full"),
        ("attention", "flash", "xla, reference"),
        ("tie_embeddings", "no", "True or False"),
    ],
)
def test_impossible_values_are_refused_by_name(field, value, message):
    with pytest.raises(UsageError, match=message) as caught:
        DecoderConfig(**{**BASE, field: value})
    assert f"DecoderConfig.{field}" in str(caught.value) or field in str(caught.value)


def test_stored_configurations_with_unknown_or_missing_fields_are_refused():
    stored = DecoderConfig(**BASE).to_json()
    with pytest.raises(JaLlmError, match="unknown field 'dropout'"):
        DecoderConfig.from_json({**stored, "dropout": 0.1})
    with pytest.raises(JaLlmError, match="lacks mlp_dim"):
        DecoderConfig.from_json({k: v for k, v in stored.items() if k != "mlp_dim"})


def test_a_gin_binding_does_not_change_what_a_stored_model_says():
    code = f"""
import gin
from ja_llm.models.config import DecoderConfig
gin.parse_config("DecoderConfig.rope_theta = 7.0")
stored = {BASE!r}
assert DecoderConfig(**stored).rope_theta == 7.0
assert DecoderConfig.from_json(stored).rope_theta == 10000.0
from ja_llm import gin_utils
for name in ("tiny_test", "tiny_1m", "tiny_3m"):
    gin_utils.parse(["models/" + name + ".gin"], [])
    print(name, gin.query_parameter("%MODEL").scoped_configurable_fn(vocab_size=8000).to_json())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    sizes = {}
    for line in result.stdout.splitlines():
        name, value = line.split(" ", 1)
        config = DecoderConfig.from_json(eval(value))
        sizes[name] = sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_params(config)))
    assert 2e6 < sizes["tiny_3m"] < 5e6 and sizes["tiny_1m"] < 2e6 and set(sizes) == {"tiny_test", "tiny_1m", "tiny_3m"}


def test_frozen_and_hashable():
    config = DecoderConfig(**BASE)
    assert {config: 1}[DecoderConfig(**BASE)] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.embed_dim = 3
