"""pass@k of programs that a model wrote: they are run against the problem's tests in the sandbox."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ja_llm.evaluation import sandbox
from ja_llm.evaluation.metrics import PredictionMetric, Target
from ja_llm.evaluation.sandbox import Outcome
from ja_llm.evaluation.statistics import Statistic
from ja_llm.evaluation.text_metrics import pass_at_k

_unprotected = False
# Outcomes of this process: pass@1 and pass@10 are of the same programs.
_outcomes: dict[str, Outcome] = {}


def allow(unprotected: bool) -> None:
    """Say how programs are run from now on; refuse where there is no sandbox and none is to be done without.

    Raises:
      JaLlmError: the sandbox does not work here.
    """
    global _unprotected
    _unprotected = unprotected
    if not unprotected:
        sandbox.require()


def program(target: Target, completion: str) -> str:
    """Prompt, completion and the problem's tests (bigcode-evaluation-harness's order)."""
    return f"{target['prompt']}{completion}\n{target['test']}\ncheck({target['entry_point']})"


def _run(targets: Sequence[Target], predictions: Sequence[Sequence[str]]) -> list[list[Outcome]]:
    programs = [[program(t, text) for text in texts] for t, texts in zip(targets, predictions, strict=True)]
    new = [p for found in programs for p in found if p not in _outcomes]
    _outcomes.update(zip(new, sandbox.run_all(new, unprotected=_unprotected), strict=True))
    return [[_outcomes[p] for p in found] for found in programs]


@dataclasses.dataclass(frozen=True)
class PassAtK(PredictionMetric):
    """pass@k, unbiased, over problems; the targets have "prompt", "test" and "entry_point", a prediction is a list of completions.

    Attributes:
      k: see `text_metrics.pass_at_k`.
    """

    k: int = 1

    def statistic(self, targets: Sequence[Target], predictions: Sequence[Any]) -> Statistic:
        """One row a problem."""
        return Statistic(
            [pass_at_k(len(found), sum(o.passed for o in found), self.k) for found in _run(targets, predictions)], self.aggregate
        )

    def __call__(self, targets: Sequence[Target], predictions: Sequence[Any]) -> dict[str, float]:
        """The metric, and how many programs there were, did not end in time, and wanted more memory than there was for them."""
        counts = Counter(outcome.status for found in _run(targets, predictions) for outcome in found)
        ends = {"programs_timed_out": sandbox.TIMED_OUT, "programs_out_of_memory": sandbox.OUT_OF_MEMORY}
        extra = {"programs": float(counts.total()), **{name: float(counts[status]) for name, status in ends.items()}}
        return {**super().__call__(targets, predictions), **(extra if self.k == 1 else {})}


def passes(k: int) -> PassAtK:
    """The metric pass_at_k."""
    return PassAtK(f"pass_at_{k}", _alone, k=k)


def _alone(target: Target, completions: Sequence[str]) -> float:
    raise TypeError("programs are run all together; use `statistic`.")


def _answered(target: Target, completions: Sequence[str]) -> float:
    """1 if any completion has a line that is no comment."""
    return float(any(line.strip() and not line.strip().startswith("#") for text in completions for line in text.splitlines()))


ANSWERED = PredictionMetric("answer_at_10", _answered)
