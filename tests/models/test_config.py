"""DecoderConfig: JSON round trip, refusals, and the sizes of the models in gin_configs/models."""

import dataclasses
import json
import math
import subprocess
import sys

import jax
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.models.config import (
    ARCHITECTURE_FIELDS,
    CHECKPOINT_FIELDS,
    EXECUTION_FIELDS,
    IDENTITY_FIELDS,
    INIT_FIELDS,
    OVERRIDABLE_FIELDS,
    STORAGE_FIELDS,
    DecoderConfig,
)
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


def test_every_field_belongs_to_one_part():
    """The parts as lists, so that a field that moves is a decision: each list says what it may be changed for."""
    assert (
        *("vocab_size", "embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "max_length"),
        *("rope_theta", "norm_eps", "tie_embeddings", "padding_ids", "family"),
        *("rope_scaling", "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor", "rope_original_length"),
        *("positions", "norm", "norm_placement", "qk_norm", "attention_bias", "activation", "gated_mlp", "mlp_bias"),
        *("sliding_window", "window_pattern", "query_scalar", "attention_softcap", "logits_softcap", "scale_embeddings"),
        *("num_experts", "experts_per_token"),
    ) == ARCHITECTURE_FIELDS
    assert STORAGE_FIELDS == ("param_dtype", "scan_layers") and EXECUTION_FIELDS == ("dtype", "remat_policy", "attention")
    fields = {field.name for field in dataclasses.fields(DecoderConfig)}
    assert INIT_FIELDS == ("init_std", "init_cut", "init_depth_scaled")
    assert sorted((*ARCHITECTURE_FIELDS, *STORAGE_FIELDS, *EXECUTION_FIELDS, *INIT_FIELDS)) == sorted(fields)
    assert set(CHECKPOINT_FIELDS) == fields - set(EXECUTION_FIELDS) - set(INIT_FIELDS)
    assert set(IDENTITY_FIELDS) == fields - {"remat_policy", "attention"}
    assert set(OVERRIDABLE_FIELDS) == {"dtype", "remat_policy", "attention", "max_length"}


def test_what_other_families_have_is_stored_only_where_it_is_not_llamas():
    """Llama's description and ledger stay as they were before a variant came; json.dumps has the order too."""
    config = DecoderConfig(**BASE)
    assert json.dumps(config.parts()) == json.dumps(
        {
            "family": "llama",
            "architecture": {**BASE, "rope_theta": 10000.0, "norm_eps": 1e-5, "tie_embeddings": False},
            "storage": {"param_dtype": "float32", "scan_layers": True},
            "execution": {"dtype": "float32", "remat_policy": "none", "attention": "default"},
        }
    )
    other = DecoderConfig(**BASE, sliding_window=7, attention_bias="qkv")
    more = {"sliding_window": 7, "attention_bias": "qkv"}
    assert other.parts()["architecture"].items() - config.parts()["architecture"].items() == more.items()
    assert DecoderConfig.from_parts(other.parts()) == other


def test_windows_of_layers_have_one_spelling():
    make = lambda window, pattern, layers=6: DecoderConfig(  # noqa: E731
        **{**BASE, "num_layers": layers}, sliding_window=window, window_pattern=pattern
    )
    assert make(5, "LGLGLG") == make(5, "LG") and make(5, "LG").layer_windows() == (5, None) * 3
    assert make(5, "GGGGLL").window_pattern == "GGGGLL" and make(5, "GGGGLL").layer_windows() == (None,) * 4 + (5, 5)
    assert make(5, "G") == make(None, "LG") == DecoderConfig(**{**BASE, "num_layers": 6})
    for pattern in ("", "X", "lg", 3):
        with pytest.raises(UsageError, match="window_pattern"):
            make(5, pattern)


def test_execution_changes_no_parameter_and_storage_does():
    config = DecoderConfig(**BASE)
    same = dataclasses.replace(config, dtype="bfloat16", remat_policy="full", attention="reference")
    assert abstract_params(same) == abstract_params(config)
    for change in ({"param_dtype": "bfloat16"}, {"scan_layers": False}):
        assert abstract_params(dataclasses.replace(config, **change)) != abstract_params(config)


def test_parts_round_trip_and_wrong_ones_are_refused():
    config = DecoderConfig(**BASE, dtype="bfloat16", scan_layers=False)
    parts = config.parts()
    assert parts.keys() == {"family", "architecture", "storage", "execution"} and "family" not in parts["architecture"]
    assert parts["storage"] == {"param_dtype": "float32", "scan_layers": False}
    assert DecoderConfig.from_parts({**parts, "vocabulary": "0" * 64}) == config
    for change, message in [
        ({"storage": None}, "lacks 'storage'"),
        ({"execution": parts["execution"] | {"scan_layers": True}}, "'scan_layers' under 'execution', it belongs to storage"),
        ({"architecture": parts["architecture"] | {"family": "llama"}}, "'family' under 'architecture', it belongs to no part"),
        ({"architecture": parts["architecture"] | {"dropout": 0.1}}, "unknown field 'dropout'"),
        ({"architecture": {"vocab_size": 9}}, "lacks embed_dim"),
        ({"execution": parts["execution"] | {"dtype": "float64"}}, "float32, bfloat16, float16"),
    ]:
        with pytest.raises(JaLlmError, match=message):
            DecoderConfig.from_parts({**parts, **change})


def test_only_execution_is_overridden_for_a_stored_model():
    config = DecoderConfig(**BASE)
    assert config.executed(None) == config
    assert config.executed({"dtype": "bfloat16"}) == dataclasses.replace(config, dtype="bfloat16")
    for name in ("scan_layers", "max_length", "rope_theta", "dropout"):
        with pytest.raises(UsageError, match=f"{name} can't be changed for a stored model"):
            config.executed({name: 1})


def test_a_gin_binding_does_not_change_what_a_stored_model_says():
    code = f"""
import gin
from ja_llm.models.config import DecoderConfig
gin.parse_config("DecoderConfig.rope_theta = 7.0")
stored = {BASE!r}
assert DecoderConfig(**stored).rope_theta == 7.0
assert DecoderConfig.from_json(stored).rope_theta == 10000.0
from ja_llm import gin_utils
for name in ("tiny_test", "tiny_2m", "tiny_3m"):
    with gin_utils.parsed(["models/" + name + ".gin"], ["config.DecoderConfig.norm_eps = 0.5"]):
        print(name, gin.query_parameter("%MODEL").scoped_configurable_fn(vocab_size=8000).to_json())
    assert DecoderConfig(**stored).norm_eps == 1e-5, "a binding outlived its run"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    sizes = {}
    for line in result.stdout.splitlines():
        name, value = line.split(" ", 1)
        config = DecoderConfig.from_json(eval(value))
        assert config.norm_eps == 0.5
        sizes[name] = sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_params(config)))
    assert 2e6 < sizes["tiny_2m"] < sizes["tiny_3m"] < 5e6 and set(sizes) == {"tiny_test", "tiny_2m", "tiny_3m"}


def test_frozen_and_hashable():
    config = DecoderConfig(**BASE)
    assert {config: 1}[DecoderConfig(**BASE)] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.embed_dim = 3
