"""`ja-llm train` in a process of its own with faults planted in it: `python planted.py PLANTS train ...`, PLANTS as JSON.

{"damaged": {"process": 1, "step": 20}}   that process, and no other, finds the checkpoint of that step damaged
{"record": {"path": "ids"}}               each batch that is read appends a line: [data step, shard, shards, [[task, row], ...]]
{"slow_save": {"seconds": 0.5}}           so long a save stays under its temporary name
{"unreadable": {"process": 1, "step": 7}} that process, and no other, can't read the batch of that data step
{"silence": {"seconds": 6}}               so long a process of several may give no sign of life
"""

import json
import sys


def damaged(process: int, step: int) -> None:
    import jax

    from ja_llm.train import stored_arrays
    from ja_llm.train.checkpoint_errors import Damaged

    read = stored_arrays.read_arrays

    def find(item, *arguments, **named):
        if jax.process_index() == process and item.parent.name == str(step):
            raise Damaged("this checkpoint is damaged (planted); remove it.")
        return read(item, *arguments, **named)

    stored_arrays.read_arrays = find


def record(path: str) -> None:
    from ja_llm.data.batches import BatchSource

    local = BatchSource.local

    def noted(self, data_step, shard, shards):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps([data_step, shard, shards, self._rows(data_step, shard, shards)]) + "\n")
        return local(self, data_step, shard, shards)

    BatchSource.local = noted


def slow_save(seconds: float) -> None:
    import time

    from orbax.checkpoint._src.path.atomicity import AtomicRenameTemporaryPath

    finalize = AtomicRenameTemporaryPath.finalize

    async def slowly(self, *arguments, **named):
        time.sleep(seconds)
        return await finalize(self, *arguments, **named)

    AtomicRenameTemporaryPath.finalize = slowly


def unreadable(process: int, step: int) -> None:
    import jax

    from ja_llm.data.stages import StagedBatches
    from ja_llm.errors import JaLlmError

    local = StagedBatches.local

    def find(self, position, *arguments):
        if jax.process_index() == process and position == (0, step):
            raise JaLlmError("tokens/c/3: this shard can't be read (planted); make the cache again.")
        return local(self, position, *arguments)

    StagedBatches.local = find


def silence(seconds: float) -> None:
    from ja_llm.train import watchdog

    watchdog.SILENCE = seconds


PLANTS = {"damaged": damaged, "record": record, "slow_save": slow_save, "unreadable": unreadable, "silence": silence}

if __name__ == "__main__":
    from ja_llm.cli import main

    for name, settings in json.loads(sys.argv[1]).items():
        PLANTS[name](**settings)
    sys.exit(main(sys.argv[2:]))
