"""`ja-llm launch`: one training command in many processes, here, on a TPU pod, under GKE or Slurm."""

import sys
from pathlib import Path

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_group, add_verb
from ja_llm.launch.flags import HARDWARE

_COMMAND = "the command, behind two dashes: -- ja-llm train --gin_file=..."


def launch(verbs) -> None:
    group = add_group(verbs, "launch", "Run one training command in many processes, and again when one is lost.")
    _local(group)


def _shared(parser, restarts: str) -> None:
    parser.add_argument("command", nargs="...", metavar="-- COMMAND", help=_COMMAND)
    parser.add_argument("--dry_run", action="store_true", help="print exactly what would run, and stop")
    parser.add_argument("--max_restarts", type=int, default=10, metavar="N", help=f"starts again {restarts}; 0 for never (default: 10)")


def _local(group) -> None:
    def handler(args, rest):
        from ja_llm.errors import UsageError
        from ja_llm.launch.command import check_command, macro
        from ja_llm.launch.local import Launch, Supervisor, environments
        from ja_llm.launch.restarts import Restarts

        command = check_command(args.command)
        if args.processes < 1 or args.max_restarts < 0:
            raise UsageError(f"--processes {args.processes} --max_restarts {args.max_restarts}: at least one process, no negative limit.")
        if command[0] == "ja-llm":  # the one that runs here, whatever PATH says
            command = [sys.executable, "-m", "ja_llm", *command[1:]]
        run = args.run or macro(command, "MODEL_DIR")
        run = None if run is None or "://" in run else Path(run)
        plan = Launch(
            command=command,
            processes=args.processes,
            logs=Path(args.logs) if args.logs else Path("launch_logs") if run is None else run.with_name(f"{run.name}.logs"),
            environments=environments(args.processes, args.device, args.gpus, args.cpu_devices, args.hardware),
            run=run,
            silence=args.silence,
            grace=args.grace,
        )
        if args.dry_run:
            print(plan.dry_run())
            return None
        return Supervisor(plan, Restarts(limit=args.max_restarts, first=args.backoff)).run()

    parser = add_verb(
        group,
        "local",
        handler,
        "N processes on this machine: one GPU each, or simulated CPU devices; who is lost is named, and all start again.",
        "ja-llm launch local --processes 4 --device gpu -- ja-llm train --gin_file=runs/continue.gin \\\n    --gin.MODEL_DIR=runs/ja --gin.STEP_TIMEOUT=300",
    )
    _shared(parser, "without progress between them")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where they compute (default: JAX's own choice)")
    parser.add_argument("--gpus", metavar="LIST", help="one each, of these: 0,1,2,3 (default: the first N)")
    parser.add_argument("--cpu_devices", type=int, metavar="N", help="simulated devices of each process, with --device cpu")
    parser.add_argument("--hardware", choices=tuple(HARDWARE), help="set the compiler flags recommended for it (docs/pod.md)")
    parser.add_argument("--logs", type=path, metavar="DIR", help="folder of process-I.log (default: MODEL_DIR.logs)")
    parser.add_argument("--run", type=path, metavar="DIR", help="run directory to watch (default: the command's --gin.MODEL_DIR)")
    parser.add_argument(
        "--silence",
        type=float,
        metavar="S",
        help="start again after S seconds without a line or a step (compiling is silent, too); the trainer's STEP_TIMEOUT is finer",
    )
    parser.add_argument("--grace", type=float, default=60.0, metavar="S", help="seconds for an orderly end before SIGKILL (default: 60)")
    parser.add_argument("--backoff", type=float, default=5.0, metavar="S", help="first pause; each is twice the one before, at most 300")
