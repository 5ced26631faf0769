"""Is the stability gap smaller? Three strategies and the ways to re-warm, on a toy of two languages, in pairs of seeds.

    nice -n 5 python -m benchmarks.stability_gap                     # minutes on one core
    nice -n 5 python -m benchmarks.stability_gap --runs build/gap    # also writes the runs' metrics.jsonl and their report.html

Each seed has two languages of its own ("English", "Japanese"): words over an alphabet, half of which both share, word classes that follow each
other, Zipf's frequencies. A model is trained on English; then, from the same weights, once in each way:

- plain: 90 % Japanese and 10 % English, each Japanese document read once; re-warmed to a third of the base's peak and decayed (as Swallow).
- subset: a random quarter of the Japanese documents, four times.
- best_first: the quarter without spelling mistakes first, then the rest, each once.
- near_original: half of each language.
- replay: a quarter of the rows is English, a language change's upper end (Ibrahim et al. 2024, arXiv:2403.08763).
- jump: as plain, the rate at its peak from the first step on.
- not_rewarmed: as plain, the constant rate that the base ended with.

The same number of steps and rows in each. Bits per byte of held-out English and Japanese documents are probed on the way; the area of English
above step 0 is compared with plain's over the seeds (Student's t interval of the pairs' differences). Writes
benchmarks/results/stability_gap.json and docs/stability_gap.svg.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.data.mixing import Mixing
from ja_llm.evaluation.stability_gap import paired_difference, stability_gap
from ja_llm.files import atomic_write, write_json
from ja_llm.losses.linear_cross_entropy import linear_cross_entropy
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, head_kernel, init_params
from ja_llm.pages.svg import Line, standalone
from ja_llm.train.forgetting import probe_steps
from ja_llm.train.learning_rates import Schedule, WarmupConstant, WarmupCosine
from ja_llm.train.optimizers import AdamW
from ja_llm.train.step import TrainState, init_optimizer, loss_sums, make_train_step

HERE = Path(__file__).resolve().parent
RESULT, PICTURE = HERE / "results" / "stability_gap.json", HERE.parent / "docs" / "stability_gap.svg"
STRATEGIES = ("subset", "best_first", "near_original")
SPACE, LETTERS, SHARED = 1, 24, 12  # id 0 begins a document
BYTES_OF_A_LETTER = {"english": 1, "japanese": 3}


@dataclasses.dataclass(frozen=True)
class Toy:
    """Sizes of the experiment."""

    seeds: int = 6
    base_steps: int = 400
    steps: int = 240
    batch: int = 16
    length: int = 32
    heldout: int = 32
    peak: float = 4e-3
    words: int = 300
    classes: int = 6
    probe_every: int = 4
    probe_until: int = 40

    @property
    def config(self) -> DecoderConfig:
        """The decoder."""
        return DecoderConfig(2 + 2 * LETTERS - SHARED, 32, 2, 2, 1, 16, 64, self.length, attention="reference")

    @property
    def probed(self) -> tuple[int, ...]:
        """Steps at which both languages are measured."""
        return probe_steps(self.steps, every=self.probe_every, until=self.probe_until, growth=1.2)


class Language:
    """Words over an alphabet; a document is a walk through word classes."""

    def __init__(self, alphabet: np.ndarray, toy: Toy, rng: np.random.Generator):
        self._alphabet, self._length = alphabet, toy.length
        sizes = rng.integers(2, 6, toy.words)
        letters = rng.choice(alphabet, (toy.words, 6))
        places = np.arange(6)
        # A word and the space behind it, then nothing (-1).
        self._words = np.where(places < sizes[:, None], letters, np.where(places == sizes[:, None], SPACE, -1))
        self._members = np.arange(toy.words).reshape(-1, toy.classes).T
        weights = 1 / np.arange(1, self._members.shape[1] + 1)
        self._zipf = np.cumsum(weights / weights.sum())
        self._follows = np.cumsum(rng.dirichlet(np.full(toy.classes, 0.3), toy.classes), axis=1)

    def documents(self, rng: np.random.Generator, count: int, mistakes: np.ndarray | float = 0.0) -> np.ndarray:
        """int32 [count, length + 1]: each begins with id 0; a share `mistakes` of each one's letters is any letter."""
        kinds, words = rng.integers(0, len(self._follows), count), []
        for _ in range(-(-self._length // 3)):  # no word is shorter
            words.append(self._words[self._members[kinds, np.searchsorted(self._zipf, rng.random(count) * (1 - 1e-9))]])
            kinds = (self._follows[kinds] < rng.random((count, 1)) * (1 - 1e-9)).sum(axis=1)
        stream = np.concatenate(words, axis=1)
        written = stream >= 0
        place = np.cumsum(written, axis=1)  # from 1: id 0 comes before
        rows = np.zeros((count, self._length + 1), np.int32)
        document, at = np.nonzero(written & (place <= self._length))
        rows[document, place[document, at]] = stream[document, at]
        wrong = rng.random(rows.shape) < np.reshape(mistakes, (-1, 1))
        wrong[:, 0] = False
        return np.where(wrong, rng.choice(self._alphabet, rows.shape), rows).astype(np.int32)


class World(NamedTuple):
    """What one seed has."""

    english: np.ndarray
    japanese: np.ndarray
    mistakes: np.ndarray
    held: dict[str, np.ndarray]
    rng: np.random.Generator


def world(seed: int, toy: Toy) -> World:
    """Languages, corpora and held-out documents of a seed."""
    rng = np.random.default_rng([11, seed])
    ids = 2 + np.arange(2 * LETTERS - SHARED)
    english, japanese = Language(ids[:LETTERS], toy, rng), Language(ids[-LETTERS:], toy, rng)
    pass_ = round(0.9 * toy.steps * toy.batch)  # one pass of the plain run
    mistakes = np.where(np.arange(pass_) % 4 == 0, 0.0, rng.uniform(0.05, 0.4, pass_))
    held = {"english": english.documents(rng, toy.heldout), "japanese": japanese.documents(rng, toy.heldout)}
    corpus = english.documents(rng, toy.base_steps * toy.batch)
    return World(corpus, japanese.documents(rng, pass_, mistakes), mistakes, held, rng)


class Way(NamedTuple):
    """How one kind of run goes on from the base."""

    order: str  # of the Japanese documents: "once", "subset", "best_first"
    japanese: float  # share of rows
    schedule: Schedule


def ways(toy: Toy) -> dict[str, Way]:
    """The kinds of run, the plain one first."""
    peak = toy.peak / 3
    rewarmed = WarmupCosine(peak, peak / 10, toy.steps // 20, toy.steps)
    jump = WarmupCosine(peak, peak / 10, 0, toy.steps)
    return {
        "plain": Way("once", 0.9, rewarmed),
        "subset": Way("subset", 0.9, rewarmed),
        "best_first": Way("best_first", 0.9, rewarmed),
        "near_original": Way("once", 0.5, rewarmed),
        "replay": Way("once", 0.75, rewarmed),
        "jump": Way("once", 0.9, jump),
        "not_rewarmed": Way("once", 0.9, WarmupConstant(toy.peak / 10, 0)),
    }


def rows_of(world: World, way: Way, toy: Toy, seed: int) -> np.ndarray:
    """int32 [steps, batch, length + 1]: every row of a run in its order. Kinds of run of one seed draw from the same two orders."""
    rng = np.random.default_rng([12, seed])
    english, japanese = rng.permutation(len(world.english)), rng.permutation(len(world.japanese))
    if way.order == "subset":
        part = japanese[: len(japanese) // 4]
        japanese = np.concatenate([part, *(rng.permutation(part) for _ in range(4))])
    elif way.order == "best_first":
        clean = world.mistakes[japanese] == 0
        japanese = np.concatenate([japanese[clean], japanese[~clean]])
    mixing = Mixing([way.japanese, round(1 - way.japanese, 9)])  # 0.1, not 0.09999999999999998
    places = [mixing.place(row) for row in range(toy.steps * toy.batch)]
    found = [(world.japanese[japanese[n % len(japanese)]], world.english[english[n % len(english)]])[m] for m, n in places]
    return np.stack(found).reshape(toy.steps, toy.batch, -1)


def batch_of(rows: jax.Array) -> dict[str, jax.Array]:
    """A batch (docs/architecture.md) of whole documents [..., length + 1]."""
    tokens = rows[..., :-1]
    return {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": rows[..., 1:],
        "decoder_segment_ids": jnp.ones_like(tokens),
        "decoder_positions": jnp.broadcast_to(jnp.arange(tokens.shape[-1], dtype=jnp.int32), tokens.shape),
        "decoder_loss_weights": jnp.ones(tokens.shape, jnp.float32),
    }


class Trainer:
    """What is compiled, once for all seeds."""

    def __init__(self, toy: Toy):
        self._toy, self._module, self._optimizer = toy, Decoder(toy.config), AdamW().transformation()
        self._step = jax.jit(self._one_step, donate_argnums=0)
        self._bits = jax.jit(self._total_bits)

    def begin(self, params: Any) -> TrainState:
        """A run's first state; the optimizer's is empty."""
        return TrainState(jnp.zeros((), jnp.int32), params, init_optimizer(self._optimizer, params))

    def _one_step(self, state: TrainState, rows: jax.Array, rate: jax.Array) -> TrainState:
        schedule: Any = lambda _: rate  # noqa: E731 (a Schedule whose rate is known at run time alone)
        return make_train_step(loss_sums, self._module, self._optimizer, schedule)(state, batch_of(rows))[0]

    def advance(self, state: TrainState, schedule: Schedule, rows: np.ndarray) -> TrainState:
        """Steps on [steps, batch, length + 1]. Rates are handed in, so that one program does for all schedules."""
        rates = np.asarray(schedule(int(state.step) + np.arange(len(rows))), np.float32)
        for here, rate in zip(rows, np.broadcast_to(rates, len(rows)), strict=True):
            state = self._step(state, here, rate)
        return state

    def _total_bits(self, params: Any, rows: jax.Array) -> jax.Array:
        batch = batch_of(rows)
        arguments = (batch[f"decoder_{name}"] for name in ("input_tokens", "segment_ids", "positions"))
        hidden: Any = self._module.apply({"params": params}, *arguments, method="hidden")
        loss = linear_cross_entropy(
            hidden, head_kernel(self._toy.config, params), batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        ).loss
        return loss.sum() / jnp.log(2.0)

    def bits_per_byte(self, params: Any, held: dict[str, np.ndarray]) -> dict[str, float]:
        """Of the held-out documents of each language."""
        sizes = {name: rows[:, 1:].size * BYTES_OF_A_LETTER[name] for name, rows in held.items()}
        return {name: round(float(self._bits(params, rows)) / sizes[name], 6) for name, rows in held.items()}


def run(toy: Toy) -> Iterator[dict[str, Any]]:
    """What is known after each seed: {"curves": {kind: {language: [seeds][probes]}}, "steps"}."""
    trainer = Trainer(toy)
    curves: dict[str, Any] = {name: {language: [] for language in BYTES_OF_A_LETTER} for name in ways(toy)}
    for seed in range(toy.seeds):
        here = world(seed, toy)
        schedule = WarmupCosine(toy.peak, toy.peak / 10, toy.base_steps // 10, toy.base_steps)
        random = trainer.begin(init_params(toy.config, jax.random.key(seed)))
        base = trainer.advance(random, schedule, here.english.reshape(toy.base_steps, toy.batch, -1)).params
        for name, way in ways(toy).items():
            rows = rows_of(here, way, toy, seed)
            state = trainer.begin(jax.tree.map(jnp.copy, base))
            found = [trainer.bits_per_byte(base, here.held)]
            for before, step in zip(toy.probed, toy.probed[1:], strict=False):
                state = trainer.advance(state, way.schedule, rows[before:step])
                found.append(trainer.bits_per_byte(state.params, here.held))
            for language, kept in curves[name].items():
                kept.append([values[language] for values in found])
            print(seed, name, found[0], found[-1], flush=True)
        yield {"steps": list(toy.probed), "curves": curves}


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """Measures of each kind of run: means over seeds, and English's area, depth and length against plain's, Japanese at the end too."""

    def measures(name: str) -> dict[str, list[float]]:
        gaps = [stability_gap(list(zip(found["steps"], curve, strict=True))) for curve in found["curves"][name]["english"]]
        out = {key: [getattr(gap, key) for gap in gaps] for key in ("area", "depth", "length", "final")}
        return out | {
            "japanese": [curve[-1] for curve in found["curves"][name]["japanese"]],
            "recovered": [float(gap.recovers is not None) for gap in gaps],
        }

    plain, result = measures("plain"), {}
    for name in found["curves"]:
        own = measures(name)
        entry: dict[str, Any] = {key: float(np.mean(values)) for key, values in own.items()}
        entry["seeds_with_a_gap"] = sum(depth > 0 for depth in own["depth"])
        if name != "plain":
            pairs = {key: paired_difference(own[key], plain[key]) for key in ("area", "depth", "japanese")}
            entry["against_plain"] = {key: {**dataclasses.asdict(pair), "verdict": pair.verdict} for key, pair in pairs.items()}
        result[name] = entry
    return result


def write_runs(found: dict[str, Any], folder: Path) -> None:
    """The runs as `ja-llm train` leaves them (metrics.jsonl and a ledger), and the report that compares them."""
    from ja_llm.evaluation.report import write_report

    runs = []
    for name, curves in found["curves"].items():
        for seed, values in enumerate(zip(*curves.values(), strict=True)):
            runs.append(folder / name / f"seed_{seed}")
            runs[-1].mkdir(parents=True, exist_ok=True)
            lines = [
                {"step": step, **{f"eval/{language}/bits_per_byte": value for language, value in zip(curves, here, strict=True)}}
                for step, *here in zip(found["steps"], *values, strict=True)
            ]
            with atomic_write(runs[-1] / "metrics.jsonl") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            write_json(runs[-1] / "run.json", {"schema": "ja_llm.run/1", "job": "train", "identity": {"seed": seed}})
    print(write_report(runs, folder / "report.html"))


def picture(found: dict[str, Any]) -> str:
    """The mean rise of English in the kinds of run that can be told apart (`jump` is hardly off `plain`), as many as there are colours."""
    lines = []
    for name in ("plain", *STRATEGIES, "replay", "not_rewarmed"):
        curves = np.array(found["curves"][name]["english"])
        rise = (curves - curves[:, :1]).mean(axis=0)
        lines.append(Line(name.replace("_", " "), list(zip(map(float, found["steps"]), rise.tolist(), strict=True))))
    seeds = len(found["curves"]["plain"]["english"])
    return standalone(
        "English while Japanese is learnt (toy)", lines, "step", f"bits per byte above step 0, mean of {seeds} seeds"
    )


def described(toy: Toy, seeds: int) -> dict[str, Any]:
    """What the figures are of."""
    parameters = sum(x.size for x in jax.tree.leaves(init_params(toy.config, jax.random.key(0))))
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "numpy")}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": {"python": platform.python_version(), **versions},
        "settings": {**dataclasses.asdict(toy), "seeds": seeds, "parameters": parameters},
        "cpu_seconds": round(time.process_time()),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run it, and write result and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=Toy.seeds, help="two or more; the published figures are of the default")
    parser.add_argument("--runs", type=Path, help="also write the runs and their report.html here")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file; the picture is drawn for the default alone")
    args = parser.parse_args(argv)
    toy = Toy(seeds=args.seeds)
    for done, found in enumerate(run(toy), 1):
        if done > 1:  # what is broken off leaves the pairs that it has
            write_json(args.out, described(toy, done) | {"results": judged(found), **found})
    if args.out == RESULT:
        with atomic_write(PICTURE) as file:
            file.write(picture(found).encode())
    if args.runs:
        write_runs(found, args.runs)


if __name__ == "__main__":
    main()
