"""Tasks inside training: what the evaluator gives for parameters is what `eval` measures on a checkpoint of them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ja_llm.errors import UsageError
from ja_llm.evaluation import hosts, registry
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.in_loop import TaskEvaluator, task_evaluators
from ja_llm.evaluation.run import evaluate
from ja_llm.evaluation.runners import Runners
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train.checkpoints import save_model
from ja_llm.vocab.train import train_sentencepiece

RAW = Path(__file__).parent / "raw"


def test_the_evaluator_measures_what_eval_measures(tmp_path):
    texts = [e["inputs"] for e in registry.resolve("jcommonsenseqa_strict")[0].examples(Sources(data=RAW), 3)]
    tokenizer = train_sentencepiece(texts, tmp_path / "vocab", vocab_size=600)
    config = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 1, 8, 32, 512)
    params = [jax.tree.map(lambda x: x * 4, init_params(config, jax.random.key(seed))) for seed in range(2)]
    evaluators = task_evaluators(["jcommonsenseqa_strict"], config, tokenizer, data=RAW, limit=4)
    found = [evaluators["jcommonsenseqa_strict"](p) for p in params]
    for number, p in enumerate(params):
        save_model(tmp_path / f"model{number}", config=config, params=p, tokenizer=tokenizer, ledger={})
        task = evaluate(tmp_path / f"model{number}", "jcommonsenseqa_strict", data=RAW, limit=4)["tasks"]["jcommonsenseqa_strict"]
        assert found[number] == {key: task[key] for key in ("accuracy", "accuracy_low", "accuracy_high")}
    assert found[0] != found[1]  # the second call is of its own parameters
    with pytest.raises(UsageError, match="needs data, which was not given"):
        task_evaluators(["jcommonsenseqa_strict"], config, tokenizer)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_measure_together_what_one_measures(tmp_path, monkeypatch):
    """Parameters in halves on two hosts: each process has every likelihood, text and measure."""
    names = ["jcommonsenseqa_strict", "jemhopqa"]
    texts = [e["inputs"] for name in names for e in registry.resolve(name)[0].examples(Sources(data=RAW), 3)]
    tokenizer = train_sentencepiece(texts, tmp_path / "vocab", vocab_size=640)
    config = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 2, 8, 32, 512)
    params = jax.tree.map(lambda x: x * 4, init_params(config, jax.random.key(0)))
    save_model(tmp_path / "model", config=config, params=params, tokenizer=tokenizer, ledger={})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=1 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    started = [
        subprocess.Popen(
            [
                sys.executable,
                Path(__file__).with_name("hosts.py"),
                tmp_path / "model",
                address,
                "2",
                str(n),
                tmp_path / f"{n}.json",
                *names,
            ],
            env=environment,
            stderr=subprocess.PIPE,
        )
        for n in range(2)
    ]
    told = [process.communicate(timeout=800)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    samples, run = [], Runners.run
    monkeypatch.setattr(Runners, "run", lambda *rest: samples.append(run(*rest)) or samples[-1])
    evaluators = task_evaluators(names, config, tokenizer, data=RAW, limit=4, batch_size=4)
    alone = {name: measure(params) for name, measure in evaluators.items()}
    for number in range(2):
        metrics, (scored, written) = json.loads((tmp_path / f"{number}.json").read_text())
        assert metrics == alone and written == samples[1] and any(s["prediction"] for s in written)
        assert [s["score"] for s in scored] == pytest.approx([s["score"] for s in samples[0]], abs=1e-4)


def test_hosts_with_other_files_are_known_by_the_fingerprint_and_log_the_first_ones_numbers(monkeypatch):
    """Hosts compare it before the run starts (`ja_llm.train.preparation`), without waiting for each other here."""
    one = {"id": "1", "inputs_pretokenized": "a", "targets_pretokenized": "b"}
    of = lambda *examples: TaskEvaluator(None, None, list(examples), None, None, 1, 1).fingerprint  # noqa: E731
    assert of(one) == of(dict(one)) and len({of(one), of(one, one), of({**one, "targets_pretokenized": "c"})}) == 3
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    firsts = np.array([0.1, 1 / 3]).view(np.uint8).astype(np.int32)
    monkeypatch.setattr(hosts.multihost_utils, "broadcast_one_to_all", lambda own: firsts)
    assert hosts.of_first({"a": 7.0, "b": 8.0}) == {"a": 0.1, "b": 1 / 3}  # to the last bit
