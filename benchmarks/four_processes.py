"""Four processes under `ja-llm launch local`, of which one is killed and one is stopped: when each is named, and whether the losses stay.

    python -m benchmarks.four_processes [--steps 20] [--timeout 30]

A tiny model on CPUs over loopback. What is timed: from the signal to the line in the launcher's log that names the lost process, and for the
stopped one to the watchdog's sentence, with the age that this gives itself, beside STEP_TIMEOUT, the configured time. Goodput is that of
the whole launch, restarts included, in which compiling and starting outweigh 20 small steps; it is reported, and no goal.
`tests/train/test_launch.py` holds the bounds on the same run.
"""

import argparse
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.debian_docs import cpu_name
from ja_llm import manifest
from ja_llm.files import write_json

RESULT = Path(__file__).parent / "results" / "four_processes.json"
KILLED = "lost process 1 (killed by SIGKILL); all start again"
SILENT = "silent is process 2 (gives no sign of life)"
RESTARTED = "lost process 2 (gives no sign of life), so the others say"


def child(launcher: int, index: int) -> int:
    """Process `index` of a launcher, found as the system lists it (Linux)."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == launcher and f"--process_index={index}".encode() in words:
            return int(entry.name)
    raise AssertionError(f"process {index} does not run")


def disturbed(command: list[str], run: Path, log: Path) -> dict[str, Any]:
    """Launch a training command in four processes, kill process 1 behind step 6 and stop process 2 behind step 12, and wait for the end.

    Args:
      command: `ja-llm train ...` with CHECKPOINT_PERIOD 5 and a STEP_TIMEOUT.
      run: its MODEL_DIR.
      log: file for what the launcher says.

    Returns:
      {"killed": seconds from SIGKILL to its line, "stopped": seconds from SIGSTOP to the watchdog's sentence, "waited": the ages in these
      sentences, "restarted": seconds from SIGSTOP to the launcher's line, "restarts", "goodput": share, "seconds": {kind: seconds}, "wall"}.

    Raises:
      AssertionError: something did not come; with the end of the log.
    """
    flags = ["--processes=4", "--device=cpu", "--backoff=0.5", "--grace=30"]
    with open(log, "w") as file:
        words = [sys.executable, "-m", "ja_llm", "launch", "local", *flags, "--", *command]
        launcher = subprocess.Popen(words, stdout=file, stderr=file, env={**os.environ, "XLA_FLAGS": ""})

    def steps() -> int:
        path = run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def until(check: Callable[[], Any], seconds: float = 600) -> float:
        deadline = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < deadline and launcher.poll() is None, log.read_text()[-3000:]
            time.sleep(0.005)
        return time.monotonic()

    try:
        until(lambda: steps() >= 6)
        os.kill(child(launcher.pid, 1), signal.SIGKILL)
        killed = time.monotonic()
        found = until(lambda: KILLED in log.read_text())
        # Between the checkpoints at 10 and 15, which STEP_TIMEOUT does not time.
        until(lambda: steps() >= 9)
        second = child(launcher.pid, 2)
        until(lambda: steps() >= 12)
        os.kill(second, signal.SIGSTOP)
        stopped = time.monotonic()
        named = until(lambda: SILENT in log.read_text())
        again = until(lambda: RESTARTED in log.read_text())
        code = launcher.wait(timeout=900)
        assert code == 0, log.read_text()[-3000:]
    finally:
        launcher.terminate()
    said = log.read_text()
    told = re.search(r"goodput ([\d.]+) % of (\d+) s \((.*)\), (\d+) restarts", said)
    assert told is not None, said[-3000:]
    return {
        "killed": found - killed,
        "stopped": named - stopped,
        "waited": [float(n) for n in re.findall(r"has waited ([\d.]+) s for .*" + re.escape(SILENT), said)],
        "restarted": again - stopped,
        "restarts": int(told[4]),
        "goodput": float(told[1]) / 100,
        "wall": int(told[2]),
        "seconds": {part.rsplit(" ", 2)[0]: float(part.rsplit(" ", 2)[1]) for part in told[3].split(", ")},
    }


def losses(run: Path) -> list[float]:
    """The loss of each step of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def main() -> None:
    """Run it disturbed and undisturbed, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=30.0, help="STEP_TIMEOUT in seconds")
    args = parser.parse_args()
    from tests.train.conftest import MODEL_GIN, Training, build_cache  # it brings pytest and SentencePiece's trainer along

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "model.gin").write_text(MODEL_GIN)
        training = Training(build_cache(folder / "tokens"), folder / "model.gin")
        alone = training.run(folder / "alone", args.steps)
        assert alone.returncode == 0, alone.stderr
        command = training.command(folder / "four", args.steps, EVAL_PERIOD=10_000, STEP_TIMEOUT=args.timeout)
        found = disturbed(command, folder / "four", folder / "launcher.log")
        ours, theirs = losses(folder / "four"), losses(folder / "alone")
    assert len(ours) == len(theirs) == args.steps, (len(ours), len(theirs))
    difference = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    value = {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "software": manifest.software("jax", "jaxlib"),
        "load_average": os.getloadavg()[0],
        "settings": vars(args),
        **found,
        "largest_relative_difference_of_a_loss": difference,
        "losses_equal": math.isfinite(difference) and difference <= 1e-5,
    }
    write_json(RESULT, value)
    print(json.dumps({name: value[name] for name in ("killed", "stopped", "waited", "restarts", "goodput", "losses_equal")}))


if __name__ == "__main__":
    main()
