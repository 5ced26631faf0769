"""The main job on real text: Debian's documentation, from packages to a better Japanese model, with its controls.

    python -m benchmarks.debian_docs --out build/real

Everything that is finished is kept in --out, so a second call goes on or ends at once. Writes benchmarks/results/debian_docs.json;
`python -m benchmarks.readme_tables` makes the README's table from it.

Controls, of equal tokens: the same architecture from random weights on the same mixture; a character 5-gram model on the text that the
run has read. `--repeat` trains the main run a second time and compares every loss.
"""

import argparse
import dataclasses
import os
import platform
import statistics
from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.commands.parsing import set_device
from ja_llm.files import read_json, sha256_file, write_json
from ja_llm.quickstart.walk import MIXTURE, NewBase, Walk, WalkConfig

RESULT = Path(__file__).parent / "results" / "debian_docs.json"
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "seqio",
    "tensorflow",
    "apache-beam",
    "fastwarc",
    "trafilatura",
    "sentencepiece",
    "sacrebleu",
)


def config(fetched: Path) -> WalkConfig:
    """The sizes of the job: a base of 2.9M parameters (3.5M expanded), about 20 minutes of continual pre-training on two cores."""
    return WalkConfig(
        inputs=(str(fetched / "warc" / "*.warc.gz"),),
        preset="debian_docs",
        base=NewBase("models/tiny_3m.gin", pieces=3000, steps=400, rate=2e-3),
        new_pieces=3000,
        length=256,
        batch_size=16,
        steps=1200,
        rate=2e-3,
        twin_rate=2e-3,  # as the main run: what differs between the two is where they begin, nothing else
        eval_period=100,
        eval_limit=200,
        pairs=str(fetched / "pairs" / "messages.jsonl"),
    )


