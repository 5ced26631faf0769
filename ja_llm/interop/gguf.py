"""GGUF files of the llama architecture in: the tensors under the family's published names, dequantised, and as published.

llama.cpp's converter stores queries and keys with the rows of each head interleaved, (0, d/2, 1, d/2 + 1, ...), because its
rotary embedding turns neighbours; ours turns (i, i + d/2), as the published weights have it. Here the rows are put back.
With the rows as they lie in the file a model still writes plausible text, at a few tenths of a bit per byte more.
"""

import concurrent.futures
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError
from ja_llm.files import sha256_file
from ja_llm.interop import hf_config
from ja_llm.interop.gguf_file import GGUFFile
from ja_llm.interop.gguf_tokenizer import read_tokenizer
from ja_llm.interop.safetensors_files import Take
from ja_llm.models.config import DecoderConfig
from ja_llm.models.rope import frequencies
from ja_llm.vocab.base import Tokenizer

# Names inside a layer: theirs -> published.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "block_sparse_moe.gate",
}
_EXPERTS = {"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"}  # one tensor of all experts
_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_FREQUENCIES = "rope_freqs.weight"
# Metadata of the architecture that are read below, or that say nothing else.
_KEYS = {
    *("vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length", "expert_count"),
    *("expert_used_count", "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"),
    *("rope.scaling.original_context_length", "rope.scaling.finetuned", "attention.head_count", "attention.head_count_kv"),
    *("attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length"),
}
_FLOATS = {"rope.freq_base", "rope.scaling.factor", "attention.layer_norm_rms_epsilon"}


class GGUFTensors:
    """A GGUF file's tensors as `safetensors_files.TensorFolder` has a folder's.

    Args:
      file: of the llama architecture.
      config: its decoder's.
    """

    def __init__(self, file: GGUFFile, config: DecoderConfig):
        self.files = [file.path]
        self._file = file
        self._heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
        self._where: dict[str, tuple[str, int | None]] = {}
        for name in file:
            for published, expert in _published(name, config.num_experts):
                self._where[published] = (name, expert)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._where))

    def shape(self, name: str) -> tuple[int, ...]:
        """The published tensor's shape."""
        theirs, expert = self._where[name]
        shape = self._file.tensors[theirs].shape
        return shape if expert is None else shape[1:]

    def dtype(self, name: str) -> str:
        """What the numbers are when they are read."""
        return "F32"

    def __getitem__(self, name: str) -> np.ndarray:
        theirs, expert = self._where[name]
        value = self._file.read(theirs, expert)
        projection = name.split(".")[-2]
        return halves(value, self._heads[projection]) if projection in self._heads else value

    def each(self, take: Take) -> dict[str, str]:
        """Every tensor, dequantised, while another thread hashes the file; as `safetensors_files.TensorFolder.each`."""
        with concurrent.futures.ThreadPoolExecutor(1) as hashing:
            digests = {path.name: hashing.submit(sha256_file, path) for path in self.files}
            for name in self:
                take(name, self[name])
            return {name: digest.result() for name, digest in digests.items()}


def _published(name: str, experts: int) -> list[tuple[str, int | None]]:
    """Published names of a tensor, with the expert that each is; an unknown one keeps its own, for the check of names."""
    if name == _FREQUENCIES:
        return []
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not found:
        return [(name, None)]
    layer, word, leaf = found.groups()
    if layer is None:
        return [(f"{_MODEL[word]}.{leaf}" if word in _MODEL else name, None)]
    if word in _EXPERTS:
        place = f"model.layers.{layer}.block_sparse_moe.experts"
        return [(f"{place}.{e}.{_EXPERTS[word]}.{leaf}", e) for e in range(experts)]
    return [(f"model.layers.{layer}.{_LAYER[word]}.{leaf}" if word in _LAYER else name, None)]


