"""The data schedule: which batch a training step reads. Append-only, kept in the run's ledger.

Stages say which mixture is read from which step on; skips take ranges of data steps out after a rollback (the usual answer
to a loss spike: go back to a checkpoint and pass over the batches that caused it). Both only ever grow, and a skip begins
at the step that the run was rolled back to, so the batches of the steps before it never change.
"""

import dataclasses
from typing import Any

from ja_llm.data.mixing import MIXING, MIXINGS
from ja_llm.errors import JaLlmError, UsageError

# The data position of a training step: (stage number, data step, counted from the start of its stage).
Position = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class DataSchedule:
    """Immutable; `with_stage` and `with_skip` give a longer one.

    Attributes:
      stages: (first step, mixture fingerprint), the first from step 0.
      skips: (stage number, first data step, data step after the last), counted from the stage's own start.
      mixing: how rows of several sources are mixed, in every stage, by a name of `ja_llm.data.mixing`; "grain" in the ledgers that do not say.
    """

    stages: tuple[tuple[int, str], ...]
    skips: tuple[tuple[int, int, int], ...] = ()
    mixing: str = MIXING

    @classmethod
    def single(cls, mixture: str) -> "DataSchedule":
        """One mixture from step 0 on, nothing skipped."""
        return cls(((0, mixture),))

    def stage(self, step: int) -> int:
        """Number of the stage that training step `step` belongs to."""
        if step < 0:
            raise IndexError(f"training step {step}")
        return max(i for i, (first, _) in enumerate(self.stages) if first <= step)

    def data_step(self, step: int) -> int:
        """The data step, counted from the start of its stage, that training step `step` reads."""
        return self.position(step)[1]

    def position(self, step: int) -> Position:
        """The data position of training step `step`: (stage, data step). Its batch is a function of this and the data alone."""
        stage = self.stage(step)
        return stage, self.batches_before(stage, step - self.stages[stage][0])

    def batches_before(self, stage: int, data_step: int) -> int:
        """How many batches of a stage are read or passed over before the one that its training step `data_step` (from 0) reads."""
        for _, first, stop in sorted(skip for skip in self.skips if skip[0] == stage):
            # Sorted and disjoint: whatever starts at or before the present position pushes it on.
            if first <= data_step:
                data_step += stop - first
        return data_step

    def with_stage(self, from_step: int, mixture: str) -> "DataSchedule":
        """Read another mixture from `from_step` on.

        Raises:
          UsageError: the stage does not begin after the last one.
        """
        if from_step <= self.stages[-1][0]:
            raise UsageError(
                f"a stage from step {from_step} does not come after the last one, which begins at step {self.stages[-1][0]}."
            )
        return dataclasses.replace(self, stages=(*self.stages, (from_step, mixture)))

    def extended(self, wanted: "DataSchedule", from_step: int) -> "DataSchedule":
        """This schedule (a run's own) with the stages that a call asks for, where they begin at `from_step` or later.

        Raises:
          UsageError: the call asks for other stages in the steps that the run has done.
        """
        past = tuple(stage for stage in self.stages if stage[0] < max(from_step, 1))
        if past != tuple(stage for stage in wanted.stages if stage[0] < max(from_step, 1)):
            raise UsageError(
                f"the data's stages before step {from_step} differ from what this run has read: it read "
                f"{_stages(past)}, the command says {_stages(wanted.stages)}; give the same CACHE_DIR and STAGES, only later steps "
                "may be planned anew."
            )
        same = 0
        while same < min(len(self.stages), len(wanted.stages)) and self.stages[same] == wanted.stages[same]:
            same += 1
        return dataclasses.replace(self, stages=wanted.stages, skips=tuple(skip for skip in self.skips if skip[0] < same))

    def with_skip(self, at_step: int, steps: int) -> "DataSchedule":
        """Pass over the `steps` batches that would come next at training step `at_step` (to which the run was rolled back).

        Raises:
          UsageError: nothing to skip.
        """
        if steps < 1:
            raise UsageError(f"{steps} batches can't be skipped; give 1 or more.")
        stage, start = self.stage(at_step), self.data_step(at_step)
        added = []
        for _, first, stop in sorted(skip for skip in self.skips if skip[0] == stage and skip[1] >= start):
            count = min(first - start, steps)
            if count:
                added.append((stage, start, start + count))
            start, steps = stop, steps - count
            if not steps:
                break
        if steps:
            added.append((stage, start, start + steps))
        return dataclasses.replace(self, skips=(*self.skips, *added))

    def to_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "stages": [{"from_step": first, "mixture": mixture} for first, mixture in self.stages],
            "skips": [{"stage": stage, "from": first, "to": stop} for stage, first, stop in self.skips],
            **({} if self.mixing == "grain" else {"mixing": self.mixing}),
        }

    @classmethod
    def from_json(cls, value: Any) -> "DataSchedule":
        """Inverse of `to_json`.

        Raises:
          JaLlmError: it is no schedule, or stages and skips are out of order.
        """
        try:
            stages = tuple((int(s["from_step"]), str(s["mixture"])) for s in value["stages"])
            skips = tuple((int(s["stage"]), int(s["from"]), int(s["to"])) for s in value["skips"])
            mixing = str(value.get("mixing", "grain"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise JaLlmError(f"the run's data schedule can't be read ({error!r}); restore run.json from a copy.") from error
        steps = [first for first, _ in stages]
        sound = bool(steps) and steps[0] == 0 and all(a < b for a, b in zip(steps, steps[1:], strict=False))
        ordered = sorted(skips)
        sound = sound and all(0 <= s < len(stages) and 0 <= a < b for s, a, b in skips)
        if not sound or any(p[0] == q[0] and p[2] > q[1] for p, q in zip(ordered, ordered[1:], strict=False)):
            raise JaLlmError(
                "the run's data schedule is out of order (stages must begin at step 0 and grow, skips must not overlap)."
            )
        if mixing not in MIXINGS:
            raise JaLlmError(
                f"the run's data schedule mixes by {mixing!r}, which this version of ja_llm does not know; go on with the version that wrote run.json."
            )
        return cls(stages, skips, mixing)


def _stages(stages: tuple[tuple[int, str], ...]) -> str:
    return ", ".join(f"{mixture[:12]} from step {first}" for first, mixture in stages)
