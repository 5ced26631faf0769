"""What t5x's users type: every stock name has an answer, which is the one that docs/t5x.md gives."""

import importlib.util
import re
from pathlib import Path

import pytest

from ja_llm.cli import build_parser, main
from ja_llm.compile.settings import settings
from ja_llm.errors import UsageError
from ja_llm.gin_utils import parsed
from ja_llm.train import t5x_names
from ja_llm.train.t5x_names import BINDINGS, FLAGS, MACROS

ROOT = Path(__file__).resolve().parents[2]
# t5x cc342d4: flags that train.py and main.py define; macros of pretrain.gin, finetune.gin and examples/decoder_only/models/base.gin
STOCK_FLAGS = [
    "gin_file",
    "gin_bindings",
    "gin_search_paths",
    "tfds_data_dir",
    "seqio_additional_cache_dirs",
    "multiprocess_gpu",
    "coordinator_address",
    "process_count",
    "process_index",
    "initialization_timeout",
    "run_mode",
    "dry_run",
]
STOCK_MACROS = [
    "MIXTURE_OR_TASK_NAME",
    "TASK_FEATURE_LENGTHS",
    "TRAIN_STEPS",
    "MODEL_DIR",
    "BATCH_SIZE",
    "USE_CACHED_TASKS",
    "MIXTURE_OR_TASK_MODULE",
    "SHUFFLE_TRAIN_EXAMPLES",
    "USE_HARDWARE_RNG",
    "RANDOM_SEED",
    "TRAIN_STEPS_RELATIVE",
    "INITIAL_CHECKPOINT_PATH",
    "DROPOUT_RATE",
    "EVAL_STEPS",
    "EVAL_PERIOD",
    "EVALUATOR_USE_MEMORY_CACHE",
    "EVALUATOR_NUM_EXAMPLES",
    "JSON_WRITE_N_RESULTS",
    "Z_LOSS",
    "LABEL_SMOOTHING",
    "LOSS_NORMALIZING_FACTOR",
    "VOCABULARY",
    "OPTIMIZER",
    "MODEL",
]
TINY = ["models/tiny_test.gin", "runs/pretrain.gin"]
# Whose refusal hands the value on, ready to be typed.
WITH_THE_VALUE = {
    "TRAIN_STEPS_RELATIVE",
    "EVALUATOR_NUM_EXAMPLES",
    "PjitPartitioner.num_partitions",
    "Trainer.num_microbatches",
    "DatasetConfig.batch_size",
    "SaveCheckpointConfig.period",
    "train.relative_steps",
}
SIZES = ["TASK_FEATURE_LENGTHS = {'targets': 32}", "BATCH_SIZE = 8"]


@pytest.fixture(scope="module")
def train_flags():
    (verbs,) = (action for action in build_parser()._actions if action.dest == "verb")
    return {flag for action in verbs.choices["train"]._actions for flag in action.option_strings}


def test_every_stock_name_has_an_answer(train_flags):
    assert {f"--{flag}" for flag in STOCK_FLAGS} <= {one.name for one in FLAGS}
    assert set(STOCK_MACROS) <= {one.name for one in MACROS}
    works = {one.name for one in FLAGS if one.works is not None} - {"--gin.NAME=VALUE"}
    assert works <= train_flags and not train_flags & {one.name for one in FLAGS if one.works is None}
    macros = set(re.findall(r"^([A-Z_]+) = ", (ROOT / "gin_configs/runs/pretrain.gin").read_text(), re.M)) | {"MODEL"}
    assert {one.name for one in MACROS if one.works is not None} <= macros
    assert not macros & {one.name for one in MACROS if one.works is None}


@pytest.mark.skipif(importlib.util.find_spec("t5x") is None, reason="t5x is not on PyPI (docs/t5x.md)")
def test_the_stock_names_are_t5x_s_own():
    folder = Path(next(iter(importlib.util.find_spec("t5x").submodule_search_locations)))
    defined = {
        flag
        for file in ("train.py", "main.py")
        for flag in re.findall(r"flags\.DEFINE_\w+\(\s*'(\w+)'", (folder / file).read_text())
    }
    assert defined == set(STOCK_FLAGS)
    files = ("configs/runs/pretrain.gin", "configs/runs/finetune.gin", "examples/decoder_only/models/base.gin")
    bound = {name for file in files for name in re.findall(r"^([A-Z][A-Z_]+) = ", (folder / file).read_text(), re.M)}
    assert bound == set(STOCK_MACROS)


