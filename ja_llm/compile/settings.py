"""A gin training run without its data: what `ja_llm.train.main.train` would compile a step of."""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin

from ja_llm import gin_utils
from ja_llm.errors import UsageError
from ja_llm.models.config import REMAT_POLICIES, DecoderConfig
from ja_llm.train import main, t5x_names
from ja_llm.train.checks import check_settings
from ja_llm.train.step import StepOptions

# What a step does not depend on; a run that is only compiled need not bind it.
PLACEHOLDERS: Mapping[str, Any] = {
    "MIXTURE_OR_TASK_NAME": "none",
    "MODEL_DIR": "none",
    "CACHE_DIR": "none",
    "TRAIN_STEPS": 1000,
    "INITIAL_CHECKPOINT_PATH": None,
    "SECOND_CACHE_DIR": "none",
    "ANNEAL_CACHE_DIR": "none",
}


class CandidateError(UsageError):
    """Mesh, batch and model do not fit each other; another candidate of a sweep may."""


@contextlib.contextmanager
def of_the_candidate() -> Iterator[None]:
    """What is refused in the block is refused for the candidate's sake."""
    try:
        yield
    except UsageError as error:
        raise CandidateError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a sweep changes of a run; None leaves it as the gin files have it.

    Attributes:
      remat_policy: one of `REMAT_POLICIES`.
      microbatches: parts of a batch.
      mesh: devices per mesh axis.
    """

    remat_policy: str | None = None
    microbatches: int | None = None
    mesh: Mapping[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a step is made of; see `ja_llm.train.main.train`.

    Attributes:
      model: the architecture.
      options: what the step does.
      optimizer: its settings.
      schedule: step -> learning rate.
      mesh: devices per mesh axis.
      dcn_mesh: parts with a slow network between them per mesh axis.
      rules: logical axis rules.
      batch_size: rows.
      length: tokens in each.
    """

    model: DecoderConfig
    options: StepOptions
    optimizer: Any
    schedule: Any
    mesh: Mapping[str, int]
    dcn_mesh: Mapping[str, int]
    rules: Any
    batch_size: int
    length: int

    def changed(self, candidate: Candidate) -> "Settings":
        """With a candidate's values.

        Raises:
          UsageError: there is no such remat policy.
        """
        policy = candidate.remat_policy or self.model.remat_policy
        if policy not in REMAT_POLICIES:
            raise UsageError(f"the remat policy {policy!r} does not exist; choose one of {', '.join(REMAT_POLICIES)}.")
        return dataclasses.replace(
            self,
            model=dataclasses.replace(self.model, remat_policy=policy),
            options=dataclasses.replace(self.options, microbatches=candidate.microbatches or self.options.microbatches),
            mesh=self.mesh if candidate.mesh is None else candidate.mesh,
        )


@contextlib.contextmanager
def settings(
    files: Sequence[str], bindings: Sequence[str], search_paths: str = "", vocab_size: int | None = None
) -> Iterator[Settings]:
    """The run that gin files and bindings describe, for the length of the block (schedules look up gin's macros when called).

    Args:
      files: see `ja_llm.gin_utils.parsed`.
      bindings: `NAME = VALUE`.
      search_paths: comma-separated folders.
      vocab_size: rows of the embedding table; None: those of CACHE_DIR's vocabulary, or of the initial checkpoint, or
        what the gin files bind `config.DecoderConfig.vocab_size` to.

    Raises:
      UsageError: something is missing or does not fit.
    """
    required = ("TASK_FEATURE_LENGTHS",)
    t5x_names.check_files(files)
    bindings, notes = t5x_names.take_bindings(bindings)  # what has no effect is said by `ja-llm train`
    foreign = t5x_names.noting(notes)
    with gin_utils.parsed(files, bindings, search_paths, required=required, placeholders=PLACEHOLDERS, foreign=foreign):
        defaults = {
            name: p.default for name, p in inspect.signature(main.train).parameters.items() if p.default is not gin.REQUIRED
        }
        given = {**defaults, **gin.get_bindings(main.train)}
        lacking = [name for name in inspect.signature(main.train).parameters if name not in given]
        if lacking:
            raise UsageError(
                f"main.train has no value for {', '.join(lacking)}; add runs/pretrain.gin or runs/continue.gin, or bind it."
            )
        check_settings(given)
        initial = given["initial_checkpoint_path"]
        size = vocab_size or _vocab_size(given["cache_dir"], initial)
        overrides = given["model_overrides"]
        model = main.model_config(given["model"], overrides if initial else None, initial, size)
        if not initial and overrides:
            model = main.overridden(model, overrides)  # MODEL stands for a checkpoint that is not named here
        length = given["task_feature_lengths"]["targets"]
        main.check_length(model, length)
        yield Settings(
            model=model,
            options=main.step_options(given),
            optimizer=given["optimizer"],
            schedule=given["schedule"],
            mesh=given["mesh"] or {},
            dcn_mesh=given["dcn_mesh"] or {},
            rules=given["logical_axis_rules"],
            batch_size=given["batch_size"],
            length=length,
        )


def _vocab_size(cache_dir: str, initial: str | None) -> int:
    if cache_dir != PLACEHOLDERS["CACHE_DIR"]:
        from ja_llm.vocab.base import load_tokenizer

        return load_tokenizer(Path(cache_dir) / "vocab").vocab_size
    if initial:
        return 0  # its own
    with contextlib.suppress(ValueError):
        return gin.query_parameter("config.DecoderConfig.vocab_size")
    raise UsageError(
        "how many rows the embedding has is not known; add --vocab_size N, or --gin.CACHE_DIR=DIR of a cache that exists."
    )
