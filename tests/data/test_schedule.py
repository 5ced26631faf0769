import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.data.schedule import DataSchedule
from ja_llm.errors import JaLlmError, UsageError

rollbacks = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6)


@settings(deadline=None)
@given(rollbacks)
def test_a_skip_takes_out_what_would_come_next_and_nothing_else(changes):
    schedule, served = DataSchedule.single("a"), list(range(400))
    for at_step, count in changes:
        schedule = schedule.with_skip(at_step, count)
        del served[at_step : at_step + count]
    assert [schedule.data_step(step) for step in range(200)] == served[:200]
    assert DataSchedule.from_json(schedule.to_json()) == schedule


def test_stages_count_from_their_own_start():
    schedule = DataSchedule.single("a").with_skip(2, 3).with_stage(5, "b").with_skip(6, 1)
    assert [schedule.position(step) for step in range(9)] == [
        (0, 0), (0, 1), (0, 5), (0, 6), (0, 7), (1, 0), (1, 2), (1, 3), (1, 4),
    ]  # fmt: skip


def test_disorder_is_refused():
    with pytest.raises(UsageError, match="does not come after"):
        DataSchedule.single("a").with_stage(0, "b")
    with pytest.raises(UsageError, match="1 or more"):
        DataSchedule.single("a").with_skip(3, 0)
    good = DataSchedule.single("a").with_skip(2, 3).to_json()
    for damage in ({"stages": []}, {"skips": good["skips"] * 2}, {"skips": [{"stage": 4, "from": 1, "to": 2}]}, {"stages": None}):
        with pytest.raises(JaLlmError, match="data schedule"):
            DataSchedule.from_json({**good, **damage})


def test_a_mixing_of_a_newer_version_is_refused():
    with pytest.raises(JaLlmError, match="mixes by 'finer', which this version of ja_llm does not know"):
        DataSchedule.from_json({**DataSchedule.single("a").to_json(), "mixing": "finer"})
