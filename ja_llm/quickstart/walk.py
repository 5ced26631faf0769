"""The whole path in one call: the verbs of `ja-llm` one after the other, each as a user could type it.

Every stage writes its own finished folder and knows one when it sees it, so a path that was killed goes on where it was.
The quickstart runs it on embedded pages, `benchmarks/debian_docs.py` on Debian's documentation.
"""

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.files import read_json, sha256_file, sha256_json, write_json
from ja_llm.gin_utils import packaged_configs

MIXTURE = "swallow_ja90_en10"
BASE_TASK = "web_en"


# What is evaluated, in the order of the tables: name -> folder in the walk.
MODELS = {"base": "models/base", "expanded": "models/expanded", "trained": "runs/ja", "scratch": "runs/scratch"}


@dataclasses.dataclass(frozen=True)
class WalkConfig:
    """Sizes of one walk along the path.

    Attributes:
      inputs: globs of WARC files.
      preset: corpus preset (a gin file of gin_configs/corpus).
      model: gin file of the architecture that the base is made with.
      base_pieces: size of the base's English vocabulary.
      new_pieces: Japanese pieces to add to it.
      length: row length in tokens, in training and in scoring.
      batch_size: rows a step.
      base_steps: optimizer steps of the English base.
      steps: optimizer steps of continual pre-training, and of the from-scratch twin.
      base_rate: peak learning rate of the base and of the twin.
      rate: peak learning rate of continual pre-training.
      eval_period: steps between held-out measurements during training.
      eval_limit: examples of each likelihood and generation task.
      pairs: JSONL of English-Japanese pairs for the translation task, if there is one.
      seed: of everything that draws.
    """

    inputs: tuple[str, ...]
    preset: str
    model: str
    base_pieces: int
    new_pieces: int
    length: int
    batch_size: int
    base_steps: int
    steps: int
    base_rate: float
    rate: float
    eval_period: int
    eval_limit: int
    pairs: str | None = None
    seed: int = 0


_PATHS = ("CACHE_DIR", "MODEL_DIR", "INITIAL_CHECKPOINT_PATH")


