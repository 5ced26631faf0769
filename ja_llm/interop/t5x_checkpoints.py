"""Checkpoints of t5x, in and out; neither way needs t5x itself.

    DIR/checkpoint_<step>/state/     orbax: target (the parameters, under our own names), state/step, state/param_states

With `ja_llm.interop.t5x.optimizer`, param_states/0 holds the optimizer chain's state under its links' names, as our own checkpoints do,
and param_states/1 the schedule's count.
"""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_directory, read_json
from ja_llm.models.decoder import abstract_params
from ja_llm.train import checkpoints, stored_arrays
from ja_llm.train.checkpoint_errors import readable, writable
from ja_llm.train.digests import digests
from ja_llm.train.ledger import new_ledger, parent_entry
from ja_llm.train.optimizers import AdamW
from ja_llm.train.step import init_optimizer

_NAME = re.compile(r"checkpoint_(\d+)")


def to_t5x(run: str | Path, out_dir: str | Path) -> dict[str, Any]:
    """Write a checkpoint of ours as one of t5x's, for INITIAL_CHECKPOINT_PATH and CHECKPOINT_PATH.

    Args:
      run: model directory or run, or DIR@STEP.
      out_dir: gets a folder `checkpoint_<step>`.

    Returns:
      {"path", "step", "tensors", "optimizer": "AdamW's moments of the run" or "fresh AdamW moments"}.

    Raises:
      UsageError: there is such a checkpoint already, or no such model.
      JaLlmError: the run's optimizer is not AdamW, the checkpoint can't be read, or the disk is full.
    """
    loaded = checkpoints.load_model(run)
    out = Path(out_dir).absolute() / f"checkpoint_{loaded.step}"
    if out.exists():
        raise UsageError(f"{out}: this checkpoint exists; remove it, or choose another folder.")
    state, of_run = _moments(loaded)
    tree = {
        "target": loaded.params,
        "state": {
            "step": np.asarray(loaded.step, np.int32),
            "param_states": {"0": state, "1": {"count": np.asarray(loaded.step, np.int32)}},
        },
    }
    with writable(out), atomic_directory(out) as hidden, ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True)) as writer:
        writer.save(hidden / "state", args=ocp.args.PyTreeSave(tree))
    what = "AdamW's moments of the run" if of_run else "fresh AdamW moments"
    return {"path": str(out), "step": loaded.step, "tensors": len(jax.tree.leaves(loaded.params)), "optimizer": what}


def _moments(loaded: checkpoints.LoadedModel) -> tuple[dict[str, Any], bool]:
    """The optimizer's arrays by name, and whether they are the run's."""
    path = loaded.directory / "checkpoints" / str(loaded.step) / "optimizer"
    if not path.is_dir():
        return stored_arrays.named_leaves(init_optimizer(AdamW().transformation(), loaded.params))["state"], False
    with readable(path.parent):
        state = stored_arrays.read_item(path)["state"]
    if set(state) - {"adam"} or set(state.get("adam", ())) != {"count", "mu", "nu"}:
        raise JaLlmError(
            f"{loaded.directory}: this run's optimizer state ({', '.join(sorted(state))}) is not AdamW's with float32 moments, which t5x "
            "takes; train with `optimizers.AdamW()`, or cross over by way of the Hugging Face export, which leaves the optimizer behind."
        )
    return state, True


def is_t5x(source: Path) -> bool:
    """Whether this folder is a checkpoint that t5x wrote through orbax."""
    return _NAME.fullmatch(source.name) is not None and (source / "state").is_dir()


def from_t5x(source: str | Path, like: str | Path, out_dir: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Make a model directory of the weights in a checkpoint that t5x wrote.

    Args:
      source: .../checkpoint_<step>.
      like: the model directory that MODEL_DIRECTORY named: architecture and vocabulary, which t5x does not keep.
      out_dir: the model directory to write.
      overwrite: as of `checkpoints.new_model`.

    Returns:
      {"path", "step", "tensors"}.

    Raises:
      UsageError: `source` is no such checkpoint.
      JaLlmError: it is of another model, holds a number that is not finite, or can't be read.
    """
    source = Path(source).absolute()
    if not is_t5x(source):
        raise UsageError(f"{source}: this is no checkpoint of t5x; name its folder checkpoint_<step>, in which there is `state`.")
    step = int(_NAME.fullmatch(source.name)[1])  # type: ignore[index]
    like = Path(like).absolute()
    config, tokenizer = checkpoints.read_model_files(like)
    device = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    wanted = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), abstract_params(config))
    with readable(source):
        stored = stored_arrays.stored_tree(source / "state")
        if "target" not in stored:
            raise JaLlmError(f"{source}: this checkpoint holds no parameters (target).")
        stored_arrays.check_shapes(stored["target"], wanted, "model")
        params = stored_arrays.read_arrays(source / "state", {"target": wanted}, partial=True)["target"]
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not bool(np.isfinite(np.asarray(leaf, np.float32)).all()):
            name = jax.tree_util.keystr(keys, simple=True, separator="/")
            raise JaLlmError(f"{source}: {name} holds numbers that are not finite; take an earlier checkpoint.")
    lineage = read_json(like / "run.json", "ledger") if (like / "run.json").exists() else {}
    parents = [parent_entry(like, 0, lineage)]
    identity = {
        "checkpoint": f"t5x {source.parent.name}/{source.name}",
        "arrays": digests(params),
        "vocabulary": tokenizer.fingerprint,
    }
    ledger = new_ledger("import", identity, parents=parents, source=f"{source.parent.name}/{source.name}")
    with checkpoints.new_model(out_dir, config=config, tokenizer=tokenizer, ledger=ledger, overwrite=overwrite) as hidden:
        checkpoints.write_params(hidden, params, Path(out_dir).absolute(), step)
    return {"path": str(Path(out_dir).absolute()), "step": step, "tensors": len(jax.tree.leaves(params))}


def format_crossing(summary: dict[str, Any]) -> str:
    """One line of what `to_t5x` or `from_t5x` did."""
    moments = f", with {summary['optimizer']}" if "optimizer" in summary else "; its optimizer state stays behind"
    return f"{summary['path']}: step {summary['step']}, {summary['tensors']} parameters{moments}"
