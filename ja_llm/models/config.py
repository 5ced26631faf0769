"""The decoder's configuration: one frozen dataclass that gin fills and model.json stores."""

import dataclasses
from typing import Any

import gin

from ja_llm.errors import JaLlmError, UsageError

DTYPES = ("float32", "bfloat16", "float16")
REMAT_POLICIES = ("none", "minimal", "full")
ATTENTIONS = ("xla", "reference")
FAMILIES = ("llama",)
# How the same function is computed: no part of a run's identity, and free to differ from what a checkpoint was made with.
EXECUTION_FIELDS = ("scan_layers", "remat_policy", "attention")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A decoder of the Llama architecture: RMSNorm before each block, grouped-query attention with RoPE, SwiGLU.

    Attributes:
      vocab_size: rows of the embedding table.
      embed_dim: width of the residual stream.
      num_layers: blocks.
      num_heads: query heads.
      num_kv_heads: key and value heads; divides `num_heads`.
      head_dim: width of a head; even, because RoPE turns pairs.
      mlp_dim: width inside the feed-forward block.
      max_length: positions that the model was made for.
      rope_theta: base of the rotary frequencies.
      norm_eps: added to the mean square before its root.
      tie_embeddings: the head is the embedding table transposed.
      dtype: of activations and matrix products.
      param_dtype: of the parameters.
      scan_layers: parameters of all blocks in one array with a leading `layers` axis, computed by `lax.scan`.
      remat_policy: what the backward pass keeps of a block: "none" recomputes nothing, "minimal" keeps matrix products with
        weights, "full" keeps the block's input only.
      attention: implementation, see `ja_llm.attention`.
      family: name map for other formats, see `ja_llm.models.families`.

    Raises:
      UsageError: a value is out of range, or two do not fit together.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    max_length: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_layers: bool = True
    remat_policy: str = "none"
    attention: str = "xla"
    family: str = "llama"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UsageError(f"DecoderConfig.{field.name} is {value!r}; a whole number from 1 is needed.")
            if field.type is bool and not isinstance(value, bool):
                raise UsageError(f"DecoderConfig.{field.name} is {value!r}; True or False is needed.")
            if field.type is float:
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                    raise UsageError(f"DecoderConfig.{field.name} is {value!r}; a positive number is needed.")
                # 500000 and 500000.0 are one configuration: equal hashes in ledgers and JSON.
                object.__setattr__(self, field.name, float(value))
        choices = {
            "dtype": DTYPES,
            "param_dtype": DTYPES,
            "remat_policy": REMAT_POLICIES,
            "attention": ATTENTIONS,
            "family": FAMILIES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"DecoderConfig.{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}.")
        if self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"DecoderConfig.num_heads is {self.num_heads}, which num_kv_heads {self.num_kv_heads} does not divide; "
                "each key-value head serves the same number of query heads."
            )
        if self.head_dim % 2:
            raise UsageError(f"DecoderConfig.head_dim is {self.head_dim}; RoPE needs an even number.")

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "DecoderConfig":
        """Inverse of `to_json`.

        Raises:
          JaLlmError: a field is unknown, missing or out of range.
        """
        if not isinstance(value, dict):
            raise JaLlmError(f"the model configuration is {value!r}; a JSON object is needed.")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(value.keys() - fields.keys())
        if unknown:
            raise JaLlmError(
                f"the model configuration has the unknown field {unknown[0]!r}; it may be of a newer ja_llm, so update this one."
            )
        # Optional fields get the class's own default here: a gin binding must not change what a stored model says.
        filled = {name: value.get(name, field.default) for name, field in fields.items()}
        missing = [name for name, content in filled.items() if content is dataclasses.MISSING]
        if missing:
            raise JaLlmError(f"the model configuration lacks {', '.join(missing)}; make the model directory again.")
        return cls(**filled)
