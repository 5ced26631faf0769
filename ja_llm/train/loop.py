"""The training loop, read from top to bottom: mesh, state, ledger, step, restore, loop.

`main.py` makes its arguments from gin. Where things are: the loss is `loss_sums`, called in `train_step` of `step.py`, which `compiled_step`
compiles; the update stands below it there; a save is `checkpoints.save`; the data position is the step's number alone:
`open_stream(start, ...)` is `StagedBatches.open`, which asks `schedule.data_step`.

A batch is a pure function of (data fingerprint, seed, schedule, data_step), so the only state is the checkpoint: whatever
was killed goes on from the newest one and gives the same losses.
"""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm import sharding, storage
from ja_llm.errors import JaLlmError
from ja_llm.files import write_text
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.progress import Progress
from ja_llm.sharding import replicated
from ja_llm.train import maintenance, memory, wandb_run
from ja_llm.train.checkpoint_errors import REMEDY, Damaged
from ja_llm.train.checkpoints import (
    Checkpoints,
    load_model,
    model_steps,
    read_description,
    refuse_foreign,
    write_model_files,
)
from ja_llm.train.goodput import Goodput
from ja_llm.train.identity import describe_run
from ja_llm.train.learning_rates import Schedule, same_rates
from ja_llm.train.ledger import lock_run, open_ledger, write_config
from ja_llm.train.metrics import MetricsWriter
from ja_llm.train.model_info import model_info
from ja_llm.train.monitors import Monitors
from ja_llm.train.optimizers import Optimizer
from ja_llm.train.processes import Stopped, StoppedByHand, Stopping, any_process, leave_if_lost, stop_on_signals, together
from ja_llm.train.reporting import Report
from ja_llm.train.rollback import OffendingStep, roll_back, rollbacks_of
from ja_llm.train.run_config import RunConfig
from ja_llm.train.state import StatePlan, plan_state
from ja_llm.train.step import StepOptions, TrainState, init_optimizer, make_train_step
from ja_llm.vocab.base import Tokenizer

Evaluator = Callable[[Any], dict[str, float]]


class Data(Protocol):
    """What the loop asks of the data: see `ja_llm/data/stages.py`."""

    fingerprint: str
    batch_size: int
    length: int
    schedule: Any
    licences: dict[str, int]
    contents: list[dict[str, Any]]


