"""The decoder's configuration: one frozen dataclass that gin fills and model.json stores in three parts.

Architecture decides the function and the parameters' shapes; storage, how a checkpoint's arrays lie; execution, how the same
function is computed. The parts are declared here and nowhere else. How new parameters are drawn is none of them: a run's ledger has it,
a stored model does not.

The defaults are Llama's. What other families have (`_variant`) is stored only where it differs from them, so a further
variant changes neither the description nor the ledger of a model that lacks it.
"""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import gin

from ja_llm.errors import JaLlmError, UsageError

DTYPES = ("float32", "bfloat16", "float16")
REMAT_POLICIES = ("none", "minimal", "full", "attention")
# As `ja_llm.attention.registry.names`, which would bring JAX along.
ATTENTIONS = ("default", "xla", "reference", "tpu", "triton", "cudnn", "splash", "tokamax")
# Names of the modules in `ja_llm.models.families`; config.json's model_type is the same word.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma", "gemma2", "gpt_bigcode", "mixtral")
CHOICES = {
    "dtype": DTYPES,
    "param_dtype": DTYPES,
    "remat_policy": REMAT_POLICIES,
    "attention": ATTENTIONS,
    "family": FAMILIES,
    "rope_scaling": ("none", "linear", "llama3"),
    "positions": ("rope", "learned"),
    "norm": ("rms", "rms_unit_offset", "layer"),
    "norm_placement": ("pre", "post", "sandwich"),
    "qk_norm": ("none", "head", "width"),
    "attention_bias": ("none", "qkv", "qkvo"),
    "activation": ("silu", "gelu_tanh", "gelu"),
}


