"""A process as `ja-llm launch local` starts it, without JAX: writes steps, and does at its first start what its plan says.

python member.py RUN '{"step": 3, "who": 1, "does": "kill"}' [joining flags]
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

run, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
flags = dict(word.lstrip("-").split("=") for word in sys.argv[3:])
index = int(flags.get("process_index", 0))
asked: list[int] = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: asked.append(number))

state = run / f"steps.{index}"
first = int(state.read_text()) if state.exists() else 0
print(f"process {index} of {flags.get('process_count', 1)} begins at step {first}", flush=True)
for step in range(first, plan.get("steps", 8)):
    if index == 0:
        with open(run / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": step}) + "\n")
    if asked:
        print(f"process {index} is saved at step {step}", flush=True)
        sys.exit(75 if asked[0] == signal.SIGTERM else 1)
    if step == plan.get("step") and index == plan.get("who") and (first == 0 or plan.get("always")):
        state.write_text(str(step if plan.get("always") else step + 1))
        if plan["does"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if plan["does"] == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if plan["does"] == "deaf":
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(60)
        sys.exit(plan["does"])
    state.write_text(str(step + 1))
    time.sleep(plan.get("pace", 0.05))
    while plan.get("does") == "stop" and first == 0 and step == plan["step"] and not asked:
        time.sleep(0.05)  # as a collective that the stopped one never comes to
