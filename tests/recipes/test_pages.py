"""The commands of the pages on recipes, and of the gin files' own comments, are ones that their parsers and gin take, over files and names that exist."""

import re
import shlex
from pathlib import Path

import pytest

from ja_llm.cli import build_parser
from ja_llm.compile import settings
from ja_llm.data import registry
from ja_llm.gin_utils import packaged_configs, parsed, split_gin_flags
from ja_llm.models.config import DecoderConfig
from ja_llm.train.main import REQUIRED_MACROS, train

DOCS = Path(__file__).parents[2] / "docs"


def commands(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("ja-llm ") and "..." not in line]


# What a command leaves to the sweep, or need not know.
PLACEHOLDERS = {"sweep": {"MODEL_DIR": "x"}, "compile": settings.PLACEHOLDERS}


def configured(args, bindings):
    """The macros that a command gives are there, and whatever its gin files ask for is given."""
    verb = getattr(args, "mixture_verb", None) or args.verb
    if "gin_file" in vars(args) and args.gin_file:
        required = [] if verb in PLACEHOLDERS else REQUIRED_MACROS
        given, others = [*args.gin_bindings, *bindings], PLACEHOLDERS.get(verb)
        entries = (train, DecoderConfig) if verb == "train" else ()
        with parsed(args.gin_file, given, required=required, placeholders=others, entries=entries) as text:
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


@pytest.mark.parametrize(
    "page", ["recipes.md", "swallow_8b.md", "first_steps.md", "own_language.md", "forgetting.md", "training.md"]
)
def test_every_command_is_taken_and_names_what_exists(page):
    found = commands(page)
    assert len(found) > (3 if page not in ("forgetting.md", "training.md") else 0)
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


@pytest.mark.parametrize("folder", ["runs", "recipes"])
def test_the_command_in_each_gin_files_comment_is_taken(folder):
    for path in sorted((packaged_configs() / folder).glob("*.gin")):
        comment = "\n".join(line[1:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
        found = re.findall(r"^ {3}(?:for .*?; do )?(ja-llm [^;\n]*)", comment.replace("\\\n", " "), re.MULTILINE)
        assert found, path.name
        for command in found:
            if not command.endswith("..."):
                taken(shlex.split(command.replace("$seed", "0")))
