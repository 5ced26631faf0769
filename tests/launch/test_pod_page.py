"""What docs/pod.md tells to type: gin files and tasks that there are, launches that can be printed."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from ja_llm import gin_utils
from ja_llm.cli import build_parser, main
from ja_llm.train import t5x_names

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "pod.md").read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """The commands of a page, in words."""
    found = re.findall(r"^    (ja-llm (?:[^\n]*\\\n)*[^\n]*)$", text, re.MULTILINE)
    return [shlex.split(" ".join(one.split("\\\n")), comments=True) for one in found]


COMMANDS = commands(PAGE)


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


def below(path: str, folders: list[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md") if "launch gke" in path.read_text()))
def test_the_launch_under_gke_reads_and_writes_what_it_mounts(page, capsys):
    """By the manifest that the page's own command prints: each path of the machine in the container's arguments lies in a mount."""
    launches = [words for words in commands((DOCS / page).read_text()) if words[1:3] == ["launch", "gke"]]
    assert launches
    for words in launches:
        at = words.index("--")
        assert main([*words[1:at], "--dry_run", *words[at:]]) == 0
        value = yaml.safe_load(capsys.readouterr().out)
        container = value["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
        mounts = {one["mountPath"]: one.get("readOnly", False) for one in container["volumeMounts"]}
        places = {word.split("=")[0]: word.split("=", 1)[1] for word in container["args"] if re.search(r"_(DIR|PATH)=", word)}
        assert {"--gin.CACHE_DIR", "--gin.MODEL_DIR", "--gin.INITIAL_CHECKPOINT_PATH"} <= places.keys()
        for word in container["args"]:
            for path in re.findall(r"(?:^|[=\"'(\[ ])(/[^\"',)\] ]+)", word):
                assert below(path, list(mounts)), f"{path} is in no mount of {sorted(mounts)}"
        for name, place in places.items():
            assert place.startswith(("gs://", "/")), f"{name}: {place} is no place that a container has"
        if not (run := places["--gin.MODEL_DIR"]).startswith("gs://"):
            assert below(run, [path for path, read_only in mounts.items() if not read_only])


def test_swallow_s_page_reads_what_it_made():
    """From the folder that it is typed in, which the pod sees at the same place: base, tokens, evaluation sets and the pod's own run."""
    text = (DOCS / "swallow_8b.md").read_text()
    (here,) = re.findall(r"^    cd (/\S+)$", text, re.MULTILINE)
    made, evaluated = set(), []
    for words in commands(text):
        args, rest = build_parser().parse_known_args(words[1:])
        read = []
        if args.verb == "eval":
            evaluated.append(args.checkpoint)
            read = [args.checkpoint, args.data]
        elif args.verb in ("report", "export"):
            read = args.run if isinstance(args.run, list) else [args.run]
        inner = words[words.index("--") + 1 :] if "--" in words else words
        given = dict(word.removeprefix("--gin.").split("=", 1) for word in inner if word.startswith("--gin.") and "_" in word)
        read += [given[name] for name in ("CACHE_DIR", "INITIAL_CHECKPOINT_PATH") if name in given]
        missing = {str(Path(here, path)) for path in read} - made
        assert not missing, (words, missing)
        out = [word for before, word in zip(words, words[1:], strict=False) if before in ("--out", "--output")]
        out += [given["MODEL_DIR"]] if args.verb == "launch" else []
        made |= {str(Path(here, path)) for path in out}
    assert evaluated == ["models/llama31_8b", "runs/swallow"], "the base and the run"
