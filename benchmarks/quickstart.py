"""The quickstart as a newcomer runs it, timed: once with one Beam worker, once with two, and once killed in every stage.

    python -m benchmarks.quickstart --out build/quickstart

Each call's closing table must be the same text. Writes benchmarks/results/quickstart.json, which `python -m
benchmarks.readme_tables` puts into docs/quickstart.md.
"""

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.debian_docs import cpu_name
from ja_llm import manifest
from ja_llm.files import write_json

RESULT = Path(__file__).parent / "results" / "quickstart.json"
STAGES = 10
# Seconds into a stage at which it is killed: the long stages later, so that there is something to go on from, the short ones at once.
KILL_AFTER = {2: 0.05, 5: 15.0, 6: 15.0, 7: 2.0, 9: 0.0}


def main() -> None:
    """Run, compare, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/quickstart"), help="emptied first")
    out = parser.parse_args().out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    runs = {"one worker": call(out / "one", ["--workers", "1"]), "two workers": call(out / "two", ["--workers", "2"])}
    runs["again, all finished"] = call(out / "one", ["--workers", "1"])
    killed = [kill(out / "killed", stage) for stage in range(1, STAGES + 1)]
    runs["the last call after a kill in every stage"] = call(out / "killed", [])
    tables = {run["table"] for run in runs.values()}
    value = {
        "what": "ja-llm quickstart with the embedded pages and base",
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "software": manifest.software("jax", "jaxlib", "tensorflow", "apache-beam", "sentencepiece"),
        "table": runs["one worker"]["table"],
        "same_table": len(tables) == 1,
        "runs": {name: {key: run[key] for key in ("seconds", "peak_gib")} for name, run in runs.items()},
        "killed": killed,
    }
    if missed := [k for k in killed if not k["killed"] or k["stage"] != k["meant"]]:
        raise SystemExit(f"these were not killed where they should be: {missed}; change KILL_AFTER")
    write_json(RESULT, value)
    print(f"{value['table']}\n{value['runs']}\nsame table: {value['same_table']}\n{RESULT}")


def command(arguments: list[str]) -> list[str]:
    """The call; the folder has the same name in every run, so that the tables can be compared as text."""
    return [sys.executable, "-m", "ja_llm", "quickstart", "--out", "quickstart", "--device", "cpu", *arguments]


def call(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """One run to its end: closing table, wall seconds, largest resident memory of all its processes together."""
    folder.mkdir(parents=True, exist_ok=True)
    start, peak = time.monotonic(), 0
    with open(folder / "log", "w") as log, open(folder / "table", "w") as table:
        process = subprocess.Popen(command(arguments), cwd=folder, stdout=table, stderr=log)
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{folder}: quickstart ended with {process.returncode}; read {folder / 'log'}")
    return {
        "table": (folder / "table").read_text(),
        "seconds": round(time.monotonic() - start, 1),
        "peak_gib": round(peak / 2**30, 2),
    }


def kill(folder: Path, stage: int) -> dict[str, Any]:
    """Start, wait until `stage` has begun (and some time more in the long ones), send SIGKILL."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"log{stage}"
    with open(path, "w") as log:
        process = subprocess.Popen(command([]), cwd=folder, stdout=log, stderr=log)
        while process.poll() is None and not re.search(rf"^\[ ?{stage}/", path.read_text(), re.MULTILINE):
            time.sleep(0.02)
        time.sleep(KILL_AFTER.get(stage, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = re.findall(r"^\[ ?(\d+)/", path.read_text(), re.MULTILINE)
    return {"meant": stage, "stage": int(last[-1]) if last else 0, "killed": process.returncode == -signal.SIGKILL}


def resident(pid: int) -> int:
    """Bytes of resident memory of a process and its descendants, by /proc (0 where there is none)."""
    children: dict[int, list[int]] = {}
    pages: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        child = int(entry.parent.name)
        children.setdefault(int(fields[1]), []).append(child)
        pages[child] = int(fields[21])
    found, total = [pid], 0
    for process in found:
        total += pages.get(process, 0)
        found += children.get(process, [])
    return total * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
