"""The forgetting monitor: each probe of a run beside its own step 0, and the alarms.

What it adds to the line of an evaluated step in metrics.jsonl, for each domain (probe):

    forgetting/<domain>/rise         bits per byte above step 0
    forgetting/<domain>/rise_error   its standard error over documents
    forgetting/<domain>/over         probes in a row past a bound, this one included; where an alarm judges the domain
    forgetting/<domain>/alarm        1 while the alarm is on

The documents' bits at step 0 stand in probes.json of the run directory, so that a run which goes on judges as the undisturbed one.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import gin
import numpy as np

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json
from ja_llm.train.alarms import Alarm, alarm_of, number_of_tests, rise
from ja_llm.train.metrics import read_metrics
from ja_llm.train.run_config import RunConfig
from ja_llm.train.settings import is_number, is_whole

BASELINE = "probes.json"
SCHEMA = "ja_llm.probes/1"


class Alarmed(JaLlmError):
    """An alarm with `stop` has ended the run, which is saved; no launcher starts it again."""


class Probed(Protocol):
    """What the monitor asks of an evaluator: see `ja_llm.evaluation.bits_per_byte.Probe`."""

    fingerprint: str
    rows: np.ndarray | None


def probes_of(evaluators: Mapping[str, Any]) -> dict[str, Probed]:
    """The evaluators that tell the bits of each document."""
    return {name: evaluator for name, evaluator in evaluators.items() if hasattr(evaluator, "rows")}


class ForgettingMonitor:
    """Looks at the probes after each evaluation; only the process that writes has one.

    Args:
      directory: where metrics.jsonl is written.
      probes: domain -> probe.
      alarms: in their order.
      steps: of the whole run, those at which the alarms judge (`judged_steps`).
      start: the step that the run goes on from; 0 for one that begins.

    Raises:
      JaLlmError: probes.json can't be read.
    """

    def __init__(self, directory: Path, probes: Mapping[str, Probed], alarms: Sequence[Alarm], steps: Sequence[int], start: int):
        self._path, self._probes, self._alarms = directory / BASELINE, probes, alarms
        self._tests = dict(number_of_tests(alarms, probes, steps))
        self._base: dict[str, np.ndarray] = {}
        self._over: dict[str, int] = {}
        if start:
            self._read_back(start)

    def _read_back(self, start: int) -> None:
        stored = read_baseline(self._path) if self._path.exists() else {}
        for domain, probe in self._probes.items():
            fingerprint, rows = stored.get(domain, ("", None))
            if rows is not None and fingerprint == probe.fingerprint:
                self._base[domain] = rows
            elif domain in self._tests:
                why = "it was not measured then" if rows is None else "its held-out documents are others than then"
                _say(f"{domain} has no baseline of step 0 ({why}), so only a ceiling can raise an alarm for it.")
        for line in read_metrics(self._path.with_name("metrics.jsonl")):
            for domain in self._tests:
                if line["step"] <= start and (over := line.get(f"forgetting/{domain}/over")) is not None:
                    self._over[domain] = int(over)

    def look(self, step: int) -> tuple[dict[str, float], str]:
        """Judge what the probes have just measured.

        Args:
          step: steps done; 0 makes the baseline.

        Returns:
          What to log, and why the run is to stop ("" where it is not).
        """
        measured = {domain: probe.rows for domain, probe in self._probes.items() if probe.rows is not None}
        if step == 0:
            if broken := [domain for domain, rows in measured.items() if not np.isfinite(rows).all()]:
                raise JaLlmError(
                    f"the parameters that this run begins with give {', '.join(broken)} no finite number of bits; begin with others."
                )
            self._base = measured
            entries = {d: {"fingerprint": self._probes[d].fingerprint, "rows": rows.tolist()} for d, rows in measured.items()}
            write_json(self._path, {"schema": SCHEMA, "domains": entries})
            return {}, ""
        values, why = dict[str, float](), ""
        for domain, rows in measured.items():
            if (base := self._base.get(domain)) is not None and np.isfinite(rows).all():
                if base.shape != rows.shape:
                    raise JaLlmError(
                        f"{self._path}: this probes file has {len(base)} documents of {domain}, and there are {len(rows)}; {_REMEDY}."
                    )
                values[f"forgetting/{domain}/rise"], values[f"forgetting/{domain}/rise_error"] = rise(rows, base)
            if (alarm := alarm_of(domain, self._alarms)) is not None and step >= alarm.from_step:
                told = self._judge(step, domain, alarm, rows, base)
                values |= {f"forgetting/{domain}/over": self._over[domain], f"forgetting/{domain}/alarm": float(bool(told))}
                why = why or (told if alarm.stop else "")
        return values, why

    def _judge(self, step: int, domain: str, alarm: Alarm, rows: np.ndarray, base: np.ndarray | None) -> str:
        """What the alarm says of this probe; "" where it is off. Said aloud when it goes on or off."""
        before = self._over.get(domain, 0)
        bound = alarm.crossed(rows, base, self._tests[domain])
        self._over[domain] = now = before + 1 if bound else 0
        if now >= alarm.patience:
            level = rows[:, 0].sum() / rows[:, 1].sum()
            was = "" if base is None else f" ({base[:, 0].sum() / base[:, 1].sum():.4f} at step 0)"
            told = f"{domain} is at {level:.4f} bits per byte{was}, past its bound of {bound} at {now} probes in a row"
            if now == alarm.patience:
                _say(f"step {step}: ALARM: {told}.")
            return told
        if before >= alarm.patience:
            _say(f"step {step}: the alarm for {domain} is off: it is within its bounds again.")
        return ""


def read_baseline(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Of each domain in a probes.json the fingerprint of its documents, and their bits and bytes at step 0, float64 `[documents, 2]`.

    Raises:
      JaLlmError: it can't be read, is of another schema, or is not laid out so.
    """
    value = read_json(path, "probes file")
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        schema = value.get("schema") if isinstance(value, dict) else None
        raise JaLlmError(
            f"{path}: the schema of this probes file is {schema!r}, this version of ja_llm knows {SCHEMA!r}; {_REMEDY}."
        )
    found = {}
    try:
        for domain, entry in value["domains"].items():
            rows = np.asarray(entry["rows"], np.float64)
            if rows.ndim != 2 or rows.shape[1] != 2 or not len(rows) or not np.isfinite(rows).all():
                raise ValueError(f"the rows of {domain!r} are no pairs of bits and bytes")
            found[domain] = str(entry["fingerprint"]), rows
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = str(error) if isinstance(error, ValueError) else "its domains are not laid out as ja_llm writes them"
        raise JaLlmError(f"{path}: this probes file can't be used ({what}); {_REMEDY}.") from error
    return found


