"""Likelihood tasks through lm-evaluation-harness: our adapter against its own backend for transformers, same model, tasks and batches.

python -m benchmarks.eval_speed [--documents 60] [--repeats 3] [--out FILE]

A Llama of SmolLM2-135M's shape with random weights. Two loads: a suite of four- and five-shot tasks in the shapes of JCommonsenseQA, JMMLU,
HellaSwag and OpenBookQA, and a zero-shot task whose documents share nothing (`eval_tasks.py`; so many documents each). What is timed is the
harness's whole evaluation of a task, from building its requests to its metrics; the part inside the model stands beside it. Ours runs once
to compile, the peer on a few documents to warm up; then both run alternately, `--repeats` times, and the ratio is of medians of a load's
seconds. A new prefix cache each time, so that nothing is taken from the call before. Both must give the same scores and likelihoods, or nothing is written.
"""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import eval_tasks
from ja_llm.files import write_json
from ja_llm.manifest import software

BATCH = 8
OUT = Path(__file__).resolve().parent / "results" / "eval_speed.json"
LOADS = {"4- and 5-shot tasks": tuple(eval_tasks.SHARED), "nothing shared": tuple(eval_tasks.ALONE)}
# Local files alone, and no bars among the figures; read when the packages are imported.
SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TQDM_DISABLE")


def harness_backend() -> Any:
    """The harness's own model class for transformers.

    It imports accelerate, which it uses to place models over several devices; for a model object on one device it never calls it, so where
    accelerate is not installed the import gets names without content.
    """
    import importlib.util
    import sys
    import types

    if importlib.util.find_spec("accelerate") is None and "accelerate" not in sys.modules:
        names = {"Accelerator": None, "InitProcessGroupKwargs": None, "find_executable_batch_size": None}
        stand_in, utils = types.ModuleType("accelerate"), types.ModuleType("accelerate.utils")
        vars(stand_in).update(names)
        vars(utils).update(get_max_memory=None)
        try:
            sys.modules.update({"accelerate": stand_in, "accelerate.utils": utils})
            from lm_eval.models.huggingface import HFLM
        finally:
            del sys.modules["accelerate"], sys.modules["accelerate.utils"]
        return HFLM
    from lm_eval.models.huggingface import HFLM

    return HFLM


def models(folder: Path, *, tiny: bool = False) -> tuple[Any, Any]:
    """(the harness's backend, ours) on the same weights; `tiny`: of one narrow layer, to try the path."""
    import jax
    import transformers

    from ja_llm.evaluation.lm_eval_adapter import JaLlm
    from ja_llm.interop.hf import export_hf
    from ja_llm.models.config import DecoderConfig
    from ja_llm.models.decoder import init_params
    from ja_llm.train.checkpoints import save_model
    from ja_llm.vocab.train import train_sentencepiece

    tokenizer = train_sentencepiece(eval_tasks.texts(folder) * 4, folder / "vocab", vocab_size=512)
    config = DecoderConfig(
        49152,
        embed_dim=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        mlp_dim=1536,
        max_length=2048,
        tie_embeddings=True,
    )
    if tiny:
        config = dataclasses.replace(config, vocab_size=512, embed_dim=72, num_layers=1, mlp_dim=64)
    save_model(folder / "ours", config=config, params=init_params(config, jax.random.key(0)), tokenizer=tokenizer, ledger={})
    export_hf(folder / "ours", folder / "theirs")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "theirs").eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder / "theirs")
    peer = harness_backend()(pretrained=theirs, tokenizer=ids, batch_size=BATCH, device="cpu", add_bos_token=True)
    return peer, JaLlm(folder / "ours", batch_size=BATCH)


@dataclasses.dataclass
class Run:
    """One evaluation of a task.

    Attributes:
      seconds: of all of it.
      in_model: of them inside the model's `loglikelihood`.
      scores: metric -> value.
      nats: log-likelihood of each request.
      requests: (context, continuation) of each.
    """

    seconds: float
    in_model: float
    scores: dict[str, float]
    nats: list[float]
    requests: list[tuple[str, str]]


def measure(model: Any, task: Mapping[str, Any], limit: int | None = None) -> Run:
    """Evaluate a task once."""
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_defaults=False).load(dict(task))
    inside = 0.0
    original = model.loglikelihood

    def timed(requests: Any, **rest: Any) -> Any:
        nonlocal inside
        begin = time.perf_counter()
        found = original(requests, disable_tqdm=True)
        inside += time.perf_counter() - begin
        return found

    model.loglikelihood = timed
    try:
        begin = time.perf_counter()
        found = evaluate(lm=model, task_dict=tasks, limit=limit, bootstrap_iters=0, log_samples=True, verbosity="ERROR")
        seconds = time.perf_counter() - begin
    finally:
        del model.loglikelihood
    (name,) = found["results"]
    scores = {key: float(value) for key, value in found["results"][name].items() if isinstance(value, int | float)}
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    requests = [(str(pair[0]), str(pair[1])) for sample in samples for pair in sample["arguments"]]
    return Run(seconds, inside, scores, [float(one[0][0]) for sample in samples for one in sample["resps"]], requests)


