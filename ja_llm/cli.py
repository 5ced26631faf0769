"""`ja-llm`: parses and calls. Every verb imports its room when it runs, so `ja-llm --help` answers at once."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ja_llm import __version__
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import local_path

Handler = Callable[[argparse.Namespace, list[str]], int | None]


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args, **kwargs):
        kwargs = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **kwargs}
        super().__init__(*args, **kwargs)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`.\n")


def build_parser() -> argparse.ArgumentParser:
    """All verbs."""
    parser = _Parser(
        prog="ja-llm",
        description="Teach an open LLM Japanese: web pages in, a better Japanese model out.",
        epilog="First steps: ja-llm quickstart --out quickstart\nEach verb has its own --help with an example.",
    )
    parser.add_argument("--version", action="version", version=f"ja_llm {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in (_quickstart, _fetch, _corpus, _vocab, _import, _export, _cache, _train, _eval, _generate, _report):
        add(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 (done), 1 (failed) or 2 (used wrongly)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    try:
        args, rest = build_parser().parse_known_args(argv)
        for name, value in vars(args).items():
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, str) and name not in ("mirror", "prompt"):
                    local_path(path)
        if rest and not getattr(args, "takes_rest", False):
            args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        return args.handler(args, rest) or 0
    except JaLlmError as error:
        if debug:
            raise
        # gin adds lines about the call that failed; the sentence is the first.
        print(f"ja-llm: {str(error).splitlines()[0]}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ja-llm: stopped; what was finished is kept, the same command goes on from there.", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            raise
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    if isinstance(error, OSError) and error.filename:
        from ja_llm.files import os_error_sentence

        print(f"ja-llm: {os_error_sentence(error, error.filename)}", file=sys.stderr)
    elif isinstance(error, ModuleNotFoundError):
        print(
            f"ja-llm: the package {error.name} is not installed; install the extra that brings it, e.g. pip install 'ja_llm[data,beam,eval]'.",
            file=sys.stderr,
        )
    else:
        first = (str(error).strip().splitlines() or [""])[0][:300]
        print(
            f"ja-llm: {type(error).__name__}: {first} (this is a fault of ja_llm; run again with --debug and report what it prints).",
            file=sys.stderr,
        )
    return 1


def _verb(verbs, name: str, handler: Handler, text: str, example: str, takes_rest: bool = False) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text, epilog=f"Example:\n  {example}")
    parser.set_defaults(handler=handler, parser=parser, takes_rest=takes_rest)
    return parser


def _group(verbs, name: str, text: str):
    parser = verbs.add_parser(name, help=text, description=text)
    return parser.add_subparsers(dest=f"{name}_verb", metavar="WHAT", required=True)


def _device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "gpu", "tpu"), default="auto", help="where to compute (default: JAX's own choice)"
    )


def _set_device(device: str) -> None:
    import logging

    import jax

    # Orbax and JAX log each step of each save at INFO or WARNING; errors still come through.
    for name in ("absl", "orbax", "jax._src.xla_bridge"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if device != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    try:
        jax.devices()
    except RuntimeError as error:
        raise UsageError(f"--device {device}: JAX finds no such device here ({str(error).splitlines()[0]}).") from error


# --- quickstart ---


def _quickstart(verbs) -> None:
    def handler(args, rest):
        _set_device(args.device)
        from ja_llm.quickstart.run import quickstart

        quickstart(Path(args.out), workers=args.workers)

    parser = _verb(
        verbs,
        "quickstart",
        handler,
        "The whole path on embedded pages and a tiny base model; ends with a table and report.html.",
        "ja-llm quickstart --out quickstart",
    )
    parser.add_argument("--out", default="quickstart", help="folder for everything it makes (default: quickstart)")
    parser.add_argument("--workers", type=int, default=1, help="Beam worker processes (the numbers do not depend on it)")
    _device_flag(parser)


# --- fetch ---


def _fetch(verbs) -> None:
    group = _group(verbs, "fetch", "Fetch real, freely licensed input.")

    def debian_docs(args, rest):
        from ja_llm.fetch.debian_docs import fetch_debian_docs, format_summary

        print(format_summary(fetch_debian_docs(args.out, mirror=args.mirror, families=args.family or None, backend=args.backend)))

    parser = _verb(
        group,
        "debian-docs",
        debian_docs,
        "Japanese, English and other documentation packages of Debian as WARC files, with aligned pairs.",
        "ja-llm fetch debian-docs --out data/debian-docs",
    )
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument("--family", action="append", help="only this family of packages, e.g. gimp (repeat; default: all)")
    parser.add_argument(
        "--backend", choices=("auto", "apt", "mirror"), default="auto", help="apt where it exists, else a mirror over HTTPS"
    )
    parser.add_argument("--mirror", default="https://deb.debian.org/debian", help="Debian mirror for the mirror backend")


# --- corpus ---


def _corpus(verbs) -> None:
    group = _group(verbs, "corpus", "Build and look into a document set.")

    def build(args, rest):
        from beam_pipelines.corpus import build_corpus
        from beam_pipelines.stats import format_yields

        manifest = build_corpus(
            args.input, args.output, preset=args.preset, gin_bindings=args.bindings, beam_args=rest, workers=args.workers
        )
        print(format_yields(manifest))

    parser = _verb(
        group,
        "build",
        build,
        "WARC files to filtered, deduplicated documents (Apache Beam); other options go to Beam.",
        "ja-llm corpus build --input 'data/debian-docs/warc/*.warc.gz' --output data/corpus --preset swallow_v2",
        takes_rest=True,
    )
    parser.add_argument("--input", action="append", required=True, metavar="GLOB", help="WARC files (repeat)")
    parser.add_argument("--output", required=True, metavar="DIR", help="document set to write")
    parser.add_argument("--preset", default="swallow_v2", help="gin file of corpus/ (default: swallow_v2)")
    parser.add_argument(
        "--gin_bindings",
        dest="bindings",
        action="append",
        default=[],
        metavar="B",
        help="change one value of the preset (repeat)",
    )
    parser.add_argument("--workers", type=int, default=1, help="local worker processes; 0 = one a core")

    def stats(args, rest):
        from beam_pipelines.stats import dropped_samples, format_yields
        from ja_llm import manifest

        print(format_yields(manifest.read(args.directory, manifest.DOCUMENTS)))
        if args.dropped:
            print(dropped_samples(args.directory, args.dropped))

    parser = _verb(
        group,
        "stats",
        stats,
        "Yields per stage and reason; with --dropped REASON samples of what was dropped for it.",
        "ja-llm corpus stats data/corpus --dropped duplicate_near",
    )
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--dropped", metavar="REASON")

    def trace(args, rest):
        from beam_pipelines.stats import trace as trace_document

        print(trace_document(args.directory, args.id))

    parser = _verb(
        group,
        "trace",
        trace,
        "Where a document came from: URL, package, licence, stages.",
        "ja-llm corpus trace data/corpus 0123456789abcdef0123456789abcdef",
    )
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("id", metavar="DOCUMENT_ID")


# --- vocabulary ---


def _vocab(verbs) -> None:
    group = _group(verbs, "vocab", "Train, expand and certify vocabularies.")

    def train(args, rest):
        from ja_llm.vocab.train import train_on_documents

        tokenizer = train_on_documents(args.documents, args.out, lang=args.lang, vocab_size=args.size, model_type=args.type)
        print(f"{args.out}: {tokenizer.vocab_size} pieces, fingerprint {tokenizer.fingerprint[:12]}")

    parser = _verb(
        group,
        "train",
        train,
        "Train a SentencePiece vocabulary on a document set.",
        "ja-llm vocab train --documents data/corpus --lang en --size 4000 --out data/vocab_en",
    )
    parser.add_argument("--documents", required=True, metavar="DIR", help="document set")
    parser.add_argument("--lang", default="en")
    parser.add_argument("--size", type=int, required=True, help="pieces in all")
    parser.add_argument("--type", choices=("bpe", "unigram"), default="bpe")
    parser.add_argument("--out", required=True)

    def expand(args, rest):
        _set_device("cpu")
        from ja_llm.vocab.certify import format_certificate
        from ja_llm.vocab.surgery import expand_model

        print(format_certificate(expand_model(args.model, args.documents, args.out, new_pieces=args.pieces, lang=args.lang)))

    parser = _verb(
        group,
        "expand",
        expand,
        "Add Japanese pieces to a model: new rows are the mean of the old pieces' rows; writes a certificate.",
        "ja-llm vocab expand --model models/base --documents data/corpus --pieces 4000 --out models/expanded",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="model directory, or DIR@STEP")
    parser.add_argument("--documents", required=True, metavar="DIR", help="document set; its train split is used")
    parser.add_argument("--lang", default="ja")
    parser.add_argument("--pieces", type=int, required=True, help="how many pieces to add")
    parser.add_argument("--out", required=True, metavar="DIR", help="model directory to write")

    def certify(args, rest):
        _set_device("cpu")
        from ja_llm.vocab.certify import format_certificate
        from ja_llm.vocab.surgery import certify_models

        report = certify_models(args.old, args.new, args.documents)
        print(format_certificate(report))
        return 0 if report["passed"] else 1

    parser = _verb(
        group,
        "certify",
        certify,
        "Check an expanded model against its base: old ids, old rows, new rows, reachability.",
        "ja-llm vocab certify --old models/base --new models/expanded --documents data/corpus",
    )
    parser.add_argument("--old", required=True, metavar="DIR")
    parser.add_argument("--new", required=True, metavar="DIR")
    parser.add_argument("--documents", required=True, metavar="DIR", help="document set for sample texts")


# --- interchange ---


def _import(verbs) -> None:
    def handler(args, rest):
        _set_device("cpu")
        from ja_llm.interop.hf import format_summary, import_hf

        print(format_summary(import_hf(args.source, args.out)))

    parser = _verb(
        verbs,
        "import",
        handler,
        "Hugging Face checkpoint (Llama family) to a model directory.",
        "ja-llm import path/to/hf-model --out models/base",
    )
    parser.add_argument("source", metavar="SRC", help="folder with config.json, *.safetensors and tokenizer files")
    parser.add_argument("--out", required=True, metavar="DIR")


def _export(verbs) -> None:
    def handler(args, rest):
        _set_device("cpu")
        from ja_llm.interop.hf import export_hf, format_summary

        print(format_summary(export_hf(args.run, args.out)))

    parser = _verb(
        verbs,
        "export",
        handler,
        "Model directory or run to a Hugging Face folder that transformers loads.",
        "ja-llm export runs/ja --out export/ja",
    )
    parser.add_argument("run", metavar="RUN", help="model directory or run, or DIR@STEP")
    parser.add_argument("--out", required=True, metavar="DIR")


# --- tokens and training ---


def _cache(verbs) -> None:
    def handler(args, rest):
        from ja_llm.data.cache import cache, format_cache

        for module in args.module:
            _import_module(module)

        print(format_cache(cache(args.task, args.vocab, args.documents, args.out, seed=args.seed)))

    parser = _verb(
        verbs,
        "cache",
        handler,
        "Resolve a task or mixture into token stores; training then needs no TensorFlow.",
        "ja-llm cache --task swallow_ja90_en10 --vocab models/expanded/vocab --documents data/corpus --out data/tokens",
    )
    parser.add_argument("--task", required=True, metavar="NAME", help="registered task or mixture")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="M",
        help="import this module first: your own add_task and add_mixture (repeat)",
    )
    parser.add_argument("--vocab", required=True, metavar="DIR", help="folder of a tokenizer")
    parser.add_argument("--documents", required=True, metavar="DIR", help="document set")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="of the documents' order")


def _train(verbs) -> None:
    from ja_llm.gin_utils import add_gin_flags, split_gin_flags

    def handler(args, rest):
        rest, bindings = split_gin_flags(rest)
        if rest:
            args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        _set_device(args.device)
        from ja_llm.train.main import main as train

        train(args.gin_file, args.gin_bindings + bindings, args.gin_search_paths, dry_run=args.dry_run)

    parser = _verb(
        verbs,
        "train",
        handler,
        "Sharded training from gin files; t5x's flags and macros (MIXTURE_OR_TASK_NAME TASK_FEATURE_LENGTHS TRAIN_STEPS MODEL_DIR INITIAL_CHECKPOINT_PATH BATCH_SIZE RANDOM_SEED) and CACHE_DIR.",
        "ja-llm train --gin_file=runs/continue.gin --gin.INITIAL_CHECKPOINT_PATH=models/expanded \\\n    --gin.MIXTURE_OR_TASK_NAME=swallow_ja90_en10 --gin.CACHE_DIR=data/tokens \\\n    --gin.TASK_FEATURE_LENGTHS=\"{'targets': 256}\" --gin.TRAIN_STEPS=1000 --gin.MODEL_DIR=runs/ja",
        takes_rest=True,
    )
    add_gin_flags(parser)
    parser.add_argument("--dry_run", action="store_true", help="say what would be trained, and stop")
    _device_flag(parser)


def _import_module(name: str) -> None:
    import importlib

    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"--module {name}: it can't be imported ({error}); is its folder in PYTHONPATH?") from error


# --- evaluation ---


def _eval(verbs) -> None:
    def handler(args, rest):
        _set_device(args.device)
        from ja_llm.evaluation.run import evaluate, format_results

        tasks = args.task or args.suite
        print(
            format_results(
                evaluate(
                    args.checkpoint,
                    tasks,
                    root=args.documents,
                    pairs=args.pairs,
                    out_dir=args.out,
                    limit=args.limit,
                    length=args.length,
                )
            )
        )

    parser = _verb(
        verbs,
        "eval",
        handler,
        "Evaluate a checkpoint on held-out text and tasks, with intervals.",
        "ja-llm eval --checkpoint runs/ja --suite first --documents data/corpus --pairs data/debian-docs/pairs/messages.jsonl",
    )
    parser.add_argument("--checkpoint", required=True, metavar="C", help="model directory or run, or DIR@STEP")
    parser.add_argument(
        "--length", type=int, default=512, help="scoring window in tokens, at most the model's own (default: 512)"
    )
    parser.add_argument("--suite", default="first", help="named list of tasks (default: first)")
    parser.add_argument("--task", action="append", help="one task instead of a suite (repeat)")
    parser.add_argument("--documents", required=True, metavar="DIR", help="document set; its heldout split is used")
    parser.add_argument("--pairs", metavar="FILE", help='JSONL of {"en", "ja"} pairs for the translation task')
    parser.add_argument("--out", metavar="DIR", help="where results go (default: inside the model directory, eval/step_N)")
    parser.add_argument(
        "--limit",
        type=int,
        help="at most so many examples of each choice or generation task; bits per byte always read the whole held-out set",
    )
    _device_flag(parser)


def _generate(verbs) -> None:
    def handler(args, rest):
        _set_device(args.device)
        from ja_llm.evaluation.generation import generate
        from ja_llm.train.checkpoints import load_model

        for text in generate(
            load_model(args.checkpoint), args.prompt, max_new_tokens=args.max_tokens, temperature=args.temperature, seed=args.seed
        ):
            print(text)

    parser = _verb(verbs, "generate", handler, "Continue a prompt.", "ja-llm generate --checkpoint runs/ja --prompt 日本の春は")
    parser.add_argument("--checkpoint", required=True, metavar="C")
    parser.add_argument("--prompt", action="append", required=True, metavar="T", help="text to continue (repeat)")
    parser.add_argument("--max_tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0)
    _device_flag(parser)


def _report(verbs) -> None:
    def handler(args, rest):
        from ja_llm.evaluation.report import write_report

        print(write_report([Path(run) for run in args.run], Path(args.out), corpus=args.documents, certificate=args.certificate))

    parser = _verb(
        verbs,
        "report",
        handler,
        "One self-contained HTML page with curves and tables, runs side by side.",
        "ja-llm report runs/ja runs/scratch --out report.html --documents data/corpus",
    )
    parser.add_argument("run", nargs="+", metavar="RUN")
    parser.add_argument("--out", default="report.html")
    parser.add_argument("--documents", metavar="DIR", help="document set, for the yield funnel")
    parser.add_argument("--certificate", metavar="FILE", help="certificate.json of a vocabulary expansion")


if __name__ == "__main__":
    sys.exit(main())
