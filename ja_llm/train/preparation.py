"""A run before anything is computed or written: its mesh, its state's layout, its ledger; what does not fit together is refused."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from ja_llm import sharding, storage
from ja_llm.data.schedule import DataSchedule, Position
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
from ja_llm.train.settings import described
from ja_llm.train.state import StatePlan, plan_state
from ja_llm.vocab.base import Tokenizer


class Data(Protocol):
    """What the loop asks of the data: see `ja_llm/data/stages.py`."""

    fingerprint: str
    batch_size: int
    length: int
    schedule: DataSchedule
    licences: dict[str, int]
    contents: list[dict[str, Any]]
    repeat_filter: bool

    def open(
        self, positions: Iterable[Position], shard: int, shards: int
    ) -> contextlib.AbstractContextManager[Iterator[tuple[Position, Mapping[str, np.ndarray]]]]:
        """Each data position with this host's rows of its batch, in their order."""


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
    evaluators: Mapping[str, Any] = MappingProxyType({}),
) -> Prepared:
    """Lay out a run; arguments as of `ja_llm.train.loop.run`.

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
    settings = {f.name: described(getattr(config, f.name)) for f in dataclasses.fields(config) if f.name not in _OF_ONE}
    measured = [[name, getattr(evaluator, "fingerprint", "")] for name, evaluator in evaluators.items()]
    check_same_settings({**ledger["identity"], **settings, "model": described(model), "evaluators": measured})

    def check_or_write(write: bool = True) -> int:
        done = (model_steps(directory) or [0])[-1]
        past = functools.partial(same_rates, schedule=schedule, until=done)
        open_ledger(directory / "run.json", ledger, done, past, accept=config.accept, write=write)
        return done

    rows = sharding.batch_sharding(mesh, config.rules)
    return Prepared(mesh, rows, plan, transformation, directory, shard, check_or_write)


# Settings that each process may have its own of. All others decide what is computed, or where processes wait for each other.
_OF_ONE = (
    "model_dir",
    "initial_checkpoint",
    "step_timeout",
    "phase_timeout",
    "maintenance",
    "profile",
    "peak_tflops",
    "wandb_project",
)


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
