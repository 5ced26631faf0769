"""`ja-llm mixture rates`: what a rule makes of the stores that are there, before a run reads them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.data.rates import Replay, Rule, Temperature, UniMax, resolved
from ja_llm.errors import UsageError

METHODS = ("cached", "temperature", "unimax", "replay")
_MAY_HAVE = {"temperature": ("--max_epochs",)}


def rule(
    method: str, temperature: float | None, max_epochs: float | None, sources: Sequence[str], share: float | None
) -> Rule | None:
    """The rule of the name `method` with its options; None for "cached", the shares that stand in the cache.

    Raises:
      UsageError: an option is missing, out of range, or of another method.
    """
    given = {"--temperature": temperature, "--max_epochs": max_epochs, "--source": list(sources) or None, "--share": share}
    wanted = {"temperature": ("--temperature",), "unimax": ("--max_epochs",), "replay": ("--source", "--share")}.get(method, ())
    for name, value in given.items():
        if name in wanted and value is None:
            raise UsageError(f"--method {method} needs {name}.")
        if name not in (*wanted, *_MAY_HAVE.get(method, ())) and value is not None:
            raise UsageError(f"{name} says nothing to --method {method}; leave it out.")
    if method == "temperature":
        return Temperature(temperature, max_epochs)  # type: ignore[arg-type]
    if method == "unimax":
        return UniMax(max_epochs)  # type: ignore[arg-type]
    return Replay(tuple(sources), share) if method == "replay" else None  # type: ignore[arg-type]


def rates_of(cache_dir: str | Path, chosen: Rule | None, tokens: float | None) -> list[dict[str, Any]]:
    """What a rule makes of a cache's training stores.

    Args:
      cache_dir: output of `ja-llm cache`.
      chosen: a rule, or None for the cache's own shares.
      tokens: how many will be read in all; None for all of them once.

    Returns:
      For each source, in the mixture's order, {"task", "size" (tokens), "cached" (share), "share", "tokens", "epochs"}; a run's own statement
      also knows the tokens that do not fill a row.

    Raises:
      UsageError: the rule can't be kept.
      JaLlmError: there is no finished cache.
    """
    value = manifest.read(Path(cache_dir), manifest.MIXTURE)
    sizes = {member["task"]: member["splits"]["train"]["tokens"] for member in value["members"]}
    total = math.fsum(member["rate"] for member in value["members"])
    cached = {member["task"]: member["rate"] / total for member in value["members"]}
    budget = float(sum(sizes.values())) if tokens is None else float(tokens)
    if budget <= 0:
        raise UsageError(f"--tokens {budget:g}: give how many tokens will be read, e.g. 20M.")
    shares = cached if chosen is None else resolved(chosen, sizes, cached, budget)
    return [
        {
            "task": task,
            "size": size,
            "cached": cached[task],
            "share": shares.get(task, 0.0),
            "tokens": budget * shares.get(task, 0.0),
            "epochs": budget * shares.get(task, 0.0) / size,
        }
        for task, size in sizes.items()
    ]


def format_rates(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `rates_of` as a table, and the flag that gives them to a run."""
    head = ("source", "tokens there", "share as cached", "share", "tokens read", "epochs")
    body = [
        (
            row["task"],
            f"{row['size']:,}",
            f"{row['cached']:.4%}",
            f"{row['share']:.4%}",
            f"{row['tokens']:,.0f}",
            f"{row['epochs']:.2f}",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in (head, *body)
    ]
    shares = {row["task"]: row["share"] for row in rows if row["share"]}
    return "\n".join([*lines, f'for ja-llm train: --gin.RATES="{shares!r}"'])
