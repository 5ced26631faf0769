"""The whole path in one call: the verbs of `ja-llm` one after the other, each as a user could type it.

Every stage writes its own finished folder and knows one when it sees it, so a path that was killed goes on where it was.
The quickstart runs it on embedded pages, `benchmarks/debian_docs.py` on Debian's documentation.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, sha256_file, sha256_json, shown, write_json
from ja_llm.gin_utils import packaged_configs
from ja_llm.quickstart.narration import Narrator
from ja_llm.quickstart.own_pages import WALK

MIXTURE = "swallow_ja90_en10"
BASE_TASK = "web_en"


# What is evaluated, in the order of the tables: name -> folder in the walk.
MODELS = {"base": "models/base", "expanded": "models/expanded", "trained": "runs/ja", "scratch": "runs/twin"}


@dataclasses.dataclass(frozen=True)
class NewBase:
    """An English base to be made from random weights and the walk's own English pages.

    Attributes:
      model: gin file of the architecture.
      pieces: size of its English vocabulary.
      steps: optimizer steps.
      rate: peak learning rate.
    """

    model: str
    pieces: int
    steps: int
    rate: float


@dataclasses.dataclass(frozen=True)
class WalkConfig:
    """Sizes of one walk along the path.

    Attributes:
      inputs: globs of WARC files.
      preset: corpus preset (a gin file of gin_configs/corpus), or the path of a gin file.
      base: folder of a Hugging Face model, or how to make one.
      new_pieces: Japanese pieces to add to its vocabulary.
      length: row length in tokens, in training and in scoring.
      batch_size: rows a step.
      steps: optimizer steps of continual pre-training, and of the from-scratch twin.
      rate: peak learning rate of continual pre-training.
      twin_rate: peak learning rate of the twin.
      eval_period: steps between held-out measurements during training.
      eval_limit: examples of each likelihood and generation task.
      pairs: JSONL of English-Japanese pairs for the translation task, if there is one.
      seed: of everything that draws.
    """

    inputs: tuple[str, ...]
    preset: str
    base: str | NewBase
    new_pieces: int
    length: int
    batch_size: int
    steps: int
    rate: float
    twin_rate: float
    eval_period: int
    eval_limit: int
    pairs: str | None = None
    seed: int = 0


_PATHS = ("CACHE_DIR", "MODEL_DIR", "INITIAL_CHECKPOINT_PATH", "ARCHITECTURE_OF")


class Walk:
    """One walk; the methods are the stages, in order.

    Args:
      out: folder of the walk.
      config: its sizes; a folder that was begun with others is refused.
      workers: Beam worker processes.
      stages: how many stages the caller will walk, for their numbers.
      pages: digest of the pages, where `config.inputs` does not tell them apart.

    Raises:
      UsageError: `out` holds something else, or a walk with other sizes.
    """

    def __init__(self, out: Path, config: WalkConfig, workers: int = 1, stages: int | None = None, pages: str = ""):
        self.out, self.config, self.workers = Path(out).absolute(), config, workers
        self._narrator = Narrator(stages)
        self._stage = self._narrator.stage
        mark = {"schema": "ja_llm.walk/2", "config": dataclasses.asdict(config), "pages": pages, **_contents(config)}
        path = self.out / WALK
        if path.exists():
            stored = read_json(path, "walk description")
            if sha256_json(stored) != sha256_json(mark):
                raise UsageError(
                    f"{self.out}: this folder was begun with other sizes, pages, base or gin files, or in another place; give another --out, or remove it."
                )
        elif self.out.exists() and (not self.out.is_dir() or any(not p.name.startswith(".") for p in self.out.iterdir())):
            raise UsageError(f"{self.out}: this folder holds something else; give another --out.")
        else:
            write_json(path, mark)

    # --- stages

    def corpus(self) -> dict[str, Any]:
        """WARC files to documents."""
        from beam_pipelines.corpus import build_corpus

        c = self.config
        inputs = [word for glob in c.inputs for word in ("--input", shown(glob))]
        command = ["corpus", "build", *inputs, "--output", self._name("corpus"), "--preset", c.preset]
        why = "web pages are full of menus, copies and spam; keep the text worth learning from"
        with self._stage("corpus build", why, command) as outcome:
            manifest = build_corpus(list(c.inputs), self.out / "corpus", preset=c.preset, workers=self.workers)
            came, kept = pages_in(manifest), kept_by_language(manifest)
            told = ", ".join(f"{count:,} {lang}" for lang, count in kept.items())
            outcome.say(f"{came:,} pages in, {sum(kept.values()):,} kept ({told})")
        return manifest

    def base(self) -> Path:
        """The English base as somebody hands it on: a Hugging Face folder."""
        from ja_llm.interop.hf import export_hf, import_hf

        base, target = self.config.base, self.out / "models/base"
        commands = [["import", self._name(base if isinstance(base, str) else "base_hf"), "--out", self._name("models/base")]]
        if isinstance(base, NewBase):
            self.new_base(base)
            commands.insert(0, ["export", self._name("runs/base"), "--out", self._name("base_hf")])
        with self._stage(
            "import", "the English base that is to learn Japanese, from Hugging Face's format", *commands
        ) as outcome:
            if not (target / "model.json").exists():
                if isinstance(base, NewBase):
                    export_hf(self.out / "runs/base", self.out / "base_hf")
                import_hf(base if isinstance(base, str) else self.out / "base_hf", target)
            outcome.say(_size(target))
        return target

    def new_base(self, base: NewBase) -> Path:
        """An English base from random weights: vocabulary and training run."""
        from ja_llm.vocab.train_documents import train_on_documents

        command = ["vocab", "train", "--documents", self._name("corpus"), "--lang", "en", "--size", str(base.pieces)]
        with self._stage("vocab train", "English pieces for the base", [*command, "--out", self._name("vocab_en")]) as outcome:
            train_on_documents(self.out / "corpus", self.out / "vocab_en", lang="en", vocab_size=base.pieces, model_type="bpe")
            outcome.say(f"{base.pieces:,} pieces")
        self._cache("English text as token ids", BASE_TASK, "vocab_en", "tokens_en")
        values = {"TRAIN_STEPS": base.steps, **_rates(base.rate)}
        return self._train(
            "base", "the English base, from random weights", BASE_TASK, "tokens_en", (base.model, "runs/pretrain.gin"), values
        )

    def expand(self) -> dict[str, Any]:
        """Japanese pieces for the base's vocabulary; new rows are means of old ones."""
        from ja_llm.vocab.surgery import expand_model

        c = self.config
        certificate = self.out / "models/expanded/certificate.json"
        documents = ["--documents", self._name("corpus"), "--pieces", str(c.new_pieces), "--pad_to", "1"]
        command = ["vocab", "expand", "--model", self._name("models/base"), *documents, "--out", self._name("models/expanded")]
        why = "Japanese falls into bytes here; add Japanese pieces, each begins as the mean of its bytes"
        with self._stage("vocab expand", why, command) as outcome:
            value = (
                read_json(certificate, "certificate")  # it comes with the whole model or not at all
                if certificate.exists()
                else expand_model(
                    self.out / "models/base",
                    self.out / "corpus",
                    self.out / "models/expanded",
                    new_pieces=c.new_pieces,
                    lang="ja",
                    pad_to=1,
                )
            )
            tokens = value["checks"]["tokens_per_japanese_character"]
            outcome.say(
                f"{tokens['after']:.2f} tokens per Japanese character, {tokens['before']:.2f} before; "
                f"the certificate that other text is cut as before {'passed' if value.get('passed') else 'FAILED'}"
            )
        return value

    def tokens(self) -> None:
        """The 90/10 mixture as token stores."""
        self._cache(
            "90 % Japanese and 10 % English, so that English is not forgotten", MIXTURE, "models/expanded/vocab", "tokens"
        )

    def continual(self, name: str = "ja", rate: float | None = None) -> Path:
        """Continual pre-training of the expanded base; `rate` instead of the configuration's for a comparison."""
        values = {
            "TRAIN_STEPS": self.config.steps,
            **_rates(rate or self.config.rate),
            "INITIAL_CHECKPOINT_PATH": str(self.out / "models/expanded"),
        }
        return self._train(
            name, "continual pre-training: the base goes on with Japanese", MIXTURE, "tokens", ("runs/continue.gin",), values
        )

    def scratch(self, name: str = "twin", rate: float | None = None) -> Path:
        """Control: the same architecture, vocabulary, mixture and tokens from random weights; `rate` as in `continual`."""
        values = {
            "TRAIN_STEPS": self.config.steps,
            **_rates(rate or self.config.twin_rate),
            "ARCHITECTURE_OF": str(self.out / "models/expanded"),
        }
        return self._train(
            name, "a twin from random weights, to see what the base was worth", MIXTURE, "tokens", ("runs/twin.gin",), values
        )

    def evaluate(self, tasks: str | Sequence[str] = "first") -> dict[str, dict[str, Any]]:
        """Evaluate all models: name -> results, which also lie in each model's own eval folder."""
        from ja_llm.evaluation.run import evaluate

        c = self.config
        pairs = ["--pairs", shown(c.pairs)] if c.pairs else []
        chosen = ["--suite", tasks] if isinstance(tasks, str) else [word for task in tasks for word in ("--task", task)]
        sizes = ["--limit", str(c.eval_limit), "--length", str(c.length)]
        commands = [
            ["eval", "--checkpoint", self._name(model), "--documents", self._name("corpus"), *pairs, *chosen, *sizes]
            for model in MODELS.values()
        ]
        # One command shows the kind: they differ in the checkpoint alone.
        why = f"the same held-out pages for {', '.join(MODELS.values())}; the command for one of them"
        with self._stage("eval", why, commands[list(MODELS).index("trained")]) as outcome:
            results = {
                name: evaluate(
                    self.out / model, tasks, root=self.out / "corpus", pairs=c.pairs, limit=c.eval_limit, length=c.length
                )
                for name, model in MODELS.items()
            }
            figures = [
                f"{Path(MODELS[n]).name} {r['tasks']['bits_per_byte_ja']['bits_per_byte']:.3f}" for n, r in results.items()
            ]
            outcome.say(f"Japanese bits per byte: {', '.join(figures)}")
        return results

    def export(self, model: str = "runs/ja") -> Path:
        """The result for transformers."""
        from ja_llm.interop.hf import export_hf

        target = self.out / "export"
        command = ["export", self._name(model), "--out", self._name("export")]
        with self._stage(
            "export", "back to Hugging Face's format, for transformers and everything that reads it", command
        ) as outcome:
            export_hf(self.out / model, target)
            outcome.say(f"{sum(p.stat().st_size for p in target.iterdir()) / 1e6:.1f} MB in {self._name('export')}")
        return target

    def report(self, controls: Mapping[str, Any] | None = None, samples: Mapping[str, Any] | None = None) -> Path:
        """`report.html`: what was begun with, what was made of it, and the twin."""
        from ja_llm.evaluation.report import write_report

        certificate = self._name("models/expanded/certificate.json")
        runs = [self._name(model) for model in MODELS.values()]
        command = ["report", *runs, "--documents", self._name("corpus"), "--certificate", certificate]
        why = "curves, tables, dropped pages and ledgers on one page"
        if samples:
            write_json(self.out / "samples.json", samples)
            command += ["--samples", self._name("samples.json")]
        with self._stage("report", why, [*command, "--out", self._name("report.html")]) as outcome:
            path = write_report(
                [self.out / model for model in MODELS.values()],
                self.out / "report.html",
                corpus=self.out / "corpus",
                certificate=self.out / "models/expanded/certificate.json",
                controls=controls,
                samples=samples,
            )
            outcome.say(f"{path.stat().st_size / 1e3:.0f} kB in {self._name('report.html')}, readable without a network")
        return path

    def generate(self, prompts: Sequence[str], max_new_tokens: int = 48) -> dict[str, Any]:
        """Greedy continuations by the base and by the result: {"prompts", "base", "ja"}."""
        from ja_llm.evaluation.generation import generate
        from ja_llm.train.checkpoints import load_model

        beginnings = [word for prompt in prompts for word in ("--prompt", prompt)]
        length = ["--max_tokens", str(max_new_tokens)]
        commands = [["generate", "--checkpoint", self._name(MODELS[name]), *beginnings, *length] for name in ("base", "trained")]
        with self._stage("generate", "the same beginnings continued by the base and by the result", *commands) as outcome:
            texts: dict[str, Any] = {"prompts": list(prompts)}
            for name in ("base", "trained"):
                model = load_model(self.out / MODELS[name])
                room = min(max_new_tokens, model.config.max_length // 2)  # a very small model keeps half for the prompt
                texts[Path(MODELS[name]).name] = generate(model, list(prompts), max_new_tokens=room)
            outcome.say(f"{len(prompts)} texts each, in the report")
            return texts

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each stage in this call (not part of any result)."""
        return dict(self._narrator.seconds)

    # --- how a stage is run

    def _cache(self, why: str, task: str, vocab: str, out: str) -> None:
        from ja_llm.data.cache import cache

        documents = ["--documents", self._name("corpus"), "--out", self._name(out)]
        with self._stage("cache", why, ["cache", "--task", task, "--vocab", self._name(vocab), *documents]) as outcome:
            manifest = cache(task, self.out / vocab, self.out / "corpus", self.out / out, seed=self.config.seed)
            counts = [f"{m['task']} {m['splits']['train']['tokens']:,}" for m in manifest["members"]]
            outcome.say(f"training tokens: {', '.join(counts)}")

    def _train(self, name: str, why: str, task: str, tokens: str, files: Sequence[str], own: Mapping[str, Any]) -> Path:
        from ja_llm.train.main import main as train
        from ja_llm.train.metrics import read_metrics

        c, directory = self.config, self.out / "runs" / name
        values = {
            "MIXTURE_OR_TASK_NAME": task,
            "CACHE_DIR": str(self.out / tokens),
            "MODEL_DIR": str(directory),
            "TASK_FEATURE_LENGTHS": {"targets": c.length},
            "BATCH_SIZE": c.batch_size,
            "RANDOM_SEED": c.seed,
            **own,
            "WARMUP_STEPS": max(own["TRAIN_STEPS"] // 20, 1),
            "CHECKPOINT_PERIOD": max(own["TRAIN_STEPS"] // 10, 1),
            "EVAL_PERIOD": c.eval_period,
        }
        macros = {key: self._name(value) if key in _PATHS else value for key, value in values.items()}
        flags = [*(f"--gin_file={file}" for file in files), *(f"--gin.{key}={value}" for key, value in macros.items())]
        with self._stage("train", why, ["train", *flags]) as outcome:
            train(files, [f"{k} = {v!r}" for k, v in values.items()])
            steps = [line for line in read_metrics(directory / "metrics.jsonl") if "loss" in line]
            read = sum(line["target_tokens"] for line in steps)
            outcome.say(f"{len(steps):,} steps, {read:,.0f} tokens, loss {steps[0]['loss']:.2f} to {steps[-1]['loss']:.2f}")
        return directory

    def _name(self, path: str) -> str:
        """A path, or one inside the walk, as a command typed here would name it."""
        return shown(self.out / path)


def _contents(config: WalkConfig) -> dict[str, Any]:
    """What the walk's folder depends on besides its sizes: gin files and a given base, by content."""
    from beam_pipelines import config as corpus_config

    preset = sha256_json(dataclasses.asdict(corpus_config.load(config.preset)))  # a preset includes others
    names = ["runs/pretrain.gin", "runs/continue.gin", "runs/twin.gin"]
    if isinstance(config.base, NewBase):
        names.append(config.base.model)
    gin = {**{name: sha256_file(packaged_configs() / name) for name in names}, "preset": preset}
    if isinstance(config.base, NewBase):
        return {"gin": gin}
    folder = Path(config.base)
    if not (folder / "config.json").is_file():
        what = "there is no config.json in this base" if folder.is_dir() else "this base does not exist"
        raise UsageError(f"{folder}: {what}; give the folder of a Hugging Face model.")
    return {"gin": gin, "base": {p.name: _file_mark(p) for p in sorted(folder.iterdir()) if p.is_file()}}


def _file_mark(path: Path) -> str:
    """A file by its content; a large one, which would take long at every call, by size and time of change."""
    status = path.stat()
    return sha256_file(path) if status.st_size < 2**28 else f"{status.st_size} bytes of {status.st_mtime_ns}"


def _rates(peak: float) -> dict[str, float]:
    return {"PEAK_LEARNING_RATE": peak, "FINAL_LEARNING_RATE": float(f"{peak / 10:.6g}")}


def _size(model: Path) -> str:
    """Parameters and vocabulary of a model directory, in words."""
    import math

    import jax

    from ja_llm.models.decoder import abstract_params
    from ja_llm.train.checkpoints import read_model_files

    config = read_model_files(model)[0]
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config)))
    return f"{parameters / 1e6:.2f}M parameters in {config.num_layers} layers, vocabulary {config.vocab_size:,}"


