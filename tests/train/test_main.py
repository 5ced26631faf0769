"""What the training command makes of gin, without training."""

import json

import pytest

from ja_llm.cli import main
from ja_llm.data.batches import BatchSource
from ja_llm.errors import UsageError
from ja_llm.sharding import DEFAULT_RULES
from ja_llm.train import loop
from ja_llm.train.learning_rates import remaining
from ja_llm.train.main import _export, architecture_of
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


def test_a_run_ends_with_a_line_of_what_came_out(training, tmp_path, capsys):
    run = tmp_path / "run"
    command = training.command(run, 4, EVAL_PERIOD=2, WARMUP_STEPS=1)[3:]
    assert main(command) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    lines = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        lines.setdefault(line["step"], {}).update(line)
    held = [
        f"{name} {lines[0][key]:.3f} -> {lines[4][key]:.3f}"
        for name in ("web_ja", "web_en")
        if (key := f"eval/{name}/bits_per_byte")
    ]
    came = f"4 steps, loss {lines[4]['loss']:.3f}; held-out {', '.join(held)} bits/byte; {run}"
    assert last == f"finished: {came}"
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"finished already: {came}"


def test_a_run_of_an_earlier_version_is_refused_by_its_schema(training, tmp_path, capsys):
    (tmp_path / "model.json").write_text('{"schema": "ja_llm.model/1"}')
    capsys.readouterr()
    assert main(training.command(tmp_path, 20)[3:]) == 1
    err = capsys.readouterr().err
    assert "'ja_llm.model/1', but 'ja_llm.model/2' is needed" in err and "with a new MODEL_DIR" in err
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


def test_a_model_of_a_newer_version_is_answered_with_an_upgrade(training, tmp_path, capsys):
    (tmp_path / "model.json").write_text('{"schema": "ja_llm.model/3"}')
    capsys.readouterr()
    assert main(training.command(tmp_path, 20)[3:]) == 1
    err = capsys.readouterr().err
    assert "'ja_llm.model/3', and this version of ja_llm knows 'ja_llm.model/2'" in err and "upgrade ja_llm" in err


def test_a_folder_or_a_step_that_can_not_be_is_said_with_what_to_give(training, tmp_path, capsys):
    assert main(training.command("/proc/nothing/run", 20)[3:]) == 1
    assert "nothing can be written here (No such file or directory); choose another folder" in capsys.readouterr().err
    (tmp_path / "base").mkdir()
    assert main(training.command(tmp_path / "run", 20, INITIAL_CHECKPOINT_PATH=f"{tmp_path}/base@x")[3:]) == 2
    assert f"but 'x' is no step; give {tmp_path}/base@STEP" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("binding", "near"),
    [
        ("main.train.microbatchs = 2", "microbatches"),
        ("main.train.peak = 1", "peak_tflops"),
        ("learning_rates.WarmupCosin.peak = 1", "WarmupCosine"),
        ("SCHEDULE = @learning_rates.LinearDekay()", "LinearDecay"),
    ],
)
def test_a_misspelt_binding_is_answered_with_the_near_name(training, tmp_path, capsys, binding, near):
    assert main([*training.command(tmp_path / "run", 20)[3:], f"--gin_bindings={binding}"]) == 2
    err = capsys.readouterr().err
    assert f"(near names: {near}" in err and len(err.strip().splitlines()) == 1


def test_everything_that_has_a_macro_reaches_the_loop(training, started, cache_dir, tmp_path):
    later = [
        "--gin.OPTIMIZER=@optimizers.Muon()",
        "--gin.SCHEDULE=@learning_rates.WarmupStableDecay()",
        "--gin_bindings=learning_rates.WarmupStableDecay.decay_steps = 5",
        "--gin.SPIKES=@spikes.SpikeDetector()",
        "--gin.GROUPS=(@low/groups.Group(),)",
        "--gin_bindings=low/groups.Group.rate = 0.5",
        "--gin.WARMUP_STEPS=@warm/learning_rates.steps()",
        "--gin_bindings=warm/learning_rates.steps.tokens = 1000",
        "--gin.PACKING=best_fit",
        "--gin.EMA_DECAY=0.99",
        "--gin_bindings=main.train.profile = (3, 2)",
    ]
    command = [word for word in training.command(tmp_path / "run", 20)[3:] if "WARMUP_STEPS" not in word]
    run, _, text = started([*command, *later])
    assert (
        run.step.groups[0].rate == 0.5 and run.step.spikes.factor == 6.0 and run.step.ema_decay == 0.99 and run.profile == (3, 2)
    )
    assert "optimizers.Muon.beta" in text and "learning_rates.WarmupStableDecay.decay_steps = 5" in text


