"""Model directories and checkpoints: one layout for imported, expanded and trained models.

    DIR/model.json       family, DecoderConfig fields (architecture, storage, execution), vocabulary fingerprint
    DIR/vocab/           the tokenizer's own files
    DIR/checkpoints/N/   orbax: `params`, and for a training run `optimizer` and the `digests` of both; with `KEEP_BEST` the
                         evaluation's `metrics`
    DIR/run.json         ledger

Orbax writes a checkpoint under a temporary name and renames it, so a killed save is never taken for a checkpoint.
"""

import contextlib
import dataclasses
import errno
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ja_llm import storage
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_directory, os_error_sentence, read_json, write_json
from ja_llm.models.config import DecoderConfig
from ja_llm.train import stored_arrays
from ja_llm.train.checkpoint_errors import readable, writable
from ja_llm.train.digests import digests
from ja_llm.train.processes import together
from ja_llm.train.retention import Best, preservation, superfluous
from ja_llm.train.written_arrays import read_on_host, write_params
from ja_llm.vocab.base import Tokenizer, load_tokenizer

SCHEMA = "ja_llm.model/2"


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A checkpoint in memory.

    Attributes:
      config: the decoder's configuration.
      params: pytree as `Decoder` wants it, of the stored dtype.
      tokenizer: the tokenizer whose ids index the embedding rows.
      step: the checkpoint's step.
      directory: the model directory.
      ledger: contents of run.json ({} when there is none).
    """

    config: DecoderConfig
    params: Any
    tokenizer: Tokenizer
    step: int
    directory: Path
    ledger: dict[str, Any]


def write_model_files(directory: Path, config: DecoderConfig, tokenizer: Tokenizer) -> None:
    """Write `model.json` and `vocab/`.

    Raises:
      JaLlmError: the tokenizer has more ids than the embedding table has rows.
    """
    if tokenizer.vocab_size > config.vocab_size - config.padding_ids:
        raise JaLlmError(
            f"the vocabulary has {tokenizer.vocab_size} ids but the model has {config.vocab_size - config.padding_ids} embedding rows; "
            "use the vocabulary that the model was made with, or expand the model with `ja-llm vocab expand`."
        )
    with storage.written_folder(directory / "vocab") as folder:
        tokenizer.save(folder)
    write_json(
        directory / "model.json",
        {"schema": SCHEMA, **config.parts(), "vocabulary": tokenizer.fingerprint},
    )


def read_model_files(directory: Path) -> tuple[DecoderConfig, Tokenizer]:
    """Read `model.json` and `vocab/` and check that they belong together.

    Raises:
      JaLlmError: one is missing, of another schema, has a field that is unknown or out of range, or the vocabulary is not
        the model's.
    """
    path = directory / "model.json"
    if not path.exists():
        raise JaLlmError(
            f"{directory}: this is no model directory (there is no model.json); give the output of import, vocab expand or train."
        )
    value = read_description(path)
    try:
        config = DecoderConfig.from_parts(value)
    except JaLlmError as error:
        raise JaLlmError(f"{path}: {error}") from error
    vocabulary = str(value.get("vocabulary", "unknown"))
    with storage.read_folder(directory / "vocab") as folder:
        tokenizer = load_tokenizer(folder)
    if tokenizer.fingerprint != vocabulary or tokenizer.vocab_size > config.vocab_size - config.padding_ids:
        raise JaLlmError(
            f"{directory / 'vocab'}: this vocabulary ({tokenizer.vocab_size} ids) does not fit the checkpoint "
            f"({config.vocab_size} rows, vocabulary {vocabulary[:12]}); put the model's own vocabulary back."
        )
    return config, tokenizer


def read_description(path: Path) -> dict[str, Any]:
    """A `model.json` whose schema is the one that this version writes.

    Raises:
      JaLlmError: it can't be read, or has another schema.
    """
    value = read_json(path, "model description")
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        version, own = (str(text).rpartition("/") for text in (schema, SCHEMA))
        if version[0] == own[0] and version[2].isdigit() and int(version[2]) > int(own[2]):
            raise JaLlmError(
                f"{path}: the schema of this model description is {schema!r}, and this version of ja_llm knows {SCHEMA!r}; a newer one has "
                "written it: upgrade ja_llm (pip install --upgrade ja_llm) to use this model."
            )
        raise JaLlmError(
            f"{path}: the schema of this model description is {schema!r}, but {SCHEMA!r} is needed; make the model directory again, "
            "by `ja-llm import`, `ja-llm vocab expand`, or `ja-llm train` with a new MODEL_DIR."
        )
    return value


class Checkpoints:
    """The checkpoints of one run.

    Args:
      directory: the model directory.
      keep: how many of the newest to keep; None keeps all.
      keep_period: keep those whose step is a multiple of it for good.
      asynchronous: write in the background while training goes on.
      best: keep those that a metric of their evaluation ranks highest.

    Attributes:
      directory: the model directory, absolute.

    Raises:
      UsageError: a number is not one that checkpoints can be kept by.
      JaLlmError: the folder can't be written, or a checkpoint's metrics can't be read.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int | None = None,
        asynchronous: bool = True,
        keep_period: int | None = None,
        best: Best | None = None,
    ):
        self.directory = storage.absolute(directory)
        self._policy = preservation(keep, keep_period, best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            best_fn=None if best is None else best.value,  # metrics are stored only where there is one
            create=True,
            enable_async_checkpointing=asynchronous,
            cleanup_tmp_directories=True,
        )
        try:
            self._manager = ocp.CheckpointManager(
                self.directory / "checkpoints", item_names=("params", "optimizer", "digests"), options=options
            )
            self._remove_superfluous()
        except OSError as error:
            raise os_error_sentence(error, self.directory) from error
        except ValueError as error:  # orbax reads the metrics of each checkpoint
            raise JaLlmError(
                f"{self.directory}/checkpoints: the metrics/metrics of a checkpoint can't be read ({error}); remove that file, and its "
                "checkpoint is no longer ranked."
            ) from error

    def _remove_superfluous(self) -> None:
        """Remove what a process that was killed between a save and the removal of older checkpoints has left."""
        steps = superfluous(self._policy, {step: self._manager.metrics(step) for step in self.steps()})
        if jax.process_count() > 1:  # each has seen the same before one removes
            multihost_utils.sync_global_devices("superfluous checkpoints")
        for step in steps:
            self._manager.delete(step)

    def steps(self) -> list[int]:
        """Steps that are wholly written, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, params: Any, optimizer: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Save one checkpoint; `optimizer` is the optimizer's state pytree, `metrics` what was measured at this step.

        Raises:
          JaLlmError: the disk is full, or it can't be written; what was saved before stays.
        """
        # A write that fails in the background leaves threads that print; so the room is looked at first.
        size = sum(leaf.nbytes for leaf in jax.tree.leaves((params, optimizer))) // jax.process_count()
        if not storage.is_remote(self.directory) and shutil.disk_usage(self.directory).free < size:
            raise os_error_sentence(OSError(errno.ENOSPC, "No space left on device"), self.directory / "checkpoints" / str(step))
        with writable(self.directory / "checkpoints" / str(step)):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    optimizer=ocp.args.StandardSave(stored_arrays.named_leaves(optimizer)),
                    digests=ocp.args.JsonSave(
                        {"params": digests(params), "optimizer": digests(stored_arrays.named_leaves(optimizer))}
                    ),
                ),
                metrics=dict(metrics) if metrics else None,
            )

    def restore(self, step: int, abstract_params: Any, abstract_optimizer: Any) -> tuple[Any, Any]:
        """Restore (params, optimizer state) with the shapes, dtypes and shardings of the given abstract trees.

        Raises:
          JaLlmError: the checkpoint is of another model or optimizer (its first foreign parameter is named), can't be read
            from the disk, does not fit into memory, or is damaged.
        """
        path = self.directory / "checkpoints" / str(step)
        wanted = {"params": abstract_params, "optimizer": stored_arrays.named_leaves(abstract_optimizer)}
        restored = {}
        with together(), readable(path):  # each process reads its own part: what one of them finds, all must know
            for item, what in (("params", "model"), ("optimizer", "optimizer")):
                stored_arrays.check_shapes(stored_arrays.stored_tree(path / item), wanted[item], what)
            for item, tree in wanted.items():
                restored[item] = stored_arrays.read_arrays(path / item, tree)
        with readable(path):
            for item in wanted:
                stored_arrays.check_digests(path, item, restored[item])
        return restored["params"], stored_arrays.from_named_leaves(restored["optimizer"], abstract_optimizer)

    def set_aside(self, step: int) -> Path:
        """Move a damaged checkpoint to DIR/damaged/, where nobody takes it for one; returns where it is."""
        to = self.directory / "damaged" / f"{step}.{time.time_ns()}"
        if jax.process_index() == 0:
            with writable(to):
                storage.move(self.directory / "checkpoints" / str(step), to)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("set aside")
        self._manager.reload()
        return to

    def wait(self) -> None:
        """Block until background writes are done, and raise what went wrong in them as a sentence."""
        with writable(self.directory / "checkpoints"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish background writes and release the manager."""
        self.wait()
        self._manager.close()


def save_model(
    directory: str | Path,
    *,
    config: DecoderConfig,
    params: Any,
    tokenizer: Tokenizer,
    ledger: dict[str, Any],
    step: int = 0,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a whole model directory (weights without optimizer state), atomically.

    Args:
      directory: where; as of `new_model`.
      config: the decoder's configuration.
      params: pytree of arrays.
      tokenizer: saved to `vocab/`.
      ledger: written to `run.json`.
      step: the checkpoint's number.
      notes: as of `new_model`.

    Raises:
      UsageError: as `refuse_loss`.
      JaLlmError: the disk is full, or it can't be written; nothing of it is left.
    """
    with new_model(directory, config=config, tokenizer=tokenizer, ledger=ledger, notes=notes) as hidden:
        write_params(hidden, params, Path(directory).absolute(), step)
    return Path(directory).absolute()


@contextlib.contextmanager
def new_model(
    directory: str | Path,
    *,
    config: DecoderConfig,
    tokenizer: Tokenizer,
    ledger: dict[str, Any] | None,
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Iterator[Path]:
    """A new model directory, all but its weights, under a hidden name: the block writes these (`write_params`) and may look at what it
    has; when it ends the whole appears, and takes an earlier model's place. Where it raises, everything is as it was before.

    Args:
      directory: where; what may be lost is refused, see `refuse_loss`.
      config: the decoder's configuration.
      tokenizer: saved to `vocab/`.
      ledger: written to `run.json`; None: the block writes it.
      notes: further files, name -> JSON value, or text where the name does not end in .json (a certificate and its page), which
        appear with the model or not at all.
      overwrite: what lies beside an earlier model in its folder may go.

    Raises:
      UsageError: as `refuse_loss`.
      JaLlmError: the disk is full, or it can't be written.
    """
    directory = Path(directory).absolute()
    refuse_loss(directory, overwrite)
    with atomic_directory(directory) as temporary:
        write_model_files(temporary, config, tokenizer)
        if ledger is not None:
            write_json(temporary / "run.json", ledger)
        for name, value in (notes or {}).items():
            if name.endswith(".json"):
                write_json(temporary / name, value)
            else:
                (temporary / name).write_text(value, encoding="utf-8")
        yield temporary


def refuse_foreign(directory: Path) -> None:
    """Raise UsageError when `directory` exists and holds something, but neither a model nor the beginning of a run.

    A run writes run.json first; its lock and what a killed atomic write left (`.NAME.tmp`) are nothing.
    """
    if not directory.exists():
        return
    names = {p.name for p in directory.iterdir()} if directory.is_dir() else {directory.name}
    names = {name for name in names if not name.startswith(".")}
    if names and not names & {"model.json", "run.json"}:
        raise UsageError(f"{directory}: this folder holds something else; choose a new or empty one.")


# What a model directory has that was not trained, and whoever wrote it can write again.
_OWN = {"model.json", "run.json", "vocab", "checkpoints", "certificate.json", "certificate.html", "kept_ids.json", ".lock"}


def refuse_loss(directory: Path, overwrite: bool = False) -> None:
    """Raise UsageError when a new model in `directory` would take away more than an earlier model that was not trained.

    Args:
      directory: where a model is to be written.
      overwrite: what lies beside an earlier model (evaluations, files of somebody else) may go; a training run may not.
    """
    refuse_foreign(directory)
    if not directory.exists():
        return
    run = directory / "run.json"
    ledger = read_json(run, "ledger") if run.exists() else {}
    if isinstance(ledger, dict) and ledger.get("job") == "train":
        raise UsageError(f"{directory}: this folder holds a training run, which would be lost; choose another folder.")
    names = sorted(p.name for p in directory.iterdir())  # .NAME.tmp: what a killed atomic write left
    others = [name for name in names if name not in _OWN and not (name.startswith(".") and name.endswith(".tmp"))]
    if others and not overwrite:
        raise UsageError(
            f"{directory}: {others[0]} lies beside the model there and would be lost; move it away, choose another folder, or remove the folder."
        )


def split_step(path: str | Path) -> tuple[Path, int | None]:
    """`DIR@STEP` -> (DIR, STEP); `DIR` -> (DIR, None)."""
    text = str(path)
    head, at, tail = text.rpartition("@")
    if at and tail.isdigit() and head:
        return storage.place(head), int(tail)
    return storage.place(text), None


def model_steps(directory: Path) -> list[int]:
    """Steps with written parameters, ascending; half-written ones have another name and are not listed."""
    folder = directory / "checkpoints"
    if not folder.is_dir():
        return []
    # In a bucket nothing can be renamed: orbax writes under the final name, and this file last.
    written = "commit_success.txt" if storage.is_remote(folder) else "params"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / written).exists())


