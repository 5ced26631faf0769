"""Recipes in words: the list, one of them, and the table of docs/recipes.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from ja_llm.recipes import catalogue, estimate
from ja_llm.recipes.catalogue import Recipe
from ja_llm.recipes.estimate import Hardware
from ja_llm.recipes.published import KNOWN_FROM

HEADS = (
    "recipe",
    "base",
    "tokens",
    "rows x length",
    "steps",
    "learning rate",
    "hardware",
    "chip-hours",
    "settings known from",
    "mixture known from",
)


def number(value: float) -> str:
    """A learning rate to three digits, as it is written in gin: 2.5e-05 -> 2.5e-5."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if value else "0"


def rates(recipe: Recipe) -> str:
    """Highest and last learning rate."""
    return f"{number(recipe.peak)} to {number(recipe.final)}"


def tokens(recipe: Recipe) -> str:
    """Tokens as published, and how often."""
    runs = recipe.published.runs
    return recipe.published.tokens if runs == 1 else f"{runs} x {recipe.published.tokens}"


def verdict(place: Hardware) -> str:
    """Whether the step fits, by the compiler."""
    if place.compiled is None:
        return f"{place.topology} (not compiled)"
    memory = place.compiled["gib_per_chip"]
    return f"{place.topology} ({'fits' if place.fits else 'does not fit'}: {memory['total']:.0f} of {memory['usable']:.0f} GiB)"


def row(recipe: Recipe, mfu: float) -> list[str]:
    """The cells of a recipe, under `HEADS`."""
    places = estimate.hardware(recipe, mfu)
    return [
        recipe.name,
        (recipe.published.base or "random").rpartition("/")[2],
        tokens(recipe),
        f"{recipe.step.batch_size} x {recipe.step.length}",
        f"{recipe.steps:,}",
        rates(recipe),
        "; ".join(verdict(place) for place in places),
        "; ".join(f"{place.chip_hours:,.0f}" for place in places),
        recipe.published.known_from,
        recipe.published.mixture_from,
    ]


def assumption(mfu: float) -> str:
    """What the chip-hours stand on."""
    return (
        f"Chip-hours: tokens x FLOPs a token (causal attention counted half, of experts those that a token goes through) at an assumed MFU of {mfu:.0%}, without saving, evaluating or "
        "waiting; no TPU has been measured here. Whether it fits was asked of the TPU's compiler."
    )


