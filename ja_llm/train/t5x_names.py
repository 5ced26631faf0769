"""What t5x's users type: each flag of its train.py and main.py, each macro of its stock run and model files, the bindings they override.

A name works here, has no effect and is said to have none, or is refused with what to do instead. docs/t5x.md has the table, a row a name
(`row`), which a test compares. Names and defaults: t5x cc342d4, t5x/train.py, t5x/main.py, t5x/configs/runs/pretrain.gin and finetune.gin.
"""

import argparse
import ast
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from ja_llm.errors import UsageError

ANY = ("any value",)


@dataclasses.dataclass(frozen=True)
class Name:
    """A name of t5x's.

    Attributes:
      name: as it is typed: "--run_mode", "USE_CACHED_TASKS", "Trainer.num_microbatches" (any module and scope before it).
      t5x: what it is there.
      works: it means the same here; what is different beside. None: it does not work.
      idle: values that change nothing here; ANY: all.
      why: a sentence's end: why they change nothing.
      instead: what to do instead of another value, which is refused; {value} stands for it.
      takes_value: of a flag: a value may follow as a word of its own.
      of_class: of a binding: what holds for the other arguments of its class or function, too.
    """

    name: str
    t5x: str
    works: str | None = None
    idle: tuple[Any, ...] = ()
    why: str = ""
    instead: str = ""
    takes_value: bool = True
    of_class: bool = False


_STORE = "the rows come from CACHE_DIR"
_READ = "training reads CACHE_DIR alone, which `ja-llm cache` wrote"
_LOGS = "what matters is said on the terminal, the rest stands in MODEL_DIR"

FLAGS = (
    Name("--gin_file", "gin files, the later win", works=""),
    Name("--gin.NAME=VALUE", "a binding", works="a text needs no second pair of quotes"),
    Name("--gin_bindings", "a binding", works=""),
    Name("--gin_search_paths", "folders of gin files", works="they come before the package's own"),
    Name("--dry_run", "reads the configuration", works="everything that would be refused is, and it says what would be trained"),
    Name("--run_mode", "which script main.py runs", idle=("train",), why="this is the training", instead="run `ja-llm {value}`"),
    Name("--multiprocess_gpu", "several processes", works="without --coordinator_address: auto"),
    Name("--coordinator_address", "HOST:PORT of process 0", works="without --multiprocess_gpu too; or auto"),
    Name("--process_count", "how many", works=""),
    Name("--process_index", "which of them", works=""),
    Name("--initialization_timeout", "seconds, by default JAX's", works="by default 300"),
    Name(
        "--tfds_data_dir",
        "folder of TFDS data",
        idle=ANY,
        why=f"{_READ} (it finds TFDS's data by the environment variable TFDS_DATA_DIR)",
    ),
    Name("--seqio_additional_cache_dirs", "further seqio caches", idle=ANY, why=_READ),
    Name("--logtostderr", "absl's log", idle=ANY, why=_LOGS, takes_value=False),
    Name("--alsologtostderr", "absl's log", idle=ANY, why=_LOGS, takes_value=False),
    Name("--log_dir", "absl's log", idle=ANY, why=_LOGS),
    Name("--stderrthreshold", "absl's log", idle=ANY, why=_LOGS),
    Name("--verbosity", "absl's log (also -v, --v)", idle=ANY, why=_LOGS),
    Name("--fdl_config", "a Fiddle configuration", instead="give gin files, the one configuration here"),
    Name("--fdl_config_file", "a Fiddle configuration", instead="give gin files, the one configuration here"),
)
_SWITCHES = [one for one in FLAGS if not one.takes_value]
_ALIASES = {"-v": "--verbosity", "--v": "--verbosity"}
_MODES = {"eval": "eval", "infer": "generate", "precompile": "compile", "export": "export"}

