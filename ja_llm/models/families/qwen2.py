"""Qwen2 and Qwen2.5: Llama with biases of queries, keys and values; a window, where one is used, in the upper layers."""

from collections.abc import Mapping
from typing import Any

from ja_llm.models.config import DecoderConfig
from ja_llm.models.families import common
from ja_llm.models.families.base import Family, Key


def _read(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    first, window = stored.get("max_window_layers", 28), stored.get("sliding_window", 4096)
    if not stored.get("use_sliding_window", False):
        stored.get("layer_types")  # says nothing then, as `sliding_window`
        return {}

    def usual(layer: int) -> str:
        return common.LOCAL if isinstance(first, int) and layer >= first else common.GLOBAL

    return common.read_layers(stored, usual, window, where)


def _write(config: DecoderConfig) -> dict[str, Any]:
    windows = config.layer_windows()
    first = next((i for i, window in enumerate(windows) if window is not None), len(windows))
    used = config.sliding_window is not None
    return {"use_sliding_window": used, "max_window_layers": first, **common.write_layers(config)}


WINDOWS = (_read, _write)
KEYS = (
    *common.SIZES,
    common.norm_eps(1e-6),
    common.tied(False),
    common.SILU,
    Key("max_position_embeddings", "max_length", 32768),
)

FAMILY = Family(
    name="qwen2",
    title="Qwen2",
    architecture="Qwen2ForCausalLM",
    weights=(common.EMBEDDING, *common.PRE_NORMS, *common.ATTENTION, *common.GATED_MLP, *common.HEAD),
    keys=KEYS,
    more=(common.heads(num_kv_heads=32), common.rope(), WINDOWS),
    fixed={"attention_bias": "qkv"},
    settings={"attention_dropout": (0.0,)},
)
