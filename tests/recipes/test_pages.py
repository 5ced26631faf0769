"""The commands of the pages on recipes are ones that their parsers take, over files and names that exist."""

import re
import shlex
from pathlib import Path

import pytest

from ja_llm.cli import build_parser
from ja_llm.data import registry
from ja_llm.gin_utils import packaged_configs, split_gin_flags

DOCS = Path(__file__).parents[2] / "docs"


def commands(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("ja-llm ") and "..." not in line]


@pytest.mark.parametrize("page", ["recipes.md", "swallow_8b.md", "first_steps.md", "own_language.md"])
def test_every_command_is_taken_and_names_what_exists(page):
    found = commands(page)
    assert len(found) > 3
    for words in found:
        args, rest = build_parser().parse_known_args(words[1:])
        if getattr(args, "takes_rest", False):
            rest, _ = split_gin_flags(rest)
        assert not rest, words
        inner = words[words.index("--") + 1 :] if "--" in words else []
        for word in [*words, *inner]:
            name = word.partition("=")[2]
            assert not word.startswith("--gin_file=") or (packaged_configs() / name).is_file(), name
        if args.verb == "cache" and not args.module:  # of a module of the reader's own
            given = registry.parse_documents(args.documents, args.task)
            registry.check_all_read(args.task, given)
            folders = registry.document_folders(registry.resolve(args.task), given)
            assert isinstance(given, str) or folders.keys() == given.keys()
        if args.verb == "corpus" and getattr(args, "preset", "./").partition("/")[0] != ".":  # nor a file of theirs
            assert (packaged_configs() / "corpus" / f"{args.preset}.gin").is_file(), args.preset
