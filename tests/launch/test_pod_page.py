"""What docs/pod.md tells to type: gin files and tasks that there are, launches that can be printed."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from ja_llm import gin_utils
from ja_llm.cli import build_parser, main
from ja_llm.train import t5x_names

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "pod.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(" ".join(found.split("\\\n")))
    for found in re.findall(r"^    (ja-llm (?:[^\n]*\\\n)*[^\n]*)$", PAGE, re.MULTILINE)
]


def inner(words: list[str]) -> list[str]:
    """The command that a launch starts; "..." stands on the page for its flags."""
    return [word for word in words[words.index("--") + 1 :] if word != "..."]


WHOLE = [words[: words.index("--")] if "--" in words else words for words in COMMANDS] + [inner(w) for w in COMMANDS if "--" in w]


def test_each_command_is_one_that_there_is():
    assert len(COMMANDS) > 8 and len(WHOLE) > len(COMMANDS) + 3
    for words in WHOLE:
        args, rest = build_parser().parse_known_args(words[1:])
        assert gin_utils.split_gin_flags(rest)[0] == [], f"{shlex.join(words)}: its parser does not know {rest}"
        assert not rest or args.takes_rest, words
        for name in (word.split("=")[1] for word in words if word.startswith("--gin_file=")):
            # Of a folder that an earlier command of the page writes, or the package's own.
            made = any(f"--out {Path(name).parent}" in " ".join(earlier) for earlier in COMMANDS)
            assert made or (gin_utils.packaged_configs() / name).exists(), name


@pytest.mark.parametrize("words", [w for w in WHOLE if any(f.startswith("--gin_file=recipes/") for f in w)], ids=lambda w: w[1])
def test_each_macro_is_one_that_its_gin_file_knows(words):
    args, rest = build_parser().parse_known_args(words[1:])
    known = t5x_names.noting([])
    everywhere = dict.fromkeys(
        ("MODEL_DIR", "CACHE_DIR", "INITIAL_CHECKPOINT_PATH"), "none"
    )  # of compile, which needs none of them
    with gin_utils.parsed(args.gin_file, gin_utils.split_gin_flags(rest)[1], placeholders=everywhere, foreign=known) as text:
        assert "TRAIN_STEPS = " in text


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[1] == "launch"], ids=lambda w: f"{w[2]}")
def test_each_launch_can_be_printed(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    at = words.index("--")
    assert main([*words[1:at], "--dry_run", "--", *inner(words)]) == 0
    printed = capsys.readouterr().out
    assert (
        re.search(r"ja[-_]llm", printed)
        and "train" in printed
        and all(word in printed for word in inner(words) if word.startswith("--gin_file"))
    )
    assert list(tmp_path.iterdir()) == []  # nothing is written


def test_each_topology_is_one_that_compile_knows():
    from ja_llm.compile.hardware import parse_gpus, parse_topology

    found = [words[words.index("--topology") + 1] for words in COMMANDS if "--topology" in words]
    assert len(found) >= 4 and all(parse_gpus(name) or parse_topology(name) for name in found)


def test_the_container_s_two_commands_are_its_recipe_s():
    recipe = (Path(__file__).resolve().parents[2] / "containers" / "train" / "Dockerfile").read_text()
    lines = re.findall(r"^    ((?:python -m pip wheel|docker build) .*)$", PAGE, re.MULTILINE)
    assert len(lines) == 2 and all(re.search(rf"^#\s+{re.escape(line)}(\s|$)", recipe, re.MULTILINE) for line in lines)


def test_tokens_come_before_what_reads_them():
    verbs = [words[1] for words in COMMANDS]
    assert verbs.index("cache") < verbs.index("compile") < verbs.index("launch")


def test_the_launch_under_gke_reads_what_it_mounts(capsys):
    for words in (words for words in COMMANDS if words[1:3] == ["launch", "gke"]):
        at = words.index("--")
        assert main([*words[1:at], "--dry_run", *words[at:]]) == 0
        value = yaml.safe_load(capsys.readouterr().out)
        container = value["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
        mounted = [one["mountPath"] for one in container["volumeMounts"]]
        assert [word.split("=")[1] for word in container["args"] if "CACHE_DIR" in word][0] in mounted
