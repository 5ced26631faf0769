"""A run before anything is computed or written: its mesh, its state's layout, its ledger; what does not fit together is refused."""

import functools
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from ja_llm import sharding, storage
from ja_llm.errors import UsageError
from ja_llm.files import canonical_json
from ja_llm.models.config import DecoderConfig
from ja_llm.train import wandb_run
from ja_llm.train.checkpoints import model_steps, read_description, refuse_foreign
from ja_llm.train.identity import describe_run
from ja_llm.train.learning_rates import Schedule, same_rates
from ja_llm.train.ledger import first_difference, open_ledger
from ja_llm.train.optimizers import Optimizer
from ja_llm.train.processes import told_by_all
from ja_llm.train.run_config import RunConfig
from ja_llm.train.state import StatePlan, plan_state
from ja_llm.vocab.base import Tokenizer


class Data(Protocol):
    """What the loop asks of the data: see `ja_llm/data/stages.py`."""

    fingerprint: str
    batch_size: int
    length: int
    schedule: Any
    licences: dict[str, int]
    contents: list[dict[str, Any]]


class Prepared(NamedTuple):
    """A run before anything is computed or written; what does not fit together has been refused.

    Attributes:
      mesh: the device mesh.
      rows: sharding of a batch's arrays.
      plan: shapes of the state, and how it is spread over the mesh.
      transformation: the optimizer's.
      directory: the run directory, absolute, as `storage.place` gives it.
      shard: (shard, shards): the rows of a batch that this host reads.
      open_ledger: (write=True) -> steps done; checks the ledger that is there, and with `write` writes it.
    """

    mesh: Any
    rows: Any
    plan: StatePlan
    transformation: Any
    directory: Any
    shard: tuple[int, int]
    open_ledger: Callable[..., int]


def prepare(
    config: RunConfig,
    model: DecoderConfig,
    tokenizer: Tokenizer,
    data: Data,
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    identity: dict[str, Any],
    evaluators: Iterable[str] = (),
) -> Prepared:
    """Lay out a run; arguments as of `ja_llm.train.loop.run`, but of evaluators their names.

    Raises:
      UsageError: another process of this run was given other settings; mesh, batch, optimizer, initial checkpoint or folder do not fit, no evaluator gives what KEEP_BEST ranks by, or the
        package for WANDB_PROJECT is not installed.
    """
    if config.keep_best is not None:
        config.keep_best.check(list(evaluators), config.unmeasured_saves())
    if config.wandb_project is not None:
        wandb_run.module(config.wandb_project)
    mesh = sharding.make_mesh(dict(config.mesh), slices=dict(config.dcn_mesh))
    sharding.check_batch(mesh, config.rules, data.batch_size, data.length, config.step.microbatches)
    shard = sharding.host_shard(mesh, config.rules)
    plan, transformation = plan_state(model, optimizer, config.step, mesh, config.rules)
    directory = storage.absolute(config.model_dir)
    refuse_foreign(directory)
    if (directory / "model.json").exists():
        read_description(directory / "model.json")
    ledger = describe_run(config, model, tokenizer, data, optimizer, schedule, identity, dict(mesh.shape))
    settings = {name: getattr(config, name) for name in _OF_ALL}
    check_same_settings({**ledger["identity"], **settings, "evaluators": list(evaluators)})

    def check_or_write(write: bool = True) -> int:
        done = (model_steps(directory) or [0])[-1]
        past = functools.partial(same_rates, schedule=schedule, until=done)
        open_ledger(directory / "run.json", ledger, done, past, accept=config.accept, write=write)
        return done

    rows = sharding.batch_sharding(mesh, config.rules)
    return Prepared(mesh, rows, plan, transformation, directory, shard, check_or_write)


# Settings outside a run's identity by which processes wait for each other.
_OF_ALL = ("total_steps", "checkpoint_period", "export_period", "eval_period", "eval_steps", "max_rollbacks", "rollback_margin")


def check_same_settings(settings: dict[str, Any]) -> None:
    """Refuse processes of one run that were given different commands; every process must come.

    Args:
      settings: this process's, of JSON's kinds.

    Raises:
      UsageError: another process has others; names the first, of all processes alike.
    """
    first, *others = (json.loads(told) for told in told_by_all(canonical_json(settings)))
    for rank, theirs in enumerate(others, 1):
        if theirs != first:
            name, ours, other = first_difference(first, theirs)
            raise UsageError(
                f"process {rank} of this run has {name} = {other!r}, process 0 has {ours!r}; give all processes the same command and data."
            )
