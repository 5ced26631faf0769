"""Hugging Face model folders in and out (families: `ja_llm.models.families`): weights, configuration, tokenizer, provenance.

Both directions go through the one map of the model's family. Nothing is permuted or scaled, so an export holds
the very numbers that an import read.
"""

import concurrent.futures
import dataclasses
import functools
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_directory, read_json, sha256_file, write_json
from ja_llm.interop import hf_config, model_card, self_check
from ja_llm.interop.safetensors_files import FLOATS, TensorFolder, Tensors, write_tensors
from ja_llm.manifest import file_entry
from ja_llm.models.config import ARCHITECTURE_FIELDS, CHECKPOINT_FIELDS, DTYPES, DecoderConfig
from ja_llm.models.decoder import abstract_params
from ja_llm.models.families import Tensor, family, tensors
from ja_llm.progress import track
from ja_llm.train.checkpoints import load_model, refuse_foreign, save_model
from ja_llm.train.ledger import new_ledger, parent_entry
from ja_llm.vocab.base import Tokenizer, load_tokenizer
from ja_llm.vocab.initialise import SPARE_ROWS, check_rows, map_tables

LEDGER = "ja_llm_ledger.json"  # in an export: where the weights come from; also how we know a folder as an export of ours
_THREADS = 2
CHAT_TEMPLATE = "chat_template.jinja"
_NUMPY = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


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
      out_dir: the model directory to write; an earlier one is replaced, anything else is refused.
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
    source, out = Path(src_dir), Path(out_dir).absolute()
    check_dtype(param_dtype)
    refuse_foreign(out)
    config, folder, tokenizer = open_hf(source, param_dtype, spare_rows)
    files = [file_entry(path) for path in [source / "config.json", *folder.files]]
    earlier = read_json(source / LEDGER, "ledger") if (source / LEDGER).is_file() else None
    parents = [parent_entry(source, earlier.get("step", 0), earlier)] if earlier else []
    licence = model_card.licence_of(source) or (earlier or {}).get("licence", "")
    carried = {"licence": licence, "generation": _generation_settings(source), "chat_template": _chat_template(source)}
    return finish_import(source, out, config, folder, tokenizer, files, parents, carried, try_texts)


def finish_import(
    source: Path,
    out: Path,
    config: DecoderConfig,
    folder: Tensors,
    tokenizer: Tokenizer,
    files: list[dict[str, Any]],
    parents: list[dict[str, Any]],
    carried: dict[str, Any],
    try_texts: bool,
) -> dict[str, Any]:
    """The numbers of an opened and checked source into a model directory, which is then read back and compared.

    Args:
      source: for messages and the ledger.
      out: the model directory.
      config: of the model.
      folder: its tensors.
      tokenizer: its own.
      files: the source's, for the ledger.
      parents: ledger entries of what the source was made from.
      carried: goes into the ledger, for an export, where there is something.
      try_texts: measure bits per byte of two short texts.

    Returns:
      What was done, see `format_summary`.

    Raises:
      JaLlmError: a number is not finite, the disk is full, or what was written reads back differently (and is removed).
    """
    identity = {"files": files, "model": config.subset(CHECKPOINT_FIELDS), "vocabulary": tokenizer.fingerprint}
    carried = {name: value for name, value in carried.items() if value or name in ("licence", "generation")}
    ledger = new_ledger("import", identity, parents=parents, source=source.resolve().name, **carried)
    params = read_params(folder, config, source)
    save_model(out, config=config, params=params, tokenizer=tokenizer, ledger=ledger)
    del params  # the next line holds them again
    loaded = load_model(out)
    try:
        compare(folder, loaded.params, config, source)
    except JaLlmError:
        shutil.rmtree(out)
        raise
    summary = _summary("imported", source, out, config, config.param_dtype, folder.files)
    summary["check"] = {"rows": config.vocab_size, "ids": tokenizer.vocab_size}
    if try_texts:
        summary["check"]["texts"] = self_check.try_texts(loaded)
    return summary


def open_hf(
    source: Path, param_dtype: str = "float32", spare_rows: int = SPARE_ROWS
) -> tuple[DecoderConfig, TensorFolder, Tokenizer]:
    """A Hugging Face folder, all but the numbers read and checked; `read_params` reads these.

    Args:
      source: as `src_dir` of `import_hf`.
      param_dtype: of our parameters.
      spare_rows: as `ja_llm.vocab.initialise.check_rows` takes it.

    Raises:
      UsageError: as `import_hf`.
      JaLlmError: as `import_hf`.
    """
    if not (source / "config.json").is_file():
        raise UsageError(f"{source}: there is no config.json here; give the folder of a Hugging Face model.")
    stored = read_json(source / "config.json", "model configuration")
    config = hf_config.from_hf(stored, str(source / "config.json"), param_dtype)
    folder = TensorFolder(source)
    check_names(folder, config, source)
    tokenizer = load_tokenizer(source)
    check_rows(source, "embedding", config.vocab_size, tokenizer.vocab_size, spare_rows)
    return config, folder, tokenizer


