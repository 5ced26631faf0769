"""Mixtral: Mistral with a router and experts in place of the feed-forward block."""

from ja_llm.models.families import common
from ja_llm.models.families.base import Family, Key, Weight

_MOE = "model.layers.{i}.block_sparse_moe."

FAMILY = Family(
    name="mixtral",
    title="Mixtral",
    architecture="MixtralForCausalLM",
    weights=(
        common.EMBEDDING,
        *common.PRE_NORMS,
        *common.ATTENTION,
        Weight("mlp/router/kernel", _MOE + "gate.weight", 1),
        Weight("mlp/wi_0/kernel", _MOE + "experts.{e}.w1.weight", 1),
        Weight("mlp/wi_1/kernel", _MOE + "experts.{e}.w3.weight", 1),
        Weight("mlp/wo/kernel", _MOE + "experts.{e}.w2.weight", 1),
        *common.HEAD,
    ),
    keys=(
        *common.SIZES,
        common.norm_eps(1e-5),
        common.tied(False),
        common.SILU,
        Key("max_position_embeddings", "max_length", 131072),
        Key("sliding_window", "sliding_window", None),
        Key("num_local_experts", "num_experts", 8),
        Key("num_experts_per_tok", "experts_per_token", 2),
    ),
    more=(common.heads(num_kv_heads=8), common.rope(theta=1e6)),
    settings={"attention_dropout": (0.0,)},
)
