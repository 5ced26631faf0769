"""A run of two stages, 90 to 10 and then an anneal whose rate goes to zero, goes on before and behind the switch alike."""

import json

import pytest

from ja_llm.cli import main
from ja_llm.train import main as training_main
from ja_llm.train.checkpoints import load_model


@pytest.fixture(scope="module")
def anneal_cache(make_cache, tmp_path_factory, cache_dir):
    """A mixture of other documents with the first one's vocabulary."""
    folder = tmp_path_factory.mktemp("anneal") / "tokens"
    return make_cache(folder, seed=5, name="anneal", rates={"web_ja": 0.5, "web_en": 0.5}, vocab=cache_dir / "vocab")


@pytest.fixture
def train(training, anneal_cache, tmp_path, monkeypatch):
    """train(folder, steps) trains the first `steps` of 16, the last 6 of them from the second stage."""

    def run(name, steps, *more):
        macros = {
            "ANNEAL_CACHE_DIR": str(anneal_cache),
            "ANNEAL_FROM": 10,
            "CHECKPOINT_PERIOD": 4,
            "WARMUP_STEPS": 2,
        }
        command = [
            word.replace("runs/pretrain.gin", "runs/two_stages.gin")
            for word in training.command(tmp_path / name, 16, **macros)[3:]
        ]
        with monkeypatch.context() as patched:
            if steps < 10:  # stands for a run of 16 that something broke off, so the stage is not one that it never comes to
                patched.setattr(training_main, "check_begins", lambda *_: None)
            return main([*command, f"--gin_bindings=main.train.total_steps = {steps}", *more])

    return run


def lines(directory):
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [
        tuple(line[name] for name in ("step", "loss", "learning_rate", "stage", "data_step")) for line in found if "loss" in line
    ]


def test_it_goes_on_across_the_switch(train, tmp_path, capsys):
    assert train("whole", 16) == 0
    assert "data: web_en" in capsys.readouterr().out
    whole = lines(tmp_path / "whole")
    assert len(whole) == 16
    assert [line[3:] for line in whole] == [(0, step) for step in range(10)] + [(1, step) for step in range(6)]
    assert [line[2] for line in whole[10:]] == pytest.approx([1e-4 * (1 - i / 6) for i in range(6)], rel=1e-5)
    for stop in (6, 12):  # goes on before the switch, and behind it
        for steps in (stop, 16):
            assert train(f"stop{stop}", steps) == 0
        assert lines(tmp_path / f"stop{stop}") == whole
    stages = json.loads((tmp_path / "whole/run.json").read_text())["data_schedule"]["stages"]
    assert [stage["from_step"] for stage in stages] == [0, 10]
    assert load_model(tmp_path / "whole").step == 16


def test_a_past_stage_can_not_be_moved(train, tmp_path, capsys):
    assert train("run", 12) == 0
    capsys.readouterr()
    assert train("run", 16, "--gin.ANNEAL_FROM=11") == 2
    assert "differ from what this run has read" in capsys.readouterr().err


@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
def test_a_stage_that_the_run_never_comes_to_is_refused(training, anneal_cache, tmp_path, capsys, dry):
    """The rate is another file's here: two_stages.gin refuses such an anneal by its own count of steps."""
    macros = {"SECOND_MIXTURE": "anneal", "SECOND_CACHE_DIR": str(anneal_cache), "SECOND_FROM": 16}
    command = [*training.command(tmp_path / "run", 16, **macros)[3:], "--gin_file=runs/second_mixture.gin", *dry]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"stage 2 of this run (anneal in {anneal_cache}) begins at step 16, but the last step of its 16 is 15" in said
    assert said.count("\n") == 1 and not (tmp_path / "run").exists()
