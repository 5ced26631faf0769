"""What a person types: help with an example for every verb, one sentence for every mistake, the promised exit codes."""

import argparse
import importlib.util
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
    for example in verb.epilog.split("Example:", 1)[1].replace("\\\n", " ").strip().splitlines():
        words = shlex.split(example)
        assert words[0] == "ja-llm"
        args, rest = build_parser().parse_known_args(words[1:])
        assert args.parser.prog == verb.prog
        assert not rest or args.takes_rest


def test_a_device_that_is_not_there_gets_one_sentence():
    command = [sys.executable, "-m", "ja_llm", "generate", "--checkpoint", "nowhere", "--prompt", "a", "--device", "tpu"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    *noise, said = result.stderr.splitlines()  # libtpu, where it is installed, has its own words before ours
    assert said.startswith("ja-llm: ") and (not noise or importlib.util.find_spec("libtpu")), result.stderr
    assert "--device tpu: JAX finds no such device here" in result.stderr or "nowhere" in result.stderr


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
        (["corpus", "stats", "OUT"], "OUT: this folder does not exist"),
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


def test_only_paths_are_refused_as_remote_folders(tmp_path, capsys):
    argv = ["corpus", "build", "--input", str(tmp_path / "*.warc.gz"), "--output"]
    assert main(["report", str(tmp_path), "s3://bucket/run"]) == 2
    assert "s3://bucket/run: only local folders can be used" in capsys.readouterr().err
    binding = "corpus.Extraction.licence = 'https://example.org/licence'"
    assert main([*argv, str(tmp_path / "set"), "--gin_bindings", binding]) == 2
    assert "*.warc.gz: no file matches" in capsys.readouterr().err, "the binding is no path, the missing input comes next"


@pytest.mark.parametrize("program", ["ja-llm", "corpus"])
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyboardInterrupt(), "the same command goes on from there"),
        (PermissionError(13, "Permission denied", "/x"), "/x: no permission"),
        (ModuleNotFoundError("No module named 'apache_beam'", name="apache_beam"), "the package apache_beam is not installed"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero (this is a fault of ja_llm"),
    ],
)
def test_the_corpus_job_ends_in_a_sentence_by_either_name(program, error, says, monkeypatch, capsys):
    from beam_pipelines import corpus

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(corpus, "build_corpus", fails)
    flags = ["--input", "a", "--output", "b"]
    call = {"ja-llm": lambda argv: main(["corpus", "build", *argv]), "corpus": corpus.main}[program]
    assert call(flags) == 1
    err = capsys.readouterr().err.strip()
    assert err.startswith(f"{program}: ") and says in err and len(err.splitlines()) == 1
    with pytest.raises(type(error)) if not isinstance(error, KeyboardInterrupt) else pytest.MonkeyPatch.context():
        call([*flags, "--debug"])


def test_a_task_and_a_suite_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as end:
        main(["eval", "--checkpoint", "x", "--documents", "y", "--task", "t", "--suite", "first"])
    assert end.value.code == 2 and "not allowed with argument" in capsys.readouterr().err


def test_an_unknown_name_in_a_training_gin_file_is_one_sentence(tmp_path, capsys):
    file = tmp_path / "mine.gin"
    file.write_text("include 'runs/pretrain.gin'\ntrain.microbatchez = 2\n")
    macros = ["MIXTURE_OR_TASK_NAME=x", "CACHE_DIR=c", "TASK_FEATURE_LENGTHS={'targets': 8}", "TRAIN_STEPS=1", "MODEL_DIR=m"]
    assert main(["train", f"--gin_file={file}", *(f"--gin.{m}" for m in macros), "--dry_run"]) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1 and str(file) in err and "microbatchez" in err


def test_flags_reach_what_they_are_for(monkeypatch):
    """The suite that a mirror's sentences advise, and the number types of weights."""
    from ja_llm.fetch import debian_docs
    from ja_llm.interop import hf, importing

    calls = []

    def noted(*args, **kwargs):
        calls.append((args, kwargs))
        return {}

    for module, name in ((debian_docs, "fetch_debian_docs"), (importing, "import_checkpoint"), (hf, "export_hf")):
        monkeypatch.setattr(module, name, noted)
    for module in (debian_docs, hf):
        monkeypatch.setattr(module, "format_summary", str)
    assert main(["fetch", "debian-docs", "--out", "o", "--suite", "trixie"]) == 0
    assert main(["import", "s", "--out", "o", "--dtype", "bfloat16"]) == main(["export", "r", "--out", "o"]) == 0
    assert calls[0][1]["suite"] == "trixie" and [args[:3] for args, _ in calls[1:]] == [("s", "o", "bfloat16"), ("r", "o", None)]


def test_only_the_late_complaints_of_a_failed_save_are_dropped(capsys):
    from ja_llm.command_line import _late

    _late(RuntimeError, RuntimeError("Event loop is closed"), None)
    assert capsys.readouterr().err == ""
    _late(RuntimeError, RuntimeError("something else"), None)
    assert "RuntimeError: something else" in capsys.readouterr().err
