"""The gin-configured entry of training: resolves names into data, model and optimizer, and calls the loop.

Macros are t5x's: MIXTURE_OR_TASK_NAME, TASK_FEATURE_LENGTHS, TRAIN_STEPS, MODEL_DIR, INITIAL_CHECKPOINT_PATH, BATCH_SIZE,
RANDOM_SEED; CACHE_DIR (the output of `ja-llm cache`) is ours.
"""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
import jax

from ja_llm import progress, storage
from ja_llm.attention.registry import chosen
from ja_llm.data.rates import Rule
from ja_llm.data.stages import Stage, check_begins
from ja_llm.errors import UsageError
from ja_llm.files import local_path, read_json
from ja_llm.models.config import OVERRIDABLE_FIELDS, STORAGE_FIELDS, DecoderConfig
from ja_llm.models.decoder import abstract_params
from ja_llm.models.self_attention import implementation
from ja_llm.sharding import DEFAULT_RULES, Rules
from ja_llm.train import learning_rates
from ja_llm.train.alarms import Alarm, check_alarms
from ja_llm.train.checks import check_settings
from ja_llm.train.forgetting import judged_steps
from ja_llm.train.groups import Group
from ja_llm.train.lora import Lora
from ja_llm.train.optimizers import Optimizer
from ja_llm.train.processes import alone, say, together
from ja_llm.train.retention import Best
from ja_llm.train.spikes import SpikeDetector
from ja_llm.train.step import LOSSES, StepOptions, TrainState

