"""The report's section on published sets: the figures of its tables are the results', and plots put points where the axes say."""

import csv
import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ja_llm.cli import main
from ja_llm.evaluation import report_suites
from ja_llm.evaluation.report import write_report
from ja_llm.evaluation.report_data import PUBLISHED
from ja_llm.evaluation.statistics import Statistic, described, paired, suite_mean
from ja_llm.evaluation.svg_suite import bars, radar
from ja_llm.pages.svg import Dot

HOSTILE = "<script>alert(1)</script>"


def checker():
    """The page's checks of test_report.py."""
    spec = importlib.util.spec_from_file_location("report_checks", Path(__file__).with_name("test_report.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["report_checks"] = module
    spec.loader.exec_module(module)
    return module.Checker


def rows(task, share):
    """40 right and wrong answers, `share` of them right; which ones does not depend on the share."""
    return (np.random.default_rng(len(task)).permutation(40) < 40 * share).astype(float)


def write_run(root, name, shares, **extra):
    out = root / name / "eval" / "swallow"
    out.mkdir(parents=True)
    tasks = {}
    for task in PUBLISHED:
        statistic = Statistic(rows(task, shares[task]))
        found = described(statistic)
        low, high = found["interval"]
        result = {"accuracy": found["value"], "accuracy_standard_error": found["standard_error"], "interval": [low, high]}
        result["about"] = {"headline": "accuracy", "better": "higher", "description": "", "lang": "ja"}
        request = {"request": {"version": 1, "data": {"files": {}}, "examples": None}}
        items = {"items": {"rows": statistic.rows.tolist(), "aggregate": "mean"}}
        (out / f"{task}.json").write_text(json.dumps({**result, **request, **items}))
        samples = [
            {
                "id": str(n),
                "inputs": f"shot\n\nquestion {n} of {task}",
                "targets": f"gold {n}",
                "prediction": f"{name} says {n} {HOSTILE}",
            }
            for n in range(40)
        ]
        (out / f"{task}.samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
        tasks[task] = result
    tasks["jsquad"]["contamination"] = {
        "n_gram": [13],
        "threshold": 0.5,
        "items": 40,
        "flagged": 7,
        "too_short": 0,
        "clean": {"value": 0.111, "interval": [0.05, 0.2]},
        "seen": {"value": 0.987, "interval": [0.9, 1.0]},
    }
    (out / "results.json").write_text(json.dumps({"tasks": tasks, "left_out": {}}))
    return root / name


@pytest.fixture
def runs(tmp_path):
    base = {task: 0.25 + 0.025 * n for n, task in enumerate(PUBLISHED)}
    ours = {task: share + (0.2 if n < 10 else -0.05) for n, (task, share) in enumerate(base.items())}
    made = [write_run(tmp_path, "base", base), write_run(tmp_path, "ja", ours)]
    judged = {
        "score": 0.654,
        "interval": [0.6, 0.7],
        "score_deviation_of_runs": 0.012,
        "n_valid": 798.0,
        "n": 800.0,
        "judge": HOSTILE,
    }
    judged["about"] = {"headline": "score"}
    (tmp_path / "ja/eval/swallow/mt_bench_ja.json").write_text(json.dumps(judged))
    return made, base, ours


def test_the_tables_show_the_results(runs, tmp_path):
    made, base, ours = runs
    page = write_report(made, tmp_path / "r.html").read_text()
    found = checker()()
    found.feed(page)
    assert found.open == [] and found.problems == [] and "<script" not in page
    text = " ".join(" ".join(found.text).split())
    for shares in (base, ours):
        for task, share in shares.items():
            assert f"{rows(task, share).mean():.3f}" in text
        for names in (list(PUBLISHED)[:10], list(PUBLISHED)[10:]):
            assert f"{np.mean([rows(n, shares[n]).mean() for n in names]):.3f}" in text
    change = paired(Statistic(rows("mmlu", ours["mmlu"])), Statistic(rows("mmlu", base["mmlu"])))
    assert f"{change['difference']:+.3f}" in text and f"p {change['p_value']:.3f}" in text
    english = [np.mean([rows(n, shares[n]).mean() for n in list(PUBLISHED)[10:]]) for shares in (base, ours)]
    assert f"ja {english[1] / english[0]:.1%} ({english[1] - english[0]:+.3f})" in text
    assert "7 of 40" in text and "0.111" in text and "0.987" in text
    assert "0.654" in text and "798 of 800" in text
    assert text.count("gold: gold") == 20 * 4 and "ja says" in text and "question" in text
    assert page.count('class="plot"') == 3 and ">Published sets<" in page
    # The same tasks are no cards or columns of the other tables.
    assert "jcommonsenseqa" not in page.split('id="sets"')[0]


def test_what_is_missing_is_said_and_has_no_mean(runs, tmp_path):
    made, _, _ = runs
    path = made[1] / "eval/swallow/results.json"
    value = json.loads(path.read_text())
    del value["tasks"]["jmmlu"]
    path.write_text(json.dumps(value))
    page = write_report(made, tmp_path / "r.html").read_text()
    assert "Not measured for every run: JMMLU." in page
    first = page[page.index("Japanese, profile swallow") :]
    row = re.search(r'<tr><th scope="row">ja</th>.*?</tr>', first, re.DOTALL)[0]
    assert row.count("–") == 2  # the task and the mean


def test_a_suites_mean_has_the_interval_of_the_results(runs, tmp_path):
    made, _, ours = runs
    page = write_report(made, tmp_path / "r.html").read_text()
    names = list(PUBLISHED)[:10]
    low, high = suite_mean({name: Statistic(rows(name, ours[name])) for name in names})["interval"]
    assert f"[{low:.3f}, {high:.3f}]" in page


def test_reasons_and_remarks_stand_beside_the_scores_and_a_results_folder_is_a_run(runs, tmp_path):
    folder = runs[0][1] / "eval/swallow"
    path = folder / "results.json"
    value = json.loads(path.read_text())
    del value["tasks"]["jmmlu"]
    value["tasks"]["jsquad"] |= {"contexts_cut": 12, "empty": 3, "warnings": ["hardly a label"]}
    value["left_out"] = {"jmmlu": "jmmlu/JMMLU/*.csv: this evaluation file is missing"}
    path.write_text(json.dumps({**value, "step": 4}))
    page = write_report([folder], tmp_path / "r.html").read_text()
    assert "JMMLU (jmmlu/JMMLU/*.csv: this evaluation file is missing)" in page
    assert "jsquad: 12 prompts shortened; 3 answers empty; hardly a label" in page


def test_answers_of_choices_are_the_likeliest_candidates(tmp_path):
    rows = [
        ("a", 0, 1, -3.0, "x", " left"),
        ("a", 1, 1, -1.0, "x", " right"),
        ("b", 0, 0, -2.0, "the cup", " s"),
        ("b", 1, 0, -1.0, "the box", " s"),
    ]
    keys = ("question", "choice", "label", "score", "inputs", "targets")
    samples = [{"id": f"{r[0]}:{r[1]}", **dict(zip(keys, r, strict=True))} for r in rows]
    (tmp_path / "t.json").write_text(json.dumps({"items": {"rows": [[1.0], [0.0]], "aggregate": "mean"}}))
    (tmp_path / "t.samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    shown = report_suites._judged(tmp_path, "t")
    assert [s["prediction"] for s in shown["right"]] == [" right"]
    # The ends are alike, so the contexts say what was chosen.
    assert [(s["prediction"], s["targets"]) for s in shown["wrong"]] == [("the box", "the cup")]


def test_scores_stand_beside_published_ones_in_a_table(runs, tmp_path, capsys):
    made, base, ours = runs
    command = ["report", *map(str, made), "--out", str(tmp_path / "r.html"), "--table", str(tmp_path / "t.csv"), "--published"]
    assert main(command) == 0
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0])[2:22] == list(PUBLISHED) and [row["model"] for row in found[:2]] == [path.name for path in made]
    for row, shares in zip(found, (base, ours), strict=False):
        scores = {task: rows(task, shares[task]).mean() for task in PUBLISHED}
        assert {task: float(row[task]) for task in PUBLISHED} == pytest.approx(scores, abs=1e-4)
        assert float(row["ja_mean"]) == pytest.approx(np.mean(list(scores.values())[:10]), abs=1e-4)
    (theirs,) = (row for row in found if row["model"] == "Qwen2-7B")
    assert (theirs["jcommonsenseqa"], theirs["ja_mean"], theirs["mmlu"], theirs["en_mean"]) == ("0.8776", "0.4743", "", "")
    (tmp_path / "empty/eval").mkdir(parents=True)
    assert main(["report", str(tmp_path / "empty"), "--out", str(tmp_path / "r.html"), "--table", str(tmp_path / "t.csv")]) == 2
    assert "no published set was measured there" in capsys.readouterr().err


def test_scores_are_written_as_flexeval_lays_them_down(runs, tmp_path, capsys):
    made = runs[0]
    rows_of = [("a", 0, 1, -3.0, "long answer"), ("a", 1, 1, -2.0, "b"), ("z", 0, 0, -1.0, "水")]
    keys = ("question", "choice", "label", "score", "targets")
    samples = [{"id": f"{r[0]}:{r[1]}", "inputs": "Q", **dict(zip(keys, r, strict=True))} for r in rows_of]
    path = made[0] / "eval/swallow/hellaswag.samples.jsonl"
    kept = path.read_text()
    try:
        path.write_text("".join(json.dumps(s) + "\n" for s in samples))
        command = ["report", *map(str, made), "--out", str(tmp_path / "r.html"), "--flexeval", str(tmp_path / "flex")]
        assert main(command) == 0
    finally:
        path.write_text(kept)
    folder = tmp_path / "flex" / made[0].name
    assert sorted(p.name for p in folder.iterdir()) == sorted(PUBLISHED)
    stored = json.loads((made[0] / "eval/swallow/results.json").read_text())["tasks"]["niilc"]
    found = json.loads((folder / "niilc/metrics.json").read_text())
    assert found == {key: stored[key] for key in ("accuracy", "accuracy_standard_error")}
    lines = [json.loads(line) for line in (folder / "niilc/outputs.jsonl").read_text().splitlines()]
    assert len(lines) == 40 and lines[3]["references"] == ["gold 3"] and lines[3]["lm_output"].endswith(f"says 3 {HOSTILE}")
    lines = [json.loads(line) for line in (folder / "hellaswag/outputs.jsonl").read_text().splitlines()]
    assert [(x["prediction"], x["byte_norm_prediction"], x["answer_index"]) for x in lines] == [(1, 0, 1), (0, 0, 0)]
    assert lines[0]["byte_norm_log_probs"] == [-3 / 11, -2.0] and lines[1]["byte_norm_log_probs"] == [-1 / 3]
    assert json.loads((folder / "niilc/config.json").read_text())["eval_setup"]["init_args"]["headline"] == "accuracy"


def points(page, pattern):
    return [tuple(map(float, pair.split(","))) for pair in re.search(pattern, page)[1].split()]


def test_a_radars_points_lie_on_their_axes():
    names = ["a", "b", "c", "d", HOSTILE]
    page = radar("t", names, [("one", [0.0, 0.25, 0.5, 0.75, 1.0]), ("two", [None, 1.0, 1.0, 1.0, 1.0])])
    found = points(page, r'class="line s0" points="([^"]+)"')
    ring = points(page, r'class="grid" fill="none" points="([^"]+)"')  # the one of 0.25
    middle = (sum(x for x, _ in ring) / 5, sum(y for _, y in ring) / 5)
    unit = math.dist(ring[0], middle) * 4
    for place, value in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        assert math.dist(found[place], middle) == pytest.approx(unit * value, abs=0.2)
        direction = (found[place][0] - middle[0], found[place][1] - middle[1])
        angle = 2 * math.pi * place / 5
        assert direction == pytest.approx((unit * value * math.sin(angle), -unit * value * math.cos(angle)), abs=0.2)
    assert len(points(page, r'class="line s1" points="([^"]+)"')) == 4 and "<script" not in page
    assert "one: a 0, b 0.2500" in page
    assert radar("t", names[:2], [("one", [1.0, 1.0])]) == "" == radar("t", names, [("one", [None] * 5)])


def test_bars_are_as_high_as_their_values():
    page = bars("t", [("g", [Dot("", 0.5, 0.4, 0.6), None]), ("h", [Dot("", 0.25), Dot("", 1.0)])], ["one", "two"], "score")
    tops = [(float(low) - float(y)) for low, y in re.findall(r'd="M[\d.]+ ([\d.]+)V([\d.]+)H', page)]
    assert len(tops) == 3 and [t / tops[2] for t in tops] == pytest.approx([0.5, 0.25, 1.0], abs=0.01)
    (a, b) = re.findall(r'class="error"[^>]*y1="([\d.]+)" y2="([\d.]+)"', page)[0]
    assert (float(a) - float(b)) / tops[2] == pytest.approx(0.2, abs=0.01)
    assert "g: one 0.5000; h: one 0.2500, two 1" in page and bars("t", [("g", [None])], ["one"], "s") == ""
