"""metrics.jsonl holds each step once whatever was killed; TensorBoard's own reader reads the events."""

import json
import subprocess
import sys

import pytest

from ja_llm.errors import JaLlmError
from ja_llm.train.metrics import MetricsWriter, read_metrics


def test_a_resumed_run_holds_each_step_once(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"loss": 1.0 / step})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # what a kill leaves
    writer = MetricsWriter(tmp_path, resume_step=2)
    writer.write(3, {"loss": 9.0})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 9.0},
    ]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(JaLlmError, match="line 2 can't be read"):
        MetricsWriter(tmp_path, resume_step=3)


@pytest.mark.parametrize("line", ["3", "[]", '{"loss": 1.0}', '{"step": "1"}'])
def test_a_line_without_a_step_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{line}\n{{"step": 2}}\n')
    with pytest.raises(JaLlmError, match="line 1 can't be read .there is no step in it.; remove the line"):
        read_metrics(path)
    path.write_text(f'{{"step": 2}}\n{line[:-1]}')
    assert read_metrics(path) == [{"step": 2}]


def test_tensorboard_reads_the_events(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 2.5, "eval/web_ja/bits_per_byte": 1.25})
    writer.close()
    program = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
board = EventAccumulator(sys.argv[1]); board.Reload()
print(json.dumps({tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}))
"""
    pytest.importorskip("tensorboard")
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "tensorboard")], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == {"loss": [[1, 2.5]], "eval/web_ja/bits_per_byte": [[1, 1.25]]}


def test_a_run_that_begins_anew_holds_its_first_evaluation_once(tmp_path):
    for _ in range(2):  # killed before its first checkpoint, the second time from step 0 again
        writer = MetricsWriter(tmp_path)
        writer.write(0, {"eval/web_ja/bits_per_byte": 5.0})
        writer.write(1, {"loss": 3.0})
        writer.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]
    MetricsWriter(tmp_path, resume_step=1).close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1], "a resumed run keeps it"
