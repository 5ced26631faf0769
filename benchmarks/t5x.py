"""Ours against the real t5x, unmodified: equal losses, its stock gin files on our parts, checkpoints in both directions.

    make test-t5x            # or: python -m benchmarks.t5x [--quickstart DIR]

On what the quickstart leaves (made first if it is not there: three minutes). In order:
  losses       the same weights, batches and optax chain through t5x's Trainer and PjitPartitioner and through our step, 50 steps: on one
               device; on eight simulated ones, its model axis beside our tensor, its parameters spread over data beside our fsdp
  pretrain     python -m t5x.train with its pretrain.gin on our rows, then again from where it stopped
  finetune     python -m t5x.train with its finetune.gin from a checkpoint that `ja-llm export --format t5x` wrote, moments and all; what
               it saves goes back through `ja-llm import --like`
  eval, infer  python -m t5x.eval and t5x.infer on our tasks: scores and greedy answers beside `ja-llm eval`'s
Writes benchmarks/results/t5x.json with the date and the commits of t5x, airio and jestimator.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.files import read_json, write_json
from ja_llm.manifest import software

RESULT = Path(__file__).resolve().parent / "results" / "t5x.json"
GIN = Path(__file__).resolve().parent.parent / "gin_configs"
PACKAGES = ("t5x", "airio", "jestimator")
LENGTH, BATCH, STEPS = 64, 8, 50
FLOAT32 = {"dtype": "float32"}
SCORED, GENERATED = "continuation_choice_ja", "niilc"
DATA = Path(__file__).resolve().parent.parent / "tests" / "evaluation" / "raw"  # NIILC's format, our own questions
LONGEST = 512  # the quickstart's model


def commits() -> dict[str, str]:
    """Commit of each package that is not on PyPI: what pip noted, or that of the checkout it is imported from.

    Raises:
      SystemExit: one is not importable.
    """
    found = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise SystemExit(f"{name} is not installed; docs/t5x.md says how.")
        noted = None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            noted = importlib.metadata.distribution(name).read_text("direct_url.json")
        if noted is not None:
            found[name] = json.loads(noted).get("vcs_info", {}).get("commit_id", "unknown")
        else:
            folder = next(iter(spec.submodule_search_locations or ["."]))
            shown = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True)
            found[name] = shown.stdout.strip() or "unknown"
    return found


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way of spreading the same training over devices, in t5x's words and in ours.

    Attributes:
      submesh: `model_parallel_submesh` of PjitPartitioner. On CPUs it lies over (processes, devices); `num_partitions` has no effect there.
      parameter_dims: `parameter_partitioning_dims` of its standard rules; 2: parameters are spread over data, too.
      mesh: MESH.
    """

    submesh: tuple[int, ...] | None
    parameter_dims: int
    mesh: Mapping[str, int]


ONE_DEVICE = Layout(None, 1, {"data": 1})
DEVICES = 8
LAYOUTS = {
    "model 4 x data 2": Layout((1, 4), 1, {"data": 2, "tensor": 4}),
    "model 2 x data 4, parameters over both": Layout((1, 2), 2, {"fsdp": 4, "tensor": 2}),
}


