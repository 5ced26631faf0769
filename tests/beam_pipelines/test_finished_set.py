"""A finished set: when the same command leaves it alone, when it is made again, and what can't take it away."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from beam_pipelines import corpus, sink, stages
from ja_llm import manifest
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
        assert [name for name, key in other["stage_keys"].items() if key != value["stage_keys"][name]] == [
            "select",
            "split",
            "sink",
        ]
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


def test_a_run_that_leaves_nothing_leaves_the_earlier_set_whole(built, inputs, capsys):
    """A number mistyped must not cost the set: it stands with its own samples until others are written."""
    output, value = built
    before = digest(output)
    with pytest.raises(
        JaLlmError, match="no document is left of 8.*; the set that was finished here before stands as it was"
    ) as told:
        build(inputs, output, "corpus.JapaneseFilter.min_letters = 100000")
    assert digest(output) == before and manifest.read(output, manifest.DOCUMENTS, verify=True) == value
    samples = output / ".work" / "nothing_left" / "dropped"
    assert f"samples are in {samples};" in str(told.value) and (samples / "ja_letters_low.jsonl").exists()
    capsys.readouterr()
    assert build(inputs, output) == value and "finished before" in capsys.readouterr().err
    build(inputs, output, "corpus.JapaneseFilter.min_letters = 300")
    assert not samples.exists(), "the next run that succeeds clears what the failed one left"


def test_a_run_that_stops_in_a_stage_leaves_the_earlier_set_whole(built, inputs, monkeypatch):
    output, value = built
    before = digest(output)

    def full(*unused):
        raise JaLlmError("a.tfrecord: the disk is full.")

    monkeypatch.setitem(stages.STAGES, "select", dataclasses.replace(stages.STAGES["select"], version=99, run=full))
    with pytest.raises(JaLlmError, match="the disk is full"):
        build(inputs, output)
    assert digest(output) == before and manifest.read(output, manifest.DOCUMENTS, verify=True) == value


@pytest.mark.parametrize("inside", ["", "dedup_index"])
def test_a_run_against_its_own_output_is_refused(built, inputs, tmp_path, inside):
    output, value = built
    before = digest(output)
    (tmp_path / "link").symlink_to(output)
    for folder in (output, tmp_path / "link"):
        own = f"corpus.Dedup.against = [{str(folder / inside)!r}]"
        with pytest.raises(UsageError, match=r"--against .*: this is the output itself"):
            build(inputs, output, own)
        with pytest.raises(UsageError, match=r"--against .*: this is the output itself"):
            corpus.plan([str(inputs)], output, gin_bindings=[own])
    assert digest(output) == before and manifest.read(output, manifest.DOCUMENTS, verify=True) == value


def test_what_the_job_wrote_is_no_input_of_it(web, tmp_path, monkeypatch):
    lines = [json.dumps({"text": web.ja_text(i), "url": f"http://site{i}.example/"}) for i in range(4)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("\n".join([*lines, json.dumps({"text": "短い。", "url": "http://b.example/"})]))
    everything, output = tmp_path / "data" / "**" / "*.jsonl", tmp_path / "data" / "out"
    value = build(everything, output)
    assert list((output / "dropped").glob("*.jsonl"))
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    for place in (output, tmp_path / "link" / "out", Path("out")):
        for call in (build, lambda *where: corpus.plan([str(where[0])], where[1])):
            with pytest.raises(
                UsageError, match=r"dropped/.*\.jsonl: this input lies in the output folder \(.*out\); choose an --output"
            ):
                call(everything, place)
    assert manifest.read(output, manifest.DOCUMENTS, verify=True) == value
    assert build(tmp_path / "data" / "*.jsonl", output) == value
    assert build(tmp_path / "data" / "*.jsonl", tmp_path / "data" / "out2")["inputs"] == value["inputs"], "out2 is not in out"


def test_a_folder_of_source_code_that_holds_the_output_is_refused(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x = 1\n" * 50)
    with pytest.raises(UsageError, match="the output folder .* lies in this input"):
        build(tmp_path / "code", tmp_path / "code" / "out", "corpus.Code.min_pylint_score = None", preset="code")
    assert not (tmp_path / "code" / "out").exists()


def test_other_samples_are_cut_from_what_the_stages_keep(built, inputs, tmp_path):
    output, value = built
    more = ("corpus.Corpus.samples = 30", "corpus.Corpus.sample_characters = 90")
    other = build(inputs, output, *more)
    assert processed(output) == set() and other["sampling"] == {"samples": 30, "sample_characters": 90, "seed": 1}
    build(inputs, tmp_path / "anew", *more)
    assert digest(output) == digest(tmp_path / "anew")
    (line,) = (output / "dropped" / "duplicate_exact.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(json.loads(line)["text"]) == 90
    build(inputs, output, "corpus.Corpus.samples = 51")
    assert "extract" in processed(output), "the stages keep 50"
