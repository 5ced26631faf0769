"""Hugging Face model folders in and out (families: `ja_llm.models.families`): weights, configuration, tokenizer, provenance.

Both directions go through the one map of the model's family (`ja_llm.interop.parameters`), so an export holds the very numbers
that an import read.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import jax

from ja_llm import sharding
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_directory, read_json, write_json
from ja_llm.interop import hf_config, model_card, self_check
from ja_llm.interop.parameters import (
    NUMPY,
    check_names,
    compare,
    empty_params,
    read_into,
    read_spread,
    read_to_files,
    write_published,
)
from ja_llm.interop.safetensors_files import FLOATS, INDEX, TensorFolder, Tensors
from ja_llm.manifest import file_entry
from ja_llm.models.config import ARCHITECTURE_FIELDS, CHECKPOINT_FIELDS, DTYPES, DecoderConfig
from ja_llm.models.decoder import abstract_params, param_axes
from ja_llm.models.families import tensors
from ja_llm.train.array_files import NewArrays
from ja_llm.train.checkpoints import LoadedModel, load_model, new_model, refuse_loss
from ja_llm.train.ledger import carried, is_ledger, new_ledger, parent_entry
from ja_llm.train.written_arrays import write_params
from ja_llm.vocab import published
from ja_llm.vocab.base import CHAT_TEMPLATE_FILE, SPECIAL_IDS_FILE, Tokenizer, load_tokenizer
from ja_llm.vocab.initialise import SPARE_ROWS, check_rows, map_tables

LEDGER = "ja_llm_ledger.json"  # in an export: where the weights come from; also how we know a folder as an export of ours
_CARD = "README.md"


@dataclasses.dataclass(frozen=True)
class Source:
    """What is to be imported, all but its numbers read and checked.

    Attributes:
      path: for messages and the ledger.
      config: of the model.
      tensors: its numbers, one by one.
      tokenizer: its own.
      files: whose digests the ledger keeps.
      parents: ledger entries of what it was made from.
      carried: goes into the ledger, for an export, where there is something.
      kinds: how many tensors of which type, where they were rounded before they came here.
    """

    path: Path
    config: DecoderConfig
    tensors: Tensors
    tokenizer: Tokenizer
    files: list[Path]
    parents: list[dict[str, Any]]
    carried: dict[str, Any]
    kinds: dict[str, int] | None = None


def import_hf(
    src_dir: str | Path,
    out_dir: str | Path,
    param_dtype: str = "float32",
    try_texts: bool = False,
    spare_rows: int = SPARE_ROWS,
) -> dict[str, Any]:
    """Hugging Face folder to model directory.

    Args:
      src_dir: has config.json, safetensors (one file, or parts and their index), and tokenizer.model or tokenizer.json.
      out_dir: the model directory to write, as of `finish_import`.
      param_dtype: of the stored parameters.
      try_texts: measure bits per byte of two short texts at the end.
      spare_rows: how many rows of the embedding may have no id (`ja_llm.vocab.initialise.check_rows`).

    Returns:
      What was done, see `format_summary`.

    Raises:
      UsageError: the source is not there, has no safetensors or tokenizer, or `out_dir` holds something else.
      JaLlmError: another architecture; a file that is missing or cut off; a tensor that is missing, left over, of another
        shape, or not finite; a tokenizer with more ids than embedding rows.
    """
    refuse_loss(Path(out_dir).absolute())
    return finish_import(open_hf(Path(src_dir), param_dtype, spare_rows), out_dir, try_texts)


def finish_import(
    source: Source, out_dir: str | Path, try_texts: bool = False, *, overwrite: bool = False, mesh: Any = None
) -> dict[str, Any]:
    """The numbers of a source into a model directory. It is read back and compared before it appears.

    The memory holds the tensors that are being read; the parameters, once, only if they are of four bytes or spread over a mesh.

    Args:
      source: opened and checked.
      out_dir: the model directory to write; an earlier one is replaced, anything else is refused (`refuse_loss`).
      try_texts: measure bits per byte of two short texts.
      overwrite: what lies beside an earlier model in its folder may go.
      mesh: a mesh of devices: every tensor goes straight to those that hold it; None: they lie on the host.

    Returns:
      What was done, see `format_summary`.

    Raises:
      UsageError: `out_dir` holds something else, or the model can't be spread over the mesh.
      JaLlmError: a number is not finite, the disk is full, or what was written reads back differently.
    """
    out, config = Path(out_dir).absolute(), source.config
    refuse_loss(out, overwrite)
    spread = None if mesh is None else sharding.shardings(param_axes(config), abstract_params(config), mesh)
    with new_model(out, config=config, tokenizer=source.tokenizer, ledger=None, overwrite=overwrite) as hidden:
        digests = _read_and_write(source, hidden, out, spread)
        write_json(hidden / "run.json", _import_ledger(source, digests))
    summary = _summary("imported", source.path, out, config, config.param_dtype, source.tensors.files, digests)
    summary["check"] = {
        "rows": config.vocab_size,
        "ids": source.tokenizer.vocab_size,
        **self_check.try_tokenizer(source.tokenizer),
    }
    if source.kinds:
        summary["kinds"] = source.kinds
    if try_texts:
        summary["check"]["texts"] = self_check.try_texts(load_model(out, shardings=spread))
    return summary


def _read_and_write(source: Source, hidden: Path, out: Path, spread: Any) -> dict[str, str]:
    """The source's numbers into the model directory `hidden`, which will be `out`; they are read back and compared.

    Returns:
      Name of each file of weights -> hex SHA-256 of the bytes that were read.
    """
    numbers, config, path = source.tensors, source.config, source.path
    if spread is None and NUMPY[config.param_dtype].itemsize == 2:
        return read_to_files(numbers, config, path, NewArrays(hidden, abstract_params(config), out))
    if spread is None:
        params = empty_params(config)
        digests = read_into(numbers, config, path, params)
    else:
        params, digests = read_spread(numbers, config, path, spread)
    write_params(hidden, params, out)
    compare(hidden / "checkpoints" / "0", params, config, path)
    return digests


def _import_ledger(source: Source, digests: dict[str, str]) -> dict[str, Any]:
    """The ledger of an import; `digests` are of the files that were read, the others are hashed here."""
    files = [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": digests[path.name]}
        if path in source.tensors.files
        else file_entry(path)
        for path in source.files
    ]
    identity = {
        "files": files,
        "model": source.config.subset(CHECKPOINT_FIELDS),
        "vocabulary": source.tokenizer.fingerprint,
    }
    came = {name: value for name, value in source.carried.items() if value or name in ("licence", "generation")}
    return new_ledger("import", identity, parents=source.parents, source=source.path.resolve().name, **came)


def open_hf(source: Path, param_dtype: str = "float32", spare_rows: int = SPARE_ROWS) -> Source:
    """A Hugging Face folder; arguments and errors as of `import_hf`."""
    check_dtype(param_dtype)
    if not (source / "config.json").is_file():
        raise UsageError(f"{source}: there is no config.json here; give the folder of a Hugging Face model.")
    stored = read_json(source / "config.json", "model configuration")
    config = hf_config.from_hf(stored, str(source / "config.json"), param_dtype)
    folder = TensorFolder(source)
    check_names(folder, config, source)
    tokenizer = load_tokenizer(source)
    check_rows(source, "embedding", config.vocab_size, tokenizer.vocab_size, spare_rows)
    tokenizer.published = published.read(source)
    earlier = _earlier_ledger(source)
    came = {
        "licence": model_card.licence_of(source) or (earlier or {}).get("licence", ""),
        "generation": _generation_settings(source),
        "token_ids": {name: stored[name] for name in hf_config.TOKEN_IDS if stored.get(name) is not None},
        "dtype": _widest({folder.dtype(tensor.name) for tensor in tensors(config)}),
    }
    parents = [parent_entry(source, earlier.get("step", 0), earlier)] if earlier else []
    return Source(source, config, folder, tokenizer, [source / "config.json", *folder.files], parents, came)


def _earlier_ledger(source: Path) -> dict[str, Any] | None:
    """The ledger of an export of ours; None for a folder of somebody else's."""
    path = source / LEDGER
    if not path.is_file():
        return None
    stored = read_json(path, "ledger")
    if not is_ledger(stored):
        raise JaLlmError(f"{path}: this is no ledger that ja_llm wrote; export the model again, or remove the file.")
    return stored


