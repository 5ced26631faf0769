"""Gemma: embeddings times the root of the width, norms with 1 + scale, a gate with GELU, heads of a width of their own."""

from ja_llm.models.families import common
from ja_llm.models.families.base import Family, Key

# The first releases say "gelu" and mean its tanh approximation, which they were trained with.
GELU = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu_tanh"}

FAMILY = Family(
    name="gemma",
    title="Gemma",
    architecture="GemmaForCausalLM",
    weights=(common.EMBEDDING, *common.PRE_NORMS, *common.ATTENTION, *common.GATED_MLP, *common.HEAD),
    keys=(
        *common.SIZES,
        common.norm_eps(1e-6),
        common.tied(True),
        Key("hidden_act", "activation", "gelu_pytorch_tanh", GELU),
        common.BIAS,
        Key("max_position_embeddings", "max_length", 8192),
    ),
    more=(common.heads(num_kv_heads=16, head_dim=256), common.rope()),
    fixed={"norm": "rms_unit_offset", "scale_embeddings": True},
    settings={"attention_dropout": (0.0,), "hidden_activation": tuple(GELU), "use_bidirectional_attention": (False,)},
)