def export_hf(
    model_path: str | Path, out_dir: str | Path, dtype: str | None = None, max_shard_bytes: int = 5 * 10**9
) -> dict[str, Any]:
    """Model directory (or run, or DIR@STEP) to a folder that `transformers` loads; re-read and compared before it appears.

    Args:
      model_path: what to export.
      out_dir: folder to write; an earlier export is replaced, anything else is refused. Rows that pad the tables are left out.
      dtype: of the tensors; the parameters' own when None.
      max_shard_bytes: size above which weights go into several files.

    Returns:
      What was done, see `format_summary`.

    Raises:
      UsageError: there is no such model, or `out_dir` holds something else.
      JaLlmError: the checkpoint is damaged, a number is not finite or does not fit `dtype`, the tokenizer can't be written
        with equal ids, the disk is full, or what was written reads back differently.
    """
    out = Path(out_dir).absolute()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / LEDGER).exists())):
        raise UsageError(f"{out}: this folder holds something that is no export of ours; choose a new or empty one.")
    loaded = load_model(model_path)
    config, tokenizer = loaded.config, loaded.tokenizer
    params = jax.tree.map(np.asarray, loaded.params)
    if config.padding_ids:  # Hugging Face can't mask them: a row of zeros would have the logit 0
        ids = config.vocab_size - config.padding_ids
        params = map_tables(params, lambda table, _: table[:ids])
        config = dataclasses.replace(config, vocab_size=ids, padding_ids=0)
    dtype = dtype or config.param_dtype
    check_dtype(dtype)
    with atomic_directory(out) as temporary:
        tokenizer.export_hf(temporary)  # first: it may refuse
        write_json(temporary / "config.json", hf_config.to_hf(config, dtype, tokenizer.bos_id, tokenizer.eos_id))
        write_json(temporary / "generation_config.json", _generation_config(loaded.ledger, tokenizer))
        if template := _carried(loaded.ledger, "chat_template", ""):
            (temporary / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
        plan = [(tensor.name, _NUMPY[dtype], tensor.shape) for tensor in tensors(config)]
        write_tensors(temporary, plan, _their_tensors(params, config, dtype, "export"), max_shard_bytes)
        write_json(temporary / LEDGER, {**loaded.ledger, "step": loaded.step})
        (temporary / "README.md").write_text(model_card.model_card(loaded, dtype), encoding="utf-8")
        files = _self_check(temporary, params, config, dtype)
    return _summary("exported", Path(model_path), out, config, dtype, [out / name for name in files])


def _generation_settings(source: Path) -> dict[str, Any]:
    """generation_config.json of a source, {} where there is none; without what says who wrote it."""
    path = source / "generation_config.json"
    stored = read_json(path, "generation settings") if path.is_file() else {}
    if not isinstance(stored, dict):
        raise JaLlmError(f"{path}: a JSON object is needed; download the file again, or remove it.")
    return {key: value for key, value in stored.items() if key not in ("transformers_version", "_from_model_config")}


def _chat_template(source: Path) -> str:
    """The template of a source, "" where there is none: chat_template.jinja, or in older files the one of tokenizer_config.json."""
    path = source / CHAT_TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    path = source / "tokenizer_config.json"
    stored = read_json(path, "tokenizer configuration") if path.is_file() else {}
    found = stored.get("chat_template") if isinstance(stored, dict) else None
    return found if isinstance(found, str) else ""


def _carried(ledger: dict[str, Any], name: str, default: Any) -> Any:
    """What the first weights came with."""
    return next((entry[name] for entry in model_card.lineage(ledger) if entry.get(name)), default)


def _generation_config(ledger: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """What the first weights came with, with this tokenizer's ids: of several ends, all stay if ours is one of them."""
    settings = _carried(ledger, "generation", {"do_sample": False})
    ends = settings.get("eos_token_id")
    several = isinstance(ends, list) and tokenizer.eos_id in ends
    return {**settings, "bos_token_id": tokenizer.bos_id, "eos_token_id": ends if several else tokenizer.eos_id}


def format_summary(summary: dict[str, Any]) -> str:
    """The summary of an import or export as lines for a terminal."""
    c = summary["config"]
    head = "tied head" if c["tie_embeddings"] else "own head"
    return "\n".join(
        [
            f"{summary['what']} {summary['source']} -> {summary['out']}",
            f"  {summary['parameters'] / 1e6:.2f}M parameters in {summary['dtype']}, {summary['tensors']} tensors, "
            f"{summary['bytes'] / 1e6:.1f} MB of weights{_kinds(summary)}",
            f"  {c['num_layers']} layers, width {c['embed_dim']}, {c['num_heads']} heads on {c['num_kv_heads']} key-value heads, "
            f"vocabulary {c['vocab_size']}, {head}",
            f"  {', '.join(f'{name} sha256 {digest[:12]}' for name, digest in summary['files'].items())}",
            *(self_check.report(summary["tensors"], summary["check"]) if "check" in summary else ()),
        ]
    )


def _kinds(summary: dict[str, Any]) -> str:
    """How a GGUF file's numbers were rounded before they came here."""
    return f" ({', '.join(f'{count} {kind}' for kind, count in summary['kinds'].items())})" if "kinds" in summary else ""


def _summary(what: str, source: Path, out: Path, config: DecoderConfig, dtype: str, files: list[Path]) -> dict[str, Any]:
    return {
        "what": what,
        "source": str(source),
        "out": str(out),
        "config": config.to_json(),
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config))),
        "tensors": sum(1 for _ in tensors(config)),
        "dtype": dtype,
        "bytes": sum(path.stat().st_size for path in files),
        "files": {path.name: sha256_file(path) for path in files},
    }


