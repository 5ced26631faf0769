"""config.json of a Hugging Face model and `DecoderConfig`: both directions by the family's tables, and what is refused."""

from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.models.config import ARCHITECTURE_FIELDS, FAMILIES, DecoderConfig
from ja_llm.models.families import Family, family


def from_hf(value: Any, where: str, param_dtype: str) -> DecoderConfig:
    """The decoder that config.json describes.

    Args:
      value: the parsed file.
      where: its path, for messages.
      param_dtype: of our parameters.

    Raises:
      JaLlmError: another architecture, a setting that we do not compute, a missing or impossible size.
    """
    if not isinstance(value, dict):
        raise JaLlmError(f"{where}: a JSON object is needed; download the model's config.json again.")
    found = _family(value, where)
    if value.get("quantization_config") is not None:
        raise JaLlmError(f"{where}: there is a quantization_config; import a model whose weights are not quantised.")
    for key, allowed in found.settings.items():
        allowed = tuple(allowed)
        if value.get(key) is not None and value[key] not in allowed:
            raise JaLlmError(f"{where}: {key} is {value[key]!r}, which is not computed here; import a model with {allowed[0]!r}.")
    fields = {key.ours: key.read(value, where) for key in found.keys}
    for read, _ in found.more:
        fields |= read(value, where)
    if missing := [name for name, content in fields.items() if content is None and name in _SIZES]:
        raise JaLlmError(f"{where}: nothing says {missing[0]}; download the model's config.json again.")
    try:
        return DecoderConfig(**fields, **found.fixed, param_dtype=param_dtype, family=found.name)
    except UsageError as error:
        raise JaLlmError(f"{where}: {str(error).splitlines()[0]}") from error  # gin adds lines of its own


_SIZES = ("num_kv_heads", "head_dim", "max_length")


def _family(value: dict[str, Any], where: str) -> Family:
    kind = value.get("model_type", "unnamed")
    architectures = value.get("architectures")
    if kind in FAMILIES and (not architectures or family(kind).architecture in architectures):
        return family(kind)
    can = ", ".join(family(name).architecture for name in FAMILIES)
    said = ", ".join(map(str, architectures or ["no architecture"]))
    raise JaLlmError(f"{where}: this is a {kind!r} model ({said}); what can be imported is {can}.")


def to_hf(config: DecoderConfig, dtype: str, bos_id: int, eos_id: int) -> dict[str, Any]:
    """config.json for a decoder, in words that transformers 4 and 5 read.

    Raises:
      JaLlmError: the family has no word for something that the decoder computes.
    """
    found = family(config.family)
    written: dict[str, Any] = {"architectures": [found.architecture], "model_type": found.name}
    written |= {key.theirs: key.write(config) for key in found.keys}
    for _, write in found.more:
        written |= write(config)
    written |= {key: next(iter(allowed)) for key, allowed in found.settings.items()}
    written |= {"bos_token_id": bos_id, "eos_token_id": eos_id, "torch_dtype": dtype, "dtype": dtype, "use_cache": True}
    back = from_hf(written, "config.json", config.param_dtype)
    if other := [name for name in ARCHITECTURE_FIELDS if getattr(back, name) != getattr(config, name)]:
        raise JaLlmError(
            f"the family {config.family!r} has no word for {other[0]} = {getattr(config, other[0])!r}, so it can't be written as a "
            f"{found.architecture}; set DecoderConfig.family to one that has."
        )
    return written
