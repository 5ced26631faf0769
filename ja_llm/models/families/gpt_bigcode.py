"""GPTBigCode: StarCoder and SantaCoder. Learned positions, LayerNorm, biases everywhere, a plain GELU block, one key-value head.

Queries, keys and values are one tensor: with one key-value head all queries, the key, the value; with as many as heads, each
head's query, key and value after each other.
"""

from collections.abc import Mapping
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.families import common
from ja_llm.models.families.base import Family, Key, Weight

_LAYER = "transformer.h.{i}."


def _fused(leaf: str) -> tuple[str, ...]:
    return tuple(f"self_attention/{name}/{leaf}" for name in ("query", "key", "value"))


def _read(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    width, heads = stored.get("n_embd"), stored.get("n_head")
    if not isinstance(width, int) or not isinstance(heads, int) or heads < 1 or width % heads:
        raise JaLlmError(f"{where}: n_embd is {width!r}, n_head {heads!r}; a width that the heads divide is needed.")
    kv_heads = 1 if stored.get("multi_query", True) else heads
    if stored.get("num_key_value_heads", kv_heads) != kv_heads:
        raise JaLlmError(
            f"{where}: num_key_value_heads is {stored['num_key_value_heads']!r}, multi_query asks for {kv_heads}; download the config.json again."
        )
    return {
        "num_kv_heads": kv_heads,
        "head_dim": width // heads,
        "mlp_dim": stored.get("n_inner") or 4 * width,
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {"multi_query": config.num_kv_heads == 1, "n_inner": config.mlp_dim}


FAMILY = Family(
    name="gpt_bigcode",
    title="GPTBigCode",
    architecture="GPTBigCodeForCausalLM",
    weights=(
        Weight("token_embedder/embedding", "transformer.wte.weight"),
        Weight("position_embedder/embedding", "transformer.wpe.weight"),
        Weight("pre_attention_norm/scale", _LAYER + "ln_1.weight"),
        Weight("pre_attention_norm/bias", _LAYER + "ln_1.bias"),
        Weight(_fused("kernel"), _LAYER + "attn.c_attn.weight", 1),
        Weight(_fused("bias"), _LAYER + "attn.c_attn.bias", 0),
        Weight("self_attention/out/kernel", _LAYER + "attn.c_proj.weight", 2),
        Weight("self_attention/out/bias", _LAYER + "attn.c_proj.bias"),
        Weight("pre_mlp_norm/scale", _LAYER + "ln_2.weight"),
        Weight("pre_mlp_norm/bias", _LAYER + "ln_2.bias"),
        Weight("mlp/wi/kernel", _LAYER + "mlp.c_fc.weight", 1),
        Weight("mlp/wi/bias", _LAYER + "mlp.c_fc.bias"),
        Weight("mlp/wo/kernel", _LAYER + "mlp.c_proj.weight", 1),
        Weight("mlp/wo/bias", _LAYER + "mlp.c_proj.bias"),
        Weight("decoder_norm/scale", "transformer.ln_f.weight"),
        Weight("decoder_norm/bias", "transformer.ln_f.bias"),
        Weight("logits_dense/kernel", "lm_head.weight", 1),
    ),
    keys=(
        Key("vocab_size", "vocab_size"),
        Key("n_embd", "embed_dim"),
        Key("n_layer", "num_layers"),
        Key("n_head", "num_heads"),
        Key("n_positions", "max_length", 1024),
        Key("layer_norm_epsilon", "norm_eps", 1e-5),
        common.tied(True),
        Key(
            "activation_function",
            "activation",
            "gelu_pytorch_tanh",
            {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu": "gelu", "silu": "silu"},
        ),
    ),
    more=((_read, _write),),
    fixed={"positions": "learned", "norm": "layer", "attention_bias": "qkvo", "mlp_bias": True, "gated_mlp": False},
    settings={"scale_attn_weights": (True,), "add_cross_attention": (False,)},
    # Causal masks that older files store as buffers.
    ignored=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
)
