"""`ja-llm`: parses and calls. A verb's arguments stand in `ja_llm/commands/`; what it does is imported when it runs, so
`ja-llm --help` answers at once."""

import argparse
import sys
from collections.abc import Sequence

from ja_llm import __version__
from ja_llm.command_line import run
from ja_llm.commands.compiling import compile_
from ja_llm.commands.corpus import corpus
from ja_llm.commands.evaluation import evaluate, generate, report
from ja_llm.commands.inputs import fetch, quickstart
from ja_llm.commands.interchange import export_model, import_model
from ja_llm.commands.launch import launch
from ja_llm.commands.mixture import mixture
from ja_llm.commands.parsing import Parser
from ja_llm.commands.recipes import recipes
from ja_llm.commands.training import average, cache, train
from ja_llm.commands.vocabulary import vocab

# In the order of the path, which is that of --help.
VERBS = (
    quickstart,
    fetch,
    corpus,
    vocab,
    import_model,
    export_model,
    cache,
    mixture,
    recipes,
    compile_,
    train,
    launch,
    average,
    evaluate,
    generate,
    report,
)


def build_parser() -> argparse.ArgumentParser:
    """All verbs."""
    parser = Parser(
        prog="ja-llm",
        description="Teach an open LLM Japanese: web pages in, a better Japanese model out.",
        epilog="First steps: ja-llm quickstart --out quickstart\nEach verb has its own --help with an example.",
    )
    parser.add_argument("--version", action="version", version=f"ja_llm {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in VERBS:
        add(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 (done), 1 (failed) or 2 (used wrongly)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)  # behind it stands a command of its own
    words = [a for a in argv[:end] if a != "--debug"] + argv[end:]
    return run("ja-llm", lambda: _dispatch(words), debug="--debug" in argv[:end])


def _dispatch(argv: list[str]) -> int | None:
    args, rest = build_parser().parse_known_args(argv)
    if rest and not getattr(args, "takes_rest", False):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args.handler(args, rest)


if __name__ == "__main__":
    sys.exit(main())
