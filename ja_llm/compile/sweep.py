"""Which remat policy, how many microbatches and which mesh make a step that fits and is fastest.

Two facts save compilations. With the same policy and mesh, more microbatches need less memory and gather the parameters more often, so
of those that fit the fewest are the best. And a policy that recomputes more can only win by fewer microbatches, so none is tried behind
one that fits with the fewest there are. What is left is ranked by the step time that the schedule predicts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ja_llm.compile.settings import CandidateError
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.train.memory import LADDER

Result = dict[str, Any]
Compile = Callable[[Mapping[str, Any]], Result]


def sweep(
    compile_candidate: Compile,
    policies: Sequence[str | None],
    microbatches: Sequence[int],
    meshes: Sequence[Mapping[str, int]],
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Compile the candidates that may win; what was compiled, the proposed one first.

    Args:
      compile_candidate: {"remat_policy", "microbatches", "mesh"} -> result of `ja_llm.compile.aot.compile_step`.
      policies: to choose from; None: the run's own.
      microbatches: to choose from; 0: the run's own.
      meshes: to choose from; an empty one: the run's own.
      say: told about each.

    Raises:
      CandidateError: none of the candidates can be compiled; the last one's reason.
      JaLlmError: the first one that the compiler was asked for failed; one that fails behind a success is left out, with a line.
    """
    found: list[Result] = []
    numbers = sorted(microbatches)
    refused: CandidateError | None = None
    for mesh in meshes:
        indivisible: set[int] = set()  # whatever the policy
        for policy in sorted(policies, key=lambda policy: -1 if policy is None else LADDER.index(policy)):
            needed = None
            for number in [n for n in numbers if n not in indivisible]:
                candidate = {"remat_policy": policy, "microbatches": number, "mesh": dict(mesh)}
                try:
                    result = compile_candidate(candidate)
                except CandidateError as error:
                    refused = error
                    indivisible.add(number)
                    say(f"left out, {_named(candidate)}: {error}")
                    continue
                except UsageError:  # of all candidates
                    raise
                except JaLlmError as error:
                    if not found:
                        raise
                    say(f"left out, {_named(candidate)}: {error}")
                    continue
                found.append(result)
                say(line(result))
                if result["fits"]:
                    needed = number
                    break
            if needed == min(set(numbers) - indivisible, default=None):
                break
    if not found and refused is not None:
        raise refused
    fitting = sorted((r for r in found if r["fits"]), key=lambda r: r["time"]["step_seconds"])
    return fitting + [r for r in found if not r["fits"]]


def _named(candidate: Mapping[str, Any]) -> str:
    """A candidate that has no result."""
    given = {"remat": candidate["remat_policy"], "microbatches": candidate["microbatches"], "mesh": candidate["mesh"]}
    return ", ".join(f"{name} {value}" for name, value in given.items() if value) or "the run's own settings"


def line(result: Result) -> str:
    """One candidate in one line."""
    mesh = " x ".join(f"{name} {size}" for name, size in result["mesh"].items())
    head = f"{result['remat_policy']:>9} remat, {result['microbatches']:>3} microbatches, {mesh}"
    memory = result["gib_per_chip"]
    if not result["fits"]:
        return f"{head}: does not fit, {-result['spare_gib']:.2f} GiB over ({memory['total']:.2f} of {memory['usable']:.2f})"
    time = result["time"]
    return (
        f"{head}: {memory['total']:.2f} of {memory['usable']:.2f} GiB, step {time['step_seconds']:.2f} s or more, of which links {time['exposed_seconds']:.2f} s, "
        f"executes {result['flops']['executed_over_model']:.2f} x the model's FLOPs"
    )


def proposal(found: Sequence[Result]) -> str:
    """The sentence that proposes one, and why."""
    best = found[0] if found else None
    if best is None or not best["fits"]:
        least = min((-r["spare_gib"] for r in found), default=0.0)
        return f"nothing fits; the nearest is {least:.2f} GiB a chip over: take more chips, a tensor axis in the mesh, or a smaller optimizer."
    others = [r for r in found[1:] if r["fits"]]
    skipped = [r for r in found if not r["fits"] and r["mesh"] == best["mesh"]]
    why = f"it recomputes {best['flops']['executed_over_model'] - 1:.0%} beside the model's own FLOPs and waits {best['time']['exposed_seconds']:.2f} s for the links"
    if skipped:
        why += f"; {len(skipped)} with less recomputation or fewer microbatches do not fit"
    if others:
        why += f"; the next best takes {others[0]['time']['step_seconds'] / best['time']['step_seconds']:.2f} times as long"
    mesh = ", ".join(f"'{name}': {size}" for name, size in best["mesh"].items())
    return f"proposed: remat_policy = '{best['remat_policy']}', MICROBATCHES = {best['microbatches']}, MESH = {{{mesh}}}: {why}."
