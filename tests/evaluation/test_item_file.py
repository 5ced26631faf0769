"""Evaluation items as a file: what the corpus job reads is what contamination is looked for by."""

import json
from pathlib import Path

import pytest

from beam_pipelines.decontaminate import read_items, task_of
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import contamination, registry
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.item_file import write_items

RAW = Path(__file__).parent / "raw"


def test_the_file_holds_the_items_of_all_published_sets(tmp_path):
    written, left_out = write_items(tmp_path / "items.jsonl", RAW, ["swallow"])
    assert set(written) | set(left_out) == set(registry.suites()["swallow"]) and len(written) > 10, left_out
    items = read_items(tmp_path / "items.jsonl")
    assert len(items) == sum(written.values()) and {task_of(name) for name in items} == set(written)
    for name in ("jcommonsenseqa", "wmt20_ja_en", "gsm8k"):
        examples = registry.resolve(name)[0].examples(Sources(data=RAW), None)
        wanted = contamination.item_texts(name, examples)
        assert {key: texts for key, texts in items.items() if task_of(key) == name} == wanted


def test_the_command_says_what_it_wrote_and_left_out(tmp_path, capsys):
    from ja_llm.cli import main

    assert main(["corpus", "items", "--data", str(RAW), "--tasks", "first", "gsm8k", "--out", str(tmp_path / "items")]) == 0
    told = capsys.readouterr().out
    assert "gsm8k" in told and "left out: bits_per_byte_ja: this task is not about a published set" in told
    assert len(read_items(tmp_path / "items")) == 4


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="bits_per_byte_ja: this task is not about a published set"):
        write_items(tmp_path / "a", RAW, ["gsm8k", "bits_per_byte_ja"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(JaLlmError, match="missing"):
        write_items(tmp_path / "a", tmp_path / "empty", ["jmmlu"])
    with pytest.raises(UsageError, match="no task has its files here"):
        write_items(tmp_path / "a", tmp_path / "empty", ["swallow"])
    assert not (tmp_path / "a").exists()
    (tmp_path / "bad").write_text(json.dumps({"task": "x"}) + "\n")
    with pytest.raises(UsageError, match="bad, line 1: this is no evaluation item"):
        read_items(tmp_path / "bad")
    (tmp_path / "none").write_text("")
    with pytest.raises(UsageError, match="holds no evaluation item"):
        read_items(tmp_path / "none")
