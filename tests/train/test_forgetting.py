"""The forgetting monitor: baseline of step 0, rises, alarms in the log and in metrics.jsonl, and a stop that goes on where it was."""

import json

import numpy as np
import pytest

from ja_llm.cli import main
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.train.alarms import Alarm, above_zero
from ja_llm.train.forgetting import ForgettingMonitor, monitor_of, probe_steps
from ja_llm.train.metrics import MetricsWriter, read_metrics
from ja_llm.train.run_config import RunConfig

STEPS = (0, 10, 20, 30, 40, 50)
SIZES = np.array([100.0, 300, 200, 400])
NAN = float("nan")


class Planted:
    """A probe whose documents have given bits per byte."""

    def __init__(self, level, fingerprint="a"):
        self.fingerprint, self._level, self.rows = fingerprint, level, None

    def at(self, step):
        spread = 1 + 0.01 * np.sin(np.arange(4) + step)  # no two documents alike, so that there is noise
        self.rows = np.stack([self._level(step) * SIZES * spread, SIZES], axis=1)


def watched(directory, probes, alarms, steps, start=0):
    """What the loop does with a monitor; returns why it was to stop."""
    writer = MetricsWriter(directory, start)
    monitor = ForgettingMonitor(directory, probes, alarms, STEPS[1:], start)
    for step in steps:
        for probe in probes.values():
            probe.at(step)
        values, why = monitor.look(step)
        writer.write(step, values)
        if why:
            break
    writer.close()
    return why


def test_rises_are_told_and_a_planted_collapse_alarms_after_its_patience(tmp_path, capsys):
    probes = {"web_en": Planted(lambda step: 1.0 + 0.5 * (step >= 20)), "code": Planted(lambda step: 2.0)}
    alarms = (Alarm(domains=("web_*",), relative_rise=0.1, patience=2),)
    assert watched(tmp_path, probes, alarms, STEPS) == ""
    lines = {line["step"]: line for line in read_metrics(tmp_path / "metrics.jsonl")}
    assert lines[0] == {"step": 0}
    assert lines[10]["forgetting/web_en/rise"] == pytest.approx(0.0, abs=0.02)
    assert (
        lines[20]["forgetting/web_en/rise"] == pytest.approx(0.5, abs=0.02)
        and 0 < lines[20]["forgetting/web_en/rise_error"] < 0.02
    )
    assert [lines[step]["forgetting/web_en/over"] for step in STEPS[1:]] == [0, 1, 2, 3, 4]
    assert [lines[step]["forgetting/web_en/alarm"] for step in STEPS[1:]] == [0, 0, 1, 1, 1]
    assert "forgetting/code/rise" in lines[50] and "forgetting/code/over" not in lines[50]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("train: step 30: ALARM: web_en is at 1.5")
    assert "past its bound of 10 % above step 0 at 2 probes in a row." in said[0]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda value: [], "the schema of this probes file is None"),
        (lambda value: {**value, "schema": "ja_llm.probes/2"}, "the schema of this probes file is 'ja_llm.probes/2'"),
        (lambda value: {**value, "domains": []}, "its domains are not laid out"),
        (lambda value: {**value, "domains": {"en": [1]}}, "its domains are not laid out"),
        (lambda value: {**value, "domains": {"en": {"fingerprint": "a"}}}, "its domains are not laid out"),
        (lambda value: {**value, "domains": {"en": {"fingerprint": "a", "rows": [1, 2]}}}, "the rows of 'en' are no pairs"),
        (lambda value: {**value, "domains": {"en": {"fingerprint": "a", "rows": [[1, 2], [3]]}}}, "can't be used"),
        (
            lambda value: {**value, "domains": {"en": {"fingerprint": "a", "rows": [[1, 2]]}}},
            "1 documents of en, and there are 4",
        ),
    ],
)
def test_a_probes_file_of_another_shape_is_named(tmp_path, damage, says):
    probes = {"en": Planted(lambda step: 1.0)}
    watched(tmp_path, probes, (Alarm(rise=0.1),), (0,))
    path = tmp_path / "probes.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(JaLlmError, match=rf"probes.json: .*{says}.*; put a copy back, or remove it"):
        watched(tmp_path, probes, (Alarm(rise=0.1),), (10,), start=5)


