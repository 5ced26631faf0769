"""Slurm: one batch script that starts a process for each GPU (or node) and queues itself again when one is lost.

`jax.distributed` finds the coordinator, the number of processes and each one's own GPU by Slurm's variables (--coordinator_address=auto);
for that each process must see all GPUs of its node, so they are asked for by node and not by task.
"""

import dataclasses
import shlex

from ja_llm.errors import UsageError
from ja_llm.launch.command import check_name, check_word, joined_by_itself
from ja_llm.launch.flags import environment, hardware
from ja_llm.launch.restarts import FAILED, LONG, MISUSED

_SCRIPT = r"""
set -uo pipefail
{exports}
# Each task leaves its code where all see it: of a task that srun ends for another's sake only the signal is known.
logs=$(realpath -m {logs}) || exit {failed}  # whole, as a container has other parents
codes="$logs/$SLURM_JOB_ID.codes"
rm -rf "$codes" && mkdir -p "$codes"
begun=$SECONDS
# The shell of a task is sent the signals, too, and must outlive them: the process saves at SIGTERM and ends with code 75.
# shellcheck disable=SC2016
srun --label --kill-on-bad-exit=0 --wait=300{container} bash -c '{task}' task "$codes" \
  {command}
code=$?
if [ "$code" -eq 0 ]; then exit 0; fi
grep -H . "$codes"/* | sed 's|.*/|process |; s|:| ended with code |' || true
if ! grep -qxE '1(29|[3-9][0-9])' "$codes"/*; then  # nobody was killed, so who failed did so by itself
  for stop in {misused} {failed}; do
    if grep -qx "$stop" "$codes"/*; then exit "$stop"; fi
  done
fi
# Starts again without progress: an attempt of more than {long} s is progress.
count="$logs/$SLURM_JOB_ID.restarts"
restarts=0
if [ -e "$count" ] && [ $((SECONDS - begun)) -lt {long} ]; then restarts=$(cat "$count"); fi
if [ "$restarts" -ge {limit} ]; then echo "{limit} starts again without progress"; exit {failed}; fi
echo $((restarts + 1)) > "$count"
pause=$((5 * (1 << (restarts < 6 ? restarts : 6))))
echo "a process was lost or asked to end (code $code); the job is queued again in $pause s"
sleep "$pause"
scontrol requeue "$SLURM_JOB_ID"
"""

_TASK = 'trap : TERM; "${@:2}"; code=$?; echo "$code" > "$1/$SLURM_PROCID"; exit "$code"'


@dataclasses.dataclass(frozen=True)
class Job:
    """What `sbatch` is given.

    Attributes:
      name: of the job.
      command: program and arguments of each process.
      nodes: how many.
      gpus: of each node; one process each. 0 for one process a node, on its CPU.
      hardware: whose flags to set (`ja_llm.launch.flags`); None for none.
      time: limit, as Slurm writes it; the job is queued again when it runs out.
      notice: seconds before the limit at which the processes are asked to save and end.
      logs: folder that all nodes see.
      restarts: starts again without progress.
      partition, account: None for the cluster's default.
      image: container for srun's --container-image (Pyxis); None to run on the node itself.
    """

    name: str
    command: list[str]
    nodes: int
    gpus: int
    hardware: str | None = None
    time: str = "24:00:00"
    notice: int = 300
    logs: str = "logs"
    restarts: int = 10
    partition: str | None = None
    account: str | None = None
    image: str | None = None

    def options(self) -> list[str]:
        """The job's #SBATCH options.

        Raises:
          UsageError: a value can't stand in a script.
        """
        if self.nodes < 1 or self.gpus < 0 or self.restarts < 0 or not 10 <= self.notice <= 65535:
            raise UsageError(
                f"--nodes {self.nodes} --gpus {self.gpus} --max_restarts {self.restarts} --notice {self.notice}: "
                "at least one node, no negative number, a notice of 10 to 65535 seconds."
            )
        check_word(
            "--logs", self.logs, r"[A-Za-z0-9_./][-A-Za-z0-9_./@+=]*", "letters, digits, -_./@+=, the first not - + = or @"
        )
        found = [
            f"--job-name={check_name('--name', self.name)}",
            f"--nodes={self.nodes}",
            f"--ntasks-per-node={max(self.gpus, 1)}",
            *([f"--gpus-per-node={self.gpus}"] if self.gpus else []),
            f"--time={check_word('--time', self.time, r'[0-9]+([-:][0-9]+)*')}",
            "--requeue",
            "--open-mode=append",
            f"--signal=TERM@{self.notice}",  # without B: to the processes, not to this script
            f"--output={self.logs}/%x-%j.log",
        ]
        for flag, value in (("partition", self.partition), ("account", self.account)):
            if value is not None:
                found.append(f"--{flag}={check_word('--' + flag, value)}")
        return found

    def script(self) -> str:
        """The batch script.

        Raises:
          UsageError: a value can't stand in it.
        """
        variables = {} if self.hardware is None else environment(self.hardware, {})
        if self.hardware is not None and hardware(self.hardware).kind == "tpu":
            raise UsageError(f"--hardware {self.hardware}: TPUs are not under Slurm; use ja-llm launch tpu-vm or gke.")
        if self.gpus == 0:
            variables["JAX_PLATFORMS"] = "cpu"
        command = shlex.join(joined_by_itself(self.command))
        container = ""
        if self.image is not None:
            image = check_word("--image", self.image, r"[A-Za-z0-9][-A-Za-z0-9_.:/@#+]*")
            container = f' --container-image={image} --container-mounts="$PWD:$PWD,$logs:$logs" --container-workdir="$PWD"'
        body = _SCRIPT.format(
            exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
            logs=shlex.quote(self.logs),
            command=command,
            container=container,
            task=_TASK,
            misused=MISUSED,
            failed=FAILED,
            long=round(LONG),
            limit=self.restarts,
        )
        return "#!/bin/bash\n" + "".join(f"#SBATCH {option}\n" for option in self.options()) + body