def load_model(
    path: str | Path,
    step: int | None = None,
    shardings: Any = None,
    overrides: Mapping[str, Any] | None = None,
    dtype: Any = None,
    on_host: bool = False,
    in_parts: bool = False,
) -> LoadedModel:
    """Load a checkpoint's parameters.

    Args:
      path: model directory, or `DIR@STEP`.
      step: which checkpoint; the newest when None.
      shardings: optional tree of NamedSharding; without it the arrays lie on the first device.
      overrides: execution fields of the DecoderConfig (dtype, remat_policy, attention) that shall differ from what
        model.json has as default.
      dtype: of the arrays; the model's `param_dtype` when None. Whatever they lie in on disk, only one array at a time is held in that.
      on_host: numpy arrays of the model's `param_dtype`, whatever devices there are.
      in_parts: with `on_host`, where the checkpoint's files allow it: what reads a part of an array when it is asked for
        (`ja_llm.train.array_files.RawArray`).

    Raises:
      UsageError: the model or step does not exist, or `overrides` names another field.
      JaLlmError: no checkpoint, one of another model, or one that can't be read (disk, rights, memory, damage).
    """
    from ja_llm.models.decoder import abstract_params

    directory, named = split_step(path)
    directory = storage.absolute(directory)
    step = named if step is None else step
    if not directory.exists():
        raise UsageError(f"{directory}: this model directory does not exist.")
    config, tokenizer = read_model_files(directory)
    config = config.executed(overrides)
    steps = model_steps(directory)
    if not steps:
        raise JaLlmError(f"{directory}: there is no finished checkpoint here yet; run the training command again.")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UsageError(f"{directory}: there is no checkpoint {step}; there are {', '.join(map(str, steps))}.")
    sharding = shardings or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = abstract_params(config)
    spread = jax.tree.map(lambda _: sharding, abstract) if shardings is None else shardings
    abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, dtype or a.dtype, sharding=s), abstract, spread)
    item = directory / "checkpoints" / str(step) / "params"
    params = read_on_host(item, abstract, in_parts) if on_host else None
    if params is None:
        params = stored_arrays.read_params(item, abstract)
        params = jax.tree.map(np.asarray, params) if on_host else params
    ledger = read_json(directory / "run.json", "ledger") if (directory / "run.json").exists() else {}
    return LoadedModel(config, params, tokenizer, step, directory, ledger)
