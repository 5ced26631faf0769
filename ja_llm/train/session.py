"""All that is open while a run trains: its folder's lock, checkpoints, signals, clocks; and what its errors are said to be."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from ja_llm import sharding, storage
from ja_llm.errors import JaLlmError
from ja_llm.files import write_text
from ja_llm.models.config import DecoderConfig
from ja_llm.train import failures, maintenance, memory, wandb_run
from ja_llm.train.checkpoints import Checkpoints, write_model_files
from ja_llm.train.goodput import Goodput
from ja_llm.train.ledger import lock_run, write_config
from ja_llm.train.model_info import model_info
from ja_llm.train.monitors import Monitors
from ja_llm.train.preparation import Data, Prepared
from ja_llm.train.processes import Stopped, Stopping, stop_on_signals, together
from ja_llm.train.run_config import RunConfig
from ja_llm.train.step import StepOptions
from ja_llm.vocab.base import Tokenizer

# Seconds that the others give a process which looks for what would fit into memory, a few compilations; it may be killed meanwhile.
_EXPLAINS = 600.0


class Session(NamedTuple):
    """What the loop uses of it.

    Attributes:
      checkpoints: the run's.
      monitors: watchdog, goodput and profiler, which are told of each phase.
      goodput: the run's stopwatch.
      stopping: says whether to save and end.
      spool: files that grow.
      wandb: W&B's run, or None.
      writes: whether this process writes (process 0 does).
    """

    checkpoints: Checkpoints
    monitors: Monitors
    goodput: Goodput
    stopping: Stopping
    spool: storage.Spool
    wandb: Any
    writes: bool


@contextlib.contextmanager
def opened(
    config: RunConfig,
    prepared: Prepared,
    model: DecoderConfig,
    tokenizer: Tokenizer,
    data: Data,
    compile_step: memory.Compile,
    *,
    config_text: str,
    begun: float,
) -> Iterator[Session]:
    """Take the run directory, write what describes the run, and open the rest for the length of the block.

    Args:
      config: the run.
      prepared: laid out and checked.
      model: the decoder's configuration.
      tokenizer: of data and model.
      data: identity of the data.
      compile_step: compiles a step, to find what would fit where memory runs out.
      config_text: as of `ja_llm.train.loop.run`.
      begun: likewise.

    Raises:
      UsageError: the folder holds another run, or another process trains in it.
      JaLlmError: it can't be written; what the block raises, in sentences.
    """
    writes, directory = jax.process_index() == 0, prepared.directory
    lock: Any = contextlib.ExitStack()
    spool = storage.Spool(directory)
    with together():  # what the first process refuses, all leave with
        if writes:
            lock = lock_run(directory)
            done = prepared.open_ledger()
            write_model_files(directory, model, tokenizer)
            write_text(directory / "model-info.txt", model_info(prepared.plan, model, prepared.mesh, data.length))
            if config_text:
                write_config(directory, config_text, done)
    checkpoints = Checkpoints(directory, config.keep_checkpoints, keep_period=config.keep_period, best=config.keep_best)
    goodput = Goodput(directory / "goodput.json" if writes else None, begun)
    rows = data.batch_size // sharding.parts(prepared.mesh, prepared.rows.spec[0])
    with (
        contextlib.closing(lock),
        contextlib.closing(spool),
        failures.last(*(goodput.write, spool.mirror) if writes else ()),  # what an end without tidying up would lose
        stop_on_signals() as stopping,
        maintenance.watched(config.maintenance, stopping.ask),
        sharding.use(prepared.mesh, config.rules),
        contextlib.closing(checkpoints),
        Monitors(config, goodput, spool.folder) as monitors,
        wandb_run.opened(config.wandb_project if writes else None, directory, spool.folder) as wandb,
        failures.last(*[functools.partial(wandb.close, failed=True)] if wandb else ()),
        _in_sentences(goodput, compile_step, model, config.step, rows),
    ):
        yield Session(checkpoints, monitors, goodput, stopping, spool, wandb, writes)


@contextlib.contextmanager
def _in_sentences(
    goodput: Goodput, compile_step: memory.Compile, model: DecoderConfig, options: StepOptions, rows: int
) -> Iterator[None]:
    """Turn "out of memory" into the sentence that says what would fit, and a lost process into an exit to restart on."""
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt as error:
        failures.post(error)
        raise
    except Exception as error:  # XLA's own kinds
        failures.leave_if_lost(error)
        said: Exception = error
        if memory.is_out_of_memory(error) and not isinstance(error, JaLlmError):
            explain = functools.partial(memory.explain, compile_step, model, options, rows, needed=None)
            if (sentence := memory.elsewhere(goodput.current)) is None:
                # The others are told at once and wait: what would fit is found by compiling, which takes minutes.
                said = explain(limit=None)
                failures.post(said, stays=_EXPLAINS)
                try:
                    said = explain(limit=memory.device_bytes())
                finally:
                    failures.post(said)  # whatever came of it: the others need wait no longer
            else:
                said = JaLlmError(sentence)
        failures.post(said)  # at once: a save in the background, which is waited for, waits for the others
        if said is error:
            raise
        raise said from error
