"""The table's own check of a case: a wrong rule must make bytes jump, against the same slice under the right rules."""

import json

import pytest

from benchmarks import compile_table, readme_tables
from ja_llm.files import read_json

RESULTS = compile_table.RESULTS
WRONG, RIGHT = "8b-v5p-128-wrong-rule", "8b-v5p-128"


def case(parameters: float, optimizer: float, fits: bool) -> dict:
    gib = {"parameters": parameters, "optimizer": optimizer, "total": 10 * parameters}
    return {"tried": [{"fits": fits, "chips": 64, "gib_per_chip": gib, "flops": {"counted_over_closed_form": 1.0}}]}


def test_a_wrong_rule_is_held_against_the_right_one_s_bytes(capsys):
    right = case(0.47, 0.94, True)
    assert compile_table.passes(WRONG, {RIGHT: right, WRONG: case(0.47 * 64, 0.94 * 64, False)})
    assert "64.0 times the parameters" in capsys.readouterr().out
    assert not compile_table.passes(WRONG, {RIGHT: right, WRONG: case(0.47, 0.94, False)})  # refused for another reason
    assert not compile_table.passes(WRONG, {RIGHT: right, WRONG: case(0.47 * 64, 0.94, False)})
    assert not compile_table.passes(WRONG, {RIGHT: right, WRONG: case(0.47 * 64, 0.94 * 64, True)})
    assert not compile_table.passes(WRONG, {WRONG: case(0.47 * 64, 0.94 * 64, False)})
    assert "compile 8b-v5p-128 first" in capsys.readouterr().err
    assert compile_table.passes(RIGHT, {RIGHT: right})


@pytest.mark.parametrize("ends", [0, 1])
def test_wall_time_is_kept_and_the_code_is_the_cases(tmp_path, monkeypatch, capsys, ends):
    monkeypatch.setattr(compile_table, "RESULTS", tmp_path / "table.json")
    monkeypatch.setattr(readme_tables, "write", lambda: None)
    monkeypatch.setattr(compile_table, "compiled", lambda name: case(1.0, 2.0, name == RIGHT)["tried"])
    monkeypatch.setattr("sys.argv", ["compile_table", "--only", RIGHT, *([WRONG] if ends else [])])
    monkeypatch.setattr(compile_table.time, "monotonic", iter(range(0, 999, 7)).__next__)
    assert compile_table.main() == ends
    kept = read_json(tmp_path / "table.json")
    assert kept["cases"][RIGHT]["seconds"] == 7 and kept["seconds"] == 7 * (1 + ends), json.dumps(kept)[:200]


@pytest.fixture(scope="module")
def committed():
    return read_json(RESULTS)


def test_the_committed_table_has_every_case_as_it_must_be(committed, capsys):
    cases = committed["cases"]
    assert set(cases) == set(compile_table.CASES), "run python -m benchmarks.compile_table"
    assert [name for name in cases if not compile_table.passes(name, cases)] == []
    assert "times the parameters" in capsys.readouterr().out  # the wrong rule was compared
    small = cases["8b-v5e-4"]["tried"][-1]
    state = small["gib_per_chip"]["parameters"] + small["gib_per_chip"]["optimizer"]
    assert state == pytest.approx(3 * 4 * 8030261248 / 4 / 2**30, rel=1e-3)  # float32 of 8B and AdamW's two, over 4 chips
    assert (
        small["spare_gib"] == pytest.approx(small["gib_per_chip"]["usable"] - small["gib_per_chip"]["total"])
        and small["spare_gib"] < 0
    )


def test_the_committed_table_took_20_minutes_at_most(committed):
    seconds = [case["seconds"] for case in committed["cases"].values()]
    assert committed["seconds"] == pytest.approx(sum(seconds), abs=0.1) and len(seconds) == len(compile_table.CASES)
    assert 0 < committed["seconds"] <= 1200


def test_each_committed_row_is_the_least_recomputation_that_fits(committed):
    order = {"none": 0, "minimal": 1, "attention": 2, "full": 3}  # what a backward pass computes again: nothing ... all
    for name, (model, topology, candidates) in compile_table.CASES.items():
        case = committed["cases"][name]
        tried = case["tried"]
        assert case["model"] == model and {one["topology"] for one in tried} == {topology}
        asked = [(policy, microbatches) for policy, microbatches, _ in candidates]
        assert [(one["remat_policy"], one["microbatches"]) for one in tried] == asked[: len(tried)]
        assert asked == sorted(asked, key=lambda one: (order[one[0]], one[1]))
        assert [one["fits"] for one in tried] == [False] * (len(tried) - 1) + [name not in compile_table.REFUSED]
        assert {(one["batch_size"], one["length"]) for one in tried} == {(1024, 8192)}
