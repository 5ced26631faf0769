"""The table of four processes: detection beside the configured time, and losses that differ are said to."""

from benchmarks.launch_tables import four_processes

FOUND = {
    "date": "2026-01-02",
    "hardware": {"cpu": "a processor", "cores": 2, "system": "Linux"},
    "settings": {"steps": 20, "timeout": 30.0},
    "killed": 0.25,
    "stopped": 31.5,
    "waited": [30.04, 30.46],
    "restarted": 33.0,
    "restarts": 2,
    "goodput": 0.125,
    "wall": 200,
    "seconds": {"steps": 25.0, "starting": 175.0},
    "largest_relative_difference_of_a_loss": 2e-7,
    "losses_equal": True,
}


def test_times_stand_beside_the_configured_one_and_shares_are_of_the_wall():
    table = four_processes(FOUND)
    for cell in (
        "| 0.2 s |",
        "(STEP_TIMEOUT 30 s) | 31.5 s (it gives its silence as 30.5 s) |",
        "| 33.0 s |",
        "| restarts | 2 |",
    ):
        assert cell in table
    assert "200 s | 12.5% |" in table and "steps 12%, starting 88%" in table
    assert "| equal, largest relative difference 2.0e-07 |" in table


def test_losses_that_differ_are_said_to():
    assert "**not equal**, largest relative difference 1.0e-02" in four_processes(
        {**FOUND, "losses_equal": False, "largest_relative_difference_of_a_loss": 0.01, "waited": []}
    )