def _widest(kinds: set[str]) -> str:
    """The dtype that holds the numbers of all."""
    return FLOATS[kinds.pop()] if len(kinds) == 1 else "float32"


def export_hf(
    model_path: str | Path,
    out_dir: str | Path,
    dtype: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Model directory (or run, or DIR@STEP) to a folder that `transformers` loads; re-read and compared before it appears.

    Args:
      model_path: what to export.
      out_dir: folder to write; an earlier export is replaced, anything else is refused. Rows that pad the tables are left out.
      dtype: of the tensors. When None the parameters' own; of an import that was not changed since, the source's, which loses nothing.
      max_shard_bytes: size above which weights go into several files.
      overwrite: what lies beside an earlier export in its folder may go.

    Returns:
      What was done, see `format_summary`.

    Raises:
      UsageError: there is no such model, or `out_dir` holds something else.
      JaLlmError: the checkpoint is damaged, a number is not finite or does not fit `dtype`, the tokenizer can't be written
        with equal ids, the disk is full, or what was written reads back differently.
    """
    out = Path(out_dir).absolute()
    _refuse_loss(out, overwrite)
    loaded = load_model(model_path, on_host=True, in_parts=True)
    config, tokenizer, params = loaded.config, loaded.tokenizer, loaded.params
    if config.padding_ids:  # Hugging Face can't mask them: a row of zeros would have the logit 0
        ids = config.vocab_size - config.padding_ids
        params = map_tables(params, lambda table, _: table[:ids])
        config = dataclasses.replace(config, vocab_size=ids, padding_ids=0)
    dtype = dtype or _own_dtype(loaded)
    check_dtype(dtype)
    with atomic_directory(out) as temporary:
        written = published.export(tokenizer, temporary)  # first: it may refuse
        token_ids = _with_all_ends(carried(loaded.ledger, "token_ids", {}), tokenizer)
        write_json(temporary / "config.json", hf_config.to_hf(config, dtype, tokenizer.bos_id, tokenizer.eos_id) | token_ids)
        settings = carried(loaded.ledger, "generation", {"do_sample": False})
        write_json(temporary / "generation_config.json", _with_all_ends(settings, tokenizer))
        digests = write_published(temporary, params, config, dtype, max_shard_bytes)
        write_json(temporary / LEDGER, {**loaded.ledger, "step": loaded.step})
        (temporary / _CARD).write_text(model_card.model_card(loaded, dtype), encoding="utf-8")
        _self_check(temporary, config)
    files = [out / name for name in digests]
    return {**_summary("exported", Path(model_path), out, config, dtype, files, digests), "tokenizer": written}


def _own_dtype(loaded: LoadedModel) -> str:
    """The dtype that loses nothing: numbers that nobody changed are still those of the source's dtype."""
    stored, source = loaded.config.param_dtype, loaded.ledger.get("dtype")
    return source if loaded.ledger.get("job") == "import" and source in DTYPES and stored in ("float32", source) else stored


# What an export writes, and so may replace.
_OWN = {"config.json", "generation_config.json", CHAT_TEMPLATE_FILE, SPECIAL_IDS_FILE, INDEX, LEDGER, _CARD, *published.NAMES}


def _refuse_loss(out: Path, overwrite: bool) -> None:
    """Raise UsageError where an export to `out` would take away more than an earlier export."""
    if not out.exists():
        return
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if not out.is_dir() or (names and LEDGER not in names):
        raise UsageError(f"{out}: this folder holds something that is no export of ours; choose a new or empty one.")
    others = [name for name in names if name not in _OWN and not re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)]
    if others and not overwrite:
        raise UsageError(
            f"{out}: {others[0]} lies beside the earlier export there and would be lost; move it away, or choose another folder (or --overwrite)."
        )


