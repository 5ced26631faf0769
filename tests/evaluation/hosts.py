"""One of several processes that measure tasks as inside training: python hosts.py MODEL ADDRESS COUNT INDEX OUT TASK..."""

import json
import sys
from pathlib import Path

from ja_llm import sharding
from ja_llm.train.processes import join

model, address, count, index, out, *tasks = sys.argv[1:]
join(address, int(count), int(index))  # before anything asks for a device

import jax  # noqa: E402

from ja_llm.evaluation.continuations import load_spread  # noqa: E402
from ja_llm.evaluation.in_loop import task_evaluators  # noqa: E402
from ja_llm.evaluation.runners import Runners  # noqa: E402

samples = []
run = Runners.run
Runners.run = lambda *rest: samples.append(run(*rest)) or samples[-1]

mesh = sharding.make_mesh({"data": 1, "fsdp": 2})
with sharding.use(mesh):
    loaded = load_spread(model, mesh)
    assert not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(loaded.params))
    evaluators = task_evaluators(
        tasks, loaded.config, loaded.tokenizer, data=Path(__file__).parent / "raw", limit=4, batch_size=4
    )
    metrics = {name: evaluate(loaded.params) for name, evaluate in evaluators.items()}
Path(out).write_text(json.dumps([metrics, samples]))
