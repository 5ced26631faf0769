"""The training loop, read from top to bottom: mesh, model and state, ledger, restore, step, loop.

`main.py` makes its arguments from gin.

A batch is a pure function of (data fingerprint, seed, schedule, data_step), so the only state is the checkpoint: whatever
was killed goes on from the newest one and gives the same losses.
"""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm import sharding
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json
from ja_llm.models.config import CHECKPOINT_FIELDS, IDENTITY_FIELDS, DecoderConfig
from ja_llm.models.decoder import Decoder, init_params, param_axes
from ja_llm.progress import Progress
from ja_llm.sharding import DEFAULT_RULES, Rules, replicated
from ja_llm.train.checkpoints import (
    Checkpoints,
    load_model,
    model_steps,
    read_description,
    read_model_files,
    refuse_foreign,
    split_step,
    write_model_files,
)
from ja_llm.train.groups import check_groups
from ja_llm.train.learning_rates import Schedule
from ja_llm.train.ledger import lock_run, new_ledger, open_ledger, parent_entry, write_config
from ja_llm.train.metrics import MetricsWriter
from ja_llm.train.optimizers import Optimizer
from ja_llm.train.settings import described
from ja_llm.train.state import plan_state
from ja_llm.train.step import PLAIN, StepOptions, TrainState, init_optimizer, make_train_step
from ja_llm.vocab.base import Tokenizer

Evaluator = Callable[[Any], dict[str, float]]


class Data(Protocol):
    """What the loop asks of the data: see `ja_llm/data/batches.py`."""

    fingerprint: str
    batch_size: int
    length: int
    schedule: Any
    licences: dict[str, int]


