"""What the training command makes of gin, without training."""

import pytest

from ja_llm.cli import main
from ja_llm.errors import UsageError
from ja_llm.sharding import DEFAULT_RULES
from ja_llm.train import loop
from ja_llm.train.main import architecture_of
from ja_llm.vocab.base import load_tokenizer


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


def test_a_twin_has_the_architecture_of_a_model_and_its_own_weights(training, started, straight, tmp_path):
    command = training.command(tmp_path / "twin", 20)[3:]
    twin = [word for word in command if not word.startswith("--gin_file")] + ["--gin_file=runs/twin.gin"]
    config, model, _ = started([*twin, f"--gin.ARCHITECTURE_OF={straight}"])
    assert model == started(command)[1] and config.initial_checkpoint is None


def test_a_twin_of_a_model_that_does_not_fit_the_data_is_refused(training, straight, tmp_path, capsys):
    command = [word for word in training.command(tmp_path / "twin", 20)[3:] if not word.startswith("--gin_file")]
    command.append("--gin_file=runs/twin.gin")
    assert main(command) == 2
    assert "ARCHITECTURE_OF has no value" in capsys.readouterr().err
    assert main([*command, "--gin.ARCHITECTURE_OF=nowhere"]) == 2
    assert "nowhere: this model directory does not exist" in capsys.readouterr().err
    ids = load_tokenizer(straight / "vocab").vocab_size
    assert architecture_of(ids, str(straight)).vocab_size == ids
    with pytest.raises(UsageError, match=f"has {ids} ids, the data {ids + 1}"):
        architecture_of(ids + 1, str(straight))
