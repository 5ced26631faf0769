"""W&B offline gets the scalars of metrics.jsonl, under one run however often the command is given; without the package it is refused."""

import json
import struct
import sys
import time

import pytest

from ja_llm.cli import main
from ja_llm.errors import JaLlmError
from ja_llm.train import wandb_run
from ja_llm.train.metrics import MetricsWriter


def logged(folder):
    """The scalars in a run's offline file, which W&B's own process finishes a moment after `finish` has returned."""
    (path,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 60
    while (kinds := [record.WhichOneof("record_type") for record in records(path)])[-1] != "exit":
        assert time.monotonic() < deadline, kinds
        time.sleep(0.1)
    scalars = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
    ]
    return [{key: value for key, value in line.items() if not key.startswith("_")} for line in scalars if line]


def records(path):
    """The protobuf records of an offline file: behind 7 bytes a LevelDB log (blocks of 32 KiB; each part has crc, length, type)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
            record = Record()
            record.ParseFromString(part)
            part = b""
            found.append(record)
    return found


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.timeout(1800)  # a busy machine; some seconds on a quiet one
@pytest.mark.usefixtures("offline")
def test_a_run_in_two_calls_is_one_there_with_the_scalars_of_metrics_jsonl(training, tmp_path, capsys):
    directory = tmp_path / "run"
    for steps in (2, 4):
        command = training.command(directory, steps, CHECKPOINT_PERIOD=2, WANDB_PROJECT="trials")[3:]
        quick = ["--gin.SCHEDULE=@learning_rates.WarmupConstant()", "--gin_bindings=main.train.eval_documents = 0"]
        assert main([*command, *quick]) == 0
        assert f"metrics go to {directory}/wandb/offline-run-" in capsys.readouterr().err
    folders = sorted((directory / "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_mtime_ns)
    assert len({folder.name.rsplit("-", 1)[1] for folder in folders}) == 1 < len(folders)
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line for folder in folders for line in logged(folder)] == lines


@pytest.mark.usefixtures("offline")
def test_a_rollback_goes_back_there_too(tmp_path):
    with wandb_run.opened("trials", tmp_path, tmp_path) as wandb:
        for start, steps in ((0, (1, 2, 3)), (1, (2, 3))):
            writer = MetricsWriter(tmp_path, start, wandb)
            for step in steps:
                writer.write(step, {"loss": step + start / 8, "eval/web_ja/bits_per_byte": 2.5})
            writer.close()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    lines = logged(folder)
    assert all(line["eval/web_ja/bits_per_byte"] == 2.5 for line in lines)
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 3.0), (2, 2.125), (3, 3.125)]


def test_what_wandb_refuses_is_said_in_a_sentence(offline, monkeypatch, tmp_path):
    import wandb

    def refuse(**_):
        raise wandb.errors.CommError("no such host\nand more")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(
        JaLlmError, match=r"'trials': W&B could not be opened \(no such host\); run `wandb login`, set WANDB_MODE"
    ):
        wandb_run.WandbRun("trials", tmp_path, tmp_path)


def test_a_project_without_the_package_is_refused_before_the_run_starts(training, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(training.command(tmp_path / "run", 20, WANDB_PROJECT="trials")[3:]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ja-llm")]
    assert len(err) == 1 and "the package wandb is not installed; pip install 'ja_llm[wandb]'" in err[0]
    assert not (tmp_path / "run").exists()