# (first step, shard, number of shards) -> this host's rows of the batches of that step and the ones after it
OpenStream = Callable[[int, int, int], contextlib.AbstractContextManager[Iterator[Mapping[str, np.ndarray]]]]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything about a run that is not the model, the data or the optimizer.

    Attributes:
      model_dir: the run directory.
      total_steps: optimizer steps in all.
      seed: of the initial parameters (the data have the same seed in their own source).
      initial_checkpoint: model directory or DIR@STEP to start from; None starts from random parameters.
      mesh: devices per mesh axis; an absent axis has 1.
      rules: logical axis rules.
      step: microbatches, loss and its coefficients, groups of parameters, average, spikes.
      checkpoint_period: steps between checkpoints; one is always written at the end.
      keep_checkpoints: how many of the newest stay.
      eval_period: steps between evaluations, of which the first is at step 0; 0 evaluates at the end only.
    """

    model_dir: Path
    total_steps: int
    seed: int = 0
    initial_checkpoint: str | None = None
    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rules: Rules = DEFAULT_RULES
    step: StepOptions = PLAIN
    checkpoint_period: int = 1000
    keep_checkpoints: int = 2
    eval_period: int = 0


def run(
    config: RunConfig,
    model: DecoderConfig,
    tokenizer: Tokenizer,
    data: Data,
    open_stream: OpenStream,
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    identity: dict[str, Any],
    config_text: str = "",
    evaluators: Mapping[str, Evaluator] | None = None,
) -> TrainState:
    """Train, or go on training, until `config.total_steps`.

    Args:
      config: the run.
      model: configuration; with an initial checkpoint its architecture (but max_length) and storage must be that one's.
      tokenizer: of the data and the model.
      data: identity of the data, see `Data`.
      open_stream: gives the batches from a step on.
      optimizer: settings that make the optax transformation.
      schedule: step -> learning rate.
      identity: further settings for the ledger (model, optimizer, schedule, seed, batch size and fingerprints are added).
      config_text: the gin configuration, kept in the run directory as config.gin; another one on resume as config.<step>.gin.
      evaluators: name -> function of the parameters that gives metrics; each metric is logged as eval/<name>/<key>.

    Returns:
      The last state.

    Raises:
      UsageError: MODEL_DIR holds another run, or a setting does not fit.
      JaLlmError: the loss is not finite; a checkpoint is damaged; the disk is full.
    """
    # --- Mesh
    mesh = sharding.make_mesh(dict(config.mesh))
    sharding.check_batch(mesh, config.rules, data.batch_size, data.length, config.step.microbatches)
    sharding.check_hosts(mesh)

    # --- Model, state and how it is spread over the mesh
    module = Decoder(model)
    transformation = optimizer.transformation(param_axes(model))
    plan = plan_state(model, transformation, config.step, mesh, config.rules)
    optimizer.check(plan.abstract.params)
    check_groups(config.step.groups, plan.abstract.params, plan.axes)
    rows = sharding.batch_sharding(mesh, config.rules)

    # --- Ledger: a folder that holds another run is refused before anything is computed
    directory = Path(config.model_dir).absolute()
    refuse_foreign(directory)
    if (directory / "model.json").exists():
        read_description(directory / "model.json")
    parents = [_initial(config.initial_checkpoint, model, tokenizer)] if config.initial_checkpoint else []
    ledger = new_ledger(
        "train",
        {
            **identity,
            # How it is computed (remat, attention) may change between two calls of one run; the numbers and their layout not.
            "model": model.subset(IDENTITY_FIELDS),
            "initial": [{key: parent[key] for key in ("identity_hash", "step")} for parent in parents],
            "optimizer": described(optimizer),
            "schedule": described(schedule),
            "vocabulary": tokenizer.fingerprint,
            "data": data.fingerprint,
            "batch_size": data.batch_size,
            "length": data.length,
            "seed": config.seed,
            **_step_identity(config.step, model),
        },
        parents=parents,
        mesh=dict(mesh.shape),
        data_schedule=data.schedule.to_json(),
        licences=data.licences,
    )
    if jax.process_index() == 0:
        lock = lock_run(directory)  # noqa: F841 (held until the process ends)
        from_step = (model_steps(directory) or [0])[-1]
        open_ledger(directory / "run.json", ledger, from_step)
        write_model_files(directory, model, tokenizer)
        if config_text:
            write_config(directory, config_text, from_step)

    # --- Restore: (1) newest checkpoint of this run, (2) initial checkpoint, (3) random parameters
    checkpoints = Checkpoints(directory, keep=config.keep_checkpoints)
    start = (checkpoints.steps() or [0])[-1]
    if start:
        params, moments = checkpoints.restore(start, *plan.restorable())
    else:
        if config.initial_checkpoint:
            params = load_model(config.initial_checkpoint, shardings=plan.shardings.params).params
        else:
            key = jax.random.key(config.seed)
            params = jax.jit(lambda k: init_params(model, k), out_shardings=plan.shardings.params)(key)
        begin = jax.jit(lambda p: init_optimizer(transformation, p, config.step), out_shardings=plan.shardings.optimizer)
        moments = begin(params)
    state = TrainState(jax.device_put(jnp.asarray(start, jnp.int32), replicated(mesh)), params, moments)

    # --- Step: compiled once, the state's buffers are reused
    step_fn = jax.jit(
        make_train_step(module, transformation, schedule, config.step, axes=plan.axes),
        in_shardings=(plan.shardings, rows),
        out_shardings=(plan.shardings, replicated(mesh)),
        donate_argnums=0,
    )

    # --- Loop
    writer = MetricsWriter(directory, start) if jax.process_index() == 0 else None
    progress = Progress("train", config.total_steps, "step", initial=start)
    batches = open_stream(start, jax.process_index(), jax.process_count())
    with (
        _stop_on_signals() as stopped,
        sharding.use(mesh, config.rules),
        contextlib.closing(checkpoints),
        batches as stream,
        progress,
    ):
        if evaluators and config.eval_period and not start:  # what the curves fall from
            _evaluate(0, evaluators, state.params, writer)
        pending, clock = None, time.monotonic()
        for step in range(start, config.total_steps):
            batch = {k: jax.make_array_from_process_local_data(rows, v) for k, v in next(stream).items()}
            state, metrics = step_fn(state, batch)
            # The previous step's numbers are fetched while this one computes.
            clock = _report(pending, clock, writer, progress, checkpoints)
            pending = (step + 1, metrics)
            done = step + 1 == config.total_steps
            evaluate = done or (config.eval_period and (step + 1) % config.eval_period == 0)
            save = done or (step + 1) % config.checkpoint_period == 0
            if evaluate or save or stopped.is_set():
                clock = _report(pending, clock, writer, progress, checkpoints)
                pending = None
            if evaluators and evaluate:
                _evaluate(step + 1, evaluators, state.params, writer)
                clock = time.monotonic()
            stop = stopped.is_set() and not done  # asked once, after the evaluation: what it says it keeps it has saved
            if save or stop:
                checkpoints.save(step + 1, state.params, state.optimizer)
            if stop:
                checkpoints.wait()
                raise JaLlmError(
                    f"stopped at step {step + 1} of {config.total_steps}; {directory} keeps it, the same command goes on from there."
                )
    if writer:
        writer.close()
    return state


def _evaluate(step: int, evaluators: Mapping[str, Evaluator], params: Any, writer: MetricsWriter | None) -> None:
    results = {f"eval/{name}/{key}": value for name, f in evaluators.items() for key, value in f(params).items()}
    if writer:
        writer.write(step, results)


def _initial(path: str, model: DecoderConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The ledger's entry of the initial checkpoint, from its small files; its weights are read only by a run that begins."""
    directory, step = split_step(path)
    config, own = read_model_files(directory)
    if own.fingerprint != tokenizer.fingerprint:
        raise UsageError(
            f"{directory}: the checkpoint's vocabulary ({own.vocab_size} ids) is not the one that the data were tokenized with "
            f"({tokenizer.vocab_size} ids); run `ja-llm cache` with --vocab {directory}/vocab."
        )
    if config.vocab_size != model.vocab_size:
        raise UsageError(f"{directory}: the checkpoint has {config.vocab_size} embedding rows, the model {model.vocab_size}.")
    for name in CHECKPOINT_FIELDS:  # before a tree of another layout meets the checkpoint's own
        was, now = getattr(config, name), getattr(model, name)
        if was != now and name != "max_length":
            raise UsageError(f"{directory}: the checkpoint has {name} = {was!r}, the model {now!r}; give the checkpoint's own.")
    steps = model_steps(directory)
    if not steps:
        raise UsageError(f"{directory}: there is no finished checkpoint here yet.")
    ledger = read_json(directory / "run.json", "ledger") if (directory / "run.json").exists() else {}
    return parent_entry(directory, steps[-1] if step is None else step, ledger)