def _variant(default: Any) -> Any:
    """A field of the architecture that is stored only where it is not Llama's."""
    return dataclasses.field(default=default, metadata={"variant": True})


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A decoder-only transformer; with the defaults Llama's: RMSNorm before each block, grouped-query attention with RoPE, SwiGLU.

    Attributes:
      vocab_size: rows of the embedding table.
      embed_dim: width of the residual stream.
      num_layers: blocks.
      num_heads: query heads.
      num_kv_heads: key and value heads; divides `num_heads`.
      head_dim: width of a head; even, because RoPE turns pairs.
      mlp_dim: width inside the feed-forward block.
      max_length: positions that the model was made for; raised by who trains it further on longer rows.
      rope_theta: base of the rotary frequencies.
      norm_eps: added to the mean square before its root.
      tie_embeddings: the head is the embedding table transposed.
      padding_ids: rows at the end of the table that stand for no id, so that it divides evenly; their logits are masked.
      dtype: of activations and matrix products.
      param_dtype: of the parameters.
      scan_layers: parameters of all blocks in one array with a leading `layers` axis, computed by `lax.scan`.
      remat_policy: what the backward pass keeps of a block: "none" recomputes nothing, "minimal" keeps matrix products with
        weights and what the attention kernels give, "attention" keeps the latter and the block's input, "full" keeps the block's input only.
      attention: implementation, see `ja_llm.attention`; "default" is the one of the platform that computes.
      family: names in other formats, see `ja_llm.models.families`.
      rope_scaling: how the rotary frequencies are changed for rows longer than the model was first made for; see
        `ja_llm.models.rope`. "none", "linear" (divided by `rope_factor`), or "llama3" (only the slow ones are).
      rope_factor: by what slow frequencies are divided.
      rope_low_freq_factor: "llama3": frequencies that turn fewer times in `rope_original_length` are divided by the factor.
      rope_high_freq_factor: "llama3": frequencies that turn more often stay; between the two it is blended.
      rope_original_length: "llama3": positions that the model was first made for.
      positions: "rope" turns queries and keys; "learned" adds a table of `max_length` rows to the embeddings.
      norm: "rms", "rms_unit_offset" (1 + scale), or "layer" (with a bias); see `ja_llm.models.layers.Norm`.
      norm_placement: of the norms around attention and feed-forward block: "pre", "post" (behind it, before it is added to the
        residual stream), or "sandwich" (both).
      qk_norm: of queries and keys before they are turned: "none", "head" (each head by itself) or "width" (all heads as one).
      attention_bias: projections with a bias: "none", "qkv", or "qkvo".
      activation: in the feed-forward block; "gelu_tanh" is GELU's tanh approximation.
      gated_mlp: activation(gate) * up, else the activation alone.
      mlp_bias: the products of the feed-forward block have biases.
      sliding_window: how many positions a token sees in a local layer, its own counted; None: all.
      window_pattern: which layers are local (L) and which see everything (G): letters that are repeated over the layers.
      query_scalar: scores are divided by its square root; None: by that of `head_dim`.
      attention_softcap: bound of the scores, cap * tanh(score / cap); None: none.
      logits_softcap: the same of the logits.
      scale_embeddings: the tokens' rows are multiplied by the square root of `embed_dim`.
      num_experts: feed-forward blocks of a layer; 1 is a dense model without a router.
      experts_per_token: how many of them each token goes through.
      init_std: standard deviation that every matrix and table of a new model is drawn with; None: by width and depth
        (`ja_llm.models.layers`). Norms' scales and biases are drawn in no case.
      init_cut: with `init_std`: how many standard deviations from 0 the normal distribution is cut off at; None: it is whole.
      init_depth_scaled: with `init_std`: matrices that write to the residual stream are drawn with `init_std` / sqrt(2 `num_layers`), as
        Megatron-LM does.

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
    padding_ids: int = _variant(0)
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_layers: bool = True
    remat_policy: str = "none"
    attention: str = "default"
    family: str = "llama"
    rope_scaling: str = _variant("none")
    rope_factor: float = _variant(8.0)
    rope_low_freq_factor: float = _variant(1.0)
    rope_high_freq_factor: float = _variant(4.0)
    rope_original_length: int = _variant(8192)
    positions: str = _variant("rope")
    norm: str = _variant("rms")
    norm_placement: str = _variant("pre")
    qk_norm: str = _variant("none")
    attention_bias: str = _variant("none")
    activation: str = _variant("silu")
    gated_mlp: bool = _variant(True)
    mlp_bias: bool = _variant(False)
    sliding_window: int | None = _variant(None)
    window_pattern: str = _variant("L")
    query_scalar: int | None = _variant(None)
    attention_softcap: float | None = _variant(None)
    logits_softcap: float | None = _variant(None)
    scale_embeddings: bool = _variant(False)
    num_experts: int = _variant(1)
    experts_per_token: int = _variant(1)
    init_std: float | None = _variant(None)
    init_cut: float | None = _variant(None)
    init_depth_scaled: bool = _variant(False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_kind(field)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"DecoderConfig.{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}.")
        if self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"DecoderConfig.num_heads is {self.num_heads}, which num_kv_heads {self.num_kv_heads} does not divide; "
                "each key-value head serves the same number of query heads."
            )
        if self.padding_ids >= self.vocab_size:
            raise UsageError(
                f"DecoderConfig.padding_ids is {self.padding_ids} of {self.vocab_size} rows; at least one must be an id."
            )
        if self.experts_per_token > self.num_experts:
            raise UsageError(
                f"DecoderConfig.experts_per_token is {self.experts_per_token}, num_experts {self.num_experts}; lower it."
            )
        if self.num_experts > 1 and (self.mlp_bias or not self.gated_mlp):
            raise UsageError(
                "DecoderConfig.num_experts is above 1, and experts are gated and without biases; set gated_mlp and mlp_bias so."
            )
        for name in ("init_cut", "init_depth_scaled"):
            if self.init_std is None and getattr(self, name):
                raise UsageError(f"DecoderConfig.{name} is {getattr(self, name)}, and init_std None; give that, too.")
        if self.positions == "rope" and self.head_dim % 2:
            raise UsageError(f"DecoderConfig.head_dim is {self.head_dim}; RoPE needs an even number.")
        if self.rope_scaling == "llama3" and self.rope_high_freq_factor <= self.rope_low_freq_factor:
            raise UsageError(
                f"DecoderConfig.rope_high_freq_factor is {self.rope_high_freq_factor}; it has to be above "
                f"rope_low_freq_factor {self.rope_low_freq_factor}."
            )
        self._settle_window()

    def _check_kind(self, field: dataclasses.Field) -> None:
        value = getattr(self, field.name)
        kinds = typing.get_args(field.type) or (field.type,)
        if value is None and types.NoneType in kinds:
            return
        least = 0 if field.name == "padding_ids" else 1
        if int in kinds and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise UsageError(f"DecoderConfig.{field.name} is {value!r}; a whole number from {least} is needed.")
        if bool in kinds and not isinstance(value, bool):
            raise UsageError(f"DecoderConfig.{field.name} is {value!r}; True or False is needed.")
        if float in kinds:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise UsageError(f"DecoderConfig.{field.name} is {value!r}; a positive number is needed.")
            # 500000 and 500000.0 are one configuration: equal hashes in ledgers and JSON.
            object.__setattr__(self, field.name, float(value))

    def _settle_window(self) -> None:
        """One spelling for one function: the shortest pattern, and no window where no layer has it."""
        pattern = self.window_pattern
        if not isinstance(pattern, str) or not pattern or set(pattern) - {"L", "G"}:
            raise UsageError(f"DecoderConfig.window_pattern is {pattern!r}; letters L (local) and G (global) are needed.")
        layers = (pattern * self.num_layers)[: self.num_layers]
        if self.sliding_window is None or "L" not in layers:
            window, pattern = None, "L"
        else:
            window = self.sliding_window
            pattern = next(
                layers[:n] for n in range(1, len(layers) + 1) if (layers[:n] * self.num_layers)[: self.num_layers] == layers
            )
        object.__setattr__(self, "sliding_window", window)
        object.__setattr__(self, "window_pattern", pattern)

    def layer_windows(self) -> tuple[int | None, ...]:
        """The window of each layer; None: it sees everything."""
        letters = (self.window_pattern * self.num_layers)[: self.num_layers]
        return tuple(self.sliding_window if letter == "L" else None for letter in letters)

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        return dataclasses.asdict(self)

    def subset(self, names: Iterable[str]) -> dict[str, Any]:
        """The fields of these names, as JSON types, variants only where they are not Llama's; see the tuples below the class."""
        fields = {field.name: field for field in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in names}
        return {
            name: value
            for name, value in values.items()
            if "variant" not in fields[name].metadata or value != fields[name].default
        }

    def parts(self) -> dict[str, Any]:
        """The fields as model.json has them: family, and a dict each for architecture, storage and execution."""
        architecture = (name for name in ARCHITECTURE_FIELDS if name != "family")
        return {
            "family": self.family,
            **{part: self.subset(names) for part, names in {**_PARTS, "architecture": architecture}.items()},
        }

    @classmethod
    def from_parts(cls, value: Mapping[str, Any]) -> "DecoderConfig":
        """Inverse of `parts`; other keys of `value` are not looked at.

        Raises:
          JaLlmError: a part is missing, or has a field that is unknown, belongs into another part, is missing or out of range.
        """
        flat = {"family": value["family"]} if "family" in value else {}
        homes = {name: part for part, names in _PARTS.items() for name in names} | {"family": "no part"}
        for part in _PARTS:
            fields = value.get(part)
            if not isinstance(fields, dict):
                raise JaLlmError(f"the model description lacks {part!r}; make the model directory again.")
            for name in sorted(fields):
                if homes.get(name, part) != part:
                    raise JaLlmError(
                        f"the model description has {name!r} under {part!r}, it belongs to {homes[name]}; make the model directory again."
                    )
            flat |= fields
        return cls.from_json(flat)

    def executed(self, overrides: Mapping[str, Any] | None) -> "DecoderConfig":
        """The same model and arrays, computed otherwise.

        Args:
          overrides: values of `EXECUTION_FIELDS`; None changes nothing.

        Raises:
          UsageError: another field is named, or a value is out of range.
        """
        for name in sorted(set(overrides or {}) - set(EXECUTION_FIELDS)):
            raise UsageError(
                f"DecoderConfig.{name} can't be changed for a stored model; only how it is computed can: "
                f"{', '.join(EXECUTION_FIELDS)}."
            )
        return dataclasses.replace(self, **(overrides or {}))

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


