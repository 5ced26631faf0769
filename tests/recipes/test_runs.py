"""The gin files of runs/ that stand beside a run or a recipe, as they resolve."""

import functools
import re

import gin
import numpy as np
import pytest

from ja_llm import gin_runs, gin_utils
from ja_llm.compile.settings import settings
from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.train import main

TINY = ["models/tiny_test.gin", "runs/pretrain.gin"]
ENOUGH = ["TASK_FEATURE_LENGTHS = {'targets': 32}", "config.DecoderConfig.vocab_size = 96"]


def test_a_recipe_in_small_keeps_its_model_and_loss():
    with settings(["recipes/swallow_llama31_8b_v02.gin", "runs/debug.gin"], ()) as run:
        given = gin.get_bindings(main.train)
        assert (run.batch_size, run.length, run.options.microbatches, given["total_steps"]) == (4, 64, 1, 8)
        assert run.model.num_layers == 32 and run.options.z_loss == 1e-4 and given["log_norms"]
        rates = np.asarray(run.schedule(np.arange(9)))
        assert rates.max() == pytest.approx(2.5e-5) and rates[8] == pytest.approx(2.5e-6)


def test_what_is_measured_and_exported_beside_a_run():
    with settings([*TINY, "runs/eval.gin", "runs/export.gin"], [*ENOUGH, "EVAL_TASKS = ('heldout_ja',)"]):
        given = gin.get_bindings(main.train)
    assert given["eval_period"] == 1000 and given["eval_steps"] == (10, 20, 50, 100, 200, 500)
    assert given["eval_tasks"] == ("heldout_ja",) and given["export_period"] % given["checkpoint_period"] == 0


def test_an_anneal_ends_at_zero_in_a_straight_line():
    with settings(["runs/anneal.gin", "models/tiny_test.gin"], [*ENOUGH, "PEAK_LEARNING_RATE = 1e-3", "TRAIN_STEPS = 10"]) as run:
        assert np.asarray(run.schedule(np.arange(11))) == pytest.approx(np.linspace(1e-3, 0, 11))
    with (
        pytest.raises(UsageError, match="PEAK_LEARNING_RATE has no value"),
        settings(["runs/anneal.gin", "models/tiny_test.gin"], ENOUGH),
    ):
        pass


def test_a_second_mixture_leaves_the_schedule_alone():
    more = ["SECOND_MIXTURE = 'web_en'", "SECOND_CACHE_DIR = 'b'", "SECOND_FROM = 300"]
    with settings([*TINY, "runs/second_mixture.gin"], [*ENOUGH, *more]) as run:
        (stage,) = gin.get_bindings(main.train)["stages"]
        assert (stage.mixture_or_task_name, stage.cache_dir, stage.from_step) == ("web_en", "b", 300)
        assert float(run.schedule(1000)) == pytest.approx(1e-4)


def test_where_no_checkpoint_is_named_the_model_stands_for_it():
    files = ["runs/continue.gin", "models/tiny_test.gin"]
    with settings(files, [*ENOUGH, "MODEL_OVERRIDES = {'dtype': 'bfloat16', 'max_length': 128}"]) as run:
        assert (run.model.vocab_size, run.model.dtype, run.model.max_length) == (96, "bfloat16", 128)
    with (
        pytest.raises(UsageError, match="MODEL_OVERRIDES names 'embed_dim'"),
        settings(files, [*ENOUGH, "MODEL_OVERRIDES = {'embed_dim': 8}"]),
    ):
        pass
    with settings(files, ENOUGH, vocab_size=64) as run:
        assert run.model.vocab_size == 64, "what the command says wins"
    with pytest.raises(UsageError, match="add --vocab_size N"), settings(files, ENOUGH[:1]):
        pass


def test_a_folder_of_the_users_does_not_hide_the_packages_files(tmp_path, monkeypatch):
    """`python -m ja_llm` has the current folder in its path, where `models/` is a namespace package to Python."""
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with settings(["runs/continue.gin", "models/tiny_test.gin"], ENOUGH) as run:
        assert run.model.embed_dim == 32
    (tmp_path / "own.gin").write_text("include 'runs/continue.gin'\ninclude 'models/tiny_test.gin'\n")
    with settings(["own.gin"], ENOUGH) as run:
        assert run.model.embed_dim == 32


