"""The engine on a tiny model: seqio's Evaluator gives the same scores, and so do eight devices, two processes and a killed run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import registry
from ja_llm.evaluation import samples as samples_module
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.run import evaluate
from ja_llm.evaluation.runners import Runners
from ja_llm.evaluation.samples import TaskFiles, read_samples
from ja_llm.evaluation.scoring import Scorer
from ja_llm.evaluation.seqio_functions import model_functions, whole_examples
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train.checkpoints import load_model, save_model
from ja_llm.vocab.train import train_sentencepiece

RAW = Path(__file__).parent / "raw"
# Scored with shared shots, scored with shots of their own, generated, and both.
TASKS = ["jcommonsenseqa_strict", "openbookqa", "jemhopqa", "squad2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    texts = [e["inputs"] for name in TASKS for e in registry.resolve(name)[0].examples(Sources(data=RAW), 3)]
    tokenizer = train_sentencepiece(texts, folder / "vocab", vocab_size=800)
    config = DecoderConfig(
        tokenizer.vocab_size, embed_dim=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32, max_length=512
    )
    params = jax.tree.map(lambda x: x * 4, init_params(config, jax.random.key(0)))
    save_model(folder / "model", config=config, params=params, tokenizer=tokenizer, ledger={})
    return folder / "model"


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The tasks in one undisturbed call: (results, folder)."""
    out = tmp_path_factory.mktemp("whole")
    return evaluate(model, TASKS, data=RAW, out_dir=out), out


@pytest.mark.parametrize("name", TASKS)
def test_seqios_evaluator_gives_the_same_scores(model, whole, name):
    import seqio

    loaded = load_model(model)
    template = registry.resolve(name)[0]
    task = registry.bind(template, loaded.tokenizer, Sources(data=RAW))

    class Kept(seqio.Logger):
        def __call__(self, task_name, step, metrics, **rest):
            self.metrics = {k: getattr(v, "value", v) for k, v in metrics.items()}

    logger = Kept("")
    evaluator = seqio.Evaluator(
        task.name,
        feature_converter=whole_examples(),
        eval_split=registry.SPLIT,
        logger_cls=[lambda output_dir: logger],
        log_dir="/nonexistent",
    )
    done, _ = evaluator.evaluate(compute_metrics=True, step=0, **model_functions(template, Runners(loaded, 16, 512)))
    done.result()
    ours = {key: value for key, value in whole[0]["tasks"][name].items() if isinstance(value, float)}
    assert logger.metrics == pytest.approx(ours) and len(ours) > 3


def test_the_ledger_says_what_was_asked(whole):
    results, out = whole
    prompts = {name: task["about"]["prompts"] for name, task in results["tasks"].items()}
    assert len(set(prompts.values())) == len(TASKS) and all(len(digest) == 64 for digest in prompts.values())
    template = registry.resolve("jemhopqa")[0]
    for sample, example in zip(
        read_samples(out / "jemhopqa.samples.jsonl"), template.examples(Sources(data=RAW), None), strict=True
    ):
        assert sample["shots"] == example["meta"]["shots"] and len(sample["shots"]) == 4


RUN = """
import json, sys
from ja_llm.evaluation.run import evaluate
from ja_llm.evaluation import samples
if sys.argv[5] == "slow":
    import time
    append = samples.TaskFiles.append
    samples.TaskFiles.append = lambda self, chunk: (append(self, chunk), time.sleep(600 if "openbookqa" in str(self._partial) else 0))
share = tuple(map(int, sys.argv[3].split("/")))
evaluate(sys.argv[1], {tasks!r}, data={raw!r}, out_dir=sys.argv[2], mesh=sys.argv[4] or None, process=share)
"""


def start(model, out, share="0/1", mesh="", slow="", devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    code = RUN.format(tasks=TASKS[:3], raw=str(RAW))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(model), str(out), share, mesh, slow], env=environment, stderr=subprocess.PIPE
    )


