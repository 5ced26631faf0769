"""The table's own check of a case: a wrong rule must make bytes jump, against the same slice under the right rules."""

import json

import pytest

from benchmarks import compile_table, readme_tables
from ja_llm.files import read_json

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
    monkeypatch.setattr(readme_tables, "main", lambda: 0)
    monkeypatch.setattr(compile_table, "compiled", lambda name: case(1.0, 2.0, name == RIGHT)["tried"])
    monkeypatch.setattr("sys.argv", ["compile_table", "--only", RIGHT, *([WRONG] if ends else [])])
    monkeypatch.setattr(compile_table.time, "monotonic", iter(range(0, 999, 7)).__next__)
    assert compile_table.main() == ends
    kept = read_json(tmp_path / "table.json")
    assert kept["cases"][RIGHT]["seconds"] == 7 and kept["seconds"] == 7 * (1 + ends), json.dumps(kept)[:200]