def check_dtype(dtype: str) -> None:
    """Raise UsageError for a dtype that parameters can't have."""
    if dtype not in DTYPES:
        raise UsageError(f"the dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")


def _leaf(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def check_names(folder: Tensors, config: DecoderConfig, source: Path) -> None:
    """Refuse missing, left-over and misshapen tensors before anything is read."""
    there = {name for name in folder if not re.fullmatch(family(config.family).ignored, name)}
    wanted = {tensor.name: tensor.shape for tensor in tensors(config)}
    if config.tie_embeddings and "lm_head.weight" in there:
        # Some files repeat the tied table under the head's name.
        table = next(tensor.name for tensor in tensors(config) if tensor.weight.ours == "token_embedder/embedding")
        if table in there and not np.array_equal(folder["lm_head.weight"], folder[table]):
            raise JaLlmError(
                f"{source}: config.json says that head and embedding are tied, but lm_head.weight differs; set tie_word_embeddings to false."
            )
        there.discard("lm_head.weight")
    if missing := [name for name in wanted if name not in there]:
        raise JaLlmError(f"{source}: {_few(missing)} of this {config.family} model missing; download or export it again.")
    if extra := sorted(there - wanted.keys()):
        raise JaLlmError(
            f"{source}: {_few(extra)} unknown to the {config.family} family; this is another architecture than config.json says."
        )
    for name, shape in wanted.items():
        if folder.shape(name) != shape:
            raise JaLlmError(
                f"{source}: the tensor {name} is {folder.shape(name)}, config.json asks for {shape}; they belong to different models."
            )
        if folder.dtype(name) not in FLOATS:
            raise JaLlmError(
                f"{source}: the tensor {name} is {folder.dtype(name)}; {', '.join(FLOATS)} can be imported, so use weights that are not quantised."
            )


def _few(names: list[str]) -> str:
    return (
        f"the tensor {names[0]} is"
        if len(names) == 1
        else f"the tensors {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} ({len(names)} in all) are"
    )


def read_params(folder: Tensors, config: DecoderConfig, source: Path, shardings: Any = None) -> Any:
    """The parameters, tensor by tensor; `check_names` comes first.

    Args:
      folder: of the tensors.
      config: of the model.
      source: for messages.
      shardings: a tree of NamedSharding: each tensor then goes straight to the devices that hold it; None gives numpy arrays.

    Returns:
      The tree of parameters. The host's memory holds one tensor a thread beside it, and with `shardings` one.

    Raises:
      JaLlmError: a number is not finite, or too large for the parameters' dtype.
    """
    abstract = abstract_params(config)
    if shardings is None:
        return _read_arrays(folder, config, source, jax.tree.map(lambda a: np.empty(a.shape, a.dtype), abstract))
    params = jax.tree.map(lambda a, s: jnp.zeros(a.shape, a.dtype, device=s), abstract, shardings)
    for name, weight, parts in track(list(tensors(config)), "import", "tensor"):
        value = _finite(folder[name], name, source, config.param_dtype)
        for part, ours in zip(parts, weight.to_ours(value, [part.shape for part in parts]), strict=True):
            group = _leaf(params, part.path[:-1])
            group[part.path[-1]] = _place(group[part.path[-1]], ours, part.at, _leaf(shardings, part.path))
    return params


def _read_arrays(folder: Tensors, config: DecoderConfig, source: Path, params: Any) -> Any:
    """Fill the arrays; two threads, because turning a matrix takes longer than reading it."""

    def one(tensor: Tensor) -> None:
        value = _finite(folder[tensor.name], tensor.name, source, config.param_dtype)
        shapes = [part.shape for part in tensor.parts]
        for part, ours in zip(tensor.parts, tensor.weight.to_ours(value, shapes), strict=True):
            # [...] keeps a view of an array without axes to choose from
            tensor.weight.place(ours, _leaf(params, part.path)[(*part.at, ...)])

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        try:
            for done in track([pool.submit(one, tensor) for tensor in tensors(config)], "import", "tensor"):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return params


def compare(folder: Tensors, params: Any, config: DecoderConfig, source: Path) -> None:
    """Read every tensor again and compare it with the parameters, which were written to a disk and read from it.

    Raises:
      JaLlmError: one differs.
    """
    for name, weight, parts in track(list(tensors(config)), "check", "tensor"):
        value = _finite(folder[name], name, source, config.param_dtype)
        for part, ours in zip(parts, weight.to_ours(value, [part.shape for part in parts]), strict=True):
            if not np.array_equal(np.asarray(_leaf(params, part.path)[part.at]), ours):
                raise JaLlmError(
                    f"{source}: the tensor {name} reads back from the model directory with other numbers; the disk may be failing, import again."
                )


def _place(leaf: jax.Array, value: np.ndarray, index: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    """`leaf` with `value` at `index` of its leading axes; its buffer is used again."""
    axes = tuple(sharding.spec) + (None,) * (leaf.ndim - len(sharding.spec))
    part = jax.device_put(value, NamedSharding(sharding.mesh, PartitionSpec(*axes[len(index) :])))
    return _setter(sharding)(leaf, part, index) if index else part


@functools.lru_cache(maxsize=64)
def _setter(sharding: NamedSharding) -> Any:
    return jax.jit(lambda leaf, part, index: leaf.at[index].set(part), donate_argnums=0, out_shardings=sharding)


def _finite(value: np.ndarray, name: str, where: Path | str, dtype: str) -> np.ndarray:
    if not all_finite(value):
        raise JaLlmError(
            f"{where}: the tensor {name} holds numbers that are not finite; the file is damaged or the training went wrong."
        )
    if value.dtype == _NUMPY[dtype]:
        return value
    with np.errstate(over="ignore"):
        value = value.astype(_NUMPY[dtype])
    if not all_finite(value):
        raise JaLlmError(f"{where}: the tensor {name} has numbers too large for {dtype}; choose bfloat16 or float32.")
    return value


# An infinity or NaN has all bits of the exponent set: without the sign it is at least this.
_EXPONENTS = {"float32": (np.uint32, 0xFF000000), "bfloat16": (np.uint16, 0xFF00), "float16": (np.uint16, 0xF800)}


def all_finite(value: np.ndarray) -> bool:
    """Whether no number is infinite or NaN; by the bits, because numpy has no fast test for bfloat16."""
    if value.dtype.name not in _EXPONENTS:
        return bool(np.isfinite(value).all())
    whole, least = _EXPONENTS[value.dtype.name]
    bits = np.ascontiguousarray(value).view(whole).reshape(-1)
    return all((bits[n : n + 65536] << 1).max() < least for n in range(0, bits.size, 65536))


def _their_tensors(params: Any, config: DecoderConfig, dtype: str, label: str) -> Iterator[tuple[str, np.ndarray]]:
    """The published tensors, one after the other."""
    for name, weight, parts in track(list(tensors(config)), label, "tensor"):
        values = [_leaf(params, part.path)[part.at] for part in parts]
        yield name, weight.to_theirs([_finite(value, name, "checkpoint", dtype) for value in values])


def _self_check(folder: Path, params: Any, config: DecoderConfig, dtype: str) -> list[str]:
    """Read the written files as an import would, and compare every tensor bit for bit; gives the weight files' names."""
    written = TensorFolder(folder)
    back = hf_config.from_hf(read_json(folder / "config.json"), "config.json", config.param_dtype)
    if other := [name for name in ARCHITECTURE_FIELDS if getattr(back, name) != getattr(config, name)]:
        raise JaLlmError(f"{folder}: config.json reads back with another {other[0]} than was written; export again.")
    check_names(written, config, folder)
    for name, value in _their_tensors(params, config, dtype, "check"):
        if written[name].dtype != value.dtype or written[name].tobytes() != value.tobytes():
            raise JaLlmError(
                f"{folder}: the tensor {name} reads back differently from what was written; the disk may be failing, export again."
            )
    return [path.name for path in written.files]