def halves(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads x d, ...] of interleaved pairs as the two halves of each head: row 2i to i, row 2i + 1 to d/2 + i."""
    pairs = value.reshape(heads, value.shape[0] // heads // 2, 2, *value.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(value.shape))


def open_gguf(path: Path, param_dtype: str = "float32") -> tuple[DecoderConfig, GGUFTensors, Tokenizer, GGUFFile]:
    """A GGUF file, all but the numbers read.

    Args:
      path: of the file.
      param_dtype: of our parameters.

    Raises:
      UsageError: there is no such file, or the package `gguf` is not installed.
      JaLlmError: another architecture, a damaged file, or something that is not computed here.
    """
    file = GGUFFile(path)
    config = read_config(file, param_dtype)
    return config, GGUFTensors(file, config), read_tokenizer(file.metadata, str(path)), file


def read_config(file: GGUFFile, param_dtype: str) -> DecoderConfig:
    """The decoder that a file's metadata and tensor names describe; errors as of `open_gguf`."""
    where, stored = str(file.path), file.metadata
    if stored.get("general.architecture") != "llama":
        raise JaLlmError(
            f"{where}: the architecture is {stored.get('general.architecture')!r}; GGUF files of 'llama' can be imported."
        )
    own = {key.removeprefix("llama."): value for key, value in stored.items() if key.startswith("llama.")}
    if unknown := sorted(own.keys() - _KEYS):
        raise JaLlmError(f"{where}: llama.{unknown[0]} is {own[unknown[0]]!r}, which is not computed here; import another model.")
    needed = ("embedding_length", "block_count", "feed_forward_length", "attention.head_count")
    for key in (*needed, *sorted(own.keys() - {"rope.scaling.type", "rope.scaling.finetuned"})):
        if not isinstance(own.get(key), int | (float if key in _FLOATS else int)) or (key in needed and own[key] < 1):
            kind = "number" if key in _FLOATS else "whole number"
            raise JaLlmError(f"{where}: llama.{key} is {own.get(key)!r}; a {kind} is needed, so take another file.")
    if "token_embd.weight" not in file.tensors:
        raise JaLlmError(f"{where}: the tensor token_embd.weight is missing; download the file again.")
    experts = own.get("expert_count", 0)
    width = own.get("attention.key_length", own["embedding_length"] // own["attention.head_count"])
    for key in ("rope.dimension_count", "attention.value_length"):
        if own.get(key, width) != width:
            raise JaLlmError(f"{where}: llama.{key} is {own[key]}, a head's width {width}; only equal ones are computed here.")
    value = {
        "model_type": "mixtral" if experts else "llama",
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": own["embedding_length"],
        "intermediate_size": own["feed_forward_length"],
        "num_hidden_layers": own["block_count"],
        "num_attention_heads": own["attention.head_count"],
        "num_key_value_heads": own.get("attention.head_count_kv", own["attention.head_count"]),
        "head_dim": width,
        "max_position_embeddings": own.get("context_length"),
        "rms_norm_eps": _shortest(own.get("attention.layer_norm_rms_epsilon", 1e-5)),
        "rope_parameters": _rope(own, where),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
        **({"num_local_experts": experts, "num_experts_per_tok": own.get("expert_used_count")} if experts else {}),
    }
    config = hf_config.from_hf(value, where, param_dtype)
    return _with_frequencies(config, value, file, param_dtype) if _FREQUENCIES in file.tensors else config


def _shortest(value: float) -> float:
    """A float32 as it was meant: 1e-5, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _rope(own: dict[str, Any], where: str) -> dict[str, Any]:
    theta = {"rope_theta": _shortest(own.get("rope.freq_base", 10000.0))}
    kind = own.get("rope.scaling.type", "none")
    if kind == "none" or own.get("rope.scaling.factor") == 1:
        return {"rope_type": "default", **theta}
    if kind != "linear":
        raise JaLlmError(f"{where}: llama.rope.scaling.type is {kind!r}, which is not computed here; import a model without it.")
    return {"rope_type": "linear", "factor": _shortest(own["rope.scaling.factor"]), **theta}


def _with_frequencies(config: DecoderConfig, value: dict[str, Any], file: GGUFFile, param_dtype: str) -> DecoderConfig:
    """Llama 3.1's scaled frequencies, which a file stores as what each is divided by; its settings are found again from these."""
    divisors = np.asarray(file.read(_FREQUENCIES), np.float64)
    if np.all(divisors == 1):
        return config
    scaled = {
        "rope_type": "llama3",
        "rope_theta": config.rope_theta,
        "factor": _shortest(divisors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": file.metadata.get("llama.rope.scaling.original_context_length", 8192),
    }
    found = hf_config.from_hf({**value, "rope_parameters": scaled}, str(file.path), param_dtype)
    expected = np.asarray(frequencies(config), np.float64) / np.asarray(frequencies(found), np.float64)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
        raise JaLlmError(
            f"{file.path}: {_FREQUENCIES} scales RoPE in another way than Llama 3.1, which is not computed here; import another model."
        )
    return found
