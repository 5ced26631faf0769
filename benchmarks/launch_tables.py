"""Table of docs/pod.md (`four_processes.py`)."""

from typing import Any


def four_processes(value: dict[str, Any]) -> str:
    """When each lost process is named, and what the run and its losses have from it."""
    settings, waited = value["settings"], max(value["waited"], default=None)
    shares = ", ".join(f"{kind} {seconds / value['wall']:.0%}" for kind, seconds in value["seconds"].items())
    difference = value["largest_relative_difference_of_a_loss"]
    hardware = value["hardware"]
    age = "" if waited is None else f" (it gives its silence as {waited:.1f} s)"
    return "\n".join(
        [
            f"On {value['date']}, {settings['steps']} steps of a tiny model in four processes on {hardware['cores']} cores ({hardware['cpu']}):",
            "",
            "| what | found |",
            "|---|---|",
            f"| SIGKILL of process 1, until the launcher names it | {value['killed']:.1f} s |",
            f"| SIGSTOP of process 2, until the watchdog names it (STEP_TIMEOUT {settings['timeout']:g} s) | {value['stopped']:.1f} s{age} |",
            f"| SIGSTOP of process 2, until the launcher starts all again | {value['restarted']:.1f} s |",
            f"| restarts | {value['restarts']} |",
            f"| goodput of the whole launch, {value['wall']} s | {value['goodput']:.1%} |",
            f"| where its time went | {shares} |",
            f"| losses beside the undisturbed run's | {'equal' if value['losses_equal'] else '**not equal**'}, largest relative difference {difference:.1e} |",
        ]
    )
