"""The commands of the pages on recipes are ones that their parsers take, over files and names that exist."""

import re
import shlex
from pathlib import Path

import pytest

from ja_llm.cli import build_parser
from ja_llm.data import registry
from ja_llm.gin_utils import packaged_configs, parsed, split_gin_flags
from ja_llm.train.main import REQUIRED_MACROS

DOCS = Path(__file__).parents[2] / "docs"


def commands(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("ja-llm ") and "..." not in line]


# What a command leaves to the sweep, or need not know.
PLACEHOLDERS = {
    "sweep": {"MODEL_DIR": "x"},
    "compile": dict.fromkeys((*REQUIRED_MACROS, "CACHE_DIR", "INITIAL_CHECKPOINT_PATH"), "x"),
}


def configured(args, bindings):
    """The macros that a command gives are there, and whatever its gin files ask for is given."""
    verb = getattr(args, "mixture_verb", None) or args.verb
    if "gin_file" in vars(args) and args.gin_file:
        required = [] if verb in PLACEHOLDERS else REQUIRED_MACROS
        with parsed(
            args.gin_file, [*args.gin_bindings, *bindings], required=required, placeholders=PLACEHOLDERS.get(verb)
        ) as text:
            assert "gin.REQUIRED" not in text or verb == "compile", re.findall(r".*gin.REQUIRED.*", text)


def taken(words):
    """The parsed command; its own parser and gin have taken every word."""
    args, rest = build_parser().parse_known_args(words[1:])
    bindings = []
    if getattr(args, "takes_rest", False):
        rest, bindings = split_gin_flags(rest)
    assert not rest, words
    configured(args, bindings)
    return args


@pytest.mark.parametrize("page", ["recipes.md", "swallow_8b.md", "first_steps.md", "own_language.md", "forgetting.md"])
def test_every_command_is_taken_and_names_what_exists(page):
    found = commands(page)
    assert len(found) > (3 if page != "forgetting.md" else 0)
    for words in found:
        args = taken(words)
        if "--" in words:  # what is launched
            taken(words[words.index("--") + 1 :])
        if args.verb == "cache" and not args.module:  # of a module of the reader's own
            given = registry.parse_documents(args.documents, args.task)
            registry.check_all_read(args.task, given)
            folders = registry.document_folders(registry.resolve(args.task), given)
            assert isinstance(given, str) or folders.keys() == given.keys()
        if args.verb == "corpus" and getattr(args, "preset", "./").partition("/")[0] != ".":  # nor a file of theirs
            assert (packaged_configs() / "corpus" / f"{args.preset}.gin").is_file(), args.preset
