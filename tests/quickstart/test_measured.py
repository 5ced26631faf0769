"""What the quickstart promises, read from the result files of `benchmarks/quickstart.py` and `benchmarks/quickstart_rate.py`."""

import re

import pytest

from benchmarks import quickstart, quickstart_rate
from ja_llm.files import read_json
from ja_llm.quickstart.run import embedded_base, sizes


@pytest.fixture(scope="module")
def measured():
    return read_json(quickstart.RESULT)


def row(measured, name):
    line = next(line for line in measured["table"].splitlines() if line.strip().startswith(name))
    return [float(word) for word in line.split()[-2:]]


def test_it_takes_five_minutes_and_four_gib_at_most(measured):
    assert all(run["seconds"] <= 300 and run["peak_gib"] <= 4 for run in measured["runs"].values())


def test_one_table_for_one_and_two_workers_and_after_a_kill_in_every_stage(measured):
    assert measured["same_table"]
    assert [k["stage"] for k in measured["killed"] if k["killed"]] == list(range(1, quickstart.STAGES + 1))


def test_japanese_is_learnt_the_base_is_worth_something_and_english_stays(measured):
    base, expanded, trained, twin = (row(measured, name) for name in ("base", "after expansion", "after training", "twin"))
    assert trained[0] < expanded[0] < base[0] and trained[0] < twin[0]
    assert trained[1] <= 1.05 * base[1]
    before, after = map(float, re.search(r"tokens +([\d.]+) per Japanese character before, ([\d.]+)", measured["table"]).groups())
    assert after <= 0.65 * before


def test_the_rates_in_use_are_those_that_the_other_pages_chose():
    figures = read_json(quickstart_rate.RESULT)["bits_per_byte"]
    used = sizes(("pages.warc.gz",), str(embedded_base()))
    ours, limit = figures["continued"], 1.05 * figures["base"]["bits_per_byte_en"]
    allowed = {float(rate): f["bits_per_byte_ja"] for rate, f in ours.items() if f["bits_per_byte_en"] <= limit}
    assert used.rate == min(rate for rate, ja in allowed.items() if ja <= 1.005 * min(allowed.values()))
    twin = {float(rate): f["bits_per_byte_ja"] for rate, f in figures["twin"].items()}
    assert used.twin_rate == min(twin, key=twin.__getitem__)
