"""A finished set: when the same command leaves it alone, when it is made again, and what can't take it away."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from beam_pipelines import corpus, sink, stages
from ja_llm import manifest
from ja_llm.documents import read_documents
from ja_llm.errors import JaLlmError, UsageError

BINDINGS = ["corpus.Split.heldout_share = 0.0"]


def build(inputs, output, *bindings, **more):
    return corpus.build_corpus([str(inputs)], output, gin_bindings=[*BINDINGS, *bindings], **more)


def digest(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and ".work" not in p.parts and p.name != "timings.json"]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def processed(output: Path) -> set[str]:
    """The stages that had to process something in the last run."""
    told = json.loads((output / "timings.json").read_text())["processed_in_this_run"]
    return {name for name, count in told.items() if count}


@pytest.fixture(scope="module")
def inputs(web, tmp_path_factory):
    """Eight pages, the first two of them alike."""
    pages = [{"url": f"http://site{i}.example/{i}", "body": web.html(web.ja_text(max(i, 1)))} for i in range(8)]
    return web.write_warc(tmp_path_factory.mktemp("pages") / "a.warc.gz", pages)


@pytest.fixture
def built(inputs, tmp_path):
    output = tmp_path / "set"
    return output, build(inputs, output)


def test_a_stage_of_another_version_or_with_other_values_makes_the_set_again(built, inputs, monkeypatch):
    """The configuration says neither: not our code's version, and nothing of a stage that a user wrote."""
    output, value = built
    select = stages.STAGES["select"]
    for changed in (
        dataclasses.replace(select, version=select.version + 1),
        dataclasses.replace(select, values=lambda config: [select.values(config), "mine"]),
    ):
        monkeypatch.setitem(stages.STAGES, "select", changed)
        other = build(inputs, output)
        assert processed(output) == {"select", "split"}
        assert [name for name, key in other["stage_keys"].items() if key != value["stage_keys"][name]] == ["select", "split", "sink"]
        assert other["config_hash"] == value["config_hash"]
    monkeypatch.undo()
    monkeypatch.setattr(sink, "VERSION", sink.VERSION + 1)
    other = build(inputs, output)
    assert [name for name, key in other["stage_keys"].items() if key != value["stage_keys"][name]] == ["sink"]


def test_a_set_of_before_its_stages_were_noted_is_walked_through_again(built, inputs, capsys):
    output, value = built
    path = output / manifest.NAME
    path.write_text(json.dumps({key: held for key, held in value.items() if key != "stage_keys"}))
    capsys.readouterr()
    assert build(inputs, output) == value
    assert "finished before" not in capsys.readouterr().err and processed(output) == set()
