"""The training loop, read from top to bottom: mesh, state, ledger, restore, loop.

`main.py` makes its arguments from gin. Where things are, in `run`:

- the loss: `loss_sums` (step.py), which calls the cross-entropy;
- the update: in `make_train_step` (step.py), below the loss and its gradient;
- the save: `checkpoints.save` (checkpoints.py);
- the data position: `data.schedule.position` (data/schedule.py) gives the (stage, data step) of each training step from its number, the stages and
  the batches that rollbacks passed over; `data.open` reads these batches ahead, and metrics.jsonl names the position that each step has read.

A batch is a pure function of (data fingerprint, seed, schedule, data_step), so the only state is the checkpoint and, of the schedule, the ledger: whatever
was killed goes on from the newest one and gives the same losses.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder
from ja_llm.progress import Progress
from ja_llm.sharding import replicated
from ja_llm.train import session
from ja_llm.train.evaluating import Evaluation, Evaluator
from ja_llm.train.forgetting import monitor_of
from ja_llm.train.learning_rates import Schedule
from ja_llm.train.metrics import MetricsWriter
from ja_llm.train.optimizers import Optimizer
from ja_llm.train.preparation import Data, prepare
from ja_llm.train.processes import say
from ja_llm.train.reporting import Report, counting
from ja_llm.train.restore import frozen_model, restored
from ja_llm.train.rollback import OffendingStep, go_back, rollbacks_of
from ja_llm.train.run_config import RunConfig
from ja_llm.train.state import StatePlan
from ja_llm.train.step import StepOptions, TrainState, loss_sums, make_train_step
from ja_llm.vocab.base import Tokenizer


def run(
    config: RunConfig,
    model: DecoderConfig,
    tokenizer: Tokenizer,
    data: Data,
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
      data: their identity and their batches, see `ja_llm.train.preparation.Data`; a rollback changes the schedule.
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

    def compile_step(model: DecoderConfig, options: StepOptions) -> Any:
        # Loss, gradient, update
        train_step = make_train_step(loss_sums, Decoder(model), transformation, schedule, options, axes=plan.axes)
        return lowered_step(train_step, mesh, rows, plan, (data.batch_size, data.length)).compile()

    with session.opened(config, prepared, model, tokenizer, data, compile_step, config_text=config_text, begun=begun) as its:
        checkpoints, monitors, stopping = its.checkpoints, its.monitors, its.stopping
        evaluation = Evaluation(config, evaluators, stopping)
        frozen = frozen_model(config, model, plan)
        counted = counting(mesh) if data.repeat_filter else None
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
            # The data position of each step, (stage, data step): by its number alone, past what rollbacks have skipped
            positions = map(data.schedule.position, range(start, config.total_steps))
            try:
                with progress, data.open(positions, *prepared.shard) as stream:
                    # What the curves fall from, and what a stop or a kill behind a save has left out
                    if evaluation.left_out(start, writer):
                        monitors.phase("evaluation", start)
                        if evaluation.measure(start, plan.weights(state, frozen), writer, forgetting)[1]:
                            raise evaluation.stopped(start)
                    report.restart_clock()
                    for step in range(start, config.total_steps):
                        monitors.phase("data", step)
                        position, arrays = next(stream)  # this host's rows of the batch at that data position
                        batch = {k: jax.make_array_from_process_local_data(rows, v) for k, v in arrays.items()}
                        monitors.phase("step", step)
                        state, metrics = step_fn(state, batch, *frozen)
                        if counted:
                            metrics = {**metrics, **counted(batch)}
                        report.fetch()  # the previous step's numbers, while this one computes
                        done = step + 1
                        report.pending = (done, position, metrics)
                        stop = stopping.at(done) and (done < config.total_steps or bool(evaluators))
                        if not (stop or config.evaluates(done) or config.saves(done)):
                            continue
                        report.fetch()  # a step that is not finite is never saved
                        measured = dict[str, float]()
                        if evaluation.due(done) and not stop:  # who is asked to end saves, and measures when the run goes on
                            monitors.phase("evaluation", done)
                            measured, stop = evaluation.measure(done, plan.weights(state, frozen), writer, forgetting)
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
                            raise evaluation.stopped(done)
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
    train_step: Callable[..., Any], mesh: Any, rows: Any, plan: StatePlan, batch: tuple[int, int], platform: str | None = None
) -> Any:
    """The step (a jax.stages.Lowered), for the devices of `mesh`, which need not be here: (state, batch) -> (state, metrics).

    The state's buffers are reused; with LoRA the frozen model is a further argument.

    Args:
      train_step: of `make_train_step`.
      mesh: see `ja_llm.train.preparation.Prepared`.
      rows: likewise.
      plan: likewise.
      batch: rows and tokens in each.
      platform: what to lower for ("cuda") where `mesh` is abstract; None: what its devices are.
    """
    frozen = () if plan.lora is None else (plan.model,)
    step = jax.jit(
        train_step,
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
