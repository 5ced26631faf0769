"""`ja-llm recipes shrink`: a folder with a recipe's small twin, ready to run on a CPU or one GPU.

OUT/twin.gin      the recipe itself with another model, length, batch and number of steps: mixture, stages, schedule, optimizer are its own
OUT/base.gin      where the recipe goes on from somebody's model: what makes such a base, from the mixture's other languages
OUT/run.sh        the commands, in order; each goes on where it was
OUT/shrink.json   what it was made with, so that the same command once more makes nothing, and another one is refused
OUT/documents/    stand-ins for the sources, and OUT/vocab/ a vocabulary of them, unless others are given
"""

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gin

from ja_llm import manifest
from ja_llm.compile.settings import settings
from ja_llm.data import registry
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_directory, read_json, sha256_json, write_json, write_text
from ja_llm.models.config import DecoderConfig
from ja_llm.recipes import catalogue, shrink, stand_ins
from ja_llm.recipes.catalogue import Recipe
from ja_llm.train.ledger import first_difference
from ja_llm.vocab.base import Tokenizer, load_tokenizer

# What a base of some billion parameters was trained with (Llama 2 7B, OLMo 2 7B); the twin's base gets it by its width.
_BASE_PEAK = 3e-4
_SETTINGS = "shrink.json"
_STEP_MACROS = ("WARMUP_STEPS", "SECOND_FROM")
_RATE_MACROS = ("PEAK_LEARNING_RATE", "FINAL_LEARNING_RATE")
# What the gin files bind without a macro, e.g. a cosine that is longer than the run.
_STEP_FIELDS = re.compile(r"^(?:\w+\.)*(\w+\.(?:total|warmup|decay)_steps) = (\d+)$", re.MULTILINE)
_RECIPE_LANGUAGES = ("ja", "en-ja")  # what a base has not learnt
_MODEL_FIELDS = ("embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "max_length", "sliding_window")


@dataclasses.dataclass(frozen=True)
class Twin:
    """A recipe and what becomes of it.

    Attributes:
      recipe: the original.
      model: the small one.
      steps: optimizer steps.
      batch_size: rows a step.
      length: tokens in a row.
      bindings: what of the recipe's schedule is another number: {name as gin writes it: value}.
      rate_factor: by which the recipe's rates, and its base's, are multiplied.
    """

    recipe: Recipe
    model: DecoderConfig
    steps: int
    batch_size: int
    length: int
    bindings: Mapping[str, Any]
    rate_factor: float

    @property
    def tokens(self) -> int:
        """Tokens read in all."""
        return self.steps * self.batch_size * self.length


def scaled(name: str, params: int, tokens: int, vocab_size: int, length: int, batch_size: int) -> Twin:
    """A recipe's small twin; nothing is written.

    Args:
      name: of the recipe.
      params: parameters in all.
      tokens: tokens read in all.
      vocab_size: ids of the vocabulary.
      length: tokens in a row.
      batch_size: rows a step.

    Raises:
      UsageError: there is no such recipe, or it can't be made so small.
    """
    recipe = catalogue.resolve(name)
    steps = shrink.shrunk_steps(tokens, batch_size, length)
    model = shrink.shrunk_model(recipe.step.model, params, vocab_size, recipe.step.length, length)
    # One factor for the rates of the twin and of its base: how far it is turned down from its base is the recipe's.
    factor = shrink.rate_factor(recipe.step.model, model, max(recipe.peak, _BASE_PEAK if recipe.published.base else 0.0))
    with settings([catalogue.file_of(name)], ()):
        text = gin.config_str(max_line_length=1000)
    bindings: dict[str, Any] = {"TRAIN_STEPS": steps}
    for macro in (*_STEP_MACROS, *_RATE_MACROS):
        if found := re.search(rf"^{macro} = ([\d.e+-]+)$", text, re.MULTILINE):
            value = float(found[1])
            whole = macro in _STEP_MACROS
            bindings[macro] = shrink.scaled_step(int(value), steps, recipe.steps) if whole else float(f"{value * factor:.4g}")
    for field, value in _STEP_FIELDS.findall(text):
        bindings[f"learning_rates.{field}"] = shrink.scaled_step(int(value), steps, recipe.steps)
    return Twin(recipe, model, steps, batch_size, length, bindings, factor)


def _begins_as_its_base_ends(recipe: Recipe) -> bool:
    """Whether a recipe goes on with no warm-up, as an anneal does."""
    return bool(recipe.published.base) and not recipe.warmup_steps


def write_twin(
    name: str,
    out: str | Path,
    *,
    params: int,
    tokens: int,
    documents: Sequence[str] = (),
    vocab: str | Path | None = None,
    vocab_size: int = 2000,
    length: int = 256,
    batch_size: int = 16,
) -> Twin:
    """Write the folder of a small twin; one that was made with the same settings stays as it is.

    Args:
      name: of the recipe.
      out: folder; it must not be there, or be such a one.
      params: parameters in all, about.
      tokens: tokens read in all, about.
      documents: folders of document sets, as `ja-llm cache --documents` takes them; none: stand-ins.
      vocab: folder of a tokenizer; None: one is trained on the documents.
      vocab_size: pieces of that one.
      length: tokens in a row.
      batch_size: rows a step.

    Raises:
      UsageError: the recipe can't be shrunk so, a source has no folder, or `out` holds something else.
    """
    from ja_llm.vocab.train import train_sentencepiece

    recipe = catalogue.resolve(name)
    out = Path(out).absolute()
    if out.exists() and not (out / _SETTINGS).exists():
        raise UsageError(f"{out}: this folder is there already, and holds no small twin; give another --out, or remove it.")
    scaled(name, params, tokens, 300, length, batch_size)  # what can't be is refused before anything is written
    tasks = sorted({task for stage in recipe.stages for task in stage.shares})
    folders = _given(documents, recipe) if documents else {}
    asked: dict[str, Any] = {
        "NAME": name,
        "--params": params,
        "--tokens": tokens,
        "--documents": {key: str(folder) for key, folder in folders.items()},
        "--vocab": None if vocab is None else str(Path(vocab).absolute()),
        "--vocab_size": vocab_size if vocab is None else None,  # of the one that is trained
        "--length": length,
        "--batch_size": batch_size,
    }
    own_vocab = out / "vocab" if vocab is None else Path(vocab).absolute()
    if out.exists():
        return _made_before(out, asked, own_vocab)
    with atomic_directory(out) as temporary:
        if not documents:
            folders = {name: Path("documents") / name for name in stand_ins.write_stand_ins(temporary / "documents", tasks)}
        tokenizer: Tokenizer
        if vocab is None:
            places = [temporary / folder for folder in folders.values()]
            coverage = stand_ins.coverage(stand_ins.texts(places), vocab_size)
            try:
                tokenizer = train_sentencepiece(
                    stand_ins.texts(places), temporary / "vocab", vocab_size=vocab_size, character_coverage=coverage
                )
            except JaLlmError as error:
                # SentencePiece's own advice, character coverage, is what is chosen here already.
                if least := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
                    raise UsageError(
                        f"--vocab_size {vocab_size}: bytes and the documents' characters alone are {least[1]} pieces; give more than that."
                    ) from error
                raise
        else:
            tokenizer = load_tokenizer(vocab)
        twin = scaled(name, params, tokens, tokenizer.vocab_size, length, batch_size)
        files = _files(twin, out)
        for file, text in files.items():
            write_text(temporary / file, text)
        write_text(temporary / "run.sh", _script(twin, out, folders, own_vocab))
        write_json(temporary / _SETTINGS, {**asked, "recipe": sha256_json(files)})
    return twin


def _files(twin: Twin, out: Path) -> dict[str, str]:
    """The gin files of a twin's folder, by name."""
    base = {"base.gin": _base_gin(twin, out)} if twin.recipe.published.base else {}
    return {"twin.gin": _gin(twin, out), **base}


def _made_before(out: Path, asked: Mapping[str, Any], vocab: Path) -> Twin:
    """The twin whose folder is there.

    Raises:
      UsageError: it was made with other settings than `asked`, of another version of the recipe, or in another place.
    """
    stored = read_json(out / _SETTINGS, "list of settings")
    made = stored.pop("recipe", "")
    if stored != asked:
        name, was, now = first_difference(stored, dict(asked))
        raise UsageError(
            f"{out}: this folder holds a twin made with other settings: {name} was {was}, now it is {now}; give another --out, or remove it."
        )
    vocab_size = load_tokenizer(vocab).vocab_size
    twin = scaled(asked["NAME"], asked["--params"], asked["--tokens"], vocab_size, asked["--length"], asked["--batch_size"])
    if sha256_json(_files(twin, out)) != made:
        raise UsageError(
            f"{out}: this twin was made of another version of {asked['NAME']}, with another vocabulary, or in another place; give another --out, "
            "or remove it."
        )
    return twin


def _given(values: Sequence[str], recipe: Recipe) -> dict[str, Path]:
    """{set name: absolute folder} of all stages, from what `--documents` was given."""
    folders: dict[str, Path] = {}
    read: set[str] = set()
    for stage in recipe.stages:
        sets = {registry.task(task).documents for task in stage.shares}
        mine = [value for value in values if "=" not in value or value.partition("=")[0] in sets]
        read |= set(mine)
        given = registry.parse_documents(mine, stage.mixture) if mine else {}
        folders |= {key: folder.absolute() for key, folder in registry.document_folders(stage.shares, given).items()}
    for value in values:
        if value not in read:
            raise UsageError(
                f"--documents {value}: {recipe.name} reads no such document set, only {', '.join(sorted(folders))}; leave it out."
            )
    for folder in set(folders.values()):  # before a vocabulary is trained on what is not there
        manifest.read(folder, manifest.DOCUMENTS)
    return folders


def _caches(twin: Twin, out: Path) -> dict[str, Path]:
    """Folder of each mixture's cache."""
    return {stage.mixture: out / "tokens" / stage.mixture for stage in twin.recipe.stages}


def _gin(twin: Twin, out: Path) -> str:
    """The small twin's file."""
    first, *later = [stage.mixture for stage in twin.recipe.stages]
    caches = _caches(twin, out)
    values = {
        **{name: value for name, value in twin.bindings.items() if name.isupper()},
        "BATCH_SIZE": twin.batch_size,
        "TASK_FEATURE_LENGTHS": {"targets": twin.length},
        "MICROBATCHES": 1,
        "MESH": {"data": -1},
        "MODEL_OVERRIDES": None,
        "MAX_EPOCHS": None,
        "CHECKPOINT_PERIOD": max(1, twin.steps // 5),
        "EVAL_PERIOD": max(1, twin.steps // 5),
        "CACHE_DIR": str(caches[first]),
        **({"SECOND_CACHE_DIR": str(caches[later[0]])} if later else {}),
        **({"INITIAL_CHECKPOINT_PATH": str(out / "runs/base")} if twin.recipe.published.base else {}),
        "MODEL_DIR": str(out / "runs/twin"),
    }
    model = twin.model
    fields = {name: getattr(model, name) for name in _MODEL_FIELDS if name != "sliding_window" or model.sliding_window}
    fields |= {name: value for name in ("query_scalar", "init_std") if (value := getattr(model, name))}
    fields |= {"vocab_size": model.vocab_size, "dtype": "float32", "remat_policy": "none"}
    other = {name: value for name, value in twin.bindings.items() if not name.isupper()}
    lines = [
        f"# The small twin of recipes/{twin.recipe.name}.gin: its mixture, stages, optimizer and shape of schedule, a model of its proportions.",
        f"# Rates are the recipe's, and its base's, times {twin.rate_factor:.3g}: the ratio of the widths, as far as that is stable. For another budget write it anew with `ja-llm recipes shrink`.",
        f"include 'recipes/{twin.recipe.name}.gin'",
        "from __gin__ import dynamic_registration",
        "from ja_llm.models import config",
        "from ja_llm.train import learning_rates",
        "",
        "config.DecoderConfig:",
        *(f"  {name} = {value!r}" for name, value in fields.items()),
        "",
        *(f"{name} = {value!r}" for name, value in {**other, **values}.items()),
    ]
    return "\n".join(lines) + "\n"


def _base_gin(twin: Twin, out: Path) -> str:
    """The file of the base: the twin's model from random parameters, on what the recipe replays rather than teaches."""
    stage = max(twin.recipe.stages, key=lambda stage: sum(_replayed(stage.shares).values()))
    kept = _replayed(stage.shares) or stage.shares
    total = sum(kept.values())
    rates = {task: share / total for task, share in kept.items()} if kept != stage.shares else None
    peak = _BASE_PEAK * twin.rate_factor
    values = {
        "INITIAL_CHECKPOINT_PATH": None,
        "MIXTURE_OR_TASK_NAME": stage.mixture,
        "CACHE_DIR": str(_caches(twin, out)[stage.mixture]),
        "RATES": rates,
        "STAGES": (),
        "PEAK_LEARNING_RATE": float(f"{peak:.4g}"),
        "FINAL_LEARNING_RATE": twin.bindings["PEAK_LEARNING_RATE"]
        if _begins_as_its_base_ends(twin.recipe)
        else float(f"{peak / 10:.4g}"),
        "WARMUP_STEPS": max(1, twin.steps // 50),
        "MODEL_DIR": str(out / "runs/base"),
    }
    lines = [
        "",
        "# The base that the twin goes on from: the same model from random parameters, on the sources that are not Japanese.",
        *(f"{name} = {value!r}" for name, value in values.items()),
        "SCHEDULE = @learning_rates.WarmupCosine()",
        "learning_rates.WarmupCosine.total_steps = %TRAIN_STEPS",
    ]
    return _gin(twin, out) + "\n".join(lines) + "\n"


def _replayed(shares: Mapping[str, float]) -> dict[str, float]:
    return {task: share for task, share in shares.items() if registry.task(task).lang not in _RECIPE_LANGUAGES}


def _script(twin: Twin, out: Path, folders: Mapping[str, Path], vocab: Path) -> str:
    """The commands."""
    lines = [
        "#!/bin/sh",
        f"# The small twin of {twin.recipe.name}: token stores, base, twin. Each command goes on where it was.",
        "set -e",
    ]
    for mixture, cache in _caches(twin, out).items():
        sets = sorted({registry.task(task).documents for task in registry.resolve(mixture)})
        words = [word for name in sets for word in ("--documents", f"{name}={out / folders[name]}")]
        lines.append(shlex.join(["ja-llm", "cache", "--task", mixture, "--vocab", str(vocab), *words, "--out", str(cache)]))
    files = ["base.gin", "twin.gin"] if twin.recipe.published.base else ["twin.gin"]
    runs = [out / "runs/twin", *(out / f"runs/twin{seed}" for seed in range(1, twin.recipe.published.runs))]
    more = [[f"--gin.RANDOM_SEED={seed}", f"--gin.MODEL_DIR={run}"] for seed, run in enumerate(runs)][1:]
    trains = [[f"--gin_file={out / file}"] for file in files] + [[f"--gin_file={out / files[-1]}", *words] for words in more]
    lines += [f'{shlex.join(["ja-llm", "train", *words])} "$@"' for words in trains]
    if more:
        averaged = str(out / "averaged")
        lines.append(
            f"test -e {shlex.quote(averaged)} || {shlex.join(['ja-llm', 'average', *map(str, runs), '--out', averaged])}"
        )
    return "\n".join(lines) + "\n"


def told(twin: Twin, out: str | Path, own_documents: bool, made_before: bool = False) -> str:
    """What was written, in a few lines; now, or by the same command before."""
    recipe, model = twin.recipe, twin.model
    was, now = shrink.count_params(recipe.step.model), shrink.count_params(model)
    before, after = shrink.proportions(recipe.step.model), shrink.proportions(model)
    warmup = twin.bindings.get("WARMUP_STEPS", 0) if recipe.warmup_steps else 0
    a_parameter = recipe.tokens / was
    kept = ", ".join(f"{name} {before[name]:.3g} -> {after[name]:.3g}" for name in before)
    lines = [
        f"{recipe.name}, shrunk into {out}{' (made before, whole)' if made_before else ''}",
        f"  model     {now / 1e6:.2f}M parameters for {was / 1e6:,.0f}M: {model.num_layers} layers, width {model.embed_dim}, {model.num_heads} heads "
        f"({model.num_kv_heads} of keys and values) of {model.head_dim}, feed-forward {model.mlp_dim}",
        f"            {kept}",
        f"  schedule  {twin.steps:,} steps of {twin.batch_size} x {twin.length} tokens, {twin.tokens / 1e6:.1f}M in all; warm-up {warmup:,} steps "
        f"({warmup / twin.steps:.1%}, the recipe's {recipe.warmup_steps / recipe.steps:.1%})",
        f"  tokens    {twin.tokens / now:.1f} a parameter; the recipe has {a_parameter:.1f}, which --tokens {a_parameter * now / 1e6:.0f}M would be",
        *(
            f"  mixture   {stage.mixture}, {len(stage.shares)} sources"
            + (f", from step {shrink.scaled_step(stage.from_step, twin.steps, recipe.steps):,} on" if stage.from_step else "")
            for stage in recipe.stages
        ),
    ]
    if not own_documents:
        lines.append(
            "  data      stand-ins: a few embedded pages each, for the shape and not for the quality (--documents DIR for others)"
        )
    return "\n".join([*lines, f"next: sh {Path(out) / 'run.sh'}"])