def pages_in(manifest: Mapping[str, Any]) -> int:
    """Responses that the first stage of the corpus job was given."""
    return manifest["yields"][0]["in"]["documents"]


def kept_by_language(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Documents of the set by language, the most frequent first."""
    counts: dict[str, int] = {}
    for shard in manifest["shards"]:
        counts[shard["lang"]] = counts.get(shard["lang"], 0) + shard["documents"]
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def dropped_by_reason(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Dropped pages by reason over all stages, the most frequent first."""
    counts: dict[str, int] = {}
    for stage in manifest["yields"]:
        for reason, count in stage["dropped"].items():
            counts[reason] = counts.get(reason, 0) + count["documents"]
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def check_languages(manifest: Mapping[str, Any], folder: str, wanted: Iterable[str] = ("ja", "en")) -> None:
    """Refuse a set (its manifest, and its folder for the sentence) that the path can't be walked with.

    Raises:
      JaLlmError: a language has no training or no held-out document.
    """
    have = {(shard["lang"], shard["split"]) for shard in manifest["shards"] if shard["documents"]}
    names = {"ja": "Japanese", "en": "English"}
    for lang in wanted:
        for split, use in (("train", "to train on"), ("heldout", "to measure on")):
            if (lang, split) not in have:
                raise JaLlmError(
                    f"of these pages no {names.get(lang, lang)} one is left {use}; the path needs at least a dozen of each language, "
                    f"so add pages and begin in another --out; `ja-llm corpus stats {folder}` says why others were dropped."
                )
