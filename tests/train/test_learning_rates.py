"""Schedules at the steps that papers and scripts name, and against optax's."""

import optax
import pytest

from ja_llm.errors import UsageError
from ja_llm.train.learning_rates import Joined, LinearDecay, WarmupCosine, WarmupStableDecay, steps


def test_warm_up_stay_and_decay():
    wsd = WarmupStableDecay(peak=1.0, final=0.1, warmup_steps=4, decay_steps=10, total_steps=100)
    assert [float(wsd(s)) for s in (0, 3, 4, 50, 90)] == pytest.approx([0.25, 1.0, 1.0, 1.0, 1.0])
    line = optax.linear_schedule(1.0, 0.1, 10)
    for step in range(90, 110):
        assert float(wsd(step)) == pytest.approx(float(line(step - 90)), rel=1e-5)
    root = WarmupStableDecay(peak=1.0, final=0.0, warmup_steps=0, decay_steps=4, total_steps=4, shape="sqrt")
    assert [float(root(s)) for s in range(5)] == pytest.approx([1.0, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0.0], abs=1e-6)


def test_an_anneal_ends_at_zero():
    anneal = LinearDecay(peak=6.15e-5, total_steps=1000)
    assert float(anneal(0)) == pytest.approx(6.15e-5) and float(anneal(500)) == pytest.approx(3.075e-5)
    assert float(anneal(1000)) == 0.0 == float(anneal(2000))


def test_a_run_is_warmed_up_again_from_where_it_had_come_to():
    first = WarmupCosine(peak=1.0, final=0.1, warmup_steps=2, total_steps=10)
    again = WarmupCosine(peak=0.5, final=0.05, warmup_steps=4, total_steps=20, start=0.1)
    both = Joined((first, again), (0, 10))
    assert float(both(9)) == float(first(9)) and float(both(10)) == pytest.approx(0.2) == float(again(0))
    assert [float(both(10 + s)) for s in range(4)] == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert float(both(30)) == pytest.approx(0.05)


def test_tokens_become_whole_steps():
    assert steps(1e9, batch_size=1024, lengths={"targets": 4096}) == 239  # 238.4
    with pytest.raises(UsageError, match="above 0"):
        steps(0, batch_size=1, lengths={"targets": 1})


@pytest.mark.parametrize(
    "make",
    [
        lambda: WarmupStableDecay(peak=1.0, final=0.1, warmup_steps=60, decay_steps=50, total_steps=100),
        lambda: WarmupStableDecay(peak=1.0, final=0.1, warmup_steps=1, decay_steps=5, total_steps=100, shape="cubic"),
        lambda: LinearDecay(peak=1.0, total_steps=10, final=2.0),
        lambda: WarmupCosine(peak=1e-4, final=1e-5, warmup_steps=1, total_steps=10, start=1.0),
    ],
)
def test_schedules_that_make_no_sense_are_refused(make):
    with pytest.raises(UsageError, match="makes no schedule"):
        make()


def test_parts_that_do_not_follow_each_other_are_refused():
    part = LinearDecay(peak=1.0, total_steps=5)
    for starts in ((0,), (1, 2), (0, 0)):
        with pytest.raises(UsageError, match="one start each"):
            Joined((part, part), starts)