def test_the_page_has_each_name_s_line():
    lines = (ROOT / "docs" / "t5x.md").read_text(encoding="utf-8").splitlines()
    table = lines[lines.index("| | t5x | ja_llm |") :]
    table = table[: table.index("")]
    missing = [line for line in map(t5x_names.row, (*FLAGS, *MACROS, *BINDINGS)) if line not in table]
    assert not missing, "docs/t5x.md lacks these lines:\n" + "\n".join(missing)
    assert len([line for line in table if line.startswith("| `")]) == len((*FLAGS, *MACROS, *BINDINGS))


@pytest.mark.parametrize("one", [one for one in (*MACROS, *BINDINGS) if one.works is None], ids=lambda one: one.name)
def test_values_without_effect_are_taken_and_others_refused(one):
    for value in ("a",) if one.idle is t5x_names.ANY else one.idle:
        with settings(TINY, [*SIZES, f"{one.name} = {value!r}"], vocab_size=96) as run:
            assert run.batch_size == 8
        assert f"{one.name} has no effect here: {one.why}." == t5x_names.judged(one.name, value)
    if one.instead:
        said = r"[^7]*[= ]7(\D[^7]*)?" if one.name in WITH_THE_VALUE else "[^7]*"
        refused = pytest.raises(UsageError, match=rf"^{re.escape(one.name)} is 7: {said} \(docs/t5x.md\)\.$")
        with refused, settings(TINY, [*SIZES, f"{one.name} = 7"], vocab_size=96):
            pass
    else:
        assert one.idle is t5x_names.ANY


