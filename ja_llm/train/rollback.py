"""Rollback: back to the last checkpoint, past the batches from there to the offending one, noted in the ledger.

The batches that are passed over stand in the ledger's data schedule, so a run that is killed after a rollback goes on alike, and a new
run that is given that schedule (DATA_SCHEDULE) has the same losses without the detour.
"""

import time
from pathlib import Path
from typing import Any

import jax

from ja_llm.data.schedule import Position
from ja_llm.errors import JaLlmError
from ja_llm.files import read_json, write_json
from ja_llm.train.processes import say


class OffendingStep(Exception):
    """A step whose loss or gradient is not finite, or a spike that is to be rolled back.

    Attributes:
      step: its number, 1 for the first update.
      why: "the loss or its gradient is not finite", or what the spike was.
    """

    def __init__(self, step: int, why: str):
        super().__init__(step, why)
        self.step, self.why = step, why


def roll_back(
    schedule: Any, offence: OffendingStep, newest: int, ledger: Path, *, done: int, allowed: int, margin: int, write: bool
) -> Any:
    """The schedule that passes over the offending batches.

    Args:
      schedule: the data schedule in force (`ja_llm.data.schedule.DataSchedule`).
      offence: what happened.
      newest: step of the checkpoint to go back to; 0: none, the run begins anew.
      ledger: the run's run.json.
      done: rollbacks that the run has had.
      allowed: rollbacks that a run may have in all.
      margin: batches after the offending one that are passed over too.
      write: whether this process writes the ledger.

    Returns:
      The new schedule.

    Raises:
      JaLlmError: the run has had its rollbacks; says where to begin again.
    """
    bad = offence.step - 1  # the training step whose batch it was
    if done >= allowed:
        raise _given_up(offence, schedule.position(bad), ledger.parent, newest, done, allowed)
    # Of the stage that the bad batch is in: a later stage's batches are counted from its own start.
    first = max(newest, schedule.stages[schedule.stage(bad)][0])
    skipped = bad - first + 1 + margin
    longer = schedule.with_skip(first, skipped)
    if write:
        stored = read_json(ledger, "ledger")
        entry = {
            "step": offence.step,
            "why": offence.why,
            "to_step": newest,
            "skipped_batches": skipped,
            "from_data_step": schedule.data_step(first),
            "stage": schedule.stage(bad),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(ledger, {**stored, "data_schedule": longer.to_json(), "rollbacks": [*stored.get("rollbacks", []), entry]})
    return longer


def go_back(offence: OffendingStep, schedule: Any, checkpoints: Any, config: Any, done: int) -> Any:
    """The data schedule that goes on from the newest checkpoint past the offending batches; the ledger has it too.

    Args:
      offence: what happened.
      schedule: as of `roll_back`.
      checkpoints: the run's (`ja_llm.train.checkpoints.Checkpoints`).
      config: `RunConfig`.
      done: as of `roll_back`.

    Raises:
      JaLlmError: the run has had its rollbacks.
    """
    newest = max(checkpoints.steps(), default=0)
    longer = roll_back(
        schedule,
        offence,
        newest,
        checkpoints.directory / "run.json",
        done=done,
        allowed=config.max_rollbacks,
        margin=config.rollback_margin,
        write=jax.process_index() == 0,
    )
    say(f"step {offence.step}: {offence.why}; back to step {newest}, past the batches from there to it.")
    return longer


def rollbacks_of(ledger: Path) -> int:
    """How many rollbacks a run has had."""
    return len(read_json(ledger, "ledger").get("rollbacks", [])) if ledger.exists() else 0


def _given_up(offence: OffendingStep, position: Position, directory: Path, newest: int, done: int, allowed: int) -> JaLlmError:
    stage, data_step = position
    start = f"INITIAL_CHECKPOINT_PATH={directory}@{newest}" if newest else "the settings of this one"
    had = f" after {done} rollbacks" if done else ""
    lower = f"give it a lower rate from step {newest} on (SCHEDULE=@learning_rates.Joined()), " if newest else ""
    return JaLlmError(
        f"step {offence.step}: {offence.why}{had}, the parameters were left as before it, and MAX_ROLLBACKS allows {allowed} in all of a run's "
        f"life; look at the documents of its batch (`BatchSource.trace` of data step {data_step}, of stage {stage}'s source), then raise MAX_ROLLBACKS to go on, {lower}or begin another run in "
        f"a new MODEL_DIR with {start} and a lower PEAK_LEARNING_RATE."
    )
