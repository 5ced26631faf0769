"""Real training under `ja-llm launch local`: one of four is killed, one is stopped, and the losses are the undisturbed run's."""

from pathlib import Path

import pytest

from benchmarks.four_processes import disturbed, losses

STEPS, TIMEOUT = 20, 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_killed_and_a_stopped_process_of_four_are_named_in_time_and_the_losses_stay(training, straight, tmp_path):
    directory = tmp_path / "four"
    train = training.command(directory, STEPS, EVAL_PERIOD=10_000, STEP_TIMEOUT=TIMEOUT)
    found = disturbed(train, directory, tmp_path / "launcher.log")
    assert found["killed"] <= TIMEOUT
    # Who notices says how long he has waited; by the clock a step or two that were under way come on top, and still it is within the time.
    assert found["waited"] and max(found["waited"]) <= TIMEOUT
    assert found["stopped"] <= TIMEOUT
    assert found["restarts"] == 2 and found["goodput"] > 0
    ours, theirs = losses(directory), losses(straight)
    assert len(ours) == STEPS and ours == pytest.approx(theirs, rel=1e-5)