class Walk:
    """One walk; the methods are the stages, in order.

    Args:
      out: folder of the walk.
      config: its sizes; a folder that was begun with others is refused.
      workers: Beam worker processes.

    Raises:
      UsageError: `out` holds something else, or a walk with other sizes.
    """

    def __init__(self, out: Path, config: WalkConfig, workers: int = 1):
        self.out, self.config, self.workers = Path(out).absolute(), config, workers
        self._number = 0
        self._seconds: dict[str, float] = {}
        gin_files = (config.model, f"corpus/{config.preset}.gin", "runs/pretrain.gin", "runs/continue.gin")
        contents = {name: sha256_file(packaged_configs() / name) for name in gin_files}
        mark = {"schema": "ja_llm.walk/1", "config": dataclasses.asdict(config), "gin": contents}
        path = self.out / "walk.json"
        if path.exists():
            stored = read_json(path, "walk description")
            if sha256_json(stored) != sha256_json(mark):
                raise UsageError(
                    f"{self.out}: this folder was begun with other sizes, pages or gin files, or in another place; give another --out, or remove it."
                )
        elif self.out.exists() and (not self.out.is_dir() or any(not p.name.startswith(".") for p in self.out.iterdir())):
            raise UsageError(f"{self.out}: this folder holds something else; give another --out.")
        else:
            write_json(path, mark)

    # --- stages

    def corpus(self) -> dict[str, Any]:
        """WARC files to documents."""
        from beam_pipelines.corpus import build_corpus

        with self._stage(
            "corpus",
            "web pages -> clean, deduplicated documents",
            f"corpus build --input {' --input '.join(map(repr, self.config.inputs))} --output {self._name('corpus')} --preset {self.config.preset}",
        ):
            manifest = build_corpus(
                list(self.config.inputs), self.out / "corpus", preset=self.config.preset, workers=self.workers
            )
        return manifest

    def base(self) -> Path:
        """An English base: vocabulary and weights, trained here, handed on through the Hugging Face format as somebody else's would be."""
        from ja_llm.interop.hf import export_hf, import_hf
        from ja_llm.vocab.train import train_on_documents

        c = self.config
        with self._stage(
            "base vocabulary",
            f"{c.base_pieces} English pieces",
            f"vocab train --documents {self._name('corpus')} --lang en --size {c.base_pieces} --out {self._name('vocab_en')}",
        ):
            train_on_documents(self.out / "corpus", self.out / "vocab_en", lang="en", vocab_size=c.base_pieces, model_type="bpe")
        self._cache(BASE_TASK, "vocab_en", "tokens_en")
        self._train(
            "base",
            "an English base from random weights",
            BASE_TASK,
            "tokens_en",
            c.base_steps,
            c.base_rate,
            files=(c.model, "runs/pretrain.gin"),
        )
        with self._stage(
            "import",
            "the base as a Hugging Face checkpoint, and back in",
            f"export {self._name('runs/base')} --out {self._name('base_hf')} && ja-llm import {self._name('base_hf')} --out {self._name('models/base')}",
        ):
            if not (self.out / "models/base/model.json").exists():
                export_hf(self.out / "runs/base", self.out / "base_hf")
                import_hf(self.out / "base_hf", self.out / "models/base")
        return self.out / "models/base"

    def expand(self) -> dict[str, Any]:
        """Japanese pieces for the base's vocabulary; new rows are means of old ones."""
        from ja_llm.vocab.surgery import expand_model

        c = self.config
        certificate = self.out / "models/expanded/certificate.json"
        with self._stage(
            "vocabulary",
            f"{c.new_pieces} Japanese pieces, rows = mean of subwords",
            f"vocab expand --model {self._name('models/base')} --documents {self._name('corpus')} --pieces {c.new_pieces} --out {self._name('models/expanded')}",
        ):
            if certificate.exists():  # it comes with the whole model or not at all
                return read_json(certificate, "certificate")
            return expand_model(
                self.out / "models/base", self.out / "corpus", self.out / "models/expanded", new_pieces=c.new_pieces, lang="ja"
            )

    def tokens(self) -> None:
        """The 90/10 mixture as token stores."""
        self._cache(MIXTURE, "models/expanded/vocab", "tokens")

    def continual(self, name: str = "ja") -> Path:
        """Continual pre-training of the expanded base."""
        c = self.config
        return self._train(
            name,
            "continual pre-training, 90 % Japanese, 10 % English",
            MIXTURE,
            "tokens",
            c.steps,
            c.rate,
            files=("runs/continue.gin",),
            initial="models/expanded",
        )

    def scratch(self) -> Path:
        """Control: the same architecture, vocabulary, mixture and tokens from random weights."""
        c = self.config
        return self._train(
            "scratch",
            "control: the same from random weights",
            MIXTURE,
            "tokens",
            c.steps,
            c.base_rate,
            files=(c.model, "runs/pretrain.gin"),
        )

    def evaluate(self, model: str, tasks: str | list[str] = "first") -> dict[str, Any]:
        """Evaluate one model directory; results lie in its own eval folder."""
        from ja_llm.evaluation.run import evaluate

        c = self.config
        chosen = f"--suite {tasks}" if isinstance(tasks, str) else " ".join(f"--task {task}" for task in tasks)
        pairs = f" --pairs {os.path.relpath(c.pairs)}" if c.pairs else ""
        command = f"eval --checkpoint {self._name(model)} --documents {self._name('corpus')}{pairs} {chosen} --limit {c.eval_limit} --length {c.length}"
        with self._stage("evaluate", model, command):
            return evaluate(
                self.out / model,
                tasks,
                root=self.out / "corpus",
                pairs=self.config.pairs,
                limit=self.config.eval_limit,
                length=self.config.length,
            )

    def export(self, model: str = "runs/ja") -> Path:
        """The result for transformers."""
        from ja_llm.interop.hf import export_hf

        target = self.out / "export"
        with self._stage("export", "Hugging Face format", f"export {self._name(model)} --out {self._name('export')}"):
            export_hf(self.out / model, target)
        return target

    def report(self, controls: dict[str, Any] | None = None, samples: dict[str, Any] | None = None) -> Path:
        """`report.html`: what was begun with, what was made of it, and the twin."""
        from ja_llm.evaluation.report import write_report

        runs = " ".join(self._name(model) for model in MODELS.values())
        with self._stage(
            "report",
            "one page of curves, tables and ledgers",
            f"report {runs} --documents {self._name('corpus')} --certificate {self._name('models/expanded/certificate.json')} --out {self._name('report.html')}",
        ):
            return write_report(
                [self.out / model for model in MODELS.values()],
                self.out / "report.html",
                corpus=self.out / "corpus",
                certificate=self.out / "models/expanded/certificate.json",
                controls=controls,
                samples=samples,
            )

    def generate(self, prompts: Sequence[str], max_new_tokens: int = 48) -> dict[str, Any]:
        """Greedy continuations by the base and by the result: {"prompts", "base", "trained"}."""
        from ja_llm.evaluation.generation import generate
        from ja_llm.train.checkpoints import load_model

        with self._stage(
            "generate",
            "the same prompts before and after",
            f"generate --checkpoint {self._name(MODELS['trained'])} --prompt {prompts[0]}",
        ):
            texts: dict[str, Any] = {"prompts": list(prompts)}
            for name in ("base", "trained"):
                model = load_model(self.out / MODELS[name])
                room = min(max_new_tokens, model.config.max_length // 2)  # a very small model keeps half for the prompt
                texts[Path(MODELS[name]).name] = generate(model, list(prompts), max_new_tokens=room)
            return texts

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each stage in this call (not part of any result)."""
        return dict(self._seconds)

    # --- how a stage is run and told

    def _cache(self, task: str, vocab: str, out: str) -> None:
        from ja_llm.data.cache import cache

        with self._stage(
            "tokens",
            task,
            f"cache --task {task} --vocab {self._name(vocab)} --documents {self._name('corpus')} --out {self._name(out)}",
        ):
            cache(task, self.out / vocab, self.out / "corpus", self.out / out, seed=self.config.seed)

    def _train(
        self,
        name: str,
        why: str,
        task: str,
        tokens: str,
        steps: int,
        rate: float,
        files: Sequence[str],
        initial: str | None = None,
    ) -> Path:
        from ja_llm.train.main import main as train

        c, directory = self.config, self.out / "runs" / name
        values = {
            "MIXTURE_OR_TASK_NAME": task,
            "CACHE_DIR": str(self.out / tokens),
            "MODEL_DIR": str(directory),
            "TASK_FEATURE_LENGTHS": {"targets": c.length},
            "TRAIN_STEPS": steps,
            "BATCH_SIZE": c.batch_size,
            "RANDOM_SEED": c.seed,
            "PEAK_LEARNING_RATE": rate,
            "FINAL_LEARNING_RATE": rate / 10,
            "WARMUP_STEPS": max(steps // 20, 1),
            "CHECKPOINT_PERIOD": max(steps // 10, 1),
            "EVAL_PERIOD": c.eval_period,
            **({"INITIAL_CHECKPOINT_PATH": str(self.out / initial)} if initial else {}),
        }
        macros = {name: os.path.relpath(str(value)) if name in _PATHS else value for name, value in values.items()}
        flags = [*(f"--gin_file={file}" for file in files), *(f"--gin.{name}={value}" for name, value in macros.items())]
        shown = " ".join(shlex.quote(flag) for flag in flags)
        with self._stage("train", why, f"train {shown}"):
            train(files, [f"{k} = {v!r}" for k, v in values.items()])
        return directory

    def _name(self, path: str) -> str:
        """The folder as a command typed here would name it."""
        return shlex.quote(os.path.relpath(self.out / path))

    def _stage(self, name: str, why: str, command: str) -> "_Stage":
        self._number += 1
        return _Stage(self, self._number, name, why, command)


@dataclasses.dataclass
class _Stage:
    walk: Walk
    number: int
    name: str
    why: str
    command: str

    def __enter__(self) -> None:
        self._start = time.monotonic()
        print(f"\n[{self.number:2d}] {self.name}: {self.why}\n     ja-llm {self.command}", file=sys.stderr, flush=True)

    def __exit__(self, kind, *unused) -> None:
        if kind is None:
            seconds = time.monotonic() - self._start
            self.walk._seconds[f"{self.number:02d} {self.name}: {self.why}"] = round(seconds, 2)
            print(f"     done in {seconds:.0f} s", file=sys.stderr, flush=True)