def compare(peer: Any, ours: Any, task: Mapping[str, Any], repeats: int) -> dict[str, Any]:
    """Seconds of both on one task, the tokens that ours computed, and the same scores.

    Raises:
      SystemExit: the two do not agree.
    """
    before = ours.scorer.computed
    first = measure(ours, task)
    computed = ours.scorer.computed - before
    measure(peer, task, limit=2)
    runs: dict[str, list[Run]] = {"peer": [], "ours": []}
    for _ in range(repeats):
        for who, model in (("peer", peer), ("ours", ours)):
            ours.scorer.forget()
            runs[who].append(measure(model, task))
    theirs = runs["peer"][0]
    differences = [abs(a - b) for a, b in zip(first.nats, theirs.nats, strict=True)]
    apart = {name: (value, theirs.scores[name]) for name, value in first.scores.items() if not _close(value, theirs.scores[name])}
    if first.requests != theirs.requests or max(differences) > 1e-2 or apart:
        raise SystemExit(f"{task['task']}: the two differ by {max(differences)} nats, scores {apart}; nothing is written.")
    tokens = sum(len(ours.tok_encode(context + text)) for context, text in first.requests)
    return {
        "shots": task["num_fewshot"],
        "requests": len(first.requests),
        "tokens": tokens,
        "tokens_computed_by_ours": computed,
        "share_saved": 1 - computed / tokens,
        "seconds": {who: [run.seconds for run in found] for who, found in runs.items()},
        "seconds_in_model": {who: [run.in_model for run in found] for who, found in runs.items()},
        "first_call_seconds": first.seconds,
        "scores": {name: [value, theirs.scores[name]] for name, value in first.scores.items()},
        "largest_difference_nats": max(differences),
    }


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-4 * max(abs(a), abs(b))


def joined(tasks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A load's figures from those of its tasks: seconds of a repeat are the sum over tasks."""

    def sums(key: str) -> dict[str, list[float]]:
        return {who: [sum(turn) for turn in zip(*(t[key][who] for t in tasks.values()), strict=True)] for who in ("peer", "ours")}

    total = {key: sum(task[key] for task in tasks.values()) for key in ("requests", "tokens", "tokens_computed_by_ours")}
    seconds, inside = sums("seconds"), sums("seconds_in_model")
    medians = {who: statistics.median(found) for who, found in seconds.items()}
    within = {who: statistics.median(found) for who, found in inside.items()}
    return {
        **total,
        "share_saved": 1 - total["tokens_computed_by_ours"] / total["tokens"],
        "seconds": seconds,
        "median_seconds": medians,
        "ratio": medians["peer"] / medians["ours"],
        "median_seconds_in_model": within,
        "ratio_in_model": within["peer"] / within["ours"],
        "largest_difference_nats": max(task["largest_difference_nats"] for task in tasks.values()),
        "tasks": dict(tasks),
    }


def main() -> None:
    """Measure and write the result file."""
    import argparse
    import logging

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=60, help="of each task")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a model of one narrow layer: tries the path, measures nothing")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    os.environ.update(dict.fromkeys(SWITCHES, "1"))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    loads: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tasks = eval_tasks.write(Path(folder), args.documents)
        peer, ours = models(Path(folder), tiny=args.tiny)
        for load, names in LOADS.items():
            found = {}
            for name in names:
                found[name] = compare(peer, ours, tasks[name], args.repeats)
                print(f"{name}: seconds {found[name]['seconds']}", flush=True)
            loads[load] = joined(found)
            print(f"{load}: {loads[load]['ratio']:.2f} x, {loads[load]['share_saved']:.0%} of tokens shared", flush=True)
    value = {
        "schema": "ja_llm.benchmark.eval_speed/2",
        "model": "one narrow layer" if args.tiny else "Llama of SmolLM2-135M's shape, random float32 weights",
        "batch_size": BATCH,
        "documents_a_task": args.documents,
        "repeats": args.repeats,
        "loads": loads,
        "software": software("jax", "jaxlib", "torch", "transformers", "lm-eval"),
        "hardware": _hardware(),
    }
    write_json(args.out, value)


def _hardware() -> dict[str, Any]:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {"cpu": names[0] if names else "", "cores": len(os.sched_getaffinity(0))}


if __name__ == "__main__":
    main()
