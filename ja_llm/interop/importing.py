"""`ja-llm import`: whatever a model comes as, into a model directory."""

from pathlib import Path
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.interop.gguf import open_gguf
from ja_llm.interop.hf import check_dtype, check_names, finish_import, import_hf
from ja_llm.manifest import file_entry
from ja_llm.train.checkpoints import refuse_foreign
from ja_llm.vocab.initialise import SPARE_ROWS, check_rows


def import_checkpoint(
    source: str | Path,
    out_dir: str | Path,
    param_dtype: str = "float32",
    try_texts: bool = False,
    spare_rows: int = SPARE_ROWS,
) -> dict[str, Any]:
    """A Hugging Face folder, a GGUF file, or a folder with one GGUF file and no config.json.

    Args:
      source: what to import.
      out_dir: the model directory to write; an earlier one is replaced, anything else is refused.
      param_dtype: of the stored parameters.
      try_texts: measure bits per byte of two short texts at the end.
      spare_rows: how many rows of the embedding may have no id (`ja_llm.vocab.initialise.check_rows`).

    Returns:
      What was done, see `hf.format_summary`.

    Raises:
      UsageError: as `import_hf`, or a folder with several GGUF files.
      JaLlmError: as `import_hf` and `import_gguf`.
    """
    source = Path(source)
    if source.is_dir() and not (source / "config.json").exists() and (found := sorted(source.glob("*.gguf"))):
        if len(found) > 1:
            raise UsageError(f"{source}: there are {len(found)} GGUF files here; name the one that you want, such as {found[0]}.")
        source = found[0]
    if source.is_file() or source.suffix == ".gguf":
        return import_gguf(source, out_dir, param_dtype, try_texts, spare_rows)
    return import_hf(source, out_dir, param_dtype, try_texts, spare_rows)


def import_gguf(
    path: str | Path,
    out_dir: str | Path,
    param_dtype: str = "float32",
    try_texts: bool = False,
    spare_rows: int = SPARE_ROWS,
) -> dict[str, Any]:
    """GGUF file of the llama architecture to model directory: dequantised, published names and layouts.

    Args:
      path: of the file.
      out_dir: as `import_checkpoint`.
      param_dtype: of the stored parameters.
      try_texts: as `import_checkpoint`.
      spare_rows: as `import_checkpoint`.

    Returns:
      What was done, see `hf.format_summary`; "kinds" says how many tensors were of which type.

    Raises:
      UsageError: there is no such file, the package `gguf` is not installed, or `out_dir` holds something else.
      JaLlmError: another architecture; a damaged file; a tensor that is missing, left over or of another shape; a tokenizer
        of a kind that is not known here.
    """
    source, out = Path(path), Path(out_dir).absolute()
    check_dtype(param_dtype)
    refuse_foreign(out)
    config, tensors, tokenizer, file = open_gguf(source, param_dtype)
    check_names(tensors, config, source)
    check_rows(source, "embedding", config.vocab_size, tokenizer.vocab_size, spare_rows)
    carried = {
        "licence": str(file.metadata.get("general.license", "")),
        "generation": {},
        "chat_template": file.metadata.get("tokenizer.chat_template", ""),
        "quantisation": file.kinds(),
    }
    summary = finish_import(source, out, config, tensors, tokenizer, [file_entry(source)], [], carried, try_texts)
    return {**summary, "kinds": file.kinds()}