def same_metrics(one, other):
    for name in TASKS[:3]:
        a, b = one["tasks"][name], other["tasks"][name]
        numbers = {key for key, value in a.items() if isinstance(value, float)}
        assert {k: a[k] for k in numbers} == pytest.approx({k: b[k] for k in numbers}, abs=1e-5), name
    return True


def same_samples(one, other):
    """Likelihoods within 1e-5 nats of each other; equal texts."""
    for name in TASKS[:3]:
        a, b = (read_samples(Path(folder) / f"{name}.samples.jsonl") for folder in (one, other))
        assert [s["id"] for s in a] == [s["id"] for s in b] and [s.get("prediction") for s in a] == [
            s.get("prediction") for s in b
        ]
        np.testing.assert_allclose([s.get("score", 0) for s in a], [s.get("score", 0) for s in b], rtol=0, atol=1e-5)
    return True


@pytest.mark.slow
def test_killed_mid_suite_the_same_command_writes_the_same_json(model, whole, tmp_path):
    child = start(model, tmp_path, slow="slow")
    partial = tmp_path / "openbookqa.partial.jsonl"
    end = time.monotonic() + 280
    while not (partial.exists() and partial.read_bytes().count(b"\n") == 2):
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (tmp_path / "jcommonsenseqa_strict.json").exists() and not (tmp_path / "results.json").exists()
    evaluate(model, TASKS, data=RAW, out_dir=tmp_path)
    for path in sorted(whole[1].iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_eight_devices_and_two_processes_measure_the_same(model, whole, tmp_path):
    one = start(model, tmp_path / "mesh", mesh="data=8", devices=8)
    assert one.wait() == 0, one.stderr.read().decode()
    assert same_metrics(json.loads((tmp_path / "mesh/results.json").read_text()), whole[0]) and same_samples(
        tmp_path / "mesh", whole[1]
    )
    two = [start(model, tmp_path / "two", share=f"{n}/2") for n in range(2)]
    assert [child.wait() for child in two] == [0, 0], [child.stderr.read().decode() for child in two]
    assert same_metrics(json.loads((tmp_path / "two/results.json").read_text()), whole[0]) and same_samples(
        tmp_path / "two", whole[1]
    )


def test_a_prompt_that_does_not_fit_loses_its_beginning_and_is_counted(model):
    """The sliding rule of both profiles: BOS stays where there is one, what is scored or written is that of the shortened prompt."""
    loaded = load_model(model)
    runners = Runners(loaded, 4, 512)
    long = np.random.default_rng(0).integers(300, loaded.tokenizer.vocab_size, 600).tolist()

    def run(name, *inputs):
        found = [{"id": b"x", "inputs": np.array(ids, np.int32), "targets": np.array([301], np.int32)} for ids in inputs]
        return runners.run(registry.resolve(name)[0], found)

    cut, fits = run("openbookqa", long, long[-512:])
    assert (cut["cut"], fits["cut"]) == (88, 0) and cut["score"] == fits["score"] < 0  # no BOS in the published shape
    cut, fits = run("openbookqa_strict", long, long[:1] + long[-511:])
    assert (cut["cut"], fits["cut"]) == (88, 0) and cut["score"] == fits["score"] < 0
    # A text longer than the model is scored in windows, each token once.
    whole = {"id": b"x", "inputs": np.array([1], np.int32), "targets": np.array(long, np.int32)}
    (found,) = runners.run(registry.resolve("openbookqa")[0], [whole])
    expected = Scorer(loaded, 4, 512).token_logprobs([[1, *long]])[0].sum(dtype=np.float64)
    assert found["cut"] == 0 and found["score"] == pytest.approx(expected)
    room = 512 - 15
    cut, fits = run("jemhopqa", long, long[-room:])  # no BOS in the published shape, so nothing is kept in front
    assert (cut["cut"], fits["cut"]) == (600 - room, 0) and cut["prediction"] == fits["prediction"]


def test_a_task_with_a_rule_of_its_own_makes_a_long_prompt_anew(model):
    """MGSM's worked examples go from the first on; what is written is that of the shorter prompt, and the tokens lost are counted."""
    loaded = load_model(model)
    runners = Runners(loaded, 4, 512)
    template = registry.resolve("mgsm_ja")[0]
    shots = [{"id": f"{n}", "question": f"飴は{n}個です。" * 12, "solution": f"答えは{n}です。"} for n in range(9)]
    record = {"id": "x", "question": "飴は何個ですか。", "gold": 3}

    def run(*numbers):
        text = "".join(f"問題:{shots[n]['question']}\n順を追った答え:{shots[n]['solution']}\n\n" for n in numbers)
        ids = loaded.tokenizer.encode(f"{text}問題:{record['question']}\n順を追った答え:")
        meta = json.dumps({"parts": {"record": record, "shots": [shots[n] for n in numbers]}}).encode()
        (found,) = runners.run(template, [{"id": b"x", "inputs": np.array(ids), "targets": np.array([301]), "meta": meta}])
        return len(ids), found

    sizes = {n: run(*range(n, 9))[0] for n in range(10)}
    first = next(n for n in range(10) if sizes[n] <= 512 - 256)
    assert 0 < first < 9
    fits, long = run(*range(first, 9))[1], run(*range(9))[1]
    assert fits["cut"] == 0 and long["cut"] == sizes[0] - sizes[first] and long["prediction"] == fits["prediction"]


def test_shares_of_processes_are_gathered_in_order(tmp_path, monkeypatch):
    chunks = [[{"id": f"{n}.{m}"} for m in range(2)] for n in range(5)]
    files = [TaskFiles(tmp_path, "task", {"a": 1}, (n, 2)) for n in range(2)]
    assert [f.mine(chunks) for f in files] == [chunks[0::2], chunks[1::2]]
    for f in files:
        assert f.resume() == []
        for chunk in f.mine(chunks):
            f.append(chunk)
    assert files[1].resume() == chunks[1::2]
    gathered = files[0].gather(chunks[0::2], 5)
    assert gathered == chunks
    monkeypatch.setattr(samples_module, "_PATIENCE", 0.0)
    with pytest.raises(JaLlmError, match="the first process does not write this result"):
        files[1].wait()
    result = files[0].finish([s for chunk in gathered for s in chunk], {"x": 1.0})
    assert files[1].wait() == result and not list(tmp_path.glob("*partial*"))
    with pytest.raises(JaLlmError, match=r"task.partial-1-of-2.jsonl: that process brings nothing more; start it again"):
        files[0].gather(chunks[0::2], 5)
    assert TaskFiles(tmp_path, "task", {"a": 2}, (1, 2)).finished() is None
    with pytest.raises(UsageError, match="process 2 of 2"):
        evaluate(tmp_path, TASKS, data=RAW, process=(2, 2))


def test_a_process_waits_as_long_as_the_other_one_lives(tmp_path, monkeypatch):
    """The first process may take longer for a task than the others' patience."""
    monkeypatch.setattr(samples_module, "_PATIENCE", 0.6)
    monkeypatch.setattr(samples_module, "_BEAT", 0.05)
    first, second = (TaskFiles(tmp_path, "task", {"a": 1}, (n, 2)) for n in range(2))
    first.resume()
    first.append([{"id": "0"}])
    told = []
    waiting = threading.Thread(target=lambda: told.append(second.wait()), daemon=True)
    with samples_module.alive(tmp_path, (0, 2)):
        waiting.start()
        time.sleep(1.5)
        assert waiting.is_alive()
        result = first.finish([{"id": "0"}], {"x": 1.0})
        waiting.join(5)
    assert told == [result] and not list(tmp_path.glob("*.alive"))
    # One that is dead is told from one that lives, whoever else does.
    with samples_module.alive(tmp_path, (1, 2)), pytest.raises(JaLlmError, match="does not write this result"):
        TaskFiles(tmp_path, "other", {"a": 1}, (1, 2)).wait()
