"""Items of a task: known by ids of their own, cut and continued each by itself, shown as right or wrong only where that is known."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ja_llm.errors import JaLlmError
from ja_llm.evaluation import contamination, metrics, registry, report_suites, runners
from ja_llm.evaluation.examples import Sources

RAW = Path(__file__).parent / "raw"


def test_questions_that_share_an_id_stay_two_items(tmp_path):
    """TriviaQA asks the same question of its web and its Wikipedia file."""
    shutil.copytree(RAW / "triviaqa", tmp_path / "triviaqa")
    path = tmp_path / "triviaqa/qa/wikipedia-dev.json"
    (tmp_path / "triviaqa/qa/web-dev.json").write_bytes(path.read_bytes())
    (tmp_path / "SHA256SUMS").write_text(
        "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(tmp_path)}\n" for p in tmp_path.rglob("*.json"))
    )
    examples = registry.resolve("triviaqa")[0].examples(Sources(data=tmp_path), None)
    assert len({e["id"] for e in examples}) == len(examples) == len(contamination.item_texts("triviaqa", examples)) > 2
    assert [e["id"] for e in examples[:2]] + [f"{e['id']}#2" for e in examples[:2]] == [e["id"] for e in examples]


def test_repeated_rows_are_refused_not_merged():
    target = {"question": "a", "choice": 0, "label": 0}
    with pytest.raises(JaLlmError, match="question a has candidate 0 twice"):
        metrics.ChoiceMetric("accuracy").statistic([target, target], [-1.0, -2.0])


def stored(folder, name, rows, aggregate, samples):
    (folder / f"{name}.json").write_text(json.dumps({"items": {"rows": rows, "aggregate": aggregate}}))
    (folder / f"{name}.samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    return report_suites._judged(folder, name)


def test_only_a_measure_of_right_and_wrong_calls_an_answer_so(tmp_path):
    samples = [{"id": str(n), "prediction": f"p{n}"} for n in range(2)]
    shown = stored(tmp_path, "a", [[1.0], [0.0]], "mean", samples)
    assert [s["id"] for s in shown["right"]] == ["0"] and [s["id"] for s in shown["wrong"]] == ["1"]
    # The first number of a corpus measure's row is the translation's length.
    shown = stored(tmp_path, "b", [[1.0] * 10, [0.0] * 10], "bleu", samples)
    assert shown == {"right": [], "wrong": []}


def test_a_context_without_bos_is_cut_on_its_left_alone():
    ids = list(range(1, 21))
    assert runners._fitting(ids, [99], 8, begins_document=True) == [1, *range(14, 21)]
    assert runners._fitting(ids, [99], 8, begins_document=False) == list(range(13, 21))
    assert runners._fitting(ids, [99] * 20, 8, begins_document=False) == [20]
    assert runners._fitting(ids, [99] * 20, 8, begins_document=True) == [1]


def test_each_prompt_has_its_own_limit_whatever_stands_beside_it(prefix_generator):
    generator = prefix_generator(batch_size=2)
    prompts = [list(range(1, 41)), list(range(60, 70)), list(range(2, 42))]
    limits = [9, 39, 5]
    found = generator.continue_ids(prompts, limits)
    assert found == [generator.continue_ids([p], [n])[0] for p, n in zip(prompts, limits, strict=True)]
    whole = [generator.continue_tokens([p], 39, ignore_eos=True)[0] for p in prompts]
    assert found == [generator._text(p, ids[:n], ())[0] for p, ids, n in zip(prompts, whole, limits, strict=True)]


def test_total_length_is_of_each_prompt(monkeypatch):
    """HumanEval's 1024 tokens are of prompt and program together: neighbours must not change a limit."""
    asked = []

    class Recorder:
        room = staticmethod(lambda new: 1000)

        def continue_ids(self, rows, limits, *rest, **kw):
            asked.append(limits)
            return [""] * len(rows)

    runner = runners.Runners.__new__(runners.Runners)
    runner._generator, runner._max_length = Recorder(), 2048
    template = registry.resolve("humaneval")[0]
    runner._generate(template, [{"inputs": np.arange(n)} for n in (400, 60)], 0)
    assert asked == [[624] * 10 + [964] * 10]
