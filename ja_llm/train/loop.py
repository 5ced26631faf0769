"""The training loop, read from top to bottom: mesh, state, ledger, restore, loop.

`main.py` makes its arguments from gin. Where things are: the loss is `loss_sums`, called in `train_step` of `step.py`, which `lowered_step`
makes; the update stands below it there; a save is `checkpoints.save`; the data position is the step's number alone: `restored` gives the first one,
and `open_stream` is `StagedBatches.open` (data/stages.py), for each of whose batches `StagedBatches.at` asks `schedule.data_step`.

A batch is a pure function of (data fingerprint, seed, schedule, data_step), so the only state is the checkpoint: whatever
was killed goes on from the newest one and gives the same losses.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ja_llm import storage
from ja_llm.errors import JaLlmError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder
from ja_llm.progress import Progress
from ja_llm.sharding import replicated
from ja_llm.train import session
from ja_llm.train.forgetting import Alarmed, ForgettingMonitor, monitor_of
from ja_llm.train.learning_rates import Schedule
from ja_llm.train.metrics import MetricsWriter
from ja_llm.train.optimizers import Optimizer
from ja_llm.train.preparation import Data, prepare
from ja_llm.train.processes import Interrupted, Stopped, StoppedByHand, Stopping, any_process, say, told_by_all
from ja_llm.train.reporting import Report
from ja_llm.train.restore import frozen_model, restored
from ja_llm.train.rollback import OffendingStep, go_back, rollbacks_of
from ja_llm.train.run_config import RunConfig
from ja_llm.train.state import StatePlan
from ja_llm.train.step import StepOptions, TrainState, make_train_step
from ja_llm.vocab.base import Tokenizer

Evaluator = Callable[[Any], dict[str, float]]

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
      data: identity of the data, see `ja_llm.train.preparation.Data`; a rollback changes its schedule.
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
    # --- Mesh, layout of the state, ledger: what does not fit is refused before anything is computed
    begun = time.time() if begun is None else begun
    evaluators = evaluators or {}
    prepared = prepare(config, model, tokenizer, data, optimizer, schedule, identity=identity, evaluators=evaluators)
    mesh, rows, plan, transformation = prepared[:4]
    lower = functools.partial(lowered_step, mesh, rows, plan, transformation, (data.batch_size, data.length), schedule)

    def compile_step(model: DecoderConfig, options: StepOptions) -> Any:
        return lower(model, options).compile()

    with session.opened(config, prepared, model, tokenizer, data, compile_step, config_text=config_text, begun=begun) as its:
        checkpoints, monitors, stopping = its.checkpoints, its.monitors, its.stopping
        frozen = frozen_model(config, model, plan)
        rollbacks = rollbacks_of(prepared.directory / "run.json")
        step_fn: Any = None
        while True:  # once, and again after each rollback
            # --- Restore: (1) newest whole checkpoint of this run, (2) initial checkpoint, (3) random parameters
            start, state = restored(checkpoints, config, model, prepared)
            its.goodput.starts_at(start)
            for step in checkpoints.steps():
                if exporter and config.exports(step):
                    exporter(step)  # where a kill came between a save and its export
            if step_fn is None and start < config.total_steps:
                its.goodput.phase("compile")
                step_fn = compile_step(model, config.step)

            # --- Loop
            writer = MetricsWriter(its.spool.folder, start, its.wandb) if its.writes else None
            progress = Progress("train", config.total_steps, "step", initial=start)
            report = Report(config, model, data, writer, progress)
            forgetting = monitor_of(its.spool.folder, config, evaluators, start) if its.writes else None
            if not rollbacks and (sentence := report.convention()):
                say(sentence)
            try:
                with progress, open_stream(start, *prepared.shard) as stream:
                    # What the curves fall from, and what a stop or a kill behind a save has left out
                    if evaluators and config.evaluates(start) and any_process(writer is not None and not writer.measured):
                        monitors.phase("evaluation", start)
                        weights = plan.weights(state, frozen)
                        _, stop, alarm = _evaluate(start, config, evaluators, weights, writer, stopping, forgetting)
                        del weights  # with LoRA a second model
                        if stop:
                            raise _stopped(stopping, start, config, alarm)
                    report.restart_clock()
                    for step in range(start, config.total_steps):
                        monitors.phase("data", step)
                        batch = {k: jax.make_array_from_process_local_data(rows, v) for k, v in next(stream).items()}
                        monitors.phase("step", step)
                        state, metrics = step_fn(state, batch, *frozen)
                        report.fetch()  # the previous step's numbers, while this one computes
                        done = step + 1
                        report.pending = (done, metrics)
                        stop = stopping.at(done) and (done < config.total_steps or bool(evaluators))
                        if not (stop or config.evaluates(done) or config.saves(done)):
                            continue
                        report.fetch()  # a step that is not finite is never saved
                        measured, alarm = dict[str, float](), ""
                        # Who is asked to end saves, and measures when the run goes on.
                        if evaluators and config.evaluates(done) and not stop:
                            monitors.phase("evaluation", done)
                            weights = plan.weights(state, frozen)
                            measured, stop, alarm = _evaluate(done, config, evaluators, weights, writer, stopping, forgetting)
                            del weights  # with LoRA a second model
                        if config.saves(done) or stop:
                            monitors.phase("checkpoint", done)
                            its.spool.mirror()
                            checkpoints.save(done, *plan.stored(state, frozen), metrics=measured)
                            if writer:
                                writer.board(done, {f"goodput/{kind}": share for kind, share in its.goodput.shares().items()})
                        if exporter and config.exports(done) and not stop:
                            checkpoints.wait()
                            exporter(done)
                            stop = stopping.at(done) and done < config.total_steps
                        if stop:
                            checkpoints.wait()
                            raise _stopped(stopping, done, config, alarm)
                        report.restart_clock()
                break
            except OffendingStep as offence:
                monitors.phase("start", step)
                del state, batch, metrics  # the devices may not hold a second state beside it
                checkpoints.wait()
                data.schedule = go_back(offence, data.schedule, checkpoints, config, done=rollbacks)
                rollbacks += 1
            finally:
                if writer:
                    writer.close()
        monitors.phase("checkpoint", config.total_steps)
        checkpoints.wait()
    return state


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
    """The step (a jax.stages.Lowered), for the devices of `mesh`, which need not be here: (state, batch) -> (state, metrics).

    The state's buffers are reused; with LoRA the frozen model is a further argument.

    Args:
      mesh: see `ja_llm.train.preparation.Prepared`.
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


