"""`ja-llm train` in a process of its own with faults planted in it: `python planted.py PLANTS train ...`, PLANTS as JSON.

{"damaged": {"process": 1, "step": 20}}   that process, and no other, finds the checkpoint of that step damaged
"""

import json
import sys


def damaged(process: int, step: int) -> None:
    import jax

    from ja_llm.train import checkpoints
    from ja_llm.train.checkpoint_errors import Damaged

    read = checkpoints.read_arrays

    def find(item, *arguments, **named):
        if jax.process_index() == process and item.parent.name == str(step):
            raise Damaged("this checkpoint is damaged (planted); remove it.")
        return read(item, *arguments, **named)

    checkpoints.read_arrays = find


PLANTS = {"damaged": damaged}

if __name__ == "__main__":
    from ja_llm.cli import main

    for name, settings in json.loads(sys.argv[1]).items():
        PLANTS[name](**settings)
    sys.exit(main(sys.argv[2:]))
