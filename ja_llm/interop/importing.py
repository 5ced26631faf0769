"""`ja-llm import`: whatever a model comes as, into a model directory."""

from pathlib import Path
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.interop.gguf import open_gguf
from ja_llm.interop.hf import Source, check_dtype, finish_import, look_at, open_hf
from ja_llm.interop.parameters import check_names
from ja_llm.train.checkpoints import refuse_loss
from ja_llm.vocab.initialise import SPARE_ROWS, check_rows


def import_checkpoint(
    source: str | Path,
    out_dir: str | Path,
    param_dtype: str = "float32",
    try_texts: bool = False,
    *,
    spare_rows: int = SPARE_ROWS,
    overwrite: bool = False,
    dry_run: bool = False,
    mesh: Any = None,
) -> dict[str, Any]:
    """A Hugging Face folder, a GGUF file, or a folder with one GGUF file and no config.json.

    Args:
      source: what to import.
      out_dir: the model directory to write, as of `hf.finish_import`.
      param_dtype: of the stored parameters.
      try_texts: measure bits per byte of two short texts at the end.
      spare_rows: how many rows of the embedding may have no id (`ja_llm.vocab.initialise.check_rows`).
      overwrite: as of `hf.finish_import`.
      dry_run: check all but the numbers, and write nothing.
      mesh: as of `hf.finish_import`.

    Returns:
      What was done, see `hf.format_summary`.

    Raises:
      UsageError: as `import_hf`, or a folder with several GGUF files.
      JaLlmError: as `import_hf` and `open_gguf_source`.
    """
    refuse_loss(Path(out_dir).absolute(), overwrite)
    opened = open_source(Path(source), param_dtype, spare_rows)
    if dry_run:
        return look_at(opened, out_dir, overwrite)
    return finish_import(opened, out_dir, try_texts, overwrite=overwrite, mesh=mesh)


def open_source(source: Path, param_dtype: str = "float32", spare_rows: int = SPARE_ROWS) -> Source:
    """What `import_checkpoint` takes, all but its numbers read and checked; errors as of it."""
    if source.is_dir() and not (source / "config.json").exists() and (found := sorted(source.glob("*.gguf"))):
        if len(found) > 1:
            raise UsageError(f"{source}: there are {len(found)} GGUF files here; name the one that you want, such as {found[0]}.")
        source = found[0]
    if source.is_file() or source.suffix == ".gguf":
        return open_gguf_source(source, param_dtype, spare_rows)
    return open_hf(source, param_dtype, spare_rows)


def open_gguf_source(path: Path, param_dtype: str = "float32", spare_rows: int = SPARE_ROWS) -> Source:
    """A GGUF file of the llama architecture: dequantised, under published names and layouts.

    Args:
      path: of the file.
      param_dtype: of the stored parameters.
      spare_rows: as of `import_checkpoint`.

    Raises:
      UsageError: there is no such file, or the package `gguf` is not installed.
      JaLlmError: another architecture; a damaged file; a tensor that is missing, left over or of another shape; a tokenizer
        of a kind that is not known here.
    """
    check_dtype(param_dtype)
    config, tensors, tokenizer, file = open_gguf(path, param_dtype)
    check_names(tensors, config, path)
    check_rows(path, "embedding", config.vocab_size, tokenizer.vocab_size, spare_rows)
    kinds, pad = file.kinds(), file.metadata.get("tokenizer.ggml.padding_token_id")
    carried = {
        "licence": str(file.metadata.get("general.license", "")),
        "generation": {},
        "token_ids": {"pad_token_id": pad} if isinstance(pad, int) else {},
        "quantisation": kinds,
    }
    return Source(path, config, tensors, tokenizer, [path], [], carried, kinds)