_REMEDY = "put a copy back, or remove it: without it only a ceiling can raise an alarm"


def _say(sentence: str) -> None:
    print(f"train: {sentence}", file=sys.stderr, flush=True)


@gin.configurable
def probe_steps(total: int = gin.REQUIRED, every: int = 10, until: int = 100, growth: float = 1.25) -> tuple[int, ...]:
    """Steps to probe at: often while a stability gap opens, then ever more rarely: `train.eval_steps = @forgetting.probe_steps()`.

    Args:
      total: steps of the run, the last of which is probed.
      every: steps between probes up to `until`.
      until: where the distance begins to grow.
      growth: each later step is at least so many times the one before.

    Raises:
      UsageError: a value is out of range.

    Example:
      >>> probe_steps(1000, every=20, until=60, growth=2.0)
      (0, 20, 40, 60, 120, 240, 480, 960, 1000)
    """
    if not all(is_whole(value) and value >= 1 for value in (total, every, until)) or not is_number(growth) or growth <= 1:
        raise UsageError(
            f"forgetting.probe_steps(total={total!r}, every={every!r}, until={until!r}, growth={growth!r}) gives no steps; the first three are whole numbers "
            "of 1 or more, growth is above 1."
        )
    steps = list(range(0, min(until, total) + 1, every))
    while (following := max(int(steps[-1] * growth), steps[-1] + every)) < total:
        steps.append(following)
    return (*steps, *([total] if steps[-1] < total else []))


def monitor_of(directory: Path, config: RunConfig, evaluators: Mapping[str, Any], start: int) -> ForgettingMonitor | None:
    """What watches the probes of a run that goes on from step `start`; None where nothing is probed."""
    probes = probes_of(evaluators)
    return ForgettingMonitor(directory, probes, config.alarms, judged_steps(config), start) if probes else None


def judged_steps(config: RunConfig) -> list[int]:
    """Steps of the whole run at which alarms judge the probes."""
    return [step for step in range(1, config.total_steps + 1) if config.evaluates(step)] if config.alarms else []
