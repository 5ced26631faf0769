"""Likelihood tasks through lm-evaluation-harness: our adapter against its own backend for transformers, same model, requests and batches.

python -m benchmarks.eval_speed [--questions 6] [--repeats 3]

A Llama of SmolLM2-135M's shape with random weights. Two loads: "shared", five-shot questions whose choices are words, sentences and letters,
all behind the same shots; "nothing shared", texts that begin differently. Both backends run alternately in one process, `--repeats` times after
one call that compiles and warms up; the ratio is of medians. Both must give the same likelihoods, or nothing is written.
"""

import random
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ja_llm.files import write_json
from ja_llm.manifest import software

BATCH, SHOTS = 8, 5
OUT = Path(__file__).resolve().parent / "results" / "eval_speed.json"
WORDS = [
    "river",
    "stone",
    "market",
    "window",
    "letter",
    "garden",
    "bridge",
    "winter",
    "paper",
    "doctor",
    "engine",
    "island",
    "music",
    "forest",
    "silver",
    "harbour",
    "evening",
]


def text(draw: random.Random, words: int) -> str:
    """A sentence of so many words."""
    return " ".join(draw.choice(WORDS) for _ in range(words)).capitalize() + "."


def requests(questions: int) -> dict[str, list[tuple[str, str]]]:
    """Load -> (context, continuation) of each request; so many questions with choices of words, and with letters."""
    draw = random.Random(0)
    question = lambda: f"Question: {text(draw, 24)} What follows?\nAnswer:"  # noqa: E731
    shots = "".join(f"{question()} {text(draw, 8)}\n\n" for _ in range(SHOTS))
    shared = []
    for number in range(2 * questions):
        context = shots + question()
        choices = [f" {letter}" for letter in "ABCD"] if number % 2 else [f" {text(draw, 6)}" for _ in range(4)]
        shared += [(context, choice) for choice in choices]
    return {"shared": shared, "nothing shared": [(text(draw, 60), f" {text(draw, 8)}") for _ in range(16)]}


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


def models(folder: Path) -> tuple[Any, Any]:
    """(the harness's backend, ours) on the same weights."""
    import jax
    import transformers

    from ja_llm.evaluation.lm_eval_adapter import JaLlm
    from ja_llm.interop.hf import export_hf
    from ja_llm.models.config import DecoderConfig
    from ja_llm.models.decoder import init_params
    from ja_llm.train.checkpoints import save_model
    from ja_llm.vocab.train import train_sentencepiece

    draw = random.Random(1)
    tokenizer = train_sentencepiece(
        [f"{text(draw, 40)} Question: What follows?\nAnswer: A B C D" for _ in range(300)], folder / "vocab", vocab_size=420
    )
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
    save_model(folder / "ours", config=config, params=init_params(config, jax.random.key(0)), tokenizer=tokenizer, ledger={})
    export_hf(folder / "ours", folder / "theirs")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "theirs").eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder / "theirs")
    peer = harness_backend()(pretrained=theirs, tokenizer=ids, batch_size=BATCH, device="cpu", add_bos_token=True)
    return peer, JaLlm(folder / "ours", batch_size=BATCH)


def measure(model: Any, load: list[tuple[str, str]]) -> tuple[float, list[float]]:
    """Seconds, and the log-likelihoods."""
    begin = time.perf_counter()
    found = model.loglikelihood([SimpleNamespace(args=pair) for pair in load], disable_tqdm=True)
    return time.perf_counter() - begin, [float(nats) for nats, _ in found]


def main() -> None:
    """Measure and write the result file."""
    import argparse
    import logging

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        peer, ours = models(Path(folder))
        for name, load in requests(args.questions).items():
            lengths = [len(ours.tok_encode(a + b)) for a, b in load]
            before = ours.scorer.computed
            cold, ours_nats = measure(ours, load)
            computed = ours.scorer.computed - before
            peer_cold, peer_nats = measure(peer, load)
            worst = max(abs(a - b) for a, b in zip(ours_nats, peer_nats, strict=True))
            if worst > 1e-2:
                raise SystemExit(f"{name}: the two differ by {worst} nats; nothing is written.")
            times: dict[str, list[float]] = {"ours": [], "peer": []}
            for _ in range(args.repeats):
                for who, model in (("peer", peer), ("ours", ours)):
                    # A new prefix cache each time: what the call before computed must not count.
                    ours.scorer.forget()
                    times[who].append(measure(model, load)[0])
            medians = {who: statistics.median(found) for who, found in times.items()}
            result[name] = {
                "requests": len(load),
                "tokens": sum(lengths),
                "tokens_computed_by_ours": computed,
                "share_saved": 1 - computed / sum(lengths),
                "seconds": times,
                "first_call_seconds": {"ours": cold, "peer": peer_cold},
                "median_seconds": medians,
                "ratio": medians["peer"] / medians["ours"],
                "largest_difference_nats": worst,
            }
            print(f"{name}: transformers {medians['peer']:.2f} s, ours {medians['ours']:.2f} s, {result[name]['ratio']:.2f} x")
    value = {
        "schema": "ja_llm.benchmark.eval_speed/1",
        "model": "Llama of SmolLM2-135M's shape, random float32 weights",
        "batch_size": BATCH,
        "repeats": args.repeats,
        "shots": SHOTS,
        "loads": result,
        "software": software("jax", "jaxlib", "torch", "transformers", "lm-eval"),
        "hardware": _hardware(),
    }
    write_json(OUT, value)


def _hardware() -> dict[str, Any]:
    import os

    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {"cpu": names[0] if names else "", "cores": len(os.sched_getaffinity(0))}


if __name__ == "__main__":
    main()