# How a checkpoint's arrays lie. A new run's random parameters depend on it too: a scanned stack draws its keys otherwise.
STORAGE_FIELDS = ("param_dtype", "scan_layers")
# How the same function is computed: free to differ between two uses of one checkpoint.
EXECUTION_FIELDS = ("dtype", "remat_policy", "attention")
# How a new model's parameters are drawn: of a checkpoint's numbers it says nothing, so it stands in no model.json.
INIT_FIELDS = ("init_std", "init_cut", "init_depth_scaled")
# Everything else; so a new field decides the function, and can't be changed in passing, until it is said to be otherwise.
ARCHITECTURE_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(DecoderConfig)
    if field.name not in (*STORAGE_FIELDS, *EXECUTION_FIELDS, *INIT_FIELDS)
)
_PARTS = {"architecture": ARCHITECTURE_FIELDS, "storage": STORAGE_FIELDS, "execution": EXECUTION_FIELDS}

# What a checkpoint's numbers are the numbers of.
CHECKPOINT_FIELDS = (*ARCHITECTURE_FIELDS, *STORAGE_FIELDS)
# What a training run keeps to its end: activations of another dtype round otherwise and give other losses.
IDENTITY_FIELDS = (*CHECKPOINT_FIELDS, "dtype", *INIT_FIELDS)
# What training from a checkpoint may change: a model that is trained on longer rows is made for those.
OVERRIDABLE_FIELDS = (*EXECUTION_FIELDS, "max_length")
