"""Alarms go off for what is more than noise, and are as rare as they say where it is not."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.false_alarms import drawn, first_alarm
from ja_llm.errors import UsageError
from ja_llm.train.alarms import Alarm, above_zero, alarm_of, check_alarms, fewest_documents, number_of_tests, rise

PROBES = 20


def runs(seed, count, level):
    rng = np.random.default_rng(seed)
    return [drawn(rng, np.full(PROBES, level)) for _ in range(count)]


@pytest.mark.parametrize(("bound", "value"), [("relative_rise", 0.05), ("ceiling", 1.2 * 1.05)])
def test_false_alarms_at_the_bound_are_as_rare_as_they_say(bound, value):
    """The worst case: a domain that stands exactly at its bound for the whole run. 5 % of the runs are allowed an alarm."""
    found = runs(1, 300, 1.05)
    alarm = Alarm(**{bound: value}, false_alarms=0.05, patience=1)
    assert sum(first_alarm(alarm, run) is not None for run in found) <= stats.binom.ppf(0.999, len(found), 0.05)
    if bound == "relative_rise":  # were the level not shared among the probes, it would be wrong far more often
        careless = sum(any(alarm.crossed(rows, run[0], 1) for rows in run[1:]) for run in found)
        assert careless > stats.binom.ppf(0.999, len(found), 0.05)


def test_noise_alone_never_alarms_and_a_collapse_always_does():
    alarm = Alarm(relative_rise=0.02)
    assert all(first_alarm(alarm, run) is None for run in runs(2, 150, 1.0))
    for run in runs(3, 50, 1.0):
        run[11:, :, 0] *= 1.12  # planted: from the eleventh probe on
        crossed = [bool(alarm.crossed(rows, run[0], PROBES)) for rows in run[1:]]
        assert crossed == [False] * 10 + [True] * 10 and first_alarm(alarm, run) == 11


def test_the_test_is_scipys_and_the_error_that_of_repeated_draws():
    rng = np.random.default_rng(0)
    values, same = rng.normal(0.3, 1, 30), np.full(30, 7.0)  # of documents of one size the ratio is a mean
    assert above_zero(values, same) == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue, rel=1e-9)
    assert [above_zero(level * same, same) for level in (0.1, -0.1, 0.0)] == [0.0, 1.0, 1.0]
    found = [rise(run[1], run[0]) for run in (drawn(rng, np.array([1.05])) for _ in range(1500))]
    values, errors = map(np.array, zip(*found, strict=True))
    assert values.mean() == pytest.approx(0.06, abs=0.001)
    assert errors.mean() == pytest.approx(values.std(), rel=0.06)


def test_the_first_alarm_that_fits_decides_and_shares_its_level():
    english = Alarm(domains=("web_en", "wiki_en"), relative_rise=0.05, ceiling=1.3, from_step=50)
    rest = Alarm(rise=0.1)
    assert alarm_of("wiki_en", (english, rest)) is english and alarm_of("code", (english, rest)) is rest
    shared = dict(number_of_tests((english, rest), ["web_en", "wiki_en", "code"], [10, 50, 100]))
    assert shared == {"web_en": 2 * 2 * 2, "wiki_en": 8, "code": 3}
    assert alarm_of("code", (english,)) is None


def test_what_can_not_be_is_refused():
    with pytest.raises(UsageError, match="has no bound; give relative_rise, rise or ceiling"):
        Alarm()
    with pytest.raises(UsageError, match=r"give a tuple of patterns, e\.g\. \('web_en',\)"):
        Alarm(domains="web_en", rise=0.1)
    for wrong in ({"patience": 0}, {"false_alarms": 1.0}, {"from_step": -1}):
        with pytest.raises(UsageError, match="can't be used; patience"):
            Alarm(rise=0.1, **wrong)
    with pytest.raises(UsageError, match="names 'web_eng', which no probe fits; there are web_en"):
        check_alarms([Alarm(domains=("web_eng",), rise=0.1)], {"web_en": 64})
    with pytest.raises(UsageError, match="covers 'web_en', whose probe has 1 document: with fewer than 5 even a clear rise"):
        check_alarms([Alarm(rise=0.1)], {"web_en": 1})
    for documents, steps in ((5, 1), (10, 90)):
        check_alarms([Alarm(rise=0.1)], {"web_en": documents}, range(1, steps + 1))
        with pytest.raises(UsageError, match=f"whose probe has {documents - 1} documents: with fewer than {documents} "):
            check_alarms([Alarm(rise=0.1)], {"web_en": documents - 1}, range(1, steps + 1))


def test_a_clear_rise_is_told_as_often_as_not_by_the_fewest_documents_that_are_asked_for():
    """It varies by half of itself from document to document; each is one of 90 tests."""
    rng, least, runs = np.random.default_rng(0), fewest_documents(0.01 / 90), 1000
    told = dict.fromkeys((least // 2, least, 2 * least), 0.0)
    for documents in told:
        base = np.full((documents, 2), 1000.0)
        for _ in range(runs):
            now = base + np.stack([200 * rng.normal(1, 0.5, documents), np.zeros(documents)], axis=1)
            told[documents] += bool(Alarm(rise=0.0).crossed(now, base, 90)) / runs
    few, enough, many = told.values()
    assert few < 0.1 and 0.4 < enough < 0.7 and many > 0.95, told