MACROS = (
    Name("MIXTURE_OR_TASK_NAME", "seqio task or mixture", works="the name that CACHE_DIR was made for"),
    Name("TASK_FEATURE_LENGTHS", "lengths by feature", works="`targets` alone"),
    Name("TRAIN_STEPS", "steps, with those of the initial checkpoint", works="this run's own steps, from 0"),
    Name("MODEL_DIR", "folder of the run", works=""),
    Name("BATCH_SIZE", "rows a step on all hosts, by default 128", works=""),
    Name(
        "INITIAL_CHECKPOINT_PATH",
        "a t5x checkpoint",
        works="a model directory or DIR@STEP; of t5x's checkpoint `ja-llm import` makes one",
    ),
    Name("RANDOM_SEED", "None (the clock) or a number", works="a number, by default 0; None is refused"),
    Name("EVAL_PERIOD", "steps, a multiple of the checkpoints' or they of it", works="any; 0: at the end only"),
    Name("MODEL", "the model and its loss", works="the architecture: a gin file of `models/`"),
    Name("OPTIMIZER", "a t5x optimizer", works="one of ours, e.g. `@optimizers.AdamW()`"),
    Name("Z_LOSS", "coefficient of the squared log-normaliser", works="by default 0"),
    Name(
        "USE_CACHED_TASKS",
        "seqio's cache or on the fly",
        idle=(True,),
        why=_STORE,
        instead="run `ja-llm cache` first and leave it out",
    ),
    Name(
        "SHUFFLE_TRAIN_EXAMPLES",
        "shuffle buffer",
        idle=(True,),
        why="rows are shuffled by RANDOM_SEED",
        instead="leave it out, for rows are always shuffled",
    ),
    Name("USE_HARDWARE_RNG", "faster, less repeatable random numbers", idle=ANY, why="random numbers are the same on every mesh"),
    Name(
        "TRAIN_STEPS_RELATIVE",
        "steps beyond the initial checkpoint's",
        idle=(None,),
        why="TRAIN_STEPS are counted from the initial checkpoint on",
        instead="give TRAIN_STEPS={value}, which are counted from the initial checkpoint on",
    ),
    Name(
        "MIXTURE_OR_TASK_MODULE",
        "module that registers the task",
        idle=ANY,
        why="training needs no registry (`ja-llm cache --module` takes it)",
    ),
    Name(
        "DROPOUT_RATE",
        "by default 0.1 in finetune.gin",
        idle=(0, None),
        why="there is no dropout",
        instead="give 0, for there is no dropout",
    ),
    Name(
        "LABEL_SMOOTHING",
        "of the loss",
        idle=(0, None),
        why="there is no label smoothing",
        instead="give 0, for there is no label smoothing",
    ),
    Name(
        "LOSS_NORMALIZING_FACTOR",
        "None: the sum over tokens",
        idle=("NUM_REAL_TARGET_TOKENS",),
        why="losses are always divided by the sum of weights of the global batch",
        instead="give 'NUM_REAL_TARGET_TOKENS', the sum of weights of the global batch, or leave it out",
    ),
    Name("VOCABULARY", "a seqio vocabulary", instead="leave it out, for it is that of CACHE_DIR (`ja-llm cache --vocab`)"),
    Name("EVAL_STEPS", "batches of an evaluation", idle=ANY, why="an evaluation is over train.eval_documents of each task"),
    Name("EVALUATOR_USE_MEMORY_CACHE", "keep examples in memory", idle=ANY, why="there is no such choice"),
    Name(
        "EVALUATOR_NUM_EXAMPLES",
        "examples of an evaluation",
        idle=(None,),
        why="train.eval_limit says it",
        instead="give train.eval_limit={value}",
    ),
    Name(
        "JSON_WRITE_N_RESULTS", "predictions that are written", idle=ANY, why="an evaluation in training writes its metrics only"
    ),
)

