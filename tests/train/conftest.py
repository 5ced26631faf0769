"""A small real cache (SentencePiece vocabulary, two member tasks, train and held-out) and the training command on it."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ja_llm import manifest
from ja_llm.data import cache as cache_module
from ja_llm.documents import document_id
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.train import train_sentencepiece

JA = (
    "朝の市場には、採れたての野菜が並びます。",
    "川沿いの道を歩くと、古い水車が見えてきました。",
    "祖母は毎年、梅干しを漬けて親戚に配ります。",
    "図書館の窓から、冬の海が静かに光っていた。",
)
EN = (
    "The harbour wakes before the sun does. ",
    "A good map tells you what it leaves out. ",
    "She mended the clock with a bent hairpin. ",
    "Snow had closed the upper road for a week. ",
)

MODEL_GIN = """
from __gin__ import dynamic_registration
from ja_llm.models import config
MODEL = @config.DecoderConfig
config.DecoderConfig:
  embed_dim = 32
  num_layers = 2
  num_heads = 4
  num_kv_heads = 2
  head_dim = 8
  mlp_dim = 64
  max_length = 64
"""


def texts(lang: str, count: int, seed: int) -> list[str]:
    rng = random.Random(f"{lang}{seed}")
    sentences = JA if lang == "ja" else EN
    return [f"{i} " + "".join(rng.choices(sentences, k=rng.randint(1, 8))) for i in range(count)]


def build_cache(
    folder: Path, seed: int = 0, vocab_size: int = 400, name: str = "mixed", rates: dict | None = None, vocab: Path | None = None
) -> Path:
    """What `ja-llm cache` writes for a 90/10 mixture, through its own functions, without loading TensorFlow."""
    if vocab is None:
        tokenizer = train_sentencepiece([*texts("ja", 40, 99), *texts("en", 40, 99)], folder / "vocab", vocab_size=vocab_size)
    else:
        tokenizer = load_tokenizer(vocab)
        tokenizer.save(folder / "vocab")
    entries, rates = [], rates or {"web_ja": 0.9, "web_en": 0.1}
    for task, rate in rates.items():
        splits = {}
        for split, count in (("train", 60), ("heldout", 8)):
            rows = []
            for text in texts(task[-2:], count, seed + (split == "heldout")):
                rows.append((document_id("test", "", "", text + split), np.array(tokenizer.document_ids(text), np.int32), text))
            config = {"task": task, "split": split, "seed": seed, "vocabulary": tokenizer.fingerprint}
            value = cache_module._write_documents(folder / task / split, iter(rows), config, ["0" * 64])
            splits[split] = {"path": f"{task}/{split}", "fingerprint": manifest.fingerprint(value), **value["totals"]}
        entries.append({"task": task, "rate": rate, "splits": splits})
    request = {"name": name, "rates": rates, "seed": seed, "splits": ["train", "heldout"], "vocabulary": tokenizer.fingerprint}
    cache_module._write_mixture(folder, request, entries, ["0" * 64])
    return folder


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return build_cache(tmp_path_factory.mktemp("cache") / "tokens")


@pytest.fixture(scope="session")
def make_cache():
    return build_cache


@pytest.fixture(scope="session")
def model_gin(tmp_path_factory):
    path = tmp_path_factory.mktemp("gin") / "model.gin"
    path.write_text(MODEL_GIN)
    return path


class Training:
    """`ja-llm train` in a process of its own."""

    def __init__(self, cache_dir: Path, model_gin: Path):
        self.cache_dir, self.model_gin = cache_dir, model_gin

    def command(self, model_dir: Path, steps: int, **macros) -> list[str]:
        values = {
            "MIXTURE_OR_TASK_NAME": "mixed",
            "CACHE_DIR": str(self.cache_dir),
            "TASK_FEATURE_LENGTHS": {"targets": 32},
            "TRAIN_STEPS": steps,
            "MODEL_DIR": str(model_dir),
            "BATCH_SIZE": 8,
            "WARMUP_STEPS": 4,
            "CHECKPOINT_PERIOD": 5,
            **macros,
        }
        flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
        files = (
            ["--gin_file=runs/continue.gin"]
            if "INITIAL_CHECKPOINT_PATH" in macros
            else [f"--gin_file={self.model_gin}", "--gin_file=runs/pretrain.gin"]
        )
        return [sys.executable, "-m", "ja_llm", "train", *files, *flags]

    def environment(self, devices: int = 1) -> dict[str, str]:
        # Rendezvous of simulated devices on two busy cores may take longer than XLA's default patience.
        flags = f"--xla_force_host_platform_device_count={devices} --xla_cpu_collective_call_terminate_timeout_seconds=300"
        return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}

    def start(
        self, model_dir: Path, steps: int, count: int = 1, devices: int = 1, plants: dict | None = None, **macros
    ) -> list[subprocess.Popen]:
        """The command in `count` processes that are one run, with faults of planted.py; output goes to files beside the run."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes = []
        for index in range(count):
            flags = [f"--coordinator_address=127.0.0.1:{port}", f"--process_count={count}", f"--process_index={index}"]
            log = open(model_dir.with_name(f"{model_dir.name}.{index}.log"), "w")  # noqa: SIM115
            command = [*self.command(model_dir, steps, **macros), *(flags if count > 1 else [])]
            if plants:
                command[1:3] = [str(Path(__file__).with_name("planted.py")), json.dumps(plants)]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=self.environment(devices)))
            log.close()
        return processes

    def run(self, model_dir: Path, steps: int, devices: int = 1, **macros) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(model_dir, steps, **macros), capture_output=True, text=True, env=self.environment(devices), timeout=280
        )


@pytest.fixture(scope="session")
def training(cache_dir, model_gin):
    return Training(cache_dir, model_gin)


@pytest.fixture(scope="session")
def straight(training, tmp_path_factory):
    """A run of 20 steps that nothing disturbed."""
    directory = tmp_path_factory.mktemp("runs") / "straight"
    result = training.run(directory, 20, EVAL_PERIOD=10)
    assert result.returncode == 0, result.stderr
    return directory


@pytest.fixture(scope="session")
def metrics():
    """metrics(run directory) -> lines of metrics.jsonl without the speed, which no two runs share."""

    def read(directory: Path) -> list[dict]:
        lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]

    return read