def test_an_export_that_is_there_is_not_made_again(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr("ja_llm.interop.hf.export_hf", lambda model, folder: made.append((model, folder)))
    (tmp_path / "export/4").mkdir(parents=True)
    for step in (4, 8):
        _export(str(tmp_path), step)
    assert made == [(f"{tmp_path}@8", tmp_path / "export/8")]


def test_a_run_that_would_repeat_a_source_too_often_does_not_start(training, tmp_path, capsys):
    assert main(training.command(tmp_path / "run", 2000, MAX_EPOCHS=2.0)[3:]) == 2
    out, err = capsys.readouterr()
    assert "MAX_EPOCHS allows 2 epochs of web_" in err and "lower TRAIN_STEPS to" in err
    assert "data: web_" in out and "epochs; web_" in out  # of every source, before the refusal
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("bindings", "says"),
    [
        (
            {"OPTIMIZER": "@optimizers.AdamW"},
            "OPTIMIZER is the class AdamW itself; give an object, with brackets, e.g. @optimizers.AdamW()",
        ),
        ({"SPIKES": "@spikes.SpikeDetector"}, "SPIKES is the class SpikeDetector itself"),
        (
            {"SCHEDULE": "@learning_rates.WarmupStableDecay()"},
            "learning_rates.WarmupStableDecay has no value for decay_steps; add --gin_bindings=",
        ),
        (
            {"SCHEDULE": "@learning_rates.Joined()", "WARMUP_STEPS": ...},
            "learning_rates.Joined has no value for schedules, starts",
        ),
        ({"GROUPS": "@groups.Group()"}, "GROUPS is Group(parameters=('*',), rate=1.0"),
        ({"PEAK_LEARNING_RATE": "fast"}, "WarmupCosine.peak is 'fast'; give a number"),
        (
            {"SCHEDULE": "@learning_rates.WarmupConstant()", "learning_rates.WarmupConstant.peak": -1},
            "0 <= peak and 0 <= warmup_steps",
        ),
        ({"WARMUP_STEPS": 100}, "0 <= warmup_steps < total_steps is needed: lower WARMUP_STEPS, or raise TRAIN_STEPS"),
        (
            {"SCHEDULE": "@learning_rates.WarmupStableDecay()", "learning_rates.WarmupStableDecay.decay_steps": 18},
            "lower WARMUP_STEPS or decay_steps, or raise TRAIN_STEPS",
        ),
        ({"FINAL_LEARNING_RATE": 1.0}, "are needed (FINAL_LEARNING_RATE, PEAK_LEARNING_RATE)"),
        ({"MAX_EPOCHS": "many"}, "MAX_EPOCHS is 'many'"),
        ({"RANDOM_SEED": "seven"}, "RANDOM_SEED is 'seven'; give a whole number of 0 or more"),
        ({"MESH": "data"}, "MESH is 'data'; give a dict"),
        ({"KEEP_PERIOD": 0}, "KEEP_PERIOD is 0; give a whole number of 1 or more, or None"),
        ({"train.keep_checkpoints": 0}, "train.keep_checkpoints is 0"),
        ({"train.profile": 100}, "train.profile is 100; give (first step, number of steps)"),
        ({"train.eval_steps": 5}, "train.eval_steps is 5; give a tuple"),
        ({"train.eval_tasks": "jaqket"}, "train.eval_tasks is 'jaqket'; give a tuple"),
        ({"STEP_TIMEOUT": "30s"}, "STEP_TIMEOUT is '30s'; give a number of seconds above 0, or None"),
        ({"STEP_TIMEOUT": 0}, "STEP_TIMEOUT is 0"),
        ({"EMA_DECAY": 2}, "EMA_DECAY is 2; give a number between 0 and 1"),
        ({"MAX_ROLLBACKS": -1}, "MAX_ROLLBACKS is -1"),
        ({"LOGICAL_AXIS_RULES": 5}, "LOGICAL_AXIS_RULES is 5; give a tuple of pairs"),
        ({"LOGICAL_AXIS_RULES": (("batch", 5),)}, "the logical axis rule ('batch', 5) is no pair (logical axis, mesh axis)"),
        ({"MODEL": "'llama31_8b'"}, "MODEL is 'llama31_8b'; leave it out and add --gin_file=models/NAME.gin"),
        ({"DATA_SCHEDULE": 7}, "DATA_SCHEDULE is 7; give the run.json of another run, or None"),
        (
            {"STAGES": "(@stages.Stage(),)", "stages.Stage.cache_dir": "x", "stages.Stage.from_step": "'9'"},
            "Stage.from_step is '9'; give a whole number of 1 or more",
        ),
        ({"MODEL_DIR": None}, "MODEL_DIR is None; give a folder"),
        ({"LOG_NORMS": "no"}, "LOG_NORMS is 'no'; give True or False"),
        ({"REPEAT_FILTER": 32}, "REPEAT_FILTER is 32; give True or False"),
        ({"Z_LOSS": "x"}, "Z_LOSS is 'x'; give a number of 0 or more"),
        ({"train.accept": "data"}, "train.accept is 'data'; give a tuple"),
        ({"train.maintenance": "gcp"}, "train.maintenance is 'gcp'; give 'gce', a URL, or None"),
        ({"EXPORT_PERIOD": 7}, "EXPORT_PERIOD is 7; give a multiple of CHECKPOINT_PERIOD (5)"),
        ({"TASK_FEATURE_LENGTHS": "{'targets': 60000}"}, "rows of 60000 tokens, but web_"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_by_the_name_that_was_bound(training, tmp_path, capsys, bindings, says):
    command = training.command(tmp_path / "run", 20)[3:]
    for name, value in bindings.items():
        command = [word for word in command if not word.startswith(f"--gin.{name}=")]
        if value is ...:  # not given: this schedule would not read it
            continue
        command.append(f"--gin_bindings=main.{name} = {value!r}" if name.startswith("train.") else f"--gin.{name}={value}")
    assert main(command) == 2
    err = capsys.readouterr().err
    assert says in err and len(err.strip().splitlines()) == 1 and "fault of ja_llm" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("macros", "says"),
    [
        ({"MESH": {"data": 3}}, "does not make up the"),
        ({"BATCH_SIZE": 7, "MICROBATCHES": 2}, "BATCH_SIZE is 7"),
        ({"RANDOM_SEED": 7}, "holds a run with seed = 0"),
        ({"GROUPS": "(@groups.Group(),)", "groups.Group.parameters": ("nothing",)}, "names 'nothing', which no parameter fits"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(training, straight, tmp_path, capsys, macros, says):
    before = {path.name: path.stat().st_mtime_ns for path in straight.iterdir()}
    groups = [f"--gin.{name}={value}" for name, value in macros.items() if isinstance(value, str | tuple)]
    plain = {name: value for name, value in macros.items() if not isinstance(value, str | tuple)}
    assert main([*training.command(straight, 20, **plain)[3:], *groups, "--dry_run"]) == 2
    assert says in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in straight.iterdir()} == before


@pytest.mark.parametrize(
    ("bindings", "says"),
    [
        ("WANDB_PROJECT = 5", "WANDB_PROJECT is 5; give the name of a project, or None"),
        ("main.train.eval_tasks = ('nosuch',)", "nosuch"),
        ("KEEP_BEST = @retention.Best()\nretention.Best.metric = 'eval/nosuch/x'", "which no evaluation of this run gives"),
    ],
)
def test_a_dry_run_refuses_what_could_not_be_measured_or_told(training, tmp_path, capsys, bindings, says):
    command = training.command(tmp_path / "run", 20)[3:]
    assert main([*command, *(f"--gin_bindings={line}" for line in bindings.splitlines()), "--dry_run"]) == 2
    err = capsys.readouterr().err
    assert says in err and "fault of ja_llm" not in err and not (tmp_path / "run").exists()


def test_a_dry_run_says_how_rows_are_packed_and_writes_nothing(training, tmp_path, capsys):
    assert main([*training.command(tmp_path / "run", 20, PACKING="best_fit")[3:], "--dry_run"]) == 0
    assert "exact to a row" not in capsys.readouterr().out  # the run ends before that
    assert main([*training.command(tmp_path / "run", 2000, PACKING="best_fit")[3:], "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "packing: web_en 60 documents in " in out and "exact to a row after every 1,0" in out and "% padding, " in out
    assert "\nattention: xla" in out
    assert not (tmp_path / "run").exists()


def test_a_period_of_evaluations_without_held_out_documents_is_refused(training, tmp_path, make_cache, capsys, monkeypatch):
    monkeypatch.setattr("ja_llm.evaluation.heldout.heldout_evaluators", lambda *_, **__: {})  # what such a cache gives
    assert main(training.command(tmp_path / "run", 20, EVAL_PERIOD=5)[3:]) == 2
    assert "there are no held-out documents here to evaluate by (EVAL_PERIOD" in capsys.readouterr().err


def test_a_wrong_length_of_the_anneal_is_refused():
    assert remaining(16, 10) == remaining(16, 10, 6) == 6
    with pytest.raises(UsageError, match="ANNEAL_STEPS 5; the anneal has the 6 steps behind"):
        remaining(16, 10, 5)
    with pytest.raises(UsageError, match="there must be one or more"):
        remaining(10, 10)


def test_other_data_that_are_accepted_begin_without_what_the_run_passed_over_of_its_own(training, tmp_path, monkeypatch):
    """And once they are the run's, what is passed over of them stays, whatever the command goes on saying."""
    found = []
    monkeypatch.setattr(loop, "run", lambda config, model, tokenizer, batches, *_, **__: found.append(batches))

    def start(data, mixture):
        schedule = {"stages": [{"from_step": 0, "mixture": mixture}], "skips": [{"stage": 0, "from": 2, "to": 4}]}
        (tmp_path / "run.json").write_text(json.dumps({"identity": {"data": data}, "data_schedule": schedule}))
        assert main([*training.command(tmp_path, 20)[3:], "--gin_bindings=main.train.accept = ('data',)"]) == 0
        return found[-1]

    other = start("0" * 64, "1" * 64)
    assert other.schedule.skips == ()
    assert start(other.fingerprint, other.mixture).schedule.skips == ((0, 2, 4),)


@pytest.mark.parametrize("mixing", ["grain", "exact"])
def test_a_run_that_began_before_shares_were_exact_goes_on_and_accepting_its_own_data_changes_nothing(
    training, cache_dir, straight, tmp_path, capsys, mixing
):
    ledger = json.loads((straight / "run.json").read_text())
    assert ledger["data_schedule"].pop("mixing") == "tokens"
    if mixing != "grain":
        ledger["data_schedule"]["mixing"] = mixing
    arguments = {"length": 32, "batch_size": 8, "seed": 0}
    ledger["identity"]["data"] = BatchSource(cache_dir, **arguments, mixing=mixing).fingerprint
    (tmp_path / "run.json").write_text(json.dumps(ledger))
    command = [*training.command(tmp_path, 20)[3:], "--dry_run"]
    for more in ([], ["--gin_bindings=main.train.accept = ('data',)"]):
        assert main([*command, *more]) == 0
        assert ("shares exact" in capsys.readouterr().out) == (mixing == "exact")
    ledger["identity"]["data"] = BatchSource(cache_dir, **arguments).fingerprint
    (tmp_path / "run.json").write_text(json.dumps(ledger))
    assert main(command) == 2
    assert "other data" in capsys.readouterr().err