BINDINGS = (
    Name(
        "PjitPartitioner.num_partitions",
        "size of the axis model",
        idle=(None, 1),
        why="MESH is {'data': -1} by default",
        instead="give --gin.MESH=\"{{'data': -1, 'tensor': {value}}}\"",
    ),
    Name(
        "PjitPartitioner.model_parallel_submesh", "chips of the axis model", idle=(None,), why="MESH says it", instead="give MESH"
    ),
    Name("PjitPartitioner.ici_mesh_shape", "sizes inside a slice", idle=(None,), why="MESH says it", instead="give MESH"),
    Name("PjitPartitioner.dcn_mesh_shape", "sizes over slices", idle=(None,), why="DCN_MESH says it", instead="give DCN_MESH"),
    Name("PjitPartitioner.logical_axis_rules", "logical axis -> mesh axis", instead="give LOGICAL_AXIS_RULES"),
    Name(
        "standard_logical_axis_rules.parameter_partitioning_dims",
        "2: spread parameters over data, too",
        idle=(1,),
        why="MESH says it",
        instead="give MESH an axis `fsdp`",
    ),
    Name(
        "Trainer.num_microbatches",
        "parts of a batch, whose means are added",
        idle=(None, 1),
        why="MICROBATCHES is 1",
        instead="give --gin.MICROBATCHES={value}, whose sums are added and divided once",
    ),
    Name("Trainer.learning_rate_fn", "of an optax chain only logged", instead="give SCHEDULE, which is used and logged"),
    Name("DatasetConfig.batch_size", "rows, by scope", instead="give --gin.BATCH_SIZE={value}, the one number of rows"),
    Name("DatasetConfig.seed", "of the shuffle, None: the clock", instead="give RANDOM_SEED"),
    Name(
        "DatasetConfig.use_cached",
        "as USE_CACHED_TASKS",
        idle=(True,),
        why=_STORE,
        instead="run `ja-llm cache` first and leave it out",
    ),
    Name(
        "DatasetConfig.pack",
        "several documents a row",
        idle=(True,),
        why="rows are packed (PACKING says how)",
        instead="leave it out, for rows are packed",
    ),
    Name("SaveCheckpointConfig.period", "steps between checkpoints", instead="give --gin.CHECKPOINT_PERIOD={value}"),
    Name(
        "SaveCheckpointConfig.keep", "how many stay, None: all", instead="give train.keep_checkpoints, KEEP_PERIOD or KEEP_BEST"
    ),
    Name(
        "SaveCheckpointConfig.dtype",
        "of what is saved",
        idle=("float32",),
        why="parameters are saved as they are",
        instead="leave it out, for parameters are saved as they are",
    ),
    Name(
        "SaveCheckpointConfig.save_dataset", "the data's position", idle=ANY, why="the batch of a step is a function of the step"
    ),
    Name("RestoreCheckpointConfig.path", "a t5x checkpoint", instead="give INITIAL_CHECKPOINT_PATH"),
    Name(
        "RestoreCheckpointConfig.mode",
        "'specific', 'latest' or 'all'",
        idle=("specific", "latest"),
        why="INITIAL_CHECKPOINT_PATH says it (DIR or DIR@STEP)",
        instead="give INITIAL_CHECKPOINT_PATH=DIR@STEP",
    ),
    Name(
        "create_learning_rate_scheduler.base_learning_rate",
        "and its other arguments",
        of_class=True,
        instead="give PEAK_LEARNING_RATE, FINAL_LEARNING_RATE, WARMUP_STEPS or SCHEDULE",
    ),
    Name(
        "train.relative_steps",
        "as TRAIN_STEPS_RELATIVE",
        idle=(None,),
        why="TRAIN_STEPS are counted from the initial checkpoint on",
        instead="give TRAIN_STEPS={value}",
    ),
    Name(
        "train.eval_steps",
        "batches of an evaluation",
        works="here a tuple of further steps to evaluate at, so a number is refused; train.eval_documents says how much is read",
    ),
    Name("train.stats_period", "steps between logged metrics", idle=ANY, why="those of every step stand in metrics.jsonl"),
    Name("train.use_hardware_rng", "as USE_HARDWARE_RNG", idle=ANY, why="random numbers are the same on every mesh"),
)
_KNOWN = {one.name: one for one in (*FLAGS, *MACROS, *BINDINGS)}
_CLASSES = {one.name.partition(".")[0]: one for one in BINDINGS if one.of_class}


def _named(name: str) -> Name | None:
    """The entry of a name, with any scope and module before it; for an argument that has none, that of its class."""
    key = name if name in _KNOWN else ".".join(re.split(r"[./]", name)[-2:])
    return _KNOWN.get(key) or _CLASSES.get(key.rpartition(".")[0])


def judged(name: str, value: Any) -> str | None:
    """A sentence for a name that has no effect here; "" for one that works; None for one that is not t5x's.

    Raises:
      UsageError: this value of it is refused.
    """
    one = _named(name)
    if one is None:
        return None
    if one.works is not None:
        return ""
    if one.idle is ANY or any(value == idle and isinstance(value, bool) == isinstance(idle, bool) for idle in one.idle):
        return f"{name} has no effect here: {one.why}."
    what = "" if value is None and not one.idle else f" is {value!r}"
    shown = _MODES.get(str(value), "--help") if name == "--run_mode" else value
    raise UsageError(f"{name}{what}: {one.instead.format(value=shown)} (docs/t5x.md).")