# (first step, shard, number of shards) -> this host's rows of the batches of that step and the ones after it
OpenStream = Callable[[int, int, int], contextlib.AbstractContextManager[Iterator[Mapping[str, np.ndarray]]]]


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
    exporter: Callable[[int], Any] | None = None,
    begun: float | None = None,
) -> TrainState:
    """Train, or go on training, until `config.total_steps`.

    Args:
      config: the run.
      model: configuration; with an initial checkpoint its architecture (but max_length) and storage must be that one's.
      tokenizer: of the data and the model.
      data: identity of the data, see `Data`; a rollback changes its schedule.
      open_stream: gives the batches from a step on.
      optimizer: settings that make the optax transformation.
      schedule: step -> learning rate.
      identity: further settings for the ledger (model, optimizer, schedule, seed, batch size and fingerprints are added).
      config_text: the gin configuration, kept in the run directory as config.gin; another one on resume as config.<step>.gin.
      evaluators: name -> function of the parameters that gives metrics; each metric is logged as eval/<name>/<key>.
      exporter: makes something of the checkpoint of a step (`RunConfig.export_period`), unless it is there already.
      begun: time.time() at which the call began, for goodput; None: now.

    Returns:
      The last state.

    Raises:
      UsageError: MODEL_DIR holds another run, or a setting does not fit.
      JaLlmError: the loss is not finite and the run may not go back again; no checkpoint is whole; the disk is full; the step
        does not fit into the device's memory.
    """
    # --- Mesh, state and ledger: what does not fit is refused before anything is computed
    begun = time.time() if begun is None else begun
    prepared = prepare(config, model, tokenizer, data, optimizer, schedule, identity=identity, evaluators=evaluators or ())
    mesh, rows, plan, transformation, directory = prepared[:5]
    writes = jax.process_index() == 0
    lock: Any = contextlib.ExitStack()
    spool = storage.Spool(directory)
    with together():  # what the first process refuses, all leave with
        if writes:
            lock = lock_run(directory)
            done = prepared.open_ledger()
            write_model_files(directory, model, tokenizer)
            write_text(directory / "model-info.txt", model_info(plan, model, mesh, data.length))
            if config_text:
                write_config(directory, config_text, done)

    compile_step = functools.partial(compiled_step, prepared, data, schedule)
    checkpoints = Checkpoints(directory, config.keep_checkpoints, keep_period=config.keep_period, best=config.keep_best)
    goodput = Goodput(directory / "goodput.json" if writes else None, begun)
    step_fn: Any = None
    rollbacks = rollbacks_of(directory / "run.json")
    with (
        contextlib.closing(lock),
        contextlib.closing(spool),
        stop_on_signals() as stopping,
        maintenance.watched(config.maintenance, stopping.ask),
        sharding.use(mesh, config.rules),
        contextlib.closing(checkpoints),
        Monitors(config, goodput, spool.folder) as monitors,
        wandb_run.opened(config.wandb_project if writes else None, directory, spool.folder) as wandb,
        _in_sentences(goodput, compile_step, model, config.step, data.batch_size // sharding.parts(mesh, rows.spec[0])),
    ):
        frozen = () if plan.lora is None else (_initial_params(config, model, plan),)
        while True:  # once, and again after each rollback
            # --- Restore: (1) newest whole checkpoint of this run, (2) initial checkpoint, (3) random parameters
            start, params, moments = _newest(checkpoints, plan) or (0, *_first_state(config, model, transformation, plan))
            state = TrainState(jax.device_put(jnp.asarray(start, jnp.int32), replicated(mesh)), params, moments)
            del params, moments  # their buffers are given to the first step
            goodput.starts_at(start)
            for step in checkpoints.steps() if exporter else ():  # one that a kill kept from its export
                if exporter and config.exports(step):
                    exporter(step)
            if step_fn is None and start < config.total_steps:
                goodput.phase("compile")
                step_fn = compile_step(model, config.step)

            # --- Loop
            writer = MetricsWriter(spool.folder, start, wandb) if writes else None
            progress = Progress("train", config.total_steps, "step", initial=start)
            report = Report(config, model, data, writer, progress)
            if not rollbacks and (sentence := report.convention()):
                _say(sentence)
            try:
                with progress, open_stream(start, *prepared.shard) as stream:
                    # What the curves fall from, and what a stop or a kill behind a save has left out
                    if evaluators and config.evaluates(start) and any_process(writer is not None and not writer.measured):
                        monitors.phase("evaluation", start)
                        _, stop = _evaluate(start, config, evaluators, plan.weights(state, frozen), writer, stopping)
                        if stop:
                            raise _stopped(stopping, start, config)
                    report.restart_clock()
                    for step in range(start, config.total_steps):
                        monitors.phase("data", step)
                        batch = {k: jax.make_array_from_process_local_data(rows, v) for k, v in next(stream).items()}
                        monitors.phase("step", step)
                        state, metrics = step_fn(state, batch, *frozen)
                        # The previous step's numbers are fetched while this one computes.
                        report.fetch()
                        report.pending = (step + 1, metrics)
                        stop = stopping.at(step + 1) and (step + 1 < config.total_steps or bool(evaluators))
                        if config.evaluates(step + 1) or config.saves(step + 1) or stop:
                            report.fetch()  # a step that is not finite is never saved
                        measured: dict[str, float] = {}
                        # Who is asked to end saves, and measures when the run goes on.
                        if evaluators and config.evaluates(step + 1) and not stop:
                            monitors.phase("evaluation", step + 1)
                            weights = plan.weights(state, frozen)
                            measured, stop = _evaluate(step + 1, config, evaluators, weights, writer, stopping)
                            del weights  # with LoRA a second model
                        if config.saves(step + 1) or stop:
                            monitors.phase("checkpoint", step + 1)
                            spool.mirror()
                            checkpoints.save(step + 1, *plan.stored(state, frozen), metrics=measured)
                            if writer:
                                writer.board(step + 1, {f"goodput/{kind}": share for kind, share in goodput.shares().items()})
                        if exporter and config.exports(step + 1) and not stop:
                            checkpoints.wait()
                            exporter(step + 1)
                            stop = stopping.at(step + 1) and step + 1 < config.total_steps
                        if stop:
                            checkpoints.wait()
                            raise _stopped(stopping, step + 1, config)
                        if config.evaluates(step + 1) or config.saves(step + 1):
                            report.restart_clock()
                break
            except OffendingStep as offence:
                monitors.phase("start", step)
                del state, batch, metrics  # the devices may not hold a second state beside it
                checkpoints.wait()
                data.schedule = _past(offence, data.schedule, checkpoints, config, rollbacks)
                rollbacks += 1
            finally:
                if writer:
                    writer.close()
        monitors.phase("checkpoint", config.total_steps)
        checkpoints.wait()
    return state


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
    """Lay out a run; arguments as of `run`, but of evaluators their names.

    Raises:
      UsageError: mesh, batch, optimizer, initial checkpoint or folder do not fit, no evaluator gives what KEEP_BEST ranks by, or the
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

    def check_or_write(write: bool = True) -> int:
        done = (model_steps(directory) or [0])[-1]
        past = functools.partial(same_rates, schedule=schedule, until=done)
        open_ledger(directory / "run.json", ledger, done, past, accept=config.accept, write=write)
        return done

    rows = sharding.batch_sharding(mesh, config.rules)
    return Prepared(mesh, rows, plan, transformation, directory, shard, check_or_write)


def compiled_step(prepared: Prepared, data: Data, schedule: Schedule, model: DecoderConfig, options: StepOptions) -> Any:
    """The step, compiled: (state, batch) -> (state, metrics). The state's buffers are reused; with LoRA the frozen model is a further argument."""
    layout = prepared.mesh, prepared.rows, prepared.plan, prepared.transformation
    return lowered_step(*layout, (data.batch_size, data.length), schedule, model, options).compile()


def lowered_step(
    mesh: Any,
    rows: Any,
    plan: StatePlan,
    transformation: Any,
    batch: tuple[int, int],
    schedule: Schedule,
    model: DecoderConfig,
    options: StepOptions,
    platform: str | None = None,
) -> Any:
    """What `compiled_step` compiles (a jax.stages.Lowered), for the devices of `mesh`, which need not be here.

    Args:
      mesh: see `Prepared`.
      rows: likewise.
      plan: likewise.
      transformation: likewise.
      batch: rows and tokens in each.
      schedule: step -> learning rate.
      model: the architecture.
      options: what the step does.
      platform: what to lower for ("cuda") where `mesh` is abstract; None: what its devices are.
    """
    frozen = () if plan.lora is None else (plan.model,)
    step = jax.jit(
        make_train_step(Decoder(model), transformation, schedule, options, axes=plan.axes),
        in_shardings=(plan.shardings, rows, *(jax.tree.map(lambda x: x.sharding, whole) for whole in frozen)),
        out_shardings=(plan.shardings, replicated(mesh)),
        donate_argnums=0,
    )
    traced = step.trace(plan.abstract, abstract_batch(*batch), *frozen)
    return traced.lower(lowering_platforms=None if platform is None else (platform,))


def _past(offence: OffendingStep, schedule: Any, checkpoints: Checkpoints, config: RunConfig, done: int) -> Any:
    """The data schedule that goes on from the newest checkpoint past the offending batches; the ledger has it too.

    Raises:
      JaLlmError: the run has had its rollbacks.
    """
    newest = max(checkpoints.steps(), default=0)
    longer = roll_back(
        schedule,
        offence,
        newest,
        checkpoints.directory / "run.json",
        done=done,
        allowed=config.max_rollbacks,
        margin=config.rollback_margin,
        write=jax.process_index() == 0,
    )
    _say(f"step {offence.step}: {offence.why}; back to step {newest}, past the batches from there to it.")
    return longer


def _newest(checkpoints: Checkpoints, plan: StatePlan) -> tuple[int, Any, Any] | None:
    """(step, parameters, optimizer state) of the newest checkpoint that is whole; None where the run has none.

    Raises:
      JaLlmError: what is there can't be read, or belongs to another model.
    """
    while steps := checkpoints.steps():
        try:
            return steps[-1], *plan.restored(*checkpoints.restore(steps[-1], *plan.restorable()))
        except Damaged as error:
            if len(steps) == 1:  # beginning anew by itself would cost the whole run
                alone = "it is the only one of this run: put a copy back, or remove it, and the same command begins the run anew."
                raise Damaged(str(error).replace(REMEDY, alone)) from error
            where = checkpoints.set_aside(steps[-1])
            _say(f"{error} It was moved to {where}, the run goes on from step {steps[-2]}.")
    return None


def _first_state(config: RunConfig, model: DecoderConfig, transformation: Any, plan: StatePlan) -> tuple[Any, Any]:
    """What learns, and the optimizer's state, of a run that begins."""
    if (lora := plan.lora) is not None:
        make = jax.jit(lambda key: lora.start(key, plan.abstract.params, plan.axes), out_shardings=plan.shardings.params)
        params = make(jax.random.key(config.seed))
    else:
        params = _initial_params(config, model, plan)
    begin = jax.jit(lambda p: init_optimizer(transformation, p, config.step), out_shardings=plan.shardings.optimizer)
    return params, begin(params)


def _initial_params(config: RunConfig, model: DecoderConfig, plan: StatePlan) -> Any:
    """The model that a run begins with: the initial checkpoint's, or random."""
    layout = jax.tree.map(lambda x: x.sharding, plan.model)
    if not config.initial_checkpoint:
        return jax.jit(lambda k: init_params(model, k), out_shardings=layout)(jax.random.key(config.seed))
    # Straight into the dtype that it stays in: a frozen model in float32 beside its bfloat16 would not fit where the latter does.
    return load_model(
        config.initial_checkpoint, shardings=layout, dtype=None if plan.lora is None else plan.lora.base_dtype
    ).params


def _evaluate(
    step: int,
    config: RunConfig,
    evaluators: Mapping[str, Evaluator],
    params: Any,
    writer: MetricsWriter | None,
    stopping: Stopping,
) -> tuple[dict[str, float], bool]:
    """What the evaluators measure, by its names in metrics.jsonl, and whether to end behind it.

    A run that is asked to end meanwhile is not held up by the evaluators that are left: then nothing is logged, and the evaluation is made
    when the run goes on.
    """
    results: dict[str, float] = {}
    for left, (name, evaluator) in zip(reversed(range(len(evaluators))), evaluators.items(), strict=True):
        results |= {f"eval/{name}/{key}": value for key, value in evaluator(params).items()}
        asked = stopping.now()
        if asked and left:
            return {}, True
    if config.keep_best is not None:
        config.keep_best.check_measured(results)
    if writer:
        writer.write(step, results)
    return results, asked and step < config.total_steps


def _stopped(stopping: Stopping, step: int, config: RunConfig) -> Stopped:
    return (Stopped if stopping.exit_code == Stopped.exit_code else StoppedByHand)(
        f"stopped at step {step} of {config.total_steps}; {storage.absolute(config.model_dir)} keeps it, the same command goes on from there."
    )


def _say(sentence: str) -> None:
    if jax.process_index() == 0:
        print(f"train: {sentence}", file=sys.stderr, flush=True)


def abstract_batch(rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch."""
    shape = (rows, length)
    whole = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids", "decoder_positions")
    return {
        **dict.fromkeys(whole, jax.ShapeDtypeStruct(shape, "int32")),
        "decoder_loss_weights": jax.ShapeDtypeStruct(shape, "float32"),
    }


@contextlib.contextmanager
def _in_sentences(
    goodput: Goodput, compile_step: memory.Compile, model: DecoderConfig, options: StepOptions, rows: int
) -> Iterator[None]:
    """Turn "out of memory" into the sentence that says what would fit, and a lost process into an exit to restart on."""
    try:
        yield
    except Exception as error:  # XLA's own kinds
        if isinstance(error, JaLlmError):
            raise
        if memory.is_out_of_memory(error):
            if (sentence := memory.elsewhere(goodput.current)) is not None:
                raise JaLlmError(sentence) from error
            raise memory.explain(compile_step, model, options, rows, memory.device_bytes(), None) from error
        leave_if_lost(error)
        raise
