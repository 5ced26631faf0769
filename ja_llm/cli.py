"""`ja-llm`: parses and calls. A verb's arguments stand in `ja_llm/commands/`; what it does is imported when it runs, so
`ja-llm --help` answers at once."""

import argparse
import sys
from collections.abc import Sequence

from ja_llm import __version__
from ja_llm.commands.corpus import corpus
from ja_llm.commands.evaluation import evaluate, generate, report
from ja_llm.commands.inputs import fetch, quickstart
from ja_llm.commands.interchange import export_model, import_model
from ja_llm.commands.parsing import Parser
from ja_llm.commands.training import cache, train
from ja_llm.commands.vocabulary import vocab
from ja_llm.errors import JaLlmError
from ja_llm.files import local_path

# In the order of the path, which is that of --help.
VERBS = (quickstart, fetch, corpus, vocab, import_model, export_model, cache, train, evaluate, generate, report)


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


if __name__ == "__main__":
    sys.exit(main())