PLAIN = ["runs/continue.gin", "models/tiny_test.gin"]
RECIPE = ["recipes/swallow_llama31_8b_v02.gin"]
# Each file that changes a run: what it asks for, and which of main.train's settings it changes; nothing else.
CHANGES = {
    "best_first": (["REST_CACHE_DIR = 'b'", "REST_FROM = 300"], {"stages"}),
    "near_original": ([], {"mixture_or_task_name"}),
    "subset_epochs": (["SUBSET_TOKENS = {'web_ja': 600}"], {"subset_tokens"}),
    "new_rows_first": (["FIRST_NEW_ROW = 64", "NEW_ROWS_STEPS = 5"], {"groups"}),
    "two_stages": (["ANNEAL_CACHE_DIR = 'b'", "ANNEAL_FROM = 4000"], {"stages", "schedule"}),
    "second_mixture": (["SECOND_MIXTURE = 'web_en'", "SECOND_CACHE_DIR = 'b'", "SECOND_FROM = 300"], {"stages"}),
    "rewarm_none": (["BASE_FINAL_LEARNING_RATE = 1e-6"], {"schedule"}),
    "rewarm_stable": (["DECAY_STEPS = 100"], {"schedule"}),
    "monitored": ([], {"alarms", "eval_period", "eval_steps"}),
    "eval": ([], {"eval_period", "eval_steps", "eval_tasks", "eval_document_set"}),
    "export": ([], {"export_period", "keep_period"}),
    "debug": (
        [],
        {"task_feature_lengths", "batch_size", "microbatches", "total_steps", "schedule", "checkpoint_period", "eval_period"}
        | {"log_norms", "mesh"},
    ),
}
ABSENT = {"eval_tasks": (), "eval_document_set": None, "eval_steps": ()}  # what train takes where nothing is bound


FOLDERS = ["INITIAL_CHECKPOINT_PATH = 'base'", "CACHE_DIR = 'a'", "MODEL_DIR = 'run'", "TRAIN_STEPS = 5000"]
NAMED = "MIXTURE_OR_TASK_NAME = 'mixed'"


def settled(files, bindings, overlay=None):
    """main.train's settings, its schedule made."""
    given = [*FOLDERS, *([] if files == RECIPE else [*ENOUGH, NAMED])]
    if overlay:  # what the command gives wins over every file, so what the overlay itself sets is not given here
        text = (gin_utils.packaged_configs() / overlay).read_text()
        given = [one for one in given if not re.search(rf"^{one.split(' = ')[0]} =", text, re.MULTILINE)]
        files = [*files, overlay]
    with gin_utils.parsed(files, [*given, *bindings], entries=(main.train, DecoderConfig)):
        return {**ABSENT, **gin.get_bindings(main.train)}


@pytest.mark.parametrize("run", [PLAIN, RECIPE], ids=["plain", "recipe"])
@pytest.mark.parametrize("name", CHANGES)
def test_what_a_file_behind_a_run_changes_and_that_nothing_else_does(run, name):
    bindings, names = CHANGES[name]
    before, after = settled(run, []), settled(run, bindings, f"runs/{name}.gin")
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    # A file may set what a run has already: 1,000 steps between checkpoints, one microbatch.
    assert changed <= names and changed, changed ^ names
    if run == RECIPE:
        lasting = {"batch_size": 1024, "mesh": {"fsdp": -1}, "z_loss": 1e-4, "max_epochs": 4}
        assert all(after[key] == value for key, value in lasting.items() if key not in names)
        step = np.arange(5001)
        if "schedule" not in names:
            assert (np.asarray(after["schedule"](step)) == np.asarray(before["schedule"](step))).all()
        elif name in ("two_stages", "rewarm_stable"):
            assert np.asarray(after["schedule"](step)).max() == pytest.approx(2.5e-5)


def test_every_file_of_runs_is_a_run_or_is_tested_here():
    runs = {"pretrain", "continue", "anneal", "twin"}
    assert {path.stem for path in (gin_utils.packaged_configs() / "runs").glob("*.gin")} == runs | CHANGES.keys()


def test_a_preset_that_was_a_run_stands_alone_as_before():
    for name in gin_runs.WERE_RUNS:
        of = [gin_runs.WERE_RUNS[name], "models/tiny_test.gin"]
        bindings = [*CHANGES[name.removesuffix(".gin")][0], "PEAK_LEARNING_RATE = 2e-4"]
        given = [*ENOUGH, *FOLDERS, *([] if name == "near_original.gin" else [NAMED])]
        texts = []
        for files in ([*of[::-1], f"runs/{name}"], [of[1], f"runs/{name}"]):
            with gin_utils.parsed(files, [*given, *bindings], entries=(main.train,)) as text:
                texts.append(text)
        assert texts[0] == texts[1] and "total_steps = %TRAIN_STEPS" in texts[0]