def losses(
    model: Path, cache: Path, steps: int = STEPS, length: int = LENGTH, batch: int = BATCH, layout: Layout = ONE_DEVICE
) -> dict[str, Any]:
    """Losses of both trainers from the same weights on the same batches, in float32, on all devices of this process.

    Returns:
      {"steps", "largest_difference" (relative), "batches_equal", "mesh" and "share_on_a_device" (of the parameters' bytes) of each, "ours",
      "t5x"}.
    """
    from flax.core import freeze
    from t5x import partitioning, trainer, utils

    from ja_llm import sharding
    from ja_llm.data.batches import BatchSource
    from ja_llm.interop import t5x as bridge
    from ja_llm.models.decoder import Decoder
    from ja_llm.train import checkpoints
    from ja_llm.train.learning_rates import WarmupCosine
    from ja_llm.train.loop import lowered_step
    from ja_llm.train.optimizers import AdamW
    from ja_llm.train.state import plan_state
    from ja_llm.train.step import StepOptions, TrainState, init_optimizer, loss_sums, make_train_step

    settings, schedule = AdamW(), WarmupCosine(peak=1e-3, final=1e-4, warmup_steps=5, total_steps=max(steps, 6))
    module, vocabulary = bridge.module(str(model), FLOAT32), bridge.vocabulary(str(model))
    theirs = bridge.DecoderModel(module, vocabulary, bridge.optimizer(settings, schedule))
    task = bridge.rows(str(cache), vocabulary, {"targets": length})
    rules = partitioning.standard_logical_axis_rules(
        parameter_partitioning_dims=layout.parameter_dims, additional_rules=(("kv_heads", "model"),)
    )
    where = {"num_partitions": 1} if layout.submesh is None else {"model_parallel_submesh": layout.submesh}
    partitioner = partitioning.PjitPartitioner(**where, logical_axis_rules=rules)
    wanted = utils.DatasetConfig(task, {"targets": length}, "train", batch, True, None, use_cached=True, pack=True)
    data = utils.get_dataset(wanted, 0, 1, theirs.FEATURE_CONVERTER_CLS).as_numpy_iterator()
    source = BatchSource(cache, length, batch, 0)

    params = jax.tree.map(lambda x: np.array(x, np.float32), checkpoints.load_model(model).params)
    shapes = {name: (batch, length) for name in source[0]}
    types = {name: jnp.float32 if name.endswith("weights") else jnp.int32 for name in shapes}
    initialiser = utils.TrainStateInitializer(theirs.optimizer_def, theirs.get_initial_variables, shapes, partitioner, types)
    state = initialiser.from_scratch(jax.random.key(0)).replace_params(freeze(jax.tree.map(jnp.array, params)))
    axes = initialiser.train_state_axes
    their = trainer.Trainer(
        theirs, state, partitioner, [], None, axes, jax.random.PRNGKey(0), bridge.learning_rate(schedule), None
    )
    mesh = sharding.make_mesh(layout.mesh)
    spread = sharding.DEFAULT_RULES
    plan, transformation = plan_state(module.config, settings, StepOptions(), mesh, spread)
    rows = sharding.batch_sharding(mesh, spread)
    with sharding.use(mesh, spread):
        train_step = make_train_step(loss_sums, Decoder(module.config), transformation, schedule, axes=plan.axes)
        step = lowered_step(train_step, mesh, rows, plan, (batch, length)).compile()
    mine = jax.device_put(TrainState(jnp.int32(0), params, init_optimizer(transformation, params)), plan.shardings)

    found: dict[str, list[float]] = {"ours": [], "t5x": []}
    equal = True
    for number in range(steps):
        read, expected = next(data), source[number]
        equal &= all(np.array_equal(read[name], expected[name]) for name in expected)
        metrics = their.train(iter([read]), 1, start_step=number).result()
        mine, own = step(mine, jax.device_put(expected, rows))
        found["t5x"].append(float(metrics["loss"].value))
        found["ours"].append(float(own["loss"]))
    far = max(abs(a - b) / abs(b) for a, b in zip(found["ours"], found["t5x"], strict=True))
    return {
        "steps": steps,
        "largest_difference": far,
        "batches_equal": bool(equal),
        "mesh": {"t5x": dict(partitioner.mesh.shape), "ours": {name: size for name, size in mesh.shape.items() if size > 1}},
        "share_on_a_device": {"t5x": share_on_a_device(their.train_state.params), "ours": share_on_a_device(mine.params)},
        **found,
    }


