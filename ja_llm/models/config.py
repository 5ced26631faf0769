"""One dataclass that describes a decoder."""

import dataclasses
from typing import Any

import gin

from ja_llm.errors import JaLlmError, UsageError

REMAT_POLICIES = ("none", "minimal", "full")
ATTENTIONS = ("xla", "reference")
DTYPES = ("float32", "bfloat16", "float16")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Architecture of a Llama-like decoder, and how it is computed.

    Attributes:
      vocab_size: rows of the embedding table.
      embed_dim: width of the residual stream.
      num_layers: decoder layers.
      num_heads: query heads.
      num_kv_heads: key and value heads; divides num_heads.
      head_dim: width of a head; even.
      mlp_dim: hidden width of the gated MLP.
      max_length: longest row that the model is trained or used with.
      rope_theta: base of the rotary frequencies (Su et al. 2021).
      norm_eps: added to the mean square in RMSNorm.
      tie_embeddings: the head is the embedding table.
      dtype: of activations and matrix products.
      param_dtype: of stored parameters.
      scan_layers: one compiled layer, scanned; parameters are stacked on axis 0 either way.
      remat_policy: what the backward pass recomputes: "none", "minimal" (all but matrix products) or "full".
      attention: implementation by name.
      family: whose names the weights have in Hugging Face.
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
        sizes = ("vocab_size", "embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "max_length")
        for name in sizes:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"DecoderConfig.{name} is {value!r}; give a whole number of 1 or more.")
        if self.num_heads % self.num_kv_heads:
            raise UsageError(f"DecoderConfig: {self.num_heads} query heads can't share {self.num_kv_heads} key-value heads; num_kv_heads must divide num_heads.")
        if self.head_dim % 2:
            raise UsageError(f"DecoderConfig.head_dim is {self.head_dim}; rotary positions need an even number.")
        for name, allowed in (("remat_policy", REMAT_POLICIES), ("attention", ATTENTIONS), ("dtype", DTYPES), ("param_dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"DecoderConfig.{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}.")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "DecoderConfig":
        """Inverse of `to_json`.

        Raises:
          JaLlmError: a field is missing or unknown.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise JaLlmError(f"the model description has the unknown field {unknown[0]!r}; it was written by another version of ja_llm.")
        try:
            return cls(**value)
        except TypeError as error:
            raise JaLlmError(f"the model description is incomplete ({error}); make the model directory again.") from error