@pytest.mark.parametrize("run", ["runs/continue.gin", *RECIPE])
@pytest.mark.parametrize("name", CHANGES)
def test_a_file_before_the_run_that_it_changes_is_refused(run, name):
    with (
        pytest.raises(
            UsageError, match=f"runs/{name}.gin changes a run, but stands before {run}.*give it behind: --gin_file={run}"
        ),
        gin_utils.parsed([f"runs/{name}.gin", run], CHANGES[name][0]),
    ):
        pass


def test_two_files_for_one_place_are_refused():
    """A recipe in two stages, and a preset of other stages: neither asking for the first's folder nor refusing it says what is wrong."""
    files, says = (
        ["recipes/aurora_m_15b.gin", "runs/best_first.gin"],
        "a gin file asks for SECOND_CACHE_DIR, but only second/stages.Stage would read it",
    )
    with (
        pytest.raises(UsageError, match=says),
        gin_utils.parsed(files, [*FOLDERS, *CHANGES["best_first"][0]], entries=(main.train,)),
    ):
        pass
    with (
        pytest.raises(UsageError, match="SECOND_CACHE_DIR is given, but this run does not read it"),
        gin_utils.parsed(files, [*FOLDERS, *CHANGES["best_first"][0], "SECOND_CACHE_DIR = 'b'"], entries=(main.train,)),
    ):
        pass


def test_a_users_own_run_is_told_by_what_it_includes(tmp_path):
    (tmp_path / "own.gin").write_text("# mine\ninclude 'inner.gin'\nBATCH_SIZE = 7\n")
    (tmp_path / "inner.gin").write_text("include 'runs/continue.gin'\n")
    bindings = [*CHANGES["subset_epochs"][0], *(f"{name} = 1" for name in ("CACHE_DIR", "INITIAL_CHECKPOINT_PATH", "MODEL_DIR"))]
    bindings += ["TRAIN_STEPS = 900", "TASK_FEATURE_LENGTHS = {'targets': 8}", "MIXTURE_OR_TASK_NAME = 'x'"]
    with gin_utils.parsed(["own.gin", "runs/subset_epochs.gin"], bindings, str(tmp_path)):
        assert gin.get_bindings(main.train)["batch_size"] == 7
        # A run's own config.gin, which gin wrote and which includes nothing, is a run, too.
        (tmp_path / "config.gin").write_text(gin.config_str())
    given = [one for one in bindings if not one.startswith("CACHE_DIR")]
    with gin_utils.parsed(["config.gin", "runs/subset_epochs.gin"], given, str(tmp_path)):
        assert gin.get_bindings(main.train)["batch_size"] == 7
    early = ["runs/subset_epochs.gin", "own.gin"]
    with pytest.raises(UsageError, match="stands before own.gin"), gin_utils.parsed(early, bindings, str(tmp_path)):
        pass


def test_an_implied_run_stands_before_all_that_changes_it(tmp_path):
    (tmp_path / "mine.gin").write_text("include 'runs/two_stages.gin'\n")
    (tmp_path / "over.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom ja_llm.train import main\nmain.train.total_steps = 500\n"
    )
    found = functools.partial(gin_utils._found, folders=(tmp_path, gin_utils.packaged_configs()))
    folder = gin_utils.packaged_configs() / "runs"
    for given, ordered in (
        (
            ["runs/monitored.gin", "runs/new_rows_first.gin"],
            ["runs/continue.gin", "runs/monitored.gin", "runs/new_rows_first.gin"],
        ),
        (["models/tiny_test.gin", "mine.gin"], ["models/tiny_test.gin", "runs/pretrain.gin", "mine.gin"]),
        (["runs/continue.gin", "runs/eval.gin", "over.gin"], ["runs/continue.gin", "runs/eval.gin", "over.gin"]),
    ):
        assert gin_runs.in_order(given, found, folder) == ordered


def test_a_recipe_in_stages_switches_them_in_small_too():
    with settings(["recipes/aurora_m_15b.gin", "runs/debug.gin"], ["SECOND_CACHE_DIR = 'b'"]):
        given = gin.get_bindings(main.train)
        assert [stage.from_step for stage in given["stages"]] == [4] and given["total_steps"] == 8