def abstract_batch(rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch."""
    shape = (rows, length)
    whole = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids", "decoder_positions")
    return {
        **dict.fromkeys(whole, jax.ShapeDtypeStruct(shape, "int32")),
        "decoder_loss_weights": jax.ShapeDtypeStruct(shape, "float32"),
    }


def _evaluate(
    step: int,
    config: RunConfig,
    evaluators: Mapping[str, Evaluator],
    params: Any,
    writer: MetricsWriter | None,
    stopping: Stopping,
    forgetting: ForgettingMonitor | None,
) -> tuple[dict[str, float], bool, str]:
    """What the evaluators measure, by its names in metrics.jsonl, whether to end behind it, and which alarm says so ("": none).

    A run that is asked to end meanwhile leaves the evaluator behind its next batch, and those that are left: then nothing is logged, and the
    evaluation is made when the run goes on.
    """
    results: dict[str, float] = {}
    for left, (name, evaluator) in zip(reversed(range(len(evaluators))), evaluators.items(), strict=True):
        found: dict[str, float] | None = None
        with contextlib.suppress(Interrupted), stopping.interrupts():
            found = evaluator(params)
        asked, whole = stopping.now(found is not None)
        if asked and (left or not whole):
            return {}, True, ""
        results |= {f"eval/{name}/{key}": value for key, value in (found or {}).items()}
    if config.keep_best is not None:
        config.keep_best.check_measured(results)
    watched, alarm = forgetting.look(step) if forgetting else ({}, "")
    if writer:
        writer.write(step, results | watched)
    if any(one.stop for one in config.alarms):  # the process that writes says it to all
        alarm = next(filter(None, told_by_all(alarm)), "")
    return results, (asked or bool(alarm)) and step < config.total_steps, alarm


def _stopped(stopping: Stopping, step: int, config: RunConfig, alarm: str) -> JaLlmError:
    if alarm:
        return Alarmed(
            f"step {step}: {alarm}, so the run stopped; {storage.absolute(config.model_dir)} keeps it. Raise the bound or set Alarm.stop = False, and "
            "the same command goes on from there."
        )
    return (Stopped if stopping.exit_code == Stopped.exit_code else StoppedByHand)(
        f"stopped at step {step} of {config.total_steps}; {storage.absolute(config.model_dir)} keeps it, the same command goes on from there."
    )