def answer(name: str, text: str) -> str | None:
    """What to say of a binding in a gin file that gin does not know here; None where it is not t5x's.

    Args:
      name: with scope and module.
      text: the value as it stands there.
    """
    try:
        note = _judged_text(name, text, {})
    except UsageError as error:
        return str(error)
    return f"{note.rstrip('.')}; take the line out (docs/t5x.md)." if note else None


def _judged_text(name: str, text: str, macros: dict[str, str]) -> str | None:
    """`judged` of a value as text, with that of a macro in the place of its reference, as far as `macros` know it."""
    seen: set[str] = set()
    while (macro := text.strip().removeprefix("%")) != text.strip() and macro in macros and macro not in seen:
        seen.add(macro)
        text = macros[macro]
    one = _named(name)
    if one is not None and one.idle and macro != text.strip() and macro in _KNOWN and _KNOWN[macro].works is None:
        return f"{name} has no effect here: {one.why}."  # the macro is one of t5x's, whose own value is judged where it is bound
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):  # a reference
        value = text.strip()
    return judged(name, value)


def switch(text: str) -> bool:
    """Type of a flag that absl takes for true or false: `--dry_run=True` (absl.flags.BooleanParser's spellings)."""
    if (small := text.lower()) in ("true", "t", "1", "false", "f", "0"):
        return small in ("true", "t", "1")
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def take_flags(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take t5x's flags that change nothing here out of arguments: (what is left, a sentence for each that was taken).

    Raises:
      UsageError: one is refused.
    """
    left: list[str] = []
    notes: list[str] = []
    words = list(rest)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not equals and _KNOWN.get(f"--{flag.removeprefix('--no')}") in _SWITCHES:  # absl's --nologtostderr
            flag = f"--{flag.removeprefix('--no')}"
        one = _KNOWN.get(_ALIASES.get(flag, flag if flag.startswith("--") else ""))
        if one is None or one.works is not None:
            left.append(word)
            continue
        if not equals and one.takes_value and words and not words[0].startswith("-"):
            value = words.pop(0)
        notes.append(judged(one.name, value) or "")
    return left, notes


def take_bindings(bindings: Sequence[str]) -> tuple[list[str], list[str]]:
    """The same of `NAME = VALUE` bindings of t5x's own classes, which gin does not know here (macros: `judged`, when all are bound).

    Raises:
      UsageError: one is refused.
    """
    left: list[str] = []
    notes: list[str] = []
    split = [(binding, *(part.strip() for part in binding.partition("=")[::2])) for binding in bindings]
    macros = {name: text for _, name, text in split if "." not in name}
    for binding, name, text in split:
        note = _judged_text(name, text, macros) if "." in name else None
        if note:
            notes.append(note)
        else:
            left.append(binding)
    return left, notes


def noting(notes: list[str]) -> Callable[[str, Any], bool]:
    """For `gin_utils.parsed(foreign=)`: adds the sentences of t5x's names without effect to `notes`, and refuses as `judged`."""

    def foreign(name: str, value: Any) -> bool:
        note = judged(name, value)
        if note:
            notes.append(note)
        return bool(note)  # a name that works, but that nothing uses, is a slip of the pen as any other

    return foreign


def check_files(files: Sequence[str]) -> None:
    """Raise UsageError for a gin file of t5x's own."""
    for file in files:
        if re.match(r"(.*/)?t5x/(configs|examples|contrib)/", file) or re.fullmatch(r"t5x/\w+\.gin", file):
            ours = "runs/continue.gin" if "finetune" in file else "runs/pretrain.gin"
            raise UsageError(
                f"{file}: this file binds t5x's own classes and is for `python -m t5x.train`; give --gin_file={ours}, which has the same macros "
                "(docs/t5x.md)."
            )


def row(one: Name) -> str:
    """The line of docs/t5x.md's table."""
    if one.works is not None:
        verdict = f"works{one.works and f': {one.works}'}"
    else:
        parts = []
        if one.idle:
            values = (
                ""
                if one.idle is ANY
                else ", ".join(f"`{value}`" for value in one.idle if value is not None or len(one.idle) == 1)
            )
            parts.append(f"{values + ': ' * bool(values)}no effect, {one.why}")
        if one.instead:
            shown = one.instead.format(value="N" if one.name != "--run_mode" else "eval|generate|compile|export")
            parts.append(f"{'else ' * bool(one.idle)}refused: {shown}")
        verdict = "; ".join(parts)
    return f"| `{one.name}` | {one.t5x} | {verdict.replace('|', chr(92) + '|')} |"