REQUIRED_MACROS = ("MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "TRAIN_STEPS", "MODEL_DIR")


@gin.configurable
def train(
    *,
    mixture_or_task_name: str = gin.REQUIRED,
    task_feature_lengths: Mapping[str, int] = gin.REQUIRED,
    cache_dir: str = gin.REQUIRED,
    model_dir: str | os.PathLike = gin.REQUIRED,
    total_steps: int = gin.REQUIRED,
    batch_size: int = gin.REQUIRED,
    optimizer: Optimizer = gin.REQUIRED,
    schedule: learning_rates.Schedule = gin.REQUIRED,
    model: Callable[..., DecoderConfig] | None = None,
    model_overrides: Mapping[str, Any] | None = None,
    initial_checkpoint_path: str | None = None,
    random_seed: int = 0,
    mesh: Mapping[str, int] | None = None,
    dcn_mesh: Mapping[str, int] | None = None,
    logical_axis_rules: Rules = DEFAULT_RULES,
    microbatches: int = 1,
    z_loss: float = 0.0,
    balance_loss: float = 0.01,
    loss: str = "linear",
    groups: Sequence[Group] = (),
    ema_decay: float | None = None,
    spikes: SpikeDetector | None = None,
    log_norms: bool = False,
    lora: Lora | None = None,
    checkpoint_period: int = 1000,
    keep_checkpoints: int = 2,
    keep_period: int | None = None,
    keep_best: Best | None = None,
    export_period: int | None = None,
    max_rollbacks: int = 3,
    rollback_margin: int = 0,
    step_timeout: float | None = None,
    phase_timeout: float | None = None,
    maintenance: str | None = None,
    accept: Sequence[str] = (),
    profile: tuple[int, int] | None = None,
    peak_tflops: float | None = None,
    wandb_project: str | None = None,
    eval_period: int = 0,
    eval_steps: Sequence[int] = (),
    eval_documents: int = 64,
    rates: Rule | Mapping[str, float] | None = None,
    probes: Sequence[str] = (),
    alarms: Sequence[Alarm] = (),
    stages: Sequence[Stage] = (),
    packing: str = "concatenate",
    max_epochs: float | Mapping[str, float] | None = None,
    subset_tokens: Mapping[str, float] | None = None,
    repeat_filter: bool = False,
    data_schedule: str | None = None,
    eval_tasks: Sequence[str] = (),
    eval_data: str | None = None,
    eval_document_set: str | None = None,
    eval_limit: int = 100,
    dry_run: bool = False,
) -> TrainState | None:
    """Train a decoder on a cached mixture.

    Args:
      mixture_or_task_name: the name that CACHE_DIR was made for.
      task_feature_lengths: {"targets": row length in tokens}.
      cache_dir: output of `ja-llm cache`.
      model_dir: the run directory; a run that is there goes on.
      total_steps: optimizer steps in all.
      batch_size: rows a step, over all hosts.
      optimizer: its settings, e.g. @AdamW().
      schedule: step -> learning rate.
      model: makes the DecoderConfig given `vocab_size`; an initial checkpoint brings its own.
      model_overrides: fields of the initial checkpoint's DecoderConfig to change: how it is computed (dtype, remat_policy,
        attention), or a larger max_length.
      initial_checkpoint_path: model directory or DIR@STEP.
      random_seed: of parameters and data order.
      mesh: devices per mesh axis (data, fsdp, tensor, context, expert).
      dcn_mesh: parts with a slow network between them (slices, hosts) per mesh axis; `mesh` is then of one part.
      logical_axis_rules: logical axis -> mesh axis.
      microbatches: parts of a batch whose gradients are added.
      z_loss: coefficient of the squared log-normaliser.
      balance_loss: coefficient of the experts' load-balance loss; a dense model has none.
      loss: "linear" (never holds the logits) or "logits" (makes them all).
      groups: parameters with a learning rate of their own, or frozen ones, e.g. (@tables/groups.Group(), @rest/groups.Group()).
      ema_decay: keep an exponential moving average of the parameters, for `ja-llm average --ema`.
      spikes: what to do where loss or gradient norm jump, e.g. @spikes.SpikeDetector().
      lora: freeze the initial checkpoint and train adapters, e.g. @lora.Lora().
      log_norms: log gradient, update and parameter norms of each part of the model.
      checkpoint_period: steps between checkpoints.
      keep_checkpoints: how many newest checkpoints stay.
      keep_period: checkpoints whose step is a multiple of it stay for good.
      keep_best: checkpoints that stay by a metric of their evaluation, e.g. @retention.Best().
      export_period: steps between exports to Hugging Face's format, MODEL_DIR/export/STEP; a multiple of checkpoint_period.
      max_rollbacks: how often the run may go back to its last checkpoint behind a step that is not finite, or a spike.
      rollback_margin: batches behind the offending one that are passed over too.
      step_timeout: seconds without a step after which the process says who is silent and ends with code 75; None waits for ever.
      phase_timeout: the same for whatever else the loop does: an evaluation, a save, reading a checkpoint, compiling.
      maintenance: where notices of maintenance come from: "gce" (Compute Engine and Cloud TPU) or a URL that answers alike; the run then saves
        and ends as at SIGTERM.
      accept: settings of a run that goes on that may differ from the ledger's, e.g. ("data", "vocabulary"); the ledger notes it.
      profile: (first step, steps) to write a profile of, into MODEL_DIR/profile.
      peak_tflops: of one device, for MFU, where the table in `ja_llm.train.flops` does not know it.
      wandb_project: project on Weights & Biases that gets the metrics too (extra `wandb`).
      eval_period: steps between held-out evaluations, of which the first is at step 0; 0 for the end only.
      eval_steps: further steps to evaluate at.
      eval_documents: held-out documents per task in those evaluations; 0 for no evaluation.
      rates: other shares of the tokens than those that CACHE_DIR was made with: {task: share}, or a rule, e.g. @rates.UniMax().
      probes: further outputs of `ja-llm cache`, of whose held-out documents alone bits per byte are measured too.
      alarms: bounds for those bits per byte, e.g. (@english/alarms.Alarm(),); step 0 is then evaluated in any case.
      stages: other mixtures from later steps on, e.g. (@anneal/stages.Stage(),); may be added while a run goes on.
      packing: "concatenate" or "best_fit", see `ja_llm.data.batches.BatchSource`.
      max_epochs: how often a source may be read at most, for all or {task: epochs}; a run that would do more does not start.
      subset_tokens: {task: tokens}: read only so many tokens of a source, a random draw of its documents, as often as the run takes.
      repeat_filter: give no loss to rows that repeat a span of up to 13 tokens 32 times or more (OLMo 2); metrics have their share as repeat_masked.
      data_schedule: the run.json of another run, whose skipped batches a new run skips too: its losses are that run's.
      eval_tasks: tasks of `ja-llm eval` that are measured then, too (ja_llm/evaluation/in_loop.py).
      eval_data: folder of original files for them.
      eval_document_set: document set, for those on held-out documents.
      eval_limit: examples of each of them.
      dry_run: say what would be done, and stop.

    Returns:
      The last state, or None for a dry run.

    Raises:
      UsageError: a setting is missing or does not fit.
      JaLlmError: see `ja_llm.train.loop.run`.
    """
    given = dict(locals())
    check_settings(given)
    check_begins(mixture_or_task_name, stages, total_steps)
    options = step_options(given)
    from ja_llm.data.stages import StagedBatches
    from ja_llm.evaluation.heldout import heldout_evaluators
    from ja_llm.train.checkpoints import model_steps
    from ja_llm.train.loop import run
    from ja_llm.train.preparation import prepare
    from ja_llm.train.reporting import outcome
    from ja_llm.train.run_config import RunConfig
    from ja_llm.vocab.base import load_tokenizer

    begun = time.time()
    model_dir, cache_dir = str(model_dir), str(cache_dir)
    local_path(cache_dir)
    directory = storage.place(model_dir)
    if storage.is_remote(directory) and export_period is not None:
        raise UsageError(
            f"EXPORT_PERIOD is {export_period}, but exports are written to local folders only, not to {model_dir}; leave it out."
        )
    length = task_feature_lengths["targets"]
    ledger = directory / "run.json"
    stored = _stored_schedule(ledger, data_schedule)
    done = (model_steps(directory) or [0])[-1]
    open_batches = functools.partial(
        StagedBatches,
        cache_dir,
        stages,
        length=length,
        batch_size=batch_size,
        seed=random_seed,
        packing=packing,
        from_step=done,
        mixing=stored.mixing if stored else None,
        rates=rates,
        steps=total_steps,
        subset_tokens=subset_tokens,
        repeat_filter=repeat_filter,
    )
    batches = open_batches(stored=None if "data" in accept else stored)
    if "data" in accept and ledger.exists() and _data_of(ledger) == batches.fingerprint:
        # Accepted before, or not needed. (Other data are read as if they had been the run's from the beginning: what it passed over of the
        # old ones says nothing of them.)
        batches = open_batches(stored=stored)
    held = batches.manifest["config"]["name"]
    if held != mixture_or_task_name:
        raise UsageError(
            f"{cache_dir}: this cache holds {held!r}, not {mixture_or_task_name!r}; run `ja-llm cache --task {mixture_or_task_name}`."
        )
    batches.check_length()
    try:
        batches.check_epochs(total_steps, max_epochs)
    except UsageError:  # what each source would be read is what the refusal is to be mended by
        if jax.process_index() == 0:
            print(f"data: {_shares(batches, total_steps)}", flush=True)
        raise
    tokenizer = load_tokenizer(Path(cache_dir) / "vocab")
    config = model_config(model, model_overrides, initial_checkpoint_path, tokenizer.vocab_size)
    check_length(config, length)
    if config.positions == "learned":
        batches.limit_positions(config.max_length)
    run_config = RunConfig(
        model_dir=directory,
        total_steps=total_steps,
        seed=random_seed,
        initial_checkpoint=initial_checkpoint_path,
        mesh=mesh or {},
        dcn_mesh=dcn_mesh or {},
        rules=logical_axis_rules,
        step=options,
        checkpoint_period=checkpoint_period,
        keep_checkpoints=keep_checkpoints,
        keep_period=keep_period,
        keep_best=keep_best,
        export_period=export_period,
        max_rollbacks=max_rollbacks,
        rollback_margin=rollback_margin,
        step_timeout=step_timeout,
        phase_timeout=phase_timeout,
        maintenance=maintenance,
        accept=tuple(accept),
        profile=None if profile is None else (profile[0], profile[1]),
        peak_tflops=peak_tflops,
        wandb_project=wandb_project,
        eval_steps=tuple(eval_steps),
        eval_period=eval_period,
        alarms=tuple(alarms),
    )
    identity = {"mixture": held}
    evaluators: dict[str, Any] = {}
    if eval_documents:
        evaluators |= heldout_evaluators(cache_dir, config, length=length, documents=eval_documents, others=probes)
    check_alarms(alarms, {name: len(probe) for name, probe in evaluators.items()}, judged_steps(run_config))
    if (eval_period or eval_steps) and not evaluators and not eval_tasks:
        if not eval_documents:
            raise UsageError(
                "train.eval_documents is 0, so there is nothing to evaluate by (EVAL_PERIOD, train.eval_steps); raise it, name "
                "train.eval_tasks, or leave both out."
            )
        raise UsageError(
            f"{cache_dir}: there are no held-out documents here to evaluate by (EVAL_PERIOD, train.eval_steps); make the cache of a corpus with "
            "a held-out split, name train.eval_tasks, or leave both out."
        )
    if eval_tasks:
        from ja_llm.evaluation.in_loop import task_evaluators

        evaluators |= task_evaluators(
            eval_tasks, config, tokenizer, data=eval_data, root=eval_document_set, limit=eval_limit, length=length
        )
    if dry_run:  # whatever would be refused is refused here too; nothing is written
        prepared = prepare(run_config, config, tokenizer, batches, optimizer, schedule, identity=identity, evaluators=evaluators)
        prepared.open_ledger(write=False)
        print(_plan(run_config, config, batches))
        return None
    if jax.process_index() == 0 and not progress.quiet():
        print(f"data: {_shares(batches, total_steps)}\npacking: {_packing(batches)}\nattention: {_attention(config)}", flush=True)
    state = run(
        run_config,
        config,
        tokenizer,
        batches,
        optimizer,
        schedule,
        identity=identity,
        # Model, optimizer, schedule and this function's arguments were made by now, so each value stands in it, bound or default.
        config_text=gin.operative_config_str(),
        evaluators=evaluators,
        begun=begun,
        exporter=None if export_period is None else lambda step: _export(model_dir, step),
    )
    if jax.process_index() == 0 and not progress.quiet():
        print(outcome(directory, total_steps, already=done >= total_steps), flush=True)
    return state


def step_options(given: Mapping[str, Any]) -> StepOptions:
    """What the step does, from arguments of `train` by name.

    Raises:
      UsageError: there is no such loss.
    """
    if given["loss"] not in LOSSES:
        raise UsageError(f"LOSS is {given['loss']!r}; choose one of {', '.join(LOSSES)}.")
    chosen = {field.name: given[field.name] for field in dataclasses.fields(StepOptions)}
    return StepOptions(**{**chosen, "groups": tuple(given["groups"])})


def check_length(config: DecoderConfig, length: int) -> None:
    """Raise UsageError for rows that are longer than the model takes."""
    if length > config.max_length:
        raise UsageError(
            f"TASK_FEATURE_LENGTHS asks for rows of {length} tokens, the model takes {config.max_length}; lower it, or raise DecoderConfig.max_length (MODEL_OVERRIDES for an initial checkpoint)."
        )


@gin.configurable
def architecture_of(vocab_size: int, directory: str = gin.REQUIRED) -> DecoderConfig:
    """A MODEL: the configuration of a model that exists, for new random weights.

    Args:
      vocab_size: rows of the embedding table that the data needs.
      directory: model directory or run.

    Raises:
      UsageError: there is no such directory, or it was made for another vocabulary.
    """
    from ja_llm.train.checkpoints import read_model_files, split_step

    path = split_step(directory)[0]
    if not path.exists():
        raise UsageError(f"{path}: this model directory does not exist.")
    config, tokenizer = read_model_files(path)
    if tokenizer.vocab_size != vocab_size:
        raise UsageError(
            f"{path}: this model has {tokenizer.vocab_size} ids, the data {vocab_size}; run `ja-llm cache` with this model's vocabulary."
        )
    return config


def model_config(
    model: Callable[..., DecoderConfig] | None, overrides: Mapping[str, Any] | None, initial: str | None, vocab_size: int
) -> DecoderConfig:
    """The architecture: the initial checkpoint's own, or MODEL with the data's vocabulary size."""
    from ja_llm.train.checkpoints import read_model_files, split_step

    if initial:
        directory = split_step(initial)[0]
        head, _, tail = str(initial).rpartition("@")
        if not directory.exists() and head and storage.place(head).exists():
            raise UsageError(
                f"INITIAL_CHECKPOINT_PATH is {str(initial)!r}, but {tail!r} is no step; give {head}@STEP, or {head} for the newest."
            )
        if not directory.exists():
            raise UsageError(f"{directory}: this initial checkpoint does not exist.")
        return overridden(read_model_files(directory)[0], overrides or {})
    if overrides:
        raise UsageError(
            "MODEL_OVERRIDES change an initial checkpoint's configuration; a new model has its own in the MODEL gin file."
        )
    if model is None:
        raise UsageError(
            "there is neither a MODEL nor an INITIAL_CHECKPOINT_PATH; add --gin_file=models/NAME.gin or --gin.INITIAL_CHECKPOINT_PATH=DIR."
        )
    return model(vocab_size=vocab_size)


def overridden(config: DecoderConfig, overrides: Mapping[str, Any]) -> DecoderConfig:
    """An initial checkpoint's configuration with the fields of MODEL_OVERRIDES.

    Raises:
      UsageError: a field can't be changed, or not so.
    """
    for name in sorted(overrides.keys() - set(OVERRIDABLE_FIELDS)):
        why = " (it says how the checkpoint's arrays lie)" if name in STORAGE_FIELDS else ""
        raise UsageError(
            f"MODEL_OVERRIDES names {name!r}{why}; of a checkpoint only {', '.join(OVERRIDABLE_FIELDS)} may be changed."
        )
    if config.positions == "learned" and overrides.get("max_length", config.max_length) != config.max_length:
        raise UsageError(
            f"MODEL_OVERRIDES names 'max_length', but this model has learnt its {config.max_length} positions, one row each; leave it out."
        )
    changed = dataclasses.replace(config, **overrides)
    if changed.max_length < config.max_length:
        raise UsageError(
            f"MODEL_OVERRIDES lowers max_length from {config.max_length} to {changed.max_length}; the model was made for the former, "
            "so leave it out: TASK_FEATURE_LENGTHS alone makes rows shorter."
        )
    return changed


def _stored_schedule(ledger: Path, other: str | None) -> Any:
    """The run's own data schedule (what a rollback skipped stays skipped), or for a run that begins that of `other`'s."""
    from ja_llm.data.schedule import DataSchedule

    path = ledger if ledger.exists() else Path(other) if other else None
    value = read_json(path, "ledger").get("data_schedule") if path else None
    return DataSchedule.from_json(value) if value else None


def _data_of(ledger: Path) -> Any:
    """Fingerprint of the data that a run is on."""
    return read_json(ledger, "ledger").get("identity", {}).get("data")


def _export(model_dir: str, step: int) -> None:
    """Process 0 exports the checkpoint of `step`, which the others wait for; its errors are theirs."""
    from ja_llm.interop.hf import export_hf

    folder = Path(model_dir) / "export" / str(step)
    with together():
        if jax.process_index() == 0 and not folder.exists():
            with alone():
                export_hf(f"{model_dir}@{step}", folder)


def _shares(batches: Any, steps: int) -> str:
    """What a run will read of each source, and after how many rows (of each stage) the shares are exact, one sentence."""
    parts = [
        f"{task} {part['share']:.1%} of {part['tokens'] / part['share'] / 1e6:.2f}M tokens = {part['epochs']:.2f} epochs"
        for task, part in batches.statement(steps).items()
        if part["share"]
    ]
    afters = [source.mixing.exact_after for source in batches.sources if len(source.rates) > 1]
    afters = [
        after for after in afters if after and after <= steps * batches.batch_size
    ]  # of blocks that the run comes to the end of
    if blocks := ["row" if after == 1 else f"{after:,} rows" for after in afters]:
        parts.append(f"shares exact to a row after every {', then '.join(blocks)}")
    return "; ".join(parts)


def _packing(batches: Any) -> str:
    """How full the rows of each source are, and how many of its documents are cut, one sentence."""
    parts = {task: part for source in batches.sources for task, part in source.statistics().items()}
    return "; ".join(
        f"{task} {part['documents']} documents in {part['rows']} rows, {part['padding']:.1%} padding, {part['documents_cut']} cut"
        for task, part in parts.items()
    )


def _plan(run: Any, config: DecoderConfig, batches: Any) -> str:
    tokens = run.total_steps * batches.batch_size * batches.length
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config)))
    return (
        f"would train {parameters / 1e6:.2f}M parameters for {run.total_steps} steps ({tokens / 1e6:.2f}M tokens) into {run.model_dir}\n"
        f"data: {_shares(batches, run.total_steps)}\npacking: {_packing(batches)}\nattention: {_attention(config)}\n"
        f"model: {config.to_json()}"
    )


def _attention(config: DecoderConfig) -> str:
    name = chosen(implementation(config))
    return f"{name}, this platform's own" if config.attention == "default" else name


def main(files: Sequence[str], bindings: Sequence[str], search_paths: str = "", dry_run: bool = False) -> TrainState | None:
    """Parse gin and train: what `ja-llm train` and `python -m ja_llm.train` call."""
    from ja_llm import gin_utils
    from ja_llm.train import t5x_names

    t5x_names.check_files(files)
    bindings, notes = t5x_names.take_bindings(bindings)
    foreign, entries = t5x_names.noting(notes), (train, DecoderConfig)
    with gin_utils.parsed(files, bindings, search_paths, required=REQUIRED_MACROS, foreign=foreign, entries=entries):
        for sentence in notes:
            say(sentence)
        try:
            return train(dry_run=dry_run)
        except TypeError as error:
            if (refused := gin_utils.unbound(error)) is not None:
                raise refused from error
            raise
