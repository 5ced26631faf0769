"""Values that gin binds as they come: each is of the kind and in the range that training wants, or a sentence says what to give."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ja_llm.data.rates import check_rates
from ja_llm.data.stages import Stage
from ja_llm.errors import UsageError
from ja_llm.train.alarms import Alarm
from ja_llm.train.groups import Group
from ja_llm.train.learning_rates import Schedule
from ja_llm.train.lora import Lora
from ja_llm.train.maintenance import SOURCES
from ja_llm.train.optimizers import Optimizer
from ja_llm.train.settings import is_number, is_whole
from ja_llm.train.spikes import SpikeDetector

# Argument of train -> (how a person binds it, the least value, whether None may stand there)
_WHOLE = {
    "total_steps": ("TRAIN_STEPS", 1, False),
    "batch_size": ("BATCH_SIZE", 1, False),
    "microbatches": ("MICROBATCHES", 1, False),
    "checkpoint_period": ("CHECKPOINT_PERIOD", 1, False),
    "eval_period": ("EVAL_PERIOD", 0, False),
    "random_seed": ("RANDOM_SEED", 0, False),
    "keep_checkpoints": ("train.keep_checkpoints", 1, False),
    "keep_period": ("KEEP_PERIOD", 1, True),
    "export_period": ("EXPORT_PERIOD", 1, True),
    "max_rollbacks": ("MAX_ROLLBACKS", 0, False),
    "rollback_margin": ("train.rollback_margin", 0, False),
    "eval_documents": ("train.eval_documents", 0, False),
    "eval_limit": ("train.eval_limit", 1, False),
}
# Argument -> (how a person binds it, what it must be, a test, whether None may stand there)
_NUMBERS = {
    "z_loss": ("Z_LOSS", "a number of 0 or more", lambda x: x >= 0, False),
    "balance_loss": ("BALANCE_LOSS", "a number of 0 or more", lambda x: x >= 0, False),
    "ema_decay": ("EMA_DECAY", "a number between 0 and 1, e.g. 0.999", lambda x: 0 < x < 1, True),
    "step_timeout": ("STEP_TIMEOUT", "a number of seconds above 0", lambda x: x > 0, True),
    "phase_timeout": ("train.phase_timeout", "a number of seconds above 0", lambda x: x > 0, True),
    "peak_tflops": ("train.peak_tflops", "a number above 0", lambda x: x > 0, True),
}
# Argument -> (how a person binds it, kind, an example, whether None may stand there)
_OBJECTS: dict[str, tuple[str, type, str, bool]] = {
    "optimizer": ("OPTIMIZER", Optimizer, "@optimizers.AdamW()", False),
    "schedule": ("SCHEDULE", Schedule, "@learning_rates.WarmupCosine()", False),
    "spikes": ("SPIKES", SpikeDetector, "@spikes.SpikeDetector()", True),
    "lora": ("LORA", Lora, "@lora.Lora()", True),
}
# Argument -> (how a person binds it, kind of each entry, an example)
_SEVERAL: dict[str, tuple[str, type, str]] = {
    "groups": ("GROUPS", Group, "(@low/groups.Group(),)"),
    "stages": ("STAGES", Stage, "(@anneal/stages.Stage(),)"),
    "accept": ("train.accept", str, "('data',)"),
    "alarms": ("ALARMS", Alarm, "(@english/alarms.Alarm(),)"),
    "probes": ("PROBES", str, "('cache/code',)"),
    "eval_tasks": ("train.eval_tasks", str, "('jcommonsenseqa',)"),
}
# What is True or False; gin's "no" would be a text, and true.
_BOOLS = {"log_norms": "LOG_NORMS", "repeat_filter": "REPEAT_FILTER"}
# What is a text or a path -> (how a person binds it, what it is, whether None may stand there)
_TEXTS = {
    "mixture_or_task_name": ("MIXTURE_OR_TASK_NAME", "the name that CACHE_DIR was made for", False),
    "model_dir": ("MODEL_DIR", "a folder", False),
    "cache_dir": ("CACHE_DIR", "a folder that `ja-llm cache` wrote", False),
    "initial_checkpoint_path": ("INITIAL_CHECKPOINT_PATH", "a model directory or DIR@STEP", True),
    "data_schedule": ("DATA_SCHEDULE", "the run.json of another run", True),
    "wandb_project": ("WANDB_PROJECT", "the name of a project", True),
    "eval_data": ("train.eval_data", "a folder", True),
    "eval_document_set": ("train.eval_document_set", "a folder", True),
}
_MAPPINGS = {"mesh": "MESH", "dcn_mesh": "DCN_MESH", "model_overrides": "MODEL_OVERRIDES"}


def check_settings(given: Mapping[str, Any]) -> None:
    """Refuse arguments of `ja_llm.train.main.train` that are of the wrong kind or out of range.

    Args:
      given: the arguments by name.

    Raises:
      UsageError: the first that does not fit, by the name that a person binds.
    """
    for key, (name, least, optional) in _WHOLE.items():
        if not (is_whole(given[key]) and given[key] >= least) and not (optional and given[key] is None):
            raise UsageError(f"{name} is {given[key]!r}; give a whole number of {least} or more{', or None' * optional}.")
    for key, (name, words, fits, optional) in _NUMBERS.items():
        if not (is_number(given[key]) and fits(given[key])) and not (optional and given[key] is None):
            raise UsageError(f"{name} is {given[key]!r}; give {words}{', or None' * optional}.")
    for key, (name, words, optional) in _TEXTS.items():
        text = isinstance(given[key], str | os.PathLike) and str(given[key])
        if not text and not (optional and given[key] is None):
            raise UsageError(f"{name} is {given[key]!r}; give {words}{', or None' * optional}.")
    for key, name in _BOOLS.items():
        if not isinstance(given[key], bool):
            raise UsageError(f"{name} is {given[key]!r}; give True or False.")
    for key, (name, kind, example, optional) in _OBJECTS.items():
        if not isinstance(given[key], kind) and not (optional and given[key] is None):
            raise UsageError(
                f"{name} is {_shown(given[key])}; give an object, with brackets, e.g. {example}{', or None' * optional}."
            )
    for key, (name, entry, example) in _SEVERAL.items():
        if not _is_sequence(given[key]) or not all(isinstance(value, entry) for value in given[key]):
            raise UsageError(
                f"{name} is {_shown(given[key])}; give a tuple, e.g. {example}; the comma makes one of a single entry."
            )
    for key, name in _MAPPINGS.items():
        if given[key] is not None and not isinstance(given[key], Mapping):
            raise UsageError(f"{name} is {given[key]!r}; give a dict, e.g. {{'data': 1}}.")
    _check_others(given)


def _check_others(given: Mapping[str, Any]) -> None:
    lengths, profile, steps, caps = (given[key] for key in ("task_feature_lengths", "profile", "eval_steps", "max_epochs"))
    if (
        not isinstance(lengths, Mapping)
        or set(lengths) != {"targets"}
        or not is_whole(lengths["targets"])
        or lengths["targets"] < 1
    ):
        raise UsageError(f"TASK_FEATURE_LENGTHS is {lengths!r}; give {{'targets': LENGTH}}.")
    if profile is not None and not (_all_whole(profile) and len(profile) == 2 and profile[0] >= 0 and profile[1] >= 1):
        raise UsageError(f"train.profile is {profile!r}; give (first step, number of steps), e.g. (100, 3), or None.")
    if given["model"] is not None and not callable(given["model"]):
        raise UsageError(
            f"MODEL is {given['model']!r}; leave it out and add --gin_file=models/NAME.gin, or give @config.DecoderConfig."
        )
    if not _all_whole(steps):
        raise UsageError(
            f"train.eval_steps is {steps!r}; give a tuple of steps, e.g. (5,); train.eval_documents says how much is read."
        )
    limits = caps.values() if isinstance(caps, Mapping) else [] if caps is None else [caps]
    if not all(is_number(limit) and limit > 0 for limit in limits):
        raise UsageError(f"MAX_EPOCHS is {caps!r}; give a number above 0, {{'task': number}}, or None.")
    check_rates("RATES", given["rates"])
    subset = given["subset_tokens"]
    if not (subset is None or isinstance(subset, Mapping)) or not all(is_number(n) and n > 0 for n in (subset or {}).values()):
        raise UsageError(f"SUBSET_TOKENS is {subset!r}; give {{'task': tokens above 0}}, or None.")
    source = given["maintenance"]
    if source is not None and not (isinstance(source, str) and (source in SOURCES or "://" in source)):
        raise UsageError(f"train.maintenance is {source!r}; give {' or '.join(map(repr, SOURCES))}, a URL, or None.")
    period, every = given["export_period"], given["checkpoint_period"]
    if period is not None and period % every:
        raise UsageError(f"EXPORT_PERIOD is {period}; give a multiple of CHECKPOINT_PERIOD ({every}).")


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _all_whole(value: Any) -> bool:
    return _is_sequence(value) and all(map(is_whole, value))


def _shown(value: Any) -> str:
    return f"the class {value.__name__} itself" if isinstance(value, type) else repr(value)
