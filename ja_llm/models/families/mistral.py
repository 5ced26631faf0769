"""Mistral 7B: Llama's names, every layer with a sliding window (version 0.1) or none (0.2 and later)."""

from ja_llm.models.families import common
from ja_llm.models.families.base import Family, Key

FAMILY = Family(
    name="mistral",
    title="Mistral",
    architecture="MistralForCausalLM",
    weights=(common.EMBEDDING, *common.PRE_NORMS, *common.ATTENTION, *common.GATED_MLP, *common.HEAD),
    keys=(
        *common.SIZES,
        common.norm_eps(1e-6),
        common.tied(False),
        common.SILU,
        Key("max_position_embeddings", "max_length", 131072),
        Key("sliding_window", "sliding_window", 4096),
    ),
    more=(common.heads(num_kv_heads=8), common.rope()),
    settings={"attention_dropout": (0.0,)},
)
