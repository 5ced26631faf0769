"""Llama 2, 3, 3.1 and 3.2, and what is published as Llama: SmolLM2, Swallow and many others."""

from ja_llm.models.families import common
from ja_llm.models.families.base import Family, Key

FAMILY = Family(
    name="llama",
    title="Llama",
    architecture="LlamaForCausalLM",
    weights=(common.EMBEDDING, *common.PRE_NORMS, *common.ATTENTION, *common.GATED_MLP, *common.HEAD),
    keys=(
        *common.SIZES,
        common.norm_eps(1e-6),
        common.tied(False),
        common.SILU,
        common.BIAS,
        Key("max_position_embeddings", "max_length", 2048),
        Key("mlp_bias", "mlp_bias", False, {False: False, True: True}),
    ),
    more=(common.heads(), common.rope()),
    settings={"attention_dropout": (0.0,)},
    # Older checkpoints store the rotary frequencies.
    ignored=r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
)
