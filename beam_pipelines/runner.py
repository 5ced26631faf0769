"""How a pipeline is run: Beam's own local runner unless the caller names another, and errors as sentences.

Beam's DirectRunner is only a switch: it first tries Prism, a binary that it downloads at run time. The pure Python
runner behind it is named here directly; selected by name it would start its worker processes with empty pipeline
options, so they are handed over as DirectRunner does.
"""

import logging
import multiprocessing
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ja_llm.errors import JaLlmError, UsageError

_LOCAL = (None, "DirectRunner", "FnApiRunner", "SwitchingDirectRunner")
_SENTENCE = re.compile(r"<<ja_llm:((?:(?!<<ja_llm:).)*?)>>", re.DOTALL)  # the innermost: Beam may wrap an exception again


class WorkerError(Exception):
    """Carries a user's sentence from a worker through Beam, which passes on an exception's text but not its type."""

    def __init__(self, sentence: object):
        super().__init__(f"<<ja_llm:{sentence}>>")


def run_pipeline(build: Callable[[Any], None], beam_args: Sequence[str] = (), workers: int = 1, wait: bool = True) -> None:
    """Build a pipeline and run it to its end.

    Args:
      build: adds the transforms to the pipeline that it is given.
      beam_args: Beam's own options, e.g. ["--runner=FlinkRunner", "--flink_master=..."].
      workers: local processes; 0 for one a core. Other runners have their own options for this.
      wait: for its end; a flex template's launcher only hands it over.

    Raises:
      JaLlmError: a worker met something that a user can mend.
      UsageError: an option that no Beam class knows, or one that the runner needs is absent.
    """
    _quiet()
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    options = PipelineOptions(list(beam_args))
    runner: Any = None
    if options.view_as(StandardOptions).runner in _LOCAL:
        runner, options = _local_runner(list(beam_args), workers or multiprocessing.cpu_count())
    try:
        pipeline = beam.Pipeline(runner=runner, options=options)
    except (ValueError, ImportError) as error:  # an option that the runner needs, or its package
        raise UsageError(f"{_refusal(error)}; see docs/corpus.md for the options of each runner.") from error
    build(pipeline)
    try:
        result = pipeline.run()
        if wait:
            result.wait_until_finish()
    except Exception as error:
        if str(error).startswith("KeyboardInterrupt"):  # Beam makes an error of what it was stopped with
            raise KeyboardInterrupt from error
        sentence = _SENTENCE.search(f"{error} {error.__cause__ or ''}")
        if sentence is None:
            raise
        raise JaLlmError(sentence[1]) from error


def _quiet() -> None:
    """Quieten Beam: it also warns of optional packages that nothing here needs, some of it through the root logger."""
    # An error comes back as an exception; Beam would print its traceback besides.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    if _not_about_apitools not in logging.getLogger().filters:
        logging.getLogger().addFilter(_not_about_apitools)


def _not_about_apitools(record: logging.LogRecord) -> bool:
    return "apitools not found" not in record.getMessage()


def _refusal(error: Exception) -> str:
    """What Beam says against the options, in one line."""
    lines = [line.strip(" .") for line in str(error).splitlines() if line.strip()]
    return f"Beam refuses the options: {' '.join(lines)[:300]}"


def names_runner(beam_args: Sequence[str]) -> str | None:
    """The runner that the options name, if it is none of the local ones."""
    _quiet()
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    named = PipelineOptions(list(beam_args)).view_as(StandardOptions).runner
    return None if named in _LOCAL else str(named)


def check_options(beam_args: Sequence[str]) -> None:
    """Refuse an option that no Beam class knows: Beam itself ignores it with a warning.

    Raises:
      UsageError: names the option.
    """
    _quiet()
    from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

    parser = _BeamArgumentParser(allow_abbrev=False)
    for cls in {c.__name__: c for c in PipelineOptions.__subclasses__()}.values():
        cls._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(beam_args))
    if unknown:
        quote = "" if unknown[0].startswith("-") else " (a pattern of several files is to be quoted: '*.gz')"
        raise UsageError(f"{unknown[0]}: neither this command nor Beam has such an option; see --help{quote}.")


def _local_runner(beam_args: list[str], workers: int) -> tuple[Any, Any]:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    environment = None
    if workers > 1 and not any("direct_running_mode" in a for a in beam_args):
        # Beam's own multi_processing mode breaks on a space in the interpreter's path and lets workers log everything.
        # `exec`: the worker is a child of this process, not of a shell, and ends with it.
        command = f"exec {shlex.quote(sys.executable)} -m beam_pipelines.worker {os.getpid()}"
        environment = SubprocessSDKEnvironment.from_command_string(command)
        beam_args += [f"--direct_num_workers={workers}"]
    options = PipelineOptions([*(a for a in beam_args if not a.startswith("--runner")), "--runner=FnApiRunner"])
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return FnApiRunner(default_environment=environment, provision_info=ExtendedProvisionInfo(info)), options
