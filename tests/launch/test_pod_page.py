"""What docs/pod.md tells to type: gin files and tasks that there are, launches that can be printed."""

import re
import shlex
from pathlib import Path

import yaml

from ja_llm import gin_utils
from ja_llm.cli import build_parser, main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "pod.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(" ".join(found.split("\\\n")))
    for found in re.findall(r"^    (ja-llm (?:[^\n]*\\\n)*[^\n]*)$", PAGE, re.MULTILINE)
]


def test_each_command_is_one_that_there_is():
    assert len(COMMANDS) > 8
    for words in COMMANDS:
        build_parser().parse_known_args(words[1 : words.index("--") if "--" in words else None])
        for name in (word.split("=")[1] for word in words if word.startswith("--gin_file=")):
            # Of a folder that an earlier command of the page writes, or the package's own.
            made = any(f"--out {Path(name).parent}" in " ".join(earlier) for earlier in COMMANDS)
            assert made or (gin_utils.packaged_configs() / name).exists(), name


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
