"""`ja-llm launch`: one training command in many processes, here, on a TPU pod, under GKE or Slurm."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from ja_llm.command_line import path
from ja_llm.commands.parsing import add_group, add_verb
from ja_llm.launch.flags import HARDWARE

_TOPOLOGY = "slice as VERSION:SHAPE, e.g. v5p:4x4x4 (as ja-llm compile takes it; that has no v4)"
_COMMAND = "the command, behind two dashes: -- ja-llm train --gin_file=..."


def launch(verbs) -> None:
    group = add_group(verbs, "launch", "Run one training command in many processes, and again when one is lost.")
    _local(group)
    _tpu_vm(group)
    _gke(group)
    _slurm(group)


def _shared(parser, restarts: str) -> None:
    parser.add_argument("command", nargs="...", metavar="-- COMMAND", help=_COMMAND)
    parser.add_argument("--dry_run", action="store_true", help="print exactly what would run, and stop")
    parser.add_argument(
        "--max_restarts", type=int, default=10, metavar="N", help=f"starts again {restarts}; 0 for never (default: 10)"
    )


def _local(group) -> None:
    def handler(args, rest):
        from ja_llm.errors import UsageError
        from ja_llm.launch.command import check_command, macro
        from ja_llm.launch.local import Launch, Supervisor, environments
        from ja_llm.launch.restarts import Restarts

        command = check_command(args.command)
        if args.processes < 1 or args.max_restarts < 0:
            raise UsageError(
                f"--processes {args.processes} --max_restarts {args.max_restarts}: at least one process, no negative limit."
            )
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
    parser.add_argument(
        "--device", choices=("auto", "cpu", "gpu"), default="auto", help="where they compute (default: JAX's own choice)"
    )
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
    parser.add_argument(
        "--grace", type=float, default=60.0, metavar="S", help="seconds for an orderly end before SIGKILL (default: 60)"
    )
    parser.add_argument(
        "--backoff", type=float, default=5.0, metavar="S", help="first pause; each is twice the one before, at most 300"
    )


def _only_printed(args, program: str, text: Callable[[], str]) -> bool:
    """Print what would run, where that is asked for or nothing else is possible."""
    if not args.dry_run and shutil.which(program) is None:
        print(f"ja-llm launch: {program} is not installed here, so this is printed and not run.", file=sys.stderr)
    elif not args.dry_run:
        return False
    print(text())
    return True


def _mount(parser, what: str) -> None:
    parser.add_argument("--mount", action="append", default=[], metavar="SOURCE:PATH[:ro]", help=what)


def _tpu_vm(group) -> None:
    def handler(args, rest):
        from ja_llm.launch.command import check_command
        from ja_llm.launch.mounts import parse_mounts
        from ja_llm.launch.restarts import Restarts
        from ja_llm.launch.topology import parse_topology
        from ja_llm.launch.tpu_vm import Operator, Pod

        pod = Pod(
            name=args.name,
            zone=args.zone,
            tpu=parse_topology(args.topology),
            command=check_command(args.command),
            project=args.project,
            wheel=args.wheel,
            image=args.image,
            runtime=args.runtime,
            spot=args.spot,
            flags=not args.no_flags,
            mounts=parse_mounts(args.mount),
        )
        pod.check()
        if not _only_printed(args, "gcloud", lambda: pod.dry_run(args.delete)):
            return Operator(pod, Restarts(limit=args.max_restarts), args.poll, args.delete).run()
        return None

    parser = add_verb(
        group,
        "tpu-vm",
        handler,
        "A TPU VM pod: a queued resource, ja_llm on all workers, the command on all workers, again when one is lost.",
        "ja-llm launch tpu-vm --name swallow --zone europe-west4-b --topology v6e:16x16 --image ghcr.io/lab/ja_llm:1 --dry_run \\\n    -- ja-llm train --gin_file=runs/continue.gin --gin.MODEL_DIR=gs://lab/runs/ja",
    )
    _shared(parser, "without progress (a start that lasted an hour) between them")
    parser.add_argument("--name", required=True, help="of the queued resource and its node")
    parser.add_argument("--zone", required=True, help="e.g. europe-west4-b")
    parser.add_argument("--project", help="default: gcloud's own")
    parser.add_argument("--topology", required=True, metavar="T", help=_TOPOLOGY)
    parser.add_argument("--wheel", type=path, metavar="FILE", help="wheel of ja_llm that is installed on the workers; or")
    parser.add_argument("--image", metavar="NAME", help="container with ja_llm (containers/train/Dockerfile)")
    _mount(
        parser,
        "folder of the workers that the container sees, read only with :ro, e.g. /mnt/disks/tokens:/mnt/tokens:ro (repeat)",
    )
    parser.add_argument("--runtime", metavar="VERSION", help="TPU software version (default: the usual one of the TPU's version)")
    parser.add_argument("--spot", action="store_true", help="machines that may be taken away; they are asked for again")
    parser.add_argument(
        "--delete", action="store_true", help="give the machines back at the end, however it comes (Ctrl-C and SIGTERM, too)"
    )
    parser.add_argument(
        "--poll", type=float, default=30.0, metavar="S", help="seconds between two looks at the queue (default: 30)"
    )
    parser.add_argument("--no_flags", action="store_true", help="set no compiler flags (docs/pod.md lists them)")


def _gke(group) -> None:
    def handler(args, rest):
        import subprocess

        from ja_llm.launch.command import check_command
        from ja_llm.launch.gke import JobSet
        from ja_llm.launch.mounts import parse_mounts
        from ja_llm.launch.topology import parse_topology

        text = JobSet(
            name=args.name,
            image=args.image,
            command=check_command(args.command),
            tpu=parse_topology(args.topology) if args.topology else None,
            slices=args.slices,
            hardware=args.hardware,
            nodes=args.nodes,
            restarts=args.max_restarts,
            grace=args.grace,
            flags=not args.no_flags,
            namespace=args.namespace,
            queue=args.queue,
            service_account=args.service_account,
            spot=args.spot,
            mounts=parse_mounts(args.mount),
        ).yaml()
        if _only_printed(args, "kubectl", lambda: text.rstrip()):
            return 0
        return 0 if subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True).returncode == 0 else 1

    parser = add_verb(
        group,
        "gke",
        handler,
        "A JobSet for GKE: all pods start again when one is lost, and none when the run failed by itself.",
        "ja-llm launch gke --name swallow --image ghcr.io/lab/ja_llm:1 --topology v5p:4x4x4 --dry_run \\\n    -- ja-llm train --gin_file=runs/continue.gin --gin.MODEL_DIR=gs://lab/runs/ja",
    )
    _shared(parser, "of the whole, in all")
    parser.add_argument("--name", required=True, help="of the JobSet")
    parser.add_argument("--image", required=True, metavar="NAME", help="container with ja_llm (containers/train/Dockerfile)")
    _mount(
        parser,
        "what the container sees: gs://BUCKET/FOLDER (Cloud Storage FUSE), pvc://CLAIM or a node's /FOLDER, read only with :ro, "
        "e.g. gs://lab/tokens:/mnt/tokens:ro (repeat)",
    )
    parser.add_argument("--topology", metavar="T", help=_TOPOLOGY)
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="slices as one run (default: 1)")
    parser.add_argument("--hardware", choices=("a100", "h100", "h200"), help="GPU nodes in place of a slice")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="with --hardware: machines of eight GPUs (default: 1)")
    parser.add_argument(
        "--grace", type=int, default=300, metavar="S", help="seconds to save in when a pod is asked to end (default: 300)"
    )
    parser.add_argument("--namespace", help="default: kubectl's own")
    parser.add_argument("--queue", help="Kueue's local queue")
    parser.add_argument("--service_account", metavar="NAME", help="of the pods: who may write to the bucket")
    parser.add_argument("--spot", action="store_true", help="only nodes that may be taken away")
    parser.add_argument("--no_flags", action="store_true", help="set no compiler flags (docs/pod.md lists them)")


def _slurm(group) -> None:
    def handler(args, rest):
        import subprocess

        from ja_llm.launch.command import check_command
        from ja_llm.launch.slurm import Job

        text = Job(
            name=args.name,
            command=check_command(args.command),
            nodes=args.nodes,
            gpus=args.gpus,
            hardware=args.hardware,
            time=args.time,
            notice=args.notice,
            logs=args.logs,
            restarts=args.max_restarts,
            partition=args.partition,
            account=args.account,
            image=args.image,
        ).script()
        if _only_printed(args, "sbatch", lambda: text.rstrip()):
            return 0
        Path(args.logs).mkdir(parents=True, exist_ok=True)  # Slurm ends a job without a word whose log can't be written
        return 0 if subprocess.run(["sbatch"], input=text, text=True).returncode == 0 else 1

    parser = add_verb(
        group,
        "slurm",
        handler,
        "A batch script for Slurm: one process a GPU, queued again when one is lost or the time is over.",
        "ja-llm launch slurm --name swallow --nodes 16 --gpus 8 --hardware h100 --dry_run \\\n    -- ja-llm train --gin_file=runs/continue.gin --gin.MODEL_DIR=runs/ja",
    )
    _shared(parser, "without progress (a start that lasted an hour) between them")
    parser.add_argument("--name", required=True, help="of the job")
    parser.add_argument("--nodes", type=int, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--gpus", type=int, default=8, metavar="N", help="of each node, a process each; 0 for its CPU (default: 8)"
    )
    parser.add_argument("--hardware", choices=("a100", "h100", "h200", "cpu"), help="set the compiler flags recommended for it")
    parser.add_argument(
        "--time", default="24:00:00", help="limit; the run is saved before it and queued again (default: 24:00:00)"
    )
    parser.add_argument("--notice", type=int, default=300, metavar="S", help="seconds before the limit to save in (default: 300)")
    parser.add_argument("--logs", type=path, default="logs", metavar="DIR", help="folder that all nodes see (default: logs)")
    parser.add_argument("--partition", help="default: the cluster's")
    parser.add_argument("--account", help="default: the cluster's")
    parser.add_argument("--image", metavar="NAME", help="container for srun --container-image (Pyxis)")
