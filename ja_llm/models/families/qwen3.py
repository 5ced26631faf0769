"""Qwen3 (dense): Qwen2 with a norm of each head's queries and keys in place of the biases."""

from ja_llm.models.families import common
from ja_llm.models.families.base import Family
from ja_llm.models.families.qwen2 import KEYS, WINDOWS

FAMILY = Family(
    name="qwen3",
    title="Qwen3",
    architecture="Qwen3ForCausalLM",
    weights=(
        common.EMBEDDING,
        *common.PRE_NORMS,
        *common.ATTENTION,
        *common.QK_NORMS,
        *common.GATED_MLP,
        *common.HEAD,
    ),
    keys=(*KEYS, common.BIAS),
    more=(common.heads(num_kv_heads=32, head_dim=128), common.rope(), WINDOWS),
    fixed={"qk_norm": "head"},
    settings={"attention_dropout": (0.0,)},
)
