"""What a run is: the ledger that a new run writes, and that a run which goes on must agree with."""

from typing import Any

from ja_llm.errors import UsageError
from ja_llm.files import read_json
from ja_llm.models.config import CHECKPOINT_FIELDS, IDENTITY_FIELDS, DecoderConfig
from ja_llm.train.checkpoints import model_steps, read_model_files, split_step
from ja_llm.train.ledger import new_ledger, parent_entry
from ja_llm.train.run_config import RunConfig
from ja_llm.train.settings import described
from ja_llm.train.step import StepOptions
from ja_llm.vocab.base import Tokenizer


def describe_run(
    config: RunConfig,
    model: DecoderConfig,
    tokenizer: Tokenizer,
    data: Any,
    optimizer: Any,
    schedule: Any,
    identity: dict[str, Any],
    mesh: dict[str, int],
) -> dict[str, Any]:
    """The ledger of a run that would begin now; arguments as of `ja_llm.train.loop.run`.

    Raises:
      UsageError: the initial checkpoint does not fit the model or the data.
    """
    if config.step.lora is not None and not config.initial_checkpoint:
        raise UsageError("LORA needs the model that it adapts; add --gin.INITIAL_CHECKPOINT_PATH=DIR.")
    parents = [initial_entry(config.initial_checkpoint, model, tokenizer)] if config.initial_checkpoint else []
    return new_ledger(
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
        mesh=mesh,
        data_schedule=data.schedule.to_json(),
        licences=data.licences,
        contents=data.contents,
    )


def initial_entry(path: str, model: DecoderConfig, tokenizer: Tokenizer) -> dict[str, Any]:
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
    given = {"groups": options.groups, "ema_decay": options.ema_decay, "spikes": options.spikes, "lora": options.lora}
    return {
        "z_loss": options.z_loss,
        **({"balance_loss": options.balance_loss} if model.num_experts > 1 else {}),
        **{name: described(value) for name, value in given.items() if value not in (None, ())},
    }
