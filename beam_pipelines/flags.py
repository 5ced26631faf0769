"""The flags of the corpus job, for `ja-llm corpus build` and `python -m beam_pipelines.corpus`: argparse, nothing heavy."""

import argparse
import os

from beam_pipelines.mirror import is_url
from ja_llm.command_line import path
from ja_llm.errors import UsageError


def place(text: str) -> str:
    """Type of an argument that is a path of this machine, or a URL of a file system that Beam knows."""
    return text if is_url(text) else path(text)


def build_flags(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument(
        "--input",
        action="append",
        type=place,
        required=True,
        metavar="GLOB",
        help="WARC, WET, JSONL, Parquet, dumps, here or in a bucket (docs/inputs.md; repeat)",
    )
    parser.add_argument(
        "--output", type=place, required=True, metavar="DIR", help="document set to write, here or in a bucket (gs://...)"
    )
    parser.add_argument("--preset", default="swallow_v2", help="gin file of corpus/ (default: swallow_v2)")
    parser.add_argument(
        "--gin_bindings",
        dest="bindings",
        action="append",
        default=[],
        metavar="B",
        help="change one value of the preset (repeat)",
    )
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="M",
        help="import this module first: it registers stages of your own (docs/corpus.md; repeat)",
    )
    parser.add_argument(
        "--against",
        action="append",
        type=path,
        default=[],
        metavar="DIR",
        help="output of an earlier run; documents similar to its own are dropped (repeat)",
    )
    parser.add_argument("--workers", type=int, default=1, help="local worker processes; 0 = one a core")
    parser.add_argument("--dry_run", action="store_true", help="say what would be read, and by which rules, and stop")
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="F",
        help="copies beside the TFRecord shards: jsonl.zst, parquet; tfrecord for none (repeat)",
    )


def bindings(args: argparse.Namespace) -> list[str]:
    """The gin bindings that the flags mean; a module is gin's own `import`, as it can stand in a preset.

    Raises:
      UsageError: a module's name is none.
    """
    for module in args.module:
        if not all(part.isidentifier() for part in module.split(".")):
            raise UsageError(f"--module {module}: give the name of a module as `import` takes it, e.g. my_stages or lab.stages.")
    against = [os.path.abspath(folder) for folder in args.against]
    return [
        *(f"import {module}" for module in args.module),
        *args.bindings,
        *([f"corpus.Dedup.against = {against!r}"] if against else []),
    ]