def _step_identity(options: StepOptions, model: DecoderConfig) -> dict[str, Any]:
    """What of the step decides the numbers. What came after the first runs stands there only where it is used."""
    given = {"groups": options.groups, "ema_decay": options.ema_decay, "spikes": options.spikes}
    return {
        "z_loss": options.z_loss,
        **({"balance_loss": options.balance_loss} if model.num_experts > 1 else {}),
        **{name: described(value) for name, value in given.items() if value not in (None, ())},
    }


def _report(pending: Any, clock: float, writer: MetricsWriter | None, progress: Progress, checkpoints: Checkpoints) -> float:
    """Fetch a step's metrics, stop on a loss that is not finite, log; returns the time of the fetch."""
    if pending is None:
        return clock
    step, metrics = pending
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    now = time.monotonic()
    if not values.pop("finite"):
        checkpoints.wait()
        raise _not_finite(step, checkpoints.directory, max(checkpoints.steps(), default=None))
    values["tokens_per_second"] = values["target_tokens"] / max(now - clock, 1e-9)
    if writer:
        writer.write(step, values)
    progress.update(1, f"loss {values['loss']:.4f}, {values['tokens_per_second']:.0f} tokens/s")
    return now


def _not_finite(step: int, directory: Path, newest: int | None) -> JaLlmError:
    """The sentence for a loss that is not finite. A run keeps its learning rate, so only another folder can have a lower one."""
    start = f"INITIAL_CHECKPOINT_PATH={directory}@{newest}" if newest else "the settings of this one"
    return JaLlmError(
        f"step {step}: the loss or its gradient is not finite, the parameters were left as before it; this run keeps its learning "
        f"rate, so begin another in a new MODEL_DIR with {start} and a lower PEAK_LEARNING_RATE, or look at the documents of that "
        "batch (`BatchSource.trace`)."
    )


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """SIGTERM (preemption) and the first Ctrl-C ask for a checkpoint and an orderly end; a second Ctrl-C ends at once."""
    stopped = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
