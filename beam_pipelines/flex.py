"""The corpus job as a Dataflow flex template (`flex_template.json`, `containers/corpus/Dockerfile`).

A flex template starts one pipeline; the corpus job is a chain of them. So the template's pipeline has one element, the job's arguments, and one
worker that walks the chain: by default on its own cores, with input and output in buckets, or with `--stages_runner=DataflowRunner` by
starting each stage as a Dataflow job of its own, with the project, region, service account and image that it was started with. A worker that dies
is replaced by Dataflow, and the chain goes on where it was.

    python -m beam_pipelines.flex --input 'gs://BUCKET/warc/*.warc.gz' --output gs://BUCKET/corpus --preset swallow_v2 \\
        --runner=DataflowRunner --project=P --region=R --temp_location=gs://BUCKET/tmp --sdk_container_image=IMAGE --experiments=use_runner_v2
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from beam_pipelines.corpus import build_corpus
from beam_pipelines.flags import bindings, build_flags
from beam_pipelines.runner import WorkerError, check_options, run_pipeline
from ja_llm.command_line import run
from ja_llm.errors import JaLlmError, UsageError

# Of the template's own pipeline: its name, where its description goes, and how many workers walk the chain.
_OWN = ("job_name", "template_location", "runner", "num_workers", "max_num_workers", "machine_type", "worker_machine_type")


def stage_options(beam_args: Sequence[str], runner: str, more: Sequence[str]) -> list[str]:
    """Beam's options of the stages' jobs: those of the template's own job but what is of it alone.

    Args:
      beam_args: the template's job's, each `--name=value`.
      runner: of the stages; "" for the worker's own cores.
      more: further options of the stages' jobs.

    Raises:
      UsageError: an option is not written as `--name=value`.

    Example:
      >>> stage_options(["--project=p", "--job_name=a", "--runner=DataflowRunner"], "DataflowRunner", ["--max_num_workers=9"])
      ['--project=p', '--runner=DataflowRunner', '--max_num_workers=9']
    """
    if not runner:
        return []
    for option in (*beam_args, *more):
        if not option.startswith("--"):
            raise UsageError(f"{option}: write Beam's options as --name=value, in one word each.")
    inherited = [option for option in beam_args if option[2:].partition("=")[0] not in _OWN]
    return [*inherited, f"--runner={runner}", *more]


def walk_chain(job: dict[str, Any]) -> None:
    """Build the corpus from a worker; `job` holds the arguments of `build_corpus`."""
    try:
        build_corpus(**job)
    except JaLlmError as error:
        raise WorkerError(error) from error


def flags() -> argparse.ArgumentParser:
    """The template's parameters; each name stands in `flex_template.json`."""
    parser = argparse.ArgumentParser(
        prog="python -m beam_pipelines.flex", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    build_flags(parser)
    parser.set_defaults(workers=0)
    parser.add_argument("--stages_runner", default="", help="runner of the stages; without it the worker's own cores")
    parser.add_argument("--stages_options", default="", help="further options of the stages' jobs, separated by spaces")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Start the pipeline. The launcher of a flex template takes its description and starts it; other runners are waited for."""
    argv = list(sys.argv[1:] if argv is None else argv)

    def start() -> None:
        args, rest = flags().parse_known_args(argv)
        check_options(rest)
        more = args.stages_options.split()
        job = {
            "inputs": args.input,
            "output": args.output,
            "preset": args.preset,
            "gin_bindings": bindings(args),
            "beam_args": stage_options(rest, args.stages_runner, more),
            "workers": args.workers,
            "formats": args.format,
        }
        check_options(job["beam_args"])

        def build(pipeline: Any) -> None:
            import apache_beam as beam

            _ = pipeline | "Job" >> beam.Create([job], reshuffle=False) | "Walk the chain" >> beam.Map(walk_chain)

        run_pipeline(build, rest, wait=not any(option.startswith("--template_location") for option in rest))

    return run("flex", start, debug="--debug" in argv)


if __name__ == "__main__":
    sys.exit(main())
