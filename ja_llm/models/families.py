"""Name maps: which tensor of a family's published format is which parameter of ours, and how it is laid out there.

One table serves both directions, so import and export can't disagree.
"""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from ja_llm.models.config import DecoderConfig

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter and its tensor.

    Attributes:
      ours: path in the parameter tree of one block (`per_layer`) or of the model, "/" between names.
      theirs: tensor name; `{i}` stands for the layer.
      inputs: None for a vector or table that is stored as it is; else how many leading dimensions of our kernel are its
        input. Published kernels are matrices [output, input], ours [input..., output...].
      per_layer: there is one for each layer.
      untied_only: absent where the head is the embedding table.
    """

    ours: str
    theirs: str
    inputs: int | None = None
    per_layer: bool = False
    untied_only: bool = False

    def to_theirs(self, value: np.ndarray) -> np.ndarray:
        """Our array (of one layer) as the published tensor; the same numbers."""
        if self.inputs is None:
            return np.ascontiguousarray(value)
        rows = int(np.prod(value.shape[: self.inputs]))
        return np.ascontiguousarray(value.reshape(rows, -1).T)

    def to_ours(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Inverse of `to_theirs`, for our `shape`."""
        return (value if self.inputs is None else value.T).reshape(shape)

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The published tensor's shape for our (one layer's) shape."""
        if self.inputs is None:
            return shape
        return (int(np.prod(shape[self.inputs :])), int(np.prod(shape[: self.inputs])))


# RoPE needs no permutation: Hugging Face's Llama files are in the half-split layout that ours has too.
LLAMA = (
    Weight("token_embedder/embedding", "model.embed_tokens.weight"),
    Weight("pre_attention_norm/scale", "model.layers.{i}.input_layernorm.weight", per_layer=True),
    Weight("self_attention/query/kernel", "model.layers.{i}.self_attn.q_proj.weight", 1, per_layer=True),
    Weight("self_attention/key/kernel", "model.layers.{i}.self_attn.k_proj.weight", 1, per_layer=True),
    Weight("self_attention/value/kernel", "model.layers.{i}.self_attn.v_proj.weight", 1, per_layer=True),
    Weight("self_attention/out/kernel", "model.layers.{i}.self_attn.o_proj.weight", 2, per_layer=True),
    Weight("pre_mlp_norm/scale", "model.layers.{i}.post_attention_layernorm.weight", per_layer=True),
    Weight("mlp/wi_0/kernel", "model.layers.{i}.mlp.gate_proj.weight", 1, per_layer=True),
    Weight("mlp/wi_1/kernel", "model.layers.{i}.mlp.up_proj.weight", 1, per_layer=True),
    Weight("mlp/wo/kernel", "model.layers.{i}.mlp.down_proj.weight", 1, per_layer=True),
    Weight("decoder_norm/scale", "model.norm.weight"),
    Weight("logits_dense/kernel", "lm_head.weight", 1, untied_only=True),
)

WEIGHTS = {"llama": LLAMA}

# Tensors that say nothing which the configuration does not: older Llama checkpoints store the rotary frequencies.
IGNORED = {"llama": re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")}


def tensors(config: DecoderConfig) -> Iterator[tuple[str, Weight, Path, int | None]]:
    """Every tensor of the published format, in its order.

    Yields:
      (tensor name, its weight, path of our parameter, index along our leading layers axis or None).
    """
    table = WEIGHTS[config.family]
    kept = [w for w in table if not (w.untied_only and config.tie_embeddings)]
    before = [w for w in kept[: next(n for n, w in enumerate(kept) if w.per_layer)]]
    layered = [w for w in kept if w.per_layer]
    for weight in before:
        yield weight.theirs, weight, tuple(weight.ours.split("/")), None
    for i in range(config.num_layers):
        for weight in layered:
            block, index = ("layers", i) if config.scan_layers else (f"layers_{i}", None)
            yield weight.theirs.format(i=i), weight, (block, *weight.ours.split("/")), index
    for weight in kept:
        if not weight.per_layer and weight not in before:
            yield weight.theirs, weight, tuple(weight.ours.split("/")), None
