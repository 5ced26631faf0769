"""What several families share: Llama's names, RoPE settings, and which layers have a window."""

from collections.abc import Mapping
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.families.base import Key, Weight

_ATTENTION = "model.layers.{i}.self_attn."

EMBEDDING = Weight("token_embedder/embedding", "model.embed_tokens.weight")
# RoPE needs no permutation: Hugging Face's files are in the half-split layout that ours has too.
ATTENTION = (
    Weight("self_attention/query/kernel", _ATTENTION + "q_proj.weight", 1),
    Weight("self_attention/key/kernel", _ATTENTION + "k_proj.weight", 1),
    Weight("self_attention/value/kernel", _ATTENTION + "v_proj.weight", 1),
    Weight("self_attention/out/kernel", _ATTENTION + "o_proj.weight", 2),
    Weight("self_attention/query/bias", _ATTENTION + "q_proj.bias", 0),
    Weight("self_attention/key/bias", _ATTENTION + "k_proj.bias", 0),
    Weight("self_attention/value/bias", _ATTENTION + "v_proj.bias", 0),
    Weight("self_attention/out/bias", _ATTENTION + "o_proj.bias"),
)
GATED_MLP = (
    Weight("mlp/wi_0/kernel", "model.layers.{i}.mlp.gate_proj.weight", 1),
    Weight("mlp/wi_1/kernel", "model.layers.{i}.mlp.up_proj.weight", 1),
    Weight("mlp/wo/kernel", "model.layers.{i}.mlp.down_proj.weight", 1),
    Weight("mlp/wi_0/bias", "model.layers.{i}.mlp.gate_proj.bias"),
    Weight("mlp/wi_1/bias", "model.layers.{i}.mlp.up_proj.bias"),
    Weight("mlp/wo/bias", "model.layers.{i}.mlp.down_proj.bias"),
)
NORMS = (
    Weight("pre_attention_norm/scale", "model.layers.{i}.input_layernorm.weight"),
    Weight("pre_mlp_norm/scale", "model.layers.{i}.post_attention_layernorm.weight"),
)
HEAD = (Weight("decoder_norm/scale", "model.norm.weight"), Weight("logits_dense/kernel", "lm_head.weight", 1))

SIZES = (
    Key("vocab_size", "vocab_size"),
    Key("hidden_size", "embed_dim"),
    Key("num_hidden_layers", "num_layers"),
    Key("num_attention_heads", "num_heads"),
    Key("intermediate_size", "mlp_dim"),
    Key("rms_norm_eps", "norm_eps", 1e-6),
    Key("tie_word_embeddings", "tie_embeddings", False, {False: False, True: True}),
)
SILU = Key("hidden_act", "activation", "silu", {"silu": "silu", "swish": "silu"})
BIAS = Key("attention_bias", "attention_bias", False, {False: "none", True: "qkvo"})


def read_heads(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Key-value heads (as many as heads) and head width (an equal share), each where the file has none of its own."""
    width, heads = stored.get("hidden_size"), stored.get("num_attention_heads")
    share = width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None
    return {"num_kv_heads": stored.get("num_key_value_heads") or heads, "head_dim": stored.get("head_dim") or share}


def write_heads(config: DecoderConfig) -> dict[str, Any]:
    """Inverse of `read_heads`."""
    return {"num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim}


_SCALED = {
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
        "original_max_position_embeddings": "rope_original_length",
    },
}


def read_rope(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Base and scaling of the rotary frequencies; transformers 5 keeps them in `rope_parameters`, older files in two keys.

    Raises:
      JaLlmError: a scaling that is not computed here, or one that lacks a number.
    """
    name = "rope_parameters" if stored.get("rope_parameters") else "rope_scaling"
    rope = stored.get(name) or {}
    fields = {"rope_theta": rope.get("rope_theta", stored.get("rope_theta", 10000.0))}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return fields
    if kind not in _SCALED:
        raise JaLlmError(
            f"{where}: {name} asks for {kind!r} RoPE, which is not computed here (default, {', '.join(_SCALED)} are); "
            "import a model without it."
        )
    for theirs, ours in _SCALED[kind].items():
        if theirs not in rope:
            raise JaLlmError(f"{where}: {name} has no {theirs}, which {kind!r} RoPE needs; download the config.json again.")
        fields[ours] = rope[theirs]
    return {"rope_scaling": kind, **fields}


def write_rope(config: DecoderConfig) -> dict[str, Any]:
    """Inverse of `read_rope`, in the words of transformers 4 (`rope_theta`, `rope_scaling`) and 5."""
    if config.rope_scaling == "none":
        return {
            "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        }
    scaling = {"rope_type": config.rope_scaling}
    scaling |= {theirs: getattr(config, ours) for theirs, ours in _SCALED[config.rope_scaling].items()}
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": {**scaling, "rope_theta": config.rope_theta},
    }


HEADS = (read_heads, write_heads)
ROPE = (read_rope, write_rope)