def test_a_gin_file_s_own_macros_and_bindings_are_judged_too(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text("include 'runs/pretrain.gin'\nDROPOUT_RATE = 0.1\n")
    with (
        pytest.raises(UsageError, match="DROPOUT_RATE is 0.1: give 0, for there is no dropout"),
        settings([TINY[0], str(file)], SIZES, vocab_size=96),
    ):
        pass
    file.write_text(
        "include 'runs/pretrain.gin'\nDROPOUT_RATE = 0.5\nZ_LOSS = %DROPOUT_RATE\n"
    )  # a user's own macro of that name
    with settings([TINY[0], str(file)], SIZES, vocab_size=96) as run:
        assert run.options.z_loss == 0.5
    file.write_text("include 't5x/configs/runs/pretrain.gin'\n")
    with pytest.raises(UsageError, match="python -m t5x.train"), settings([str(file)], SIZES, vocab_size=96):
        pass


@pytest.mark.parametrize(
    "line, says",
    [
        (
            "utils.SaveCheckpointConfig.period = 5",
            "line 2: utils.SaveCheckpointConfig.period is 5: give --gin.CHECKPOINT_PERIOD=5 ",
        ),
        ("a/utils.SaveCheckpointConfig.save_dataset = True", "save_dataset has no effect here: the batch of a step"),
        ("train.stats_period = 10", "train.stats_period has no effect here: those of every step"),
        ("train/utils.DatasetConfig.use_cached = %USE_CACHED_TASKS", "use_cached has no effect here: the rows come"),
        ("utils.create_learning_rate_scheduler.factors = 'constant'", "factors is 'constant': give PEAK_LEARNING_RATE"),
        ("from t5x.no_such import partitioning", "it can't import t5x.* [(]gin files that bind t5x's own classes are for"),
        ("nobody.Knows.period = 5", "No configurable matching 'nobody.Knows'"),
    ],
)
def test_what_gin_does_not_know_in_a_file_is_answered_as_on_the_command_line(tmp_path, line, says):
    (file := tmp_path / "mine.gin").write_text(f"include 'runs/pretrain.gin'\n{line}\n")
    with pytest.raises(UsageError, match=says), settings([TINY[0], str(file)], SIZES, vocab_size=96):
        pass


def test_t5x_s_files_are_refused_by_compile_too():
    with (
        pytest.raises(UsageError, match=r"^t5x/pretrain.gin: .* give --gin_file=runs/pretrain.gin"),
        settings(["t5x/pretrain.gin"], SIZES),
    ):
        pass


def test_a_name_that_works_and_that_nothing_uses_is_refused_as_before():
    used = pytest.raises(UsageError, match="EVAL_PERIOD is bound, but nothing uses it")
    with used, parsed([], ["EVAL_PERIOD = 5"], foreign=t5x_names.noting([])):
        pass


def test_scopes_modules_and_values_are_read():
    note = "train/utils.DatasetConfig.use_cached has no effect here: the rows come from CACHE_DIR."
    assert t5x_names.take_bindings(["train/utils.DatasetConfig.use_cached = True", "a.B.c = 1"]) == (["a.B.c = 1"], [note])
    assert "no effect here" in t5x_names.take_bindings(["partitioning.PjitPartitioner.num_partitions = None"])[1][0]
    with pytest.raises(UsageError, match=r"num_partitions is 4: give --gin.MESH=\"\{'data': -1, 'tensor': 4\}\" "):
        t5x_names.take_bindings(["partitioning.PjitPartitioner.num_partitions = 4"])
    with pytest.raises(UsageError, match="num_microbatches is True"):  # not the number 1
        t5x_names.take_bindings(["trainer.Trainer.num_microbatches = True"])
    cached = ["USE_CACHED_TASKS = True", "utils.DatasetConfig.use_cached = %USE_CACHED_TASKS"]
    assert t5x_names.take_bindings(cached) == (cached[:1], [note.removeprefix("train/")])
    with pytest.raises(UsageError, match="use_cached is False: run `ja-llm cache`"):
        t5x_names.take_bindings(["USE_CACHED_TASKS = False", cached[1]])
    with pytest.raises(UsageError, match="warmup_steps is 10: give PEAK_LEARNING_RATE"):
        t5x_names.take_bindings(["utils.create_learning_rate_scheduler.warmup_steps = 10"])
    left, notes = t5x_names.take_flags(["--logtostderr", "--tfds_data_dir", "gs://x", "-v=1", "--run_mode=train", "--what", "x"])
    assert left == ["--what", "x"] and [note.split()[0] for note in notes] == [
        "--logtostderr",
        "--tfds_data_dir",
        "--verbosity",
        "--run_mode",
    ]


def test_the_command_line_says_it_in_a_sentence(capsys):
    macros = ["--gin.MIXTURE_OR_TASK_NAME=a", "--gin.TRAIN_STEPS=1000", "--gin.MODEL_DIR=m", "--gin.CACHE_DIR=nowhere"]
    stock = [
        "--gin.USE_CACHED_TASKS=True",
        "--gin.USE_HARDWARE_RNG=False",
        "--gin.MIXTURE_OR_TASK_MODULE=my.tasks",
        "--logtostderr",
    ]
    words = ["train", *(f"--gin_file={name}" for name in TINY), "--gin.TASK_FEATURE_LENGTHS={'targets': 8}", *macros, *stock]
    assert main(words) != 0  # there is no such cache: what comes behind the flags
    said = capsys.readouterr().err
    assert "nowhere" in said.splitlines()[-1] and "has no effect here" in said
    assert all(name.split("=")[0].removeprefix("--gin.") in said for name in stock)
    assert main([*words, "--run_mode=eval"]) == 2 and "run `ja-llm eval`" in capsys.readouterr().err
    assert main(["train", "--gin_file=t5x/configs/runs/finetune.gin"]) == 2
    assert "--gin_file=runs/continue.gin" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, address",
    [
        (["--multiprocess_gpu"], "auto"),
        (["--multiprocess_gpu=True", "--dry_run=true"], "auto"),
        (["--multiprocess_gpu=1", "--coordinator_address=a:1", "--nodry_run"], "a:1"),
        (["--multiprocess_gpu=False", "--nologtostderr"], None),
        (["--nomultiprocess_gpu", "--alsologtostderr=false"], None),
    ],
)
def test_absl_s_spellings_of_true_and_false_are_read(monkeypatch, capsys, words, address):
    def join(*given):
        raise UsageError(f"joined {given}")

    monkeypatch.setattr("ja_llm.train.processes.join", join)
    assert main(["train", "--gin_file=runs/pretrain.gin", *words]) == 2
    assert f"joined {(address, None, None, 300)}" in capsys.readouterr().err


def test_a_switch_takes_no_word_that_follows_it():
    """argparse would: a word with a space is no option to it."""
    args, rest = build_parser().parse_known_args(["train", "--dry_run", "--gin.RATES={'a': 0.5, 'b': 0.5}", "--multiprocess_gpu"])
    assert args.dry_run is True and args.multiprocess_gpu is True and rest == ["--gin.RATES={'a': 0.5, 'b': 0.5}"]
    assert build_parser().parse_known_args(["train", "--dry_run", "false"])[1] == ["false"]


def test_a_dry_run_is_one_in_each_spelling():
    for words, dry in (
        ([], False),
        (["--dry_run"], True),
        (["--dry_run=True"], True),
        (["--dry_run=f"], False),
        (["--nodry_run"], False),
    ):
        assert build_parser().parse_known_args(["train", "--gin_file=a", *words])[0].dry_run is dry
    with pytest.raises(SystemExit):
        build_parser().parse_known_args(["train", "--dry_run=perhaps"])