def test_a_gap_that_closes_ends_its_alarm_and_one_before_from_step_is_let_pass(tmp_path, capsys):
    probes = {"web_en": Planted(lambda step: 1.0 + 0.5 * (step in (10, 20, 30)))}
    watched(tmp_path, probes, (Alarm(rise=0.1, patience=2),), STEPS)
    said = capsys.readouterr().err
    assert "step 20: ALARM" in said and "step 40: the alarm for web_en is off" in said
    (tmp_path / "late").mkdir()
    assert watched(tmp_path / "late", probes, (Alarm(rise=0.1, patience=2, from_step=30, stop=True),), STEPS) == ""
    assert capsys.readouterr().err == ""


def test_a_run_that_goes_on_judges_as_the_undisturbed_one(tmp_path):
    probes = {"web_en": Planted(lambda step: 1.0 + 0.5 * (step >= 20))}
    alarms = (Alarm(relative_rise=0.1, patience=3),)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    watched(tmp_path / "whole", probes, alarms, STEPS)
    watched(tmp_path / "killed", probes, alarms, STEPS[:4])
    watched(tmp_path / "killed", probes, alarms, STEPS[3:], start=20)  # killed behind the checkpoint of 20
    assert read_metrics(tmp_path / "killed/metrics.jsonl") == read_metrics(tmp_path / "whole/metrics.jsonl")


def test_without_a_baseline_only_the_ceiling_is_judged_and_it_says_so(tmp_path, capsys):
    alarms = (Alarm(relative_rise=0.1, ceiling=1.3, patience=1, stop=True),)
    watched(tmp_path, {"web_en": Planted(lambda step: 1.0)}, alarms, STEPS[:3])
    other = Planted(lambda step: 1.25 + 0.25 * (step == 40), fingerprint="b")
    why = watched(tmp_path, {"web_en": other}, alarms, STEPS[3:], start=20)
    assert "past its bound of 1.3 bits per byte at 1 probes in a row" in why and "(" not in why
    assert "web_en has no baseline of step 0 (its held-out documents are others than then)" in capsys.readouterr().err
    line = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert line["step"] == 40 and line["forgetting/web_en/alarm"] == 1 and "forgetting/web_en/rise" not in line


def test_probe_steps_are_dense_then_rare():
    steps = probe_steps(30_000)
    assert steps[:11] == tuple(range(0, 101, 10)) and steps[-1] == 30_000 and len(steps) < 45
    assert all(b >= 1.2 * a for a, b in zip(steps[10:-2], steps[11:-1], strict=True))
    assert probe_steps(5) == (0, 5) and probe_steps(10) == (0, 10)
    with pytest.raises(UsageError, match="growth is above 1"):
        probe_steps(100, growth=1.0)


@pytest.fixture(scope="module")
def elsewhere(make_cache, cache_dir, tmp_path_factory):
    """A domain that is not trained on, of the same vocabulary."""
    return make_cache(
        tmp_path_factory.mktemp("probes") / "code", 5, name="other", rates={"code_ja": 1.0}, vocab=cache_dir / "vocab"
    )


