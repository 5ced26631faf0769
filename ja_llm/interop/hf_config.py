"""config.json of a Hugging Face Llama model and `DecoderConfig`: both directions, and what is refused."""

from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.models.config import DecoderConfig

ARCHITECTURE = "LlamaForCausalLM"

# Settings under which the published computation is not ours: key -> values that are.
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "hidden_act": (None, "silu", "swish"),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "quantization_config": (None,),
    "sliding_window": (None,),
}


def from_hf(value: Any, where: str, param_dtype: str) -> DecoderConfig:
    """The decoder that config.json describes.

    Args:
      value: the parsed file.
      where: its path, for messages.
      param_dtype: of our parameters.

    Raises:
      JaLlmError: another architecture, a setting that we do not compute, a missing or impossible size.
    """
    if not isinstance(value, dict):
        raise JaLlmError(f"{where}: a JSON object is needed; download the model's config.json again.")
    kind = value.get("model_type", "unnamed")
    architectures = value.get("architectures") or [ARCHITECTURE]
    if kind != "llama" or ARCHITECTURE not in architectures:
        raise JaLlmError(
            f"{where}: this is a {kind!r} model ({', '.join(map(str, architectures))}); "
            f"the Llama family ({ARCHITECTURE}) can be imported."
        )
    for key, allowed in _MUST_BE.items():
        if value.get(key) not in allowed:
            raise JaLlmError(f"{where}: {key} is {value[key]!r}, which this decoder does not compute; import a model without it.")
    heads = value.get("num_attention_heads")
    theirs = {
        "vocab_size": value.get("vocab_size"),
        "embed_dim": value.get("hidden_size"),
        "num_layers": value.get("num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": value.get("num_key_value_heads") or heads,
        "head_dim": value.get("head_dim") or _divide(value.get("hidden_size"), heads),
        "mlp_dim": value.get("intermediate_size"),
        "max_length": value.get("max_position_embeddings", 2048),
    }
    missing = [name for name, size in theirs.items() if size is None]
    if missing:
        raise JaLlmError(f"{where}: nothing says {missing[0]}; download the model's config.json again.")
    try:
        return DecoderConfig(
            **theirs,
            rope_theta=_rope_theta(value, where),
            norm_eps=value.get("rms_norm_eps", 1e-6),
            tie_embeddings=bool(value.get("tie_word_embeddings", False)),
            param_dtype=param_dtype,
            family="llama",
        )
    except UsageError as error:
        raise JaLlmError(f"{where}: {str(error).splitlines()[0]}") from error  # gin adds lines of its own


def _divide(width: Any, heads: Any) -> int | None:
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None


def _rope_theta(value: dict[str, Any], where: str) -> float:
    """Base of the rotary frequencies; transformers 5 keeps it in `rope_parameters`, older files at the top."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = value.get(key) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise JaLlmError(
                f"{where}: {key} asks for {kind!r} RoPE, which this decoder does not compute yet; import a model with plain RoPE."
            )
    return (value.get("rope_parameters") or {}).get("rope_theta", value.get("rope_theta", 10000.0))


def to_hf(config: DecoderConfig, dtype: str, bos_id: int, eos_id: int) -> dict[str, Any]:
    """config.json for a decoder, in words that transformers 4 and 5 read."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "max_position_embeddings": config.max_length,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "torch_dtype": dtype,
        "dtype": dtype,
        "use_cache": True,
    }
