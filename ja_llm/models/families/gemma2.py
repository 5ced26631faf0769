"""Gemma 2: Gemma with norms on both sides, soft-caps, a query scale of its own, and a window in every second layer."""

from collections.abc import Mapping
from typing import Any

from ja_llm.models.families import common
from ja_llm.models.families.base import Family, Key, Weight
from ja_llm.models.families.gemma import GELU


def _read(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    def usual(layer: int) -> str:
        return common.GLOBAL if layer % 2 else common.LOCAL

    return common.read_layers(stored, usual, stored.get("sliding_window", 4096), where)


FAMILY = Family(
    name="gemma2",
    title="Gemma 2",
    architecture="Gemma2ForCausalLM",
    weights=(
        common.EMBEDDING,
        *common.ATTENTION,
        *common.GATED_MLP,
        Weight("pre_attention_norm/scale", "model.layers.{i}.input_layernorm.weight"),
        Weight("post_attention_norm/scale", "model.layers.{i}.post_attention_layernorm.weight"),
        Weight("pre_mlp_norm/scale", "model.layers.{i}.pre_feedforward_layernorm.weight"),
        Weight("post_mlp_norm/scale", "model.layers.{i}.post_feedforward_layernorm.weight"),
        *common.HEAD,
    ),
    keys=(
        *common.SIZES,
        common.norm_eps(1e-6),
        common.tied(True),
        Key("hidden_activation", "activation", "gelu_pytorch_tanh", GELU),
        common.BIAS,
        Key("max_position_embeddings", "max_length", 8192),
        Key("query_pre_attn_scalar", "query_scalar", 256),
        Key("attn_logit_softcapping", "attention_softcap", 50.0),
        Key("final_logit_softcapping", "logits_softcap", 30.0),
    ),
    more=(common.heads(num_kv_heads=4, head_dim=256), common.rope(), (_read, common.write_layers)),
    fixed={"norm": "rms_unit_offset", "norm_placement": "sandwich", "scale_embeddings": True},
    settings={"attention_dropout": (0.0,), "use_bidirectional_attention": (False,)},
)