def listing(recipes: Sequence[Recipe], mfu: float) -> str:
    """All recipes as a table for a terminal, a line for each kind of hardware; base, steps and what is known from where are in `one`."""
    rows = [["recipe", "tokens", "batch", "learning rate", "hardware", "GiB a chip", "chip-hours"]]
    for recipe in recipes:
        about = [recipe.name, tokens(recipe), f"{recipe.step.batch_size} x {recipe.step.length}", rates(recipe)]
        for place in estimate.hardware(recipe, mfu):
            rows.append([*about, place.topology, _room(place), f"{place.chip_hours:,.0f}"])
            about = [""] * len(about)
    widths = [max(len(line[column]) for line in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return "\n".join([*lines, "", assumption(mfu), "ja-llm recipes show NAME says all of one."])


def _room(place: Hardware) -> str:
    """What the compiled step takes of a chip's memory."""
    if place.compiled is None:
        return "not compiled"
    memory = place.compiled["gib_per_chip"]
    return f"{memory['total']:.0f} of {memory['usable']:.0f}{'' if place.fits else ', does not fit'}"


def markdown(recipes: Sequence[Recipe], mfu: float) -> str:
    """All recipes as a table of a page."""
    rows = [list(HEADS), ["---"] * len(HEADS), *(row(recipe, mfu) for recipe in recipes)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in rows)
    meaning = "; ".join(f"*{name}*: {words}" for name, words in KNOWN_FROM.items())
    return f"{table}\n\n{assumption(mfu)} Known from: {meaning}."


def one(recipe: Recipe, mfu: float) -> str:
    """All that is known of a recipe, for a terminal."""
    step, published = recipe.step, recipe.published
    mesh = " x ".join(f"{axis} {size if size > 0 else 'all'}" for axis, size in step.mesh.items())
    balance = f", experts' balance loss {step.options.balance_loss:g}" if step.model.num_experts > 1 else ""
    lines = [
        f"{recipe.name}: {recipe.about}",
        f"  base           {published.base or 'random parameters'}",
        f"  known from     settings: {KNOWN_FROM[published.known_from]}",
        f"                 mixture: {KNOWN_FROM[published.mixture_from]}",
        f"  tokens         {tokens(recipe)} ({recipe.steps:,} steps x {step.batch_size} rows x {step.length} tokens = {recipe.tokens:,})",
        f"  learning rate  {rates(recipe)}, {type(step.schedule).__name__}, {recipe.warmup_steps:,} steps of warm-up",
        f"  optimizer      {step.optimizer}",
        f"  loss           z-loss {step.options.z_loss:g}{balance}",
        f"  step           {step.options.microbatches} microbatches, remat {step.model.remat_policy}, {step.model.dtype}, mesh {mesh}",
    ]
    lines.append(f"  epochs         {_epochs(recipe)}")
    for number_, stage in enumerate(recipe.stages, 1):
        behind = f", from step {stage.from_step:,}" if len(recipe.stages) > 1 else ""
        lines.append(f"  mixture {number_}      {stage.mixture}, {stage.steps:,} steps{behind}")
        for task, share in sorted(stage.shares.items(), key=lambda item: -item[1]):
            billions = share * stage.steps * step.batch_size * step.length / 1e9
            lines.append(f"    {task:<24} {share:>7.2%}  {billions:>9.2f}B tokens")
    lines += [line for place in estimate.hardware(recipe, mfu) for line in _place(recipe, place)]
    return "\n".join([*lines, assumption(mfu), f"The file: --gin_file={catalogue.file_of(recipe.name)}"])


def _epochs(recipe: Recipe) -> str:
    """How often a source may be read (MAX_EPOCHS)."""
    caps = recipe.max_epochs
    if caps is None:
        return "as often as the run takes (MAX_EPOCHS is None)"
    of = ", ".join(f"{task} {cap:g}" for task, cap in caps.items()) if isinstance(caps, Mapping) else f"{caps:g} of each source"
    return f"at most {of} (MAX_EPOCHS); a run that would read more does not start"


def _place(recipe: Recipe, place: Hardware) -> list[str]:
    """A slice: what the run takes there, and what the compiler said."""
    head = f"  {place.topology:<14} {place.accelerator}, {place.chips} chips: {place.chip_hours:,.0f} chip-hours, {place.days:.1f} days"
    if place.compiled is None:
        return [f"{head}; not compiled (ja-llm compile --gin_file={catalogue.file_of(recipe.name)} --topology {place.topology})"]
    found = place.compiled
    memory = found["gib_per_chip"]
    if not place.fits:
        return [f"{head}; does not fit: {-found['spare_gib']:.2f} GiB a chip too much"]
    steps = recipe.steps * recipe.published.runs * place.chips / 3600
    line = f"    fits: {memory['total']:.1f} of {memory['usable']:.1f} GiB a chip in {found['microbatches']} microbatches, remat {found['remat_policy']}"
    return [head, f"{line}; {_hours(found, steps)}"]


def _hours(found: Mapping[str, Any], steps: float) -> str:
    """Chip-hours by the compiler: at best, and at published speeds where these are not below it.

    Args:
      found: what the compiler said.
      steps: of all runs, times chips, by 3600.
    """
    least = found["time"]["step_seconds"] * steps
    text = f"by the compiler's schedule no less than {least:,.0f} chip-hours"
    if "expected" not in found:
        return text
    hours = found["expected"]["step_seconds"] * steps
    if hours >= least:
        return f"{text}, at published speeds of that chip about {hours:,.0f}"
    # They are of a model whose steps wait less for memory: no expectation for this one.
    return f"{text}, which is more than published speeds of that chip would give"
