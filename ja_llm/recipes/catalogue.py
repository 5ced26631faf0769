"""The recipes that are installed, with the settings that their gin files resolve to; there is no second table of them."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from ja_llm import gin_utils
from ja_llm.compile.settings import Settings, settings
from ja_llm.data import registry
from ja_llm.data.stages import check_begins
from ja_llm.errors import UsageError
from ja_llm.recipes.published import Published
from ja_llm.train import flops, main


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run with a mixture of its own.

    Attributes:
      mixture: its registered name.
      from_step: where it begins.
      steps: how many it has.
      shares: {task: share of its tokens}.
    """

    mixture: str
    from_step: int
    steps: int
    shares: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe, resolved.

    Attributes:
      name: of its file.
      about: the first line of its comment.
      published: what its source says.
      step: what a training step is made of: model, optimizer, batch, mesh.
      steps: optimizer steps.
      stages: its mixtures in order; one, or more in a curriculum.
      peak: highest learning rate.
      final: what it has come down to at the end.
      max_epochs: how often a source may be read, all or by task; None: any number of times.
      warmup_steps: steps in which the rate climbs to the highest; 0 where it begins there.
      flops_per_token: training FLOPs, causal attention counted half (`ja_llm.train.flops`).
    """

    name: str
    about: str
    published: Published
    step: Settings
    steps: int
    stages: tuple[Stage, ...]
    peak: float
    final: float
    warmup_steps: int
    max_epochs: float | Mapping[str, float] | None
    flops_per_token: float

    @property
    def tokens(self) -> int:
        """Tokens read in all: steps x rows x length."""
        return self.steps * self.step.batch_size * self.step.length


def names() -> list[str]:
    """Names of the recipes, sorted."""
    return sorted(path.stem for path in (gin_utils.packaged_configs() / "recipes").glob("*.gin"))


def file_of(name: str) -> str:
    """The gin file of a recipe, as `--gin_file` takes it.

    Raises:
      UsageError: there is no such recipe; near names are listed.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"near names are {', '.join(near)}" if near else f"there are {', '.join(known)}"
        raise UsageError(f"there is no recipe {name!r}; {hint}.")
    return f"recipes/{name}.gin"


def text_of(name: str) -> str:
    """The gin file's text.

    Raises:
      UsageError: there is no such recipe.
    """
    return (gin_utils.packaged_configs() / file_of(name)).read_text(encoding="utf-8")


def resolve(name: str, bindings: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
      name: of `names`.
      bindings: `NAME = VALUE`, which win over the file.

    Raises:
      UsageError: there is no such recipe, or its settings do not fit each other: a stage begins behind the run's end.
    """
    with settings([file_of(name)], bindings) as step:
        given = gin.get_bindings(main.train)
        steps = given["total_steps"]
        rates = np.asarray(step.schedule(np.arange(steps + 1)), np.float64)
        highest = int((rates >= rates.max() * (1 - 1e-6)).argmax())
        return Recipe(
            name=name,
            about=text_of(name).splitlines()[0].lstrip("# "),
            published=Published(),  # type: ignore[call-arg]
            step=step,
            steps=steps,
            stages=_stages(given, steps),
            peak=float(rates.max()),
            final=float(rates[-1]),
            warmup_steps=highest + 1 if highest else 0,
            max_epochs=given["max_epochs"],
            flops_per_token=flops.flops_per_token(step.model, step.length),
        )


def catalogue() -> list[Recipe]:
    """All recipes, resolved, by name."""
    return [resolve(name) for name in names()]


def _stages(given: dict[str, Any], steps: int) -> tuple[Stage, ...]:
    later = given.get("stages", ())
    check_begins(given["mixture_or_task_name"], later, steps)
    mixtures = [given["mixture_or_task_name"], *(stage.mixture_or_task_name for stage in later)]
    starts = [0, *(stage.from_step for stage in later)]
    ends = [*starts[1:], steps]
    return tuple(
        Stage(mixture, start, end - start, registry.resolve(mixture))
        for mixture, start, end in zip(mixtures, starts, ends, strict=True)
    )
