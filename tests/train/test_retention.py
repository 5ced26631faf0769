"""Exactly the newest, those of the period and the best stay, whatever the metrics and whenever the process is killed."""

import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ja_llm.cli import main
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.train.checkpoints import Checkpoints, model_steps
from ja_llm.train.retention import Best, preservation
from ja_llm.train.run_config import RunConfig

METRIC = "eval/web_ja/bits_per_byte"
# What a step's evaluation gives (None: a save without one), and where in its save the process is killed.
VALUES = st.sampled_from([None, math.nan, 0.5, 1.0, 1.5, 2.0, 2.5])
KILLS = st.sampled_from([None, None, None, "before", "behind"])


def expected(saved, keep, period, best):
    """By brute force over all that was ever saved: {step: value}."""
    ranked = [step for step, value in saved.items() if value is not None and math.isfinite(value)]
    sign = 1 if best.mode == "max" else -1
    ranked.sort(key=lambda step: (sign * saved[step], step))
    newest = sorted(saved)[-keep:]
    return sorted({*newest, *(step for step in saved if step % period == 0), *ranked[-best.keep :]})


@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.generate))  # files: shrinking takes minutes
@given(
    steps=st.lists(st.tuples(VALUES, KILLS), min_size=3, max_size=9),
    keep=st.integers(1, 2),
    period=st.integers(3, 5),
    best=st.builds(Best, st.just(METRIC), st.integers(1, 3), st.sampled_from(["min", "max"])),
)
def test_what_stays(steps, keep, period, best):
    with tempfile.TemporaryDirectory() as folder:

        def opened():
            return Checkpoints(folder, keep, asynchronous=False, keep_period=period, best=best)

        checkpoints, saved = opened(), {}
        for step, (value, kill) in enumerate(steps, 1):
            if kill == "before":  # half of the new one is there, under orbax's temporary name
                for some in (Path(folder) / "checkpoints").glob("[0-9]"):
                    shutil.copytree(
                        some / "params", f"{folder}/checkpoints/{step}.orbax-checkpoint-tmp/params", dirs_exist_ok=True
                    )
                checkpoints = opened()
            if kill == "behind":  # the new one is there, and so are those that it makes superfluous
                checkpoints._manager._checkpoint_deleter.delete_steps = lambda _: None
            checkpoints.save(
                step, {"a": np.zeros(1)}, {"b": np.ones(1)}, None if value is None else {METRIC: value, "other": 7.0}
            )
            saved[step] = value
            if kill == "behind":
                checkpoints = opened()
        assert checkpoints.steps() == opened().steps() == model_steps(Path(folder)) == expected(saved, keep, period, best)


def test_without_a_best_one_the_newest_and_the_period_stay_and_metrics_are_not_written(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2, asynchronous=False, keep_period=3)
    for step in range(1, 8):
        checkpoints.save(step, {"a": np.zeros(1)}, {"b": np.ones(1)}, {METRIC: -step})
    assert checkpoints.steps() == [3, 6, 7]
    assert not (tmp_path / "checkpoints/7/metrics").exists()


def test_metrics_that_cannot_be_read_are_named(tmp_path):
    checkpoints = Checkpoints(tmp_path, asynchronous=False, best=Best(METRIC))
    checkpoints.save(1, {"a": np.zeros(1)}, {"b": np.ones(1)}, {METRIC: 1.0})
    (tmp_path / "checkpoints/1/metrics/metrics").write_text('{"eval')
    with pytest.raises(JaLlmError, match="the metrics/metrics of a checkpoint can't be read"):
        Checkpoints(tmp_path, best=Best(METRIC))
    (tmp_path / "checkpoints/1/metrics/metrics").unlink()
    assert Checkpoints(tmp_path, best=Best(METRIC)).steps() == [1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0, None, None), "train.keep_checkpoints is 0; give a whole number of 1 or more"),
        ((2, 2.5, None), "KEEP_PERIOD is 2.5; give a whole number"),
    ],
)
def test_numbers_that_nothing_can_be_kept_by(arguments, says):
    with pytest.raises(UsageError, match=says):
        preservation(*arguments)
    for wrong in ({}, {"metric": METRIC, "keep": 0}, {"metric": METRIC, "mode": "least"}):
        with pytest.raises(UsageError, match="metric is a name in metrics.jsonl"):
            Best(**wrong)


def test_saves_without_an_evaluation_are_found(tmp_path):
    def unmeasured(**changes):
        return RunConfig(tmp_path, 20, checkpoint_period=6, **changes).unmeasured_saves()

    assert unmeasured(eval_period=4) == [6, 18] and unmeasured() == [6, 12, 18]
    assert unmeasured(eval_period=3) == unmeasured(eval_steps=(6, 12, 18)) == []


def keep_best(training, directory, metric, *bindings, **macros):
    """A command line that keeps one best checkpoint."""
    macros = {"EVAL_PERIOD": 5, "KEEP_BEST": 0, **macros}
    command = [word.replace("KEEP_BEST=0", "KEEP_BEST=@retention.Best()") for word in training.command(directory, 20, **macros)]
    return [*command[3:], f"--gin_bindings=retention.Best.metric = {metric!r}", *(f"--gin_bindings={b}" for b in bindings)]


@pytest.mark.parametrize(
    ("metric", "bindings", "macros", "says"),
    [
        ("eval/web_jp/bits_per_byte", (), {}, "no evaluation of this run gives (there are eval/web_ja/..., eval/web_en/...)"),
        (METRIC, ("main.train.eval_documents = 0",), {}, "train.eval_documents is 0, so there is nothing to evaluate by"),
        (METRIC, (), {"EVAL_PERIOD": 3}, "the checkpoint of step 5 falls on a step without evaluation; choose an EVAL_PERIOD"),
    ],
)
def test_what_could_never_be_ranked_is_refused(training, tmp_path, capsys, metric, bindings, macros, says):
    assert main(keep_best(training, tmp_path / "run", metric, *bindings, **macros)) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ja-llm")]
    assert len(err) == 1 and says in err[0]
    assert not (tmp_path / "run").exists()


def test_a_key_that_the_evaluation_does_not_give_is_refused_at_the_first_one():
    Best(METRIC).check_measured({METRIC: 1.0})
    with pytest.raises(UsageError, match="which the evaluation has not given; it gave a, eval/web_ja/bits_per_byte"):
        Best("eval/web_ja/loss").check_measured({METRIC: 1.0, "a": 2.0})


def test_a_run_keeps_the_best_over_a_restart(training, metrics, tmp_path):
    """Of a quantity that the first checkpoint is the best at, so that it has to outlive the newest."""
    changes = ("retention.Best.mode = 'max'", "main.train.keep_checkpoints = 1")
    for steps in (5, 10):
        command = [
            word.replace("TRAIN_STEPS=20", f"TRAIN_STEPS={steps}") for word in keep_best(training, tmp_path, METRIC, *changes)
        ]
        assert main([*command, "--gin.SCHEDULE=@learning_rates.WarmupConstant()"]) == 0
    values = {line["step"]: line[METRIC] for line in metrics(tmp_path) if METRIC in line}
    assert sorted(values) == [0, 5, 10] and values[5] > values[10]
    assert model_steps(tmp_path) == [5, 10]
