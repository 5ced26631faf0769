"""`ja-llm cache` and `ja-llm train`: documents to token stores, token stores to a model."""

import argparse
from typing import Any

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_verb, device_flag, set_device
from ja_llm.errors import UsageError


def cache(verbs) -> None:
    def handler(args, rest):
        from ja_llm.data.cache import Workers, cache, format_cache
        from ja_llm.data.registry import SPLITS, parse_documents

        for module in args.module:
            _import_module(module)

        from ja_llm.data.seqio_cache import cache_seqio, known

        workers = None
        if args.workers is not None or rest:
            from beam_pipelines.runner import check_options

            check_options(rest)
            workers = Workers(1 if args.workers is None else args.workers, tuple(rest))
        splits = tuple(dict.fromkeys(args.split)) or SPLITS
        if (rates := known(args.task)) is not None:
            if args.split:
                raise UsageError(f"--split: {args.task!r} is seqio's, all of whose splits are written; leave it out.")
            if workers:
                raise UsageError(
                    f"{args.task!r} is seqio's and tokenized in this process; leave --workers and Beam's options out."
                )
            if args.documents:
                raise UsageError(f"--documents: {args.task!r} is seqio's, and reads its own source; leave it out.")
            print(format_cache(cache_seqio(args.task, rates, args.vocab, args.out, seed=args.seed)))
            return
        if not args.documents:
            raise UsageError(
                "--documents DIR is needed: the document set that the task reads (only a task of seqio's own has its source itself)."
            )
        documents = parse_documents(args.documents, args.task)
        written = cache(args.task, args.vocab, documents, args.out, splits=splits, seed=args.seed, workers=workers)
        print(format_cache(written))

    parser = add_verb(
        verbs,
        "cache",
        handler,
        "Resolve a task or mixture into token stores; training then needs no TensorFlow.",
        "ja-llm cache --task swallow_ja90_en10 --vocab models/expanded/vocab --documents data/corpus --out data/tokens",
        takes_rest=True,
    )
    parser.add_argument("--task", required=True, metavar="NAME", help="registered task or mixture, ours or seqio's")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="M",
        help="import this module first: your own add_task and add_mixture, or seqio.TaskRegistry.add and seqio.MixtureRegistry.add (repeat)",
    )
    parser.add_argument("--vocab", type=path, required=True, metavar="DIR", help="folder of a tokenizer")
    parser.add_argument(
        "--documents",
        type=path,
        action="append",
        default=[],
        metavar="DIR",
        help="document set; where a mixture reads several, NAME=DIR for each, e.g. --documents web=data/corpus --documents wiki=data/wiki (a DIR without a name serves all others)",
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="of the documents' order")
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        choices=("train", "heldout"),
        help="write this split alone: heldout for a domain that is probed and not trained on (PROBES of ja-llm train)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="tokenize by Apache Beam in N local processes (0: one a core), for corpora whose tokens do not fit in memory; options that are not here "
        "go to Beam, e.g. --runner=FlinkRunner",
    )


def train(verbs) -> None:
    from ja_llm.gin_utils import add_gin_flags, split_gin_flags
    from ja_llm.train import t5x_names

    def handler(args, rest):
        rest, bindings = split_gin_flags(rest)
        rest, notes = t5x_names.take_flags(rest)
        if rest:
            args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        from ja_llm.train import failures
        from ja_llm.train.processes import join, say

        # Before anything asks for the devices.
        address = args.coordinator_address or ("auto" if args.multiprocess_gpu else None)
        join(address, args.process_count, args.process_index, args.initialization_timeout)
        set_device(args.device)
        with failures.shared():
            from ja_llm.train.main import main as train

            for sentence in notes:
                say(sentence)
            train(args.gin_file, args.gin_bindings + bindings, args.gin_search_paths, dry_run=args.dry_run)

    parser = add_verb(
        verbs,
        "train",
        handler,
        "Sharded training from gin files; t5x's flags and macros (MIXTURE_OR_TASK_NAME TASK_FEATURE_LENGTHS TRAIN_STEPS MODEL_DIR INITIAL_CHECKPOINT_PATH BATCH_SIZE RANDOM_SEED) and CACHE_DIR.",
        "ja-llm train --gin_file=runs/continue.gin --gin.INITIAL_CHECKPOINT_PATH=models/expanded \\\n    --gin.MIXTURE_OR_TASK_NAME=swallow_ja90_en10 --gin.CACHE_DIR=data/tokens \\\n    --gin.TASK_FEATURE_LENGTHS=\"{'targets': 256}\" --gin.TRAIN_STEPS=1000 --gin.MODEL_DIR=runs/ja",
        takes_rest=True,
    )
    add_gin_flags(parser)
    absl: dict[str, Any] = {"type": t5x_names.switch, "nargs": "?", "const": True, "default": False, "metavar": "true|false"}
    parser.add_argument("--dry_run", help="say what would be trained, and stop", **absl)
    processes = parser.add_argument_group("several processes (one command in each)")
    processes.add_argument(
        "--multiprocess_gpu",
        help="t5x's: without --coordinator_address the same as --coordinator_address auto",
        **absl,
    )
    for name in ("dry_run", "multiprocess_gpu"):
        parser.add_argument(f"--no{name}", dest=name, action="store_false", help=argparse.SUPPRESS)
    processes.add_argument(
        "--coordinator_address",
        metavar="HOST:PORT",
        help="of process 0; auto on a TPU pod or under Slurm, which tell it themselves",
    )
    processes.add_argument("--process_count", type=int, metavar="N", help="how many processes")
    processes.add_argument("--process_index", type=int, metavar="I", help="which of them this is, from 0")
    processes.add_argument("--initialization_timeout", type=int, default=300, metavar="S", help="seconds to wait for the others")
    device_flag(parser)


def average(verbs) -> None:
    def handler(args, rest):
        set_device(args.device)
        from ja_llm.train.average import average

        print(f"{average(args.checkpoint, args.out, args.ema)}: the average of {', '.join(args.checkpoint)}")

    parser = add_verb(
        verbs,
        "average",
        handler,
        "The mean of several checkpoints, or a run's moving average, as a model directory.",
        "ja-llm average runs/seed0 runs/seed1 runs/seed2@900 --out models/soup",
    )
    parser.add_argument("checkpoint", nargs="+", type=path, metavar="DIR[@STEP]", help="model directory or run, and a step of it")
    parser.add_argument("--ema", action="store_true", help="the moving average that a run kept (EMA_DECAY), not its parameters")
    parser.add_argument("--out", required=True, type=path, metavar="DIR", help="where the model directory is written")
    device_flag(parser)


def _import_module(name: str) -> None:
    import importlib

    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"--module {name}: it can't be imported ({error}); is its folder in PYTHONPATH?") from error
