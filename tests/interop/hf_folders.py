"""What tests do to a Hugging Face folder of one safetensors file, and what is in it."""

import safetensors.numpy
from safetensors import safe_open

from ja_llm.files import read_json, write_json


def change_tensors(folder, change) -> None:
    path = folder / "model.safetensors"
    values = safetensors.numpy.load_file(path)
    change(values)
    safetensors.numpy.save_file(values, path, metadata={"format": "pt"})


def change_config(folder, **values) -> None:
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **values})


def lose(folder, name: str) -> None:
    (folder / name).unlink()


def contents(folder) -> dict[str, bytes]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
