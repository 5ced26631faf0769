"""What several families share: Llama's names, RoPE settings, and which layers have a window."""

from collections.abc import Callable, Mapping
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.families.base import Key, Pair, Weight

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
QK_NORMS = (
    Weight("self_attention/query_norm/scale", _ATTENTION + "q_norm.weight", 0),
    Weight("self_attention/key_norm/scale", _ATTENTION + "k_norm.weight", 0),
)
GATED_MLP = (
    Weight("mlp/wi_0/kernel", "model.layers.{i}.mlp.gate_proj.weight", 1),
    Weight("mlp/wi_1/kernel", "model.layers.{i}.mlp.up_proj.weight", 1),
    Weight("mlp/wo/kernel", "model.layers.{i}.mlp.down_proj.weight", 1),
    Weight("mlp/wi_0/bias", "model.layers.{i}.mlp.gate_proj.bias"),
    Weight("mlp/wi_1/bias", "model.layers.{i}.mlp.up_proj.bias"),
    Weight("mlp/wo/bias", "model.layers.{i}.mlp.down_proj.bias"),
)
PRE_NORMS = (
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
)


def norm_eps(default: float) -> Key:
    """rms_norm_eps."""
    return Key("rms_norm_eps", "norm_eps", default)


def tied(default: bool) -> Key:
    """tie_word_embeddings."""
    return Key("tie_word_embeddings", "tie_embeddings", default, {False: False, True: True, None: False})


SILU = Key("hidden_act", "activation", "silu", {"silu": "silu", "swish": "silu"})
BIAS = Key("attention_bias", "attention_bias", False, {False: "none", True: "qkvo"})


def heads(num_kv_heads: int | None = None, head_dim: int | None = None) -> Pair:
    """Key-value heads and head width, with what a file that lacks them means; None: one for each head, an equal share."""

    def read(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
        width, count = stored.get("hidden_size"), stored.get("num_attention_heads")
        share = width // count if isinstance(width, int) and isinstance(count, int) and count > 0 else None
        return {
            "num_kv_heads": stored.get("num_key_value_heads", num_kv_heads) or count,
            "head_dim": stored.get("head_dim", head_dim) or share,
        }

    def write(config: DecoderConfig) -> dict[str, Any]:
        return {"num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim}

    return read, write


_SCALED = {
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
        "original_max_position_embeddings": "rope_original_length",
    },
}


def rope(theta: float = 10000.0) -> Pair:
    """Base (`theta` where a file has none) and scaling of the rotary frequencies.

    transformers 5 keeps them in `rope_parameters`, older files in `rope_theta` and `rope_scaling`; both are written. Reading
    raises JaLlmError for a scaling that is not computed here, and for one that lacks a number.
    """

    def read(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
        newer, older, plain = stored.get("rope_parameters"), stored.get("rope_scaling"), stored.get("rope_theta", theta)
        name, found = ("rope_parameters", newer) if newer else ("rope_scaling", older or {})
        if not isinstance(found, Mapping):
            raise JaLlmError(f"{where}: {name} is {found!r}; an object is needed, so download the config.json again.")
        fields = {"rope_theta": found.get("rope_theta", plain)}
        kind = found.get("rope_type", found.get("type", "default"))
        known = {
            "rope_theta",
            "rope_type",
            "type",
            "original_max_position_embeddings",
            *_SCALED.get(kind if isinstance(kind, str) else "", ()),
        }
        for key in sorted(found.keys() - known):
            # 1 as a share of the width that is turned, or as a factor, changes nothing.
            if isinstance(kind, str) and kind in ("default", *_SCALED) and found[key] not in (None, False, 1):
                raise JaLlmError(
                    f"{where}: {name} has {key} = {found[key]!r}, which is not computed here; import a model without it."
                )
        if kind == "default":
            return fields
        if not isinstance(kind, str) or kind not in _SCALED:
            raise JaLlmError(
                f"{where}: {name} asks for {kind!r} RoPE, which is not computed here (default, {', '.join(_SCALED)} are); "
                "import a model without it."
            )
        for theirs, ours in _SCALED[kind].items():
            if theirs not in found:
                raise JaLlmError(f"{where}: {name} has no {theirs}, which {kind!r} RoPE needs; download the config.json again.")
            fields[ours] = found[theirs]
        return {"rope_scaling": kind, **fields}

    def write(config: DecoderConfig) -> dict[str, Any]:
        scaling = {"rope_type": "default"}
        if config.rope_scaling != "none":
            scaling = {"rope_type": config.rope_scaling}
            scaling |= {theirs: getattr(config, ours) for theirs, ours in _SCALED[config.rope_scaling].items()}
        older = {} if config.rope_scaling == "none" else {"rope_scaling": scaling}
        return {"rope_theta": config.rope_theta, **older, "rope_parameters": {**scaling, "rope_theta": config.rope_theta}}

    return read, write


LOCAL, GLOBAL = "sliding_attention", "full_attention"


def read_layers(stored: Mapping[str, Any], usual: Callable[[int], str], window: Any, where: str) -> dict[str, Any]:
    """The window and its pattern, from `layer_types`.

    Args:
      stored: config.json.
      usual: the kind of each layer by its number, for a file without `layer_types`.
      window: positions that a local layer sees.
      where: for messages.

    Raises:
      JaLlmError: it is no list with a kind for each layer, has a kind that is not computed here, or local layers without a window.
    """
    layers, kinds = stored.get("num_hidden_layers"), stored.get("layer_types")
    if not isinstance(layers, int) or isinstance(layers, bool):
        raise JaLlmError(
            f"{where}: num_hidden_layers is {layers!r}; a whole number is needed, so download the config.json again."
        )
    kinds = [usual(i) for i in range(layers)] if kinds is None else kinds
    if not isinstance(kinds, list) or len(kinds) != layers:
        told = f"{len(kinds)} entries" if isinstance(kinds, list) else repr(kinds)
        raise JaLlmError(f"{where}: layer_types is {told} for {layers} layers; download the config.json again.")
    for kind in kinds:
        if kind not in (LOCAL, GLOBAL):
            raise JaLlmError(f"{where}: layer_types has {kind!r}, which is not computed here ({LOCAL}, {GLOBAL} are).")
    if LOCAL in kinds and window is None:
        raise JaLlmError(f"{where}: layer_types has {LOCAL} but sliding_window is not set; download the config.json again.")
    pattern = "".join("L" if kind == LOCAL else "G" for kind in kinds)
    return {"sliding_window": window if LOCAL in kinds else None, "window_pattern": pattern or "L"}


def write_layers(config: DecoderConfig) -> dict[str, Any]:
    """Inverse of `read_layers`."""
    kinds = [GLOBAL if window is None else LOCAL for window in config.layer_windows()]
    return {"sliding_window": config.sliding_window, "layer_types": kinds}
