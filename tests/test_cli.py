"""What a person types: help with an example for every verb, one sentence for every mistake, the promised exit codes."""

import argparse
import shlex
import subprocess
import sys
import time

import pytest

from ja_llm.cli import build_parser, main


def leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += leaves(child) or [child]
    return found


@pytest.mark.parametrize("verb", leaves(build_parser()), ids=lambda p: p.prog)
def test_every_verb_has_an_example_that_its_own_parser_takes(verb):
    example = verb.epilog.split("Example:", 1)[1].replace("\\\n", " ").strip()
    words = shlex.split(example)
    assert words[0] == "ja-llm"
    args, rest = build_parser().parse_known_args(words[1:])
    assert args.parser.prog == verb.prog
    assert not rest or args.takes_rest


def test_help_answers_at_once():
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-m", "ja_llm", "--help"], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - start)
    assert "quickstart" in result.stdout
    assert best < 0.5


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["corpus", "build", "--input", "/nowhere/*.warc.gz", "--output", "OUT"], "/nowhere/*.warc.gz"),
        (["corpus", "stats", "OUT"], "there is no manifest.json"),
        (["eval", "--checkpoint", "OUT", "--documents", "OUT"], "OUT"),
        (["generate", "--checkpoint", "OUT", "--prompt", "x"], "OUT"),
        (["export", "OUT", "--out", "OUT2"], "OUT"),
        (["import", "OUT", "--out", "OUT2"], "OUT"),
        (["cache", "--task", "web_jaa", "--vocab", "OUT", "--documents", "OUT", "--out", "OUT2"], "web_ja"),
        (["cache", "--task", "web_ja", "--vocab", "OUT", "--documents", "a", "--documents", "b", "--out", "OUT2"], "NAME=b"),
        (["train"], "has no value"),
        (["train", "--gin_file=runs/pretrian.gin"], "runs/pretrain.gin"),
        (["train", "--gin.BATCH_SIZE"], "write --gin.NAME=VALUE"),
    ],
)
def test_mistakes_end_in_one_sentence(argv, says, tmp_path, capsys):
    argv = [word.replace("OUT", str(tmp_path / "out")) for word in argv]
    assert main(argv) in (1, 2)
    err = capsys.readouterr().err.strip()
    assert says.replace("OUT", str(tmp_path / "out")) in err
    assert len(err.splitlines()) == 1, err


@pytest.mark.parametrize("argv", [["traim"], ["corpus"], ["export"], ["eval", "--chekpoint", "x"], []])
def test_wrong_use_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_no_permission_is_a_sentence(tmp_path, capsys, monkeypatch):
    from ja_llm.quickstart import run

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path / "x"))

    monkeypatch.setattr(run, "quickstart", denied)
    assert main(["quickstart", "--out", str(tmp_path / "x")]) == 1
    assert "no permission to write here; choose another folder" in capsys.readouterr().err
