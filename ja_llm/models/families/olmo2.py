"""OLMo 2: Llama with norms behind attention and feed-forward block, and over the whole width of queries and keys."""

from ja_llm.models.families import common
from ja_llm.models.families.base import Family, Key, Weight

FAMILY = Family(
    name="olmo2",
    title="OLMo 2",
    architecture="Olmo2ForCausalLM",
    weights=(
        common.EMBEDDING,
        *common.ATTENTION,
        *common.QK_NORMS,
        *common.GATED_MLP,
        Weight("post_attention_norm/scale", "model.layers.{i}.post_attention_layernorm.weight"),
        Weight("post_mlp_norm/scale", "model.layers.{i}.post_feedforward_layernorm.weight"),
        *common.HEAD,
    ),
    keys=(
        *common.SIZES,
        common.norm_eps(1e-5),
        common.tied(False),
        common.SILU,
        common.BIAS,
        Key("max_position_embeddings", "max_length", 2048),
    ),
    more=(common.heads(), common.rope()),
    fixed={"norm_placement": "post", "qk_norm": "width"},
    settings={"attention_dropout": (0.0,)},
)