def _generation_settings(source: Path) -> dict[str, Any]:
    """generation_config.json of a source, {} where there is none; without what says who wrote it."""
    path = source / "generation_config.json"
    stored = read_json(path, "generation settings") if path.is_file() else {}
    if not isinstance(stored, dict):
        raise JaLlmError(f"{path}: a JSON object is needed; download the file again, or remove it.")
    return {key: value for key, value in stored.items() if key not in ("transformers_version", "_from_model_config")}


def _with_all_ends(settings: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Settings that the first weights came with, with this tokenizer's ids: of several ends, all stay if ours is one of them."""
    ends = settings.get("eos_token_id")
    several = isinstance(ends, list) and tokenizer.eos_id in ends
    return {**settings, "bos_token_id": tokenizer.bos_id, "eos_token_id": ends if several else tokenizer.eos_id}


def format_summary(summary: dict[str, Any]) -> str:
    """The summary of an import or export as lines for a terminal."""
    c = summary["config"]
    head = "tied head" if c["tie_embeddings"] else "own head"
    lines = [
        f"{summary['what']} {summary['source']} -> {summary['out']}",
        f"  {summary['parameters'] / 1e6:.2f}M parameters in {summary['dtype']}, {summary['tensors']} tensors, "
        f"{summary['bytes'] / 1e6:.1f} MB of weights{_kinds(summary)}",
        f"  {c['num_layers']} layers, width {c['embed_dim']}, {c['num_heads']} heads on {c['num_kv_heads']} key-value heads, "
        f"vocabulary {c['vocab_size']}, {head}",
    ]
    if summary["files"]:
        lines.append(f"  {', '.join(f'{name} sha256 {digest[:12]}' for name, digest in summary['files'].items())}")
    if "tokenizer" in summary:
        lines.append(f"  {summary['tokenizer']}")
    return "\n".join(lines + (self_check.report(summary["tensors"], summary["check"]) if "check" in summary else []))


def _kinds(summary: dict[str, Any]) -> str:
    """How a GGUF file's numbers were rounded before they came here."""
    return f" ({', '.join(f'{count} {kind}' for kind, count in summary['kinds'].items())})" if "kinds" in summary else ""


def look_at(source: Source, out_dir: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """What `finish_import` would do, with no number read and nothing written; see `format_summary`."""
    out = Path(out_dir).absolute()
    refuse_loss(out, overwrite)
    config = source.config
    summary = _summary("would import", source.path, out, config, config.param_dtype, source.tensors.files, {})
    return {**summary, **({"kinds": source.kinds} if source.kinds else {})}


def _summary(
    what: str, source: Path, out: Path, config: DecoderConfig, dtype: str, files: list[Path], digests: dict[str, str]
) -> dict[str, Any]:
    return {
        "what": what,
        "source": str(source),
        "out": str(out),
        "config": config.to_json(),
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config))),
        "tensors": sum(1 for _ in tensors(config)),
        "dtype": dtype,
        "bytes": sum(path.stat().st_size for path in files),
        "files": digests,
    }


def check_dtype(dtype: str) -> None:
    """Raise UsageError for a dtype that parameters can't have."""
    if dtype not in DTYPES:
        raise UsageError(f"the dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")


def _self_check(folder: Path, config: DecoderConfig) -> None:
    """Open the written folder as an import would; its numbers were compared bit for bit as they were written."""
    back = hf_config.from_hf(read_json(folder / "config.json"), "config.json", config.param_dtype)
    if other := [name for name in ARCHITECTURE_FIELDS if getattr(back, name) != getattr(config, name)]:
        raise JaLlmError(f"{folder}: config.json reads back with another {other[0]} than was written; export again.")
    check_names(TensorFolder(folder), config, folder)
