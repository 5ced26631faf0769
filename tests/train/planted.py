"""`ja-llm train` in a process of its own with faults planted in it: `python planted.py PLANTS train ...`, PLANTS as JSON.

{"damaged": {"process": 1, "step": 20}}   that process, and no other, finds the checkpoint of that step damaged
{"record": {"path": "ids"}}               each batch that is read appends a line: [step, shard, shards, [[task, row], ...]]
{"slow_save": {"seconds": 0.5}}           so long a save stays under its temporary name
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


def record(path: str) -> None:
    from ja_llm.data.stages import StagedBatches

    read = StagedBatches.at

    def at(self, step, shard, shards):
        source = self.sources[self.schedule.stage(step)]
        line = json.dumps([step, shard, shards, source._rows(self.schedule.data_step(step), shard, shards)])
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        return read(self, step, shard, shards)

    StagedBatches.at = at


def slow_save(seconds: float) -> None:
    import time

    from orbax.checkpoint._src.path.atomicity import AtomicRenameTemporaryPath

    finalize = AtomicRenameTemporaryPath.finalize

    async def slowly(self, *arguments, **named):
        time.sleep(seconds)
        return await finalize(self, *arguments, **named)

    AtomicRenameTemporaryPath.finalize = slowly


PLANTS = {"damaged": damaged, "record": record, "slow_save": slow_save}

if __name__ == "__main__":
    from ja_llm.cli import main

    for name, settings in json.loads(sys.argv[1]).items():
        PLANTS[name](**settings)
    sys.exit(main(sys.argv[2:]))