def main() -> None:
    """Run the job and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/real"))
    parser.add_argument("--fetched", type=Path, help="output of `ja-llm fetch debian-docs`, if it is elsewhere")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", action="store_true", help="train the main run twice and compare")
    args = parser.parse_args()
    set_device("cpu")
    fetched = (args.fetched or args.out / "debian-docs").absolute()
    fetch(fetched)
    walk = Walk(args.out / "walk", config(fetched), workers=args.workers)
    corpus = walk.corpus()
    walk.base()
    certificate = walk.expand()
    walk.tokens()
    walk.continual()
    walk.scratch()
    results = walk.evaluate()
    export = walk.export()
    value = {
        "what": "Debian documentation: corpus, English base, vocabulary expansion, continual pre-training, controls",
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "software": manifest.software(*_PACKAGES),
        "config": {
            **dataclasses.asdict(walk.config),
            "inputs": "debian-docs/warc/*.warc.gz",
            "pairs": "debian-docs/pairs/messages.jsonl",
        },
        "corpus": {key: corpus[key] for key in ("totals", "yields", "config_hash")}
        | {"fingerprint": manifest.fingerprint(corpus)},
        "corpus_speed": read_json(walk.out / "corpus" / "timings.json")
        if (walk.out / "corpus" / "timings.json").exists()
        else {},
        "certificate": certificate,
        "training": {name: training(walk.out / "runs" / folder) for name, folder in RUNS.items()},
        "tokens": tokens_used(walk),
        "evaluation": results,
        "character_5gram": ngram(walk),
        "export": parity(export, walk.out / "runs/ja"),
        "ledgers": {name: read_json(walk.out / "runs" / folder / "run.json") for name, folder in RUNS.items()},
        "seconds": merged_seconds(walk),
    }
    if args.repeat:
        value["repeat"] = repeat(walk)
    elif (
        RESULT.exists()
        and "repeat" in (old := read_json(RESULT))
        and old["ledgers"]["ja"]["identity_hash"] == value["ledgers"]["ja"]["identity_hash"]
    ):
        value["repeat"] = old["repeat"]
    write_json(RESULT, value)
    controls = {"character 5-gram": {task: value["character_5gram"][task] for task in ("bits_per_byte_ja", "bits_per_byte_en")}}
    report = walk.report(controls, walk.generate(PROMPTS))
    print(f"{RESULT}\n{report}")


RUNS = {"base": "base", "ja": "ja", "scratch": "twin"}
PROMPTS = ("このコマンドは", "ファイルを開くには、", "The following options")


def fetch(out: Path) -> None:
    """Fetch the packages, unless they are there."""
    from ja_llm.fetch.debian_docs import fetch_debian_docs

    fetch_debian_docs(out)


def training(run: Path) -> dict[str, Any]:
    """Losses and the median speed of a run, from its metrics."""
    from ja_llm.train.metrics import read_metrics

    lines = read_metrics(run / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    curves = {
        key: [[line["step"], line[key]] for line in lines if key in line]
        for key in sorted({k for line in lines for k in line if k.startswith("eval/")})
    }
    return {
        "steps": len(steps),
        "target_tokens": sum(line["target_tokens"] for line in steps),
        "minutes": sum(line["target_tokens"] / line["tokens_per_second"] for line in steps) / 60,
        "first_loss": steps[0]["loss"],
        "last_loss": steps[-1]["loss"],
        "mean_loss_of_last_50": statistics.fmean(line["loss"] for line in steps[-50:]),
        "median_tokens_per_second": statistics.median(line["tokens_per_second"] for line in steps),
        "curves": curves,
    }


def tokens_used(walk: Walk) -> dict[str, Any]:
    """Rows, shares and epochs of the mixture over the run."""
    from ja_llm.data.batches import BatchSource

    source = BatchSource(walk.out / "tokens", walk.config.length, walk.config.batch_size, walk.config.seed)
    rows = walk.config.steps * walk.config.batch_size
    return {task: {**part, "epochs": rows * part["share"] / part["rows"]} for task, part in source.statistics().items()}


def ngram(walk: Walk) -> dict[str, Any]:
    """A character 5-gram model on the documents that the run has read, measured on the same held-out documents."""
    from ja_llm.data.batches import BatchSource
    from ja_llm.data.store import TokenStore
    from ja_llm.documents import read_documents
    from ja_llm.evaluation.ngram import CharacterNgram
    from ja_llm.vocab.base import load_tokenizer

    source = BatchSource(walk.out / "tokens", walk.config.length, walk.config.batch_size, walk.config.seed)
    tokenizer = load_tokenizer(walk.out / "tokens/vocab")
    rows = walk.config.steps * walk.config.batch_size
    texts: list[str] = []
    for task, part in source.statistics().items():
        store = TokenStore.open(walk.out / "tokens" / task / "train")
        budget = (
            rows * part["share"] * walk.config.length
        )  # documents in stored order until the run's tokens are spent, each once
        for index in range(store.num_documents):
            if budget <= 0:
                break
            ids = store.document(index).tolist()
            budget -= len(ids)
            texts.append(tokenizer.decode(ids[1:-1]))
    model = CharacterNgram(5).train(texts)
    corpus = walk.out / "corpus"
    shards = manifest.read(corpus, manifest.DOCUMENTS)["shards"]
    result: dict[str, Any] = {"training_documents": len(texts), "training_characters": sum(map(len, texts))}
    for lang in ("ja", "en"):
        held = [
            d.text for s in shards if s["lang"] == lang and s["split"] == "heldout" for d in read_documents(corpus / s["name"])
        ]
        result[f"bits_per_byte_{lang}"] = model.bits_per_byte(held)
    return result


def parity(export: Path, run: Path) -> dict[str, Any]:
    """Relative L2 distance of our float32 logits and transformers' on the export, for Japanese and English text."""
    import numpy as np
    import torch
    import transformers

    from ja_llm.models.decoder import Decoder
    from ja_llm.train.checkpoints import load_model

    loaded = load_model(run)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    module, result = Decoder(loaded.config), {}
    for lang, text in PARITY_TEXTS.items():
        ids = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode(text)]
        tokens = np.asarray([ids], np.int32)
        ours = np.asarray(module.apply({"params": loaded.params}, tokens, tokens), np.float64)
        with torch.no_grad():
            reference = theirs(torch.from_numpy(tokens.astype(np.int64))).logits.double().numpy()
        result[lang] = {
            "relative_l2": float(np.linalg.norm(ours - reference) / np.linalg.norm(reference)),
            "same_ids": tokenizer(text, add_special_tokens=False)["input_ids"] == ids[1:],
            "tokens": len(ids),
        }
    return {**result, "weights_sha256": sha256_file(export / "model.safetensors")}


PARITY_TEXTS = {
    "ja": "このコマンドは、指定したファイルの内容を一行ずつ読み取り、結果を標準出力に書き出します。日本語の文章も扱えます。",
    "en": "This command reads the named file line by line and writes the result to standard output. It also accepts several files.",
}


def repeat(walk: Walk) -> dict[str, Any]:
    """Train the main run again in another folder and compare every loss and every held-out figure."""
    from ja_llm.train.metrics import read_metrics

    again = walk.continual("ja_again")
    timeless = [
        [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in read_metrics(run / "metrics.jsonl")]
        for run in (walk.out / "runs/ja", again)
    ]
    losses = [[line["loss"] for line in run if "loss" in line] for run in timeless]
    return {
        "mixture": MIXTURE,
        "identical": timeless[0] == timeless[1],
        "largest_loss_difference": max(abs(a - b) for a, b in zip(*losses, strict=True)),
        "steps": len(losses[0]),
    }


def merged_seconds(walk: Walk) -> dict[str, float]:
    """Wall seconds of each stage; of the call that did the work, not of those that found it done."""
    path = walk.out / "seconds.json"
    known = read_json(path) if path.exists() else {}
    merged = {name: max(seconds, known.get(name, 0.0)) for name, seconds in walk.seconds.items()}
    write_json(path, merged)
    return merged


def cpu_name() -> str:
    """The processor's model name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
