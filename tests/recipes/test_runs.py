"""The gin files of runs/ that stand beside a run or a recipe, as they resolve."""

import gin
import numpy as np
import pytest

from ja_llm.compile.settings import settings
from ja_llm.errors import UsageError
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