def share_on_a_device(params: Any) -> float:
    """Bytes of the parameters that the first device holds, of all."""
    leaves = jax.tree.leaves(params)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves) / sum(leaf.nbytes for leaf in leaves)


def spread_losses(cache: Path, work: Path, steps: int = STEPS, length: int = LENGTH, batch: int = BATCH) -> dict[str, Any]:
    """`losses` of each of LAYOUTS, in a process that simulates DEVICES devices.

    Raises:
      SystemExit: it failed; its log is named.
    """
    model, out, log = work / "spread", work / "spread.json", work / "spread.log"
    words = [model, cache, out, steps, length, batch]
    flags = f"--xla_force_host_platform_device_count={DEVICES} --xla_cpu_collective_call_terminate_timeout_seconds=300"
    with open(log, "wb") as file:
        command = [sys.executable, "-m", "benchmarks.t5x", "--spread", *map(str, words)]
        code = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "XLA_FLAGS": flags}).returncode
    if code:
        raise SystemExit(f"the losses on {DEVICES} devices ended with {code}; see {log}")
    return read_json(out)


def spread_child(model: Path, cache: Path, out: Path, steps: int, length: int, batch: int) -> None:
    """What `spread_losses` starts: makes a model whose dimensions divide, and writes the losses of each layout."""
    from ja_llm.models.config import DecoderConfig
    from ja_llm.models.decoder import init_params
    from ja_llm.train import checkpoints
    from ja_llm.vocab.base import load_tokenizer

    tokenizer = load_tokenizer(cache / "vocab")
    rows = -(-tokenizer.vocab_size // DEVICES) * DEVICES
    config = DecoderConfig(
        vocab_size=rows,
        padding_ids=rows - tokenizer.vocab_size,
        # What divides over the meshes of LAYOUTS; the quickstart's model has three heads.
        embed_dim=128,
        num_layers=2,
        num_heads=8,
        num_kv_heads=4,
        head_dim=16,
        mlp_dim=256,
        max_length=512,
    )
    checkpoints.save_model(model, config=config, params=init_params(config, jax.random.key(0)), tokenizer=tokenizer, ledger={})
    found = {name: losses(model, cache, steps, length, batch, layout) for name, layout in LAYOUTS.items()}
    write_json(out, found)


def run(script: str, log: Path, model: Path, **macros: Any) -> None:
    """One of t5x's own scripts with the gin file of the same name in gin_configs/t5x/ (train: the key `gin`).

    Raises:
      SystemExit: it failed; its log is named.
    """
    name = macros.pop("gin", script)
    macros = {"MODEL_DIRECTORY": str(model), "MODEL_OVERRIDES": FLOAT32, **macros}
    flags = [f"--gin.{key}={value!r}" for key, value in macros.items()]
    command = [sys.executable, "-m", f"t5x.{script}", f"--gin_search_paths={GIN}", f"--gin_file=t5x/{name}.gin", *flags]
    with open(log, "wb") as file:
        code = subprocess.run(command, stdout=file, stderr=file).returncode
    if code:
        raise SystemExit(f"python -m t5x.{script} with t5x/{name}.gin ended with {code}; see {log}")


def stock_training(base: Path, trained: Path, cache: Path, work: Path) -> dict[str, Any]:
    """pretrain.gin, resumed; finetune.gin from our checkpoint; and back.

    Returns:
      {"pretrain_checkpoints", "finetune_checkpoints", "export_exact" (t5x's first checkpoint holds our bits), "import_exact"}.
    """
    from ja_llm.interop.t5x_checkpoints import from_t5x, to_t5x
    from ja_llm.train import checkpoints, stored_arrays

    common = {
        "CACHE_DIR": str(cache),
        "TASK_FEATURE_LENGTHS": {"targets": LENGTH},
        "BATCH_SIZE": BATCH,
        "WARMUP_STEPS": 1,
        "utils.SaveCheckpointConfig.period": 2,
    }
    short = {"train.eval_period": 2, "train.eval_steps": 1}
    fresh = work / "pretrain"
    for steps, first in ((2, 0), (4, 2 * BATCH)):
        log = work / f"pretrain{steps}.log"
        run("train", log, base, gin="pretrain", MODEL_DIR=str(fresh), TRAIN_STEPS=steps, FIRST_ROW=first, **common, **short)
    sent = to_t5x(trained, work / "export")
    run(
        "train",
        work / "finetune.log",
        trained,
        gin="finetune",
        MODEL_DIR=str(work / "finetune"),
        INITIAL_CHECKPOINT_PATH=sent["path"],
        TRAIN_STEPS=sent["step"] + 2,
        EVAL_PERIOD=2,
        EVAL_STEPS=1,
        **common,
    )
    last = work / "finetune" / f"checkpoint_{sent['step'] + 2}"
    from_t5x(last, trained, work / "back")
    back = checkpoints.load_model(work / "back")
    theirs = stored_arrays.read_item(last / "state")
    first = stored_arrays.read_item(work / "finetune" / f"checkpoint_{sent['step']}" / "state")
    own = checkpoints.load_model(trained)
    moments = stored_arrays.read_item(own.directory / "checkpoints" / str(own.step) / "optimizer")["state"]["adam"]
    return {
        "pretrain_checkpoints": sorted(path.name for path in fresh.glob("checkpoint_*")),
        "finetune_checkpoints": sorted(path.name for path in (work / "finetune").glob("checkpoint_*")),
        "export_exact": same(first["target"], own.params) and same(first["state"]["param_states"]["0"]["adam"], moments),
        "import_exact": same(theirs["target"], back.params),
        "changed_by_training": not same(theirs["target"], own.params),
    }


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same numbers under the same names."""

    def flat(tree: Any) -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(keys, simple=True, separator="/"): np.asarray(leaf) for keys, leaf in leaves}

    one, other = flat(a), flat(b)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def stock_evaluation(model: Path, documents: Path, work: Path, limit: int = 32) -> dict[str, Any]:
    """eval.gin on a scored task and infer.gin on a generated one, beside our engine.

    Returns:
      {"accuracy": {"t5x", "ours"}, "answers": how many, "equal_answers": those of which the texts are the same; where the row was full,
      but for a character that is cut in the middle of its bytes}.
    """
    from ja_llm.evaluation.registry import resolve
    from ja_llm.evaluation.run import evaluate
    from ja_llm.evaluation.text_stream import BROKEN, first_stop
    from ja_llm.interop.t5x_checkpoints import to_t5x

    checkpoint = to_t5x(model, work / "evaluated")["path"]
    own = evaluate(model, [SCORED, GENERATED], root=documents, data=DATA, out_dir=work / "own", limit=limit, batch_size=4)
    common = {"CHECKPOINT_PATH": checkpoint, "LIMIT": limit, "utils.DatasetConfig.batch_size": 4}
    exact = {"utils.RestoreCheckpointConfig.dtype": "float32"}
    out = work / "eval"
    run("eval", work / "eval.log", model, EVAL_OUTPUT_DIR=str(out), TASK=SCORED, DOCUMENTS=str(documents), **common, **exact)
    (metrics,) = out.glob("inference_eval/*-metrics.jsonl")
    theirs = json.loads(metrics.read_text().splitlines()[-1])
    out, room = work / "infer", resolve(GENERATED)[0].max_new_tokens
    inputs = LONGEST - room
    lengths = {"TASK_FEATURE_LENGTHS": {"inputs": inputs, "targets": room}, "MAX_INPUTS": inputs}
    run(
        "infer",
        work / "infer.log",
        model,
        INFER_OUTPUT_DIR=str(out),
        TASK=GENERATED,
        DATA=str(DATA),
        **lengths,
        **common,
        **exact,
    )
    (file,) = (path for path in out.glob("*-predict.jsonl-*") if not path.name.endswith("COMPLETED"))
    stop = resolve(GENERATED)[0].stop
    answers = [json.loads(line)["prediction"] for line in file.read_text().splitlines()]
    pairs = [
        (text[: first_stop(text, stop)].rstrip(BROKEN), ours.rstrip(BROKEN))
        for text, ours in zip(answers, predictions(work / "own"), strict=True)
    ]
    same_text = [a == b for a, b in pairs]
    headline = resolve(SCORED)[0].headline
    return {
        "scored": SCORED,
        "accuracy": {"t5x": theirs[headline], "ours": own["tasks"][SCORED][headline]},
        "generated": GENERATED,
        "answers": len(pairs),
        "equal_answers": sum(same_text),
        "characters_compared": sum(len(b) for _, b in pairs),
    }


def predictions(folder: Path) -> list[str]:
    """Our engine's answers, in the examples' order."""
    lines = (folder / f"{GENERATED}.samples.jsonl").read_text().splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def failures(value: dict[str, Any]) -> list[str]:
    """What does not hold of a result."""
    trained, judged = value["training"], value["evaluation"]
    claims = {
        "losses within 1e-5": value["losses"]["largest_difference"] <= 1e-5 and value["losses"]["steps"] >= STEPS,
        "equal batches": value["losses"]["batches_equal"],
        **{f"{name}: {claim}": holds for name, found in value["spread"].items() for claim, holds in spread_claims(found).items()},
        "pretrain.gin resumed": trained["pretrain_checkpoints"][-1] == "checkpoint_4",
        "our checkpoint in t5x, bit for bit": trained["export_exact"],
        "t5x's checkpoint in ours, bit for bit": trained["import_exact"],
        "t5x trained on from it": trained["changed_by_training"],
        "equal accuracy": judged["accuracy"]["t5x"] == judged["accuracy"]["ours"],
        "equal answers": judged["equal_answers"] == judged["answers"] > 0 and judged["characters_compared"] > 0,
    }
    return [claim for claim, holds in claims.items() if not holds]


def spread_claims(found: dict[str, Any]) -> dict[str, bool]:
    """What must hold of losses on several devices, by name."""
    shares = found["share_on_a_device"].values()
    return {
        "losses within 1e-5": found["largest_difference"] <= 1e-5,
        "equal batches": found["batches_equal"],
        "the loss moves": abs(found["ours"][-1] / found["ours"][0] - 1) > 1e-3,
        "parameters are spread": all(share < 1 / 2 for share in shares),
    }


def main() -> None:
    """Run all, write the result, fail where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("build/t5x/quickstart"), help="its output folder")
    parser.add_argument("--spread", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.spread:
        model, tokens, out = map(Path, args.spread[:3])
        steps, length, batch = map(int, args.spread[3:])
        spread_child(model, tokens, out, steps, length, batch)
        return
    found = commits()
    if not (args.quickstart / "report.html").exists():
        subprocess.run([sys.executable, "-m", "ja_llm", "quickstart", "--out", args.quickstart, "--device", "cpu"], check=True)
    folder = args.quickstart.absolute()
    base, trained, cache = folder / "models" / "expanded", folder / "runs" / "ja", folder / "tokens"
    work = folder.parent / "work"  # the scripts' logs stay there
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    value: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commits": found,
        "software": software("jax", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow", "clu"),
        "training": stock_training(base, trained, cache, work),
        "evaluation": stock_evaluation(trained, folder / "corpus", work),
        "losses": losses(base, cache),
        "spread": spread_losses(cache, work),
    }
    write_json(RESULT, value)
    shown = {name: value[name] for name in ("losses", "training", "evaluation")} | value["spread"]
    for name, part in shown.items():
        print(name, {key: item for key, item in part.items() if key not in ("ours", "t5x")})
    if wrong := failures(value):
        raise SystemExit("not as it should be: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