def test_a_stop_keeps_the_run_and_the_same_command_goes_on(training, elsewhere, tmp_path, capsys):
    """A ceiling that a fresh model is far above; once it is raised, the run goes on from where it stopped."""
    command = training.command(tmp_path / "run", 6, EVAL_PERIOD=2, PROBES=(str(elsewhere),), CHECKPOINT_PERIOD=6)[3:]
    bindings = ["--gin.ALARMS=(@alarms.Alarm(),)", "--gin_bindings=alarms.Alarm.domains = ('code_*',)"]
    strict = [*bindings, "--gin_bindings=alarms.Alarm.ceiling = 0.1", "--gin_bindings=alarms.Alarm.stop = True"]
    assert main([*command, *strict]) == 1
    said = capsys.readouterr().err
    assert "step 4: ALARM: code_ja is at" in said and "so the run stopped" in said and "Alarm.stop = False" in said
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in lines if "eval/code_ja/bits_per_byte" in line] == [0, 2, 4]
    stored = json.loads((tmp_path / "run/probes.json").read_text())
    assert stored["schema"] == "ja_llm.probes/1" and set(stored["domains"]) == {"web_ja", "web_en", "code_ja"}
    bits, sizes = np.array(stored["domains"]["code_ja"]["rows"]).sum(0)
    assert bits / sizes == pytest.approx(lines[0]["eval/code_ja/bits_per_byte"], rel=1e-12)
    assert main([*command, *bindings, "--gin_bindings=alarms.Alarm.ceiling = 100.0"]) == 0
    last = read_metrics(tmp_path / "run/metrics.jsonl")[-1]
    assert last["step"] == 6 and last["forgetting/code_ja/alarm"] == 0 and last["forgetting/web_en/rise"] < 0


def test_probes_of_another_vocabulary_or_without_documents_are_refused(training, make_cache, tmp_path, capsys):
    other = make_cache(tmp_path / "other", vocab_size=380)
    assert main([*training.command(tmp_path / "run", 6, PROBES=(str(other),))[3:], "--dry_run"]) == 2
    assert "these probes are of another vocabulary than" in capsys.readouterr().err
    assert main([*training.command(tmp_path / "run", 6, ALARMS="x")[3:], "--dry_run"]) == 2
    assert "ALARMS is 'x'; give a tuple, e.g. (@english/alarms.Alarm(),)" in capsys.readouterr().err


@pytest.mark.parametrize("broken", [NAN, float("inf")])
def test_bits_that_are_no_finite_number_are_past_every_bound(tmp_path, capsys, broken):
    """One document of four is enough: the sum over all of them is no number either."""
    probe = Planted(lambda step: np.where(np.arange(4) == 2, broken if step >= 20 else 1.0, 1.0))
    alarms = (Alarm(ceiling=9.0, patience=2, stop=True),)
    assert "past its bound of finite numbers at 2 probes in a row" in watched(tmp_path, {"web_en": probe}, alarms, STEPS)
    lines = {line["step"]: line for line in read_metrics(tmp_path / "metrics.jsonl")}
    assert [lines[step]["forgetting/web_en/over"] for step in (10, 20, 30)] == [0, 1, 2]
    assert "forgetting/web_en/rise" in lines[10] and "forgetting/web_en/rise" not in lines[20]


def test_a_run_does_not_begin_with_parameters_that_give_no_number(tmp_path):
    with pytest.raises(JaLlmError, match="begins with give web_en no finite number of bits"):
        watched(tmp_path, {"web_en": Planted(lambda step: NAN), "code": Planted(lambda step: 1.0)}, (), STEPS)


@pytest.mark.parametrize(("scale", "p_value", "over"), [(1.0, (0.005, 0.05), 0), (0.3, (0.0005, 0.005), 1)])
def test_the_level_of_an_alarm_is_shared_by_all_probes_of_the_run(tmp_path, scale, p_value, over):
    """Of ten probes each is judged at a tenth of the level: what one test alone would call a rise is none."""
    alarm = Alarm(relative_rise=0.0, false_alarms=0.05)
    config = RunConfig(model_dir=tmp_path, total_steps=100, eval_period=10, alarms=(alarm,))
    probe = Planted(lambda step: 1.0)
    monitor = monitor_of(tmp_path, config, {"web_en": probe}, 0)
    for step, rises in ((0, np.zeros(4)), (10, 0.1 + scale * np.array([-0.06, 0.08, -0.09, 0.07]))):
        probe.rows = np.stack([SIZES * (1 + rises), SIZES], axis=1)
        values, _ = monitor.look(step)
    low, high = p_value
    assert low < above_zero(SIZES * rises, SIZES) < high
    assert values["forgetting/web_en/over"] == over
