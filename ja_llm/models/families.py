"""Name and layout maps between our parameters and Hugging Face's: one table a family serves both directions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError
from ja_llm.models.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter.

    Attributes:
      ours: path in our tree, joined by "/"; below "layers/" it is stacked over the layers on axis 0.
      theirs: Hugging Face's name; "{i}" is the layer.
      inputs: leading dimensions of our kernel that are contracted; 0 for a table or a scale. Hugging Face stores a matrix as
        [outputs, inputs], ours is [inputs..., outputs...].
    """

    ours: str
    theirs: str
    inputs: int


LLAMA = (
    Weight("token_embedder/embedding", "model.embed_tokens.weight", 0),
    Weight("layers/attention_norm/scale", "model.layers.{i}.input_layernorm.weight", 0),
    Weight("layers/attention/query/kernel", "model.layers.{i}.self_attn.q_proj.weight", 1),
    Weight("layers/attention/key/kernel", "model.layers.{i}.self_attn.k_proj.weight", 1),
    Weight("layers/attention/value/kernel", "model.layers.{i}.self_attn.v_proj.weight", 1),
    Weight("layers/attention/out/kernel", "model.layers.{i}.self_attn.o_proj.weight", 2),
    Weight("layers/mlp_norm/scale", "model.layers.{i}.post_attention_layernorm.weight", 0),
    Weight("layers/mlp/gate/kernel", "model.layers.{i}.mlp.gate_proj.weight", 1),
    Weight("layers/mlp/up/kernel", "model.layers.{i}.mlp.up_proj.weight", 1),
    Weight("layers/mlp/down/kernel", "model.layers.{i}.mlp.down_proj.weight", 1),
    Weight("final_norm/scale", "model.norm.weight", 0),
    Weight("logits_dense/kernel", "lm_head.weight", 1),
)

# Fields of config.json that this decoder does not have, with the only value that means their absence.
_LLAMA_ABSENT = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "rope_scaling": None, "pretraining_tp": 1}


def weights(config: DecoderConfig) -> list[Weight]:
    """The table of a configuration; a tied head has no weight of its own."""
    return [w for w in LLAMA if not (config.tie_embeddings and w.ours == "logits_dense/kernel")]


def to_theirs(config: DecoderConfig, weight: Weight, value: np.ndarray) -> dict[str, np.ndarray]:
    """Our array (stacked over layers) -> {Hugging Face name: array}."""

    def matrix(x: np.ndarray) -> np.ndarray:
        if not weight.inputs:
            return np.ascontiguousarray(x)
        rows = int(np.prod(x.shape[: weight.inputs]))
        return np.ascontiguousarray(x.reshape(rows, -1).T)

    if "{i}" not in weight.theirs:
        return {weight.theirs: matrix(value)}
    return {weight.theirs.format(i=i): matrix(value[i]) for i in range(config.num_layers)}


def from_theirs(weight: Weight, shape: tuple[int, ...], tensors: Mapping[str, Any], config: DecoderConfig) -> np.ndarray:
    """Inverse of `to_theirs`: read the tensors that make up one of our arrays of `shape`.

    Raises:
      JaLlmError: a tensor is missing or has another shape than config.json says.
    """
    layered = "{i}" in weight.theirs
    names = [weight.theirs.format(i=i) for i in range(config.num_layers)] if layered else [weight.theirs]
    part_shape = shape[1:] if layered else shape
    parts = []
    for name in names:
        if name not in tensors:
            raise JaLlmError(f"the tensor {name} is missing")
        value = np.asarray(tensors[name])
        rows = int(np.prod(part_shape[: weight.inputs])) if weight.inputs else 0
        expected = (int(np.prod(part_shape)) // rows, rows) if weight.inputs else tuple(part_shape)
        if tuple(value.shape) != expected:
            raise JaLlmError(f"the tensor {name} has the shape {tuple(value.shape)}, config.json says {expected}")
        parts.append(value.T.reshape(part_shape) if weight.inputs else value)
    return np.stack(parts) if layered else parts[0]


def llama_config(value: Mapping[str, Any]) -> DecoderConfig:
    """Hugging Face's config.json -> DecoderConfig.

    Raises:
      JaLlmError: it is not of the Llama family, lacks a field, or uses something that this decoder does not have.
    """
    kind = value.get("model_type")
    if kind != "llama":
        raise JaLlmError(f"config.json says model_type {kind!r}; only 'llama' can be imported yet")
    for field, absent in _LLAMA_ABSENT.items():
        if value.get(field, absent) not in (absent, None):
            raise JaLlmError(f"config.json has {field} = {value[field]!r}, which this decoder does not have yet")
    rope = value.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise JaLlmError(f"config.json has the rotary scaling {rope.get('rope_type')!r}, which this decoder does not have yet")
    try:
        heads = value["num_attention_heads"]
        return DecoderConfig(
            vocab_size=value["vocab_size"],
            embed_dim=value["hidden_size"],
            num_layers=value["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=value.get("num_key_value_heads") or heads,
            head_dim=value.get("head_dim") or value["hidden_size"] // heads,
            mlp_dim=value["intermediate_size"],
            max_length=value["max_position_embeddings"],
            rope_theta=float(value.get("rope_theta") or rope.get("rope_theta") or 10000.0),
            norm_eps=value.get("rms_norm_eps", 1e-6),
            tie_embeddings=bool(value.get("tie_word_embeddings", False)),
            family="llama",
        )
    except KeyError as error:
        raise JaLlmError(f"config.json lacks {error.args[0]!r}") from error


def llama_json(config: DecoderConfig, bos_id: int, eos_id: int) -> dict[str, Any]:
    """DecoderConfig -> Hugging Face's config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
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
        "initializer_range": 0.02,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "dtype": config.param_dtype,
        "use_cache": True,
    }
