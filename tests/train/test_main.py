"""What the training command makes of gin, without training."""

import pytest

from ja_llm.cli import main
from ja_llm.sharding import DEFAULT_RULES
from ja_llm.train import loop


@pytest.fixture
def started(monkeypatch):
    """started(command line) -> (settings, model, configuration text) with which the loop was called."""

    def start(argv):
        calls = []
        monkeypatch.setattr(loop, "run", lambda config, model, *_, config_text, **__: calls.append((config, model, config_text)))
        assert main(argv) == 0
        return calls[0]

    return start


def test_the_kept_configuration_has_every_value_and_gives_the_same_run(training, started, tmp_path):
    run, model, text = started(training.command(tmp_path / "run", 20)[3:])
    for line in (
        "PEAK_LEARNING_RATE = 0.001",
        "WARMUP_STEPS = 4",
        "main.train.keep_checkpoints = 2",
        "config.DecoderConfig.rope_theta = ",
    ):
        assert f"\n{line}" in text
    assert "main.train.eval_documents = 64" in text and "('embed', 'fsdp')" in text
    (tmp_path / "config.gin").write_text(text)
    assert started(["train", f"--gin_file={tmp_path}/config.gin"]) == (run, model, text)


def test_a_run_of_an_earlier_version_is_refused_by_its_schema(training, tmp_path, capsys):
    (tmp_path / "model.json").write_text('{"schema": "ja_llm.model/1"}')
    capsys.readouterr()
    assert main(training.command(tmp_path, 20)[3:]) == 1
    err = capsys.readouterr().err
    assert "'ja_llm.model/1', but 'ja_llm.model/2' is needed" in err and "with a new MODEL_DIR" in err
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


def test_the_rules_in_gin_are_the_defaults_and_can_be_changed_there(training, started, tmp_path):
    assert started(training.command(tmp_path, 20)[3:])[0].rules == DEFAULT_RULES
    rules = (("batch", "data"), ("embed", None))
    assert started(training.command(tmp_path, 20, LOGICAL_AXIS_RULES=rules)[3:])[0].rules == rules
