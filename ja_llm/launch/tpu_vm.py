"""TPU VM pods by gcloud: a queued resource, the wheel or container on all workers, the command on all workers, and again when lost.

Commands and states: Google Cloud, "Manage queued resources" and "Run on a TPU Pod slice". `gcloud ... ssh --worker=all` ends with the first
worker's code that is not 0; whether the machines are still there, the queued resource's state says.
"""

import dataclasses
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ja_llm.command_line import sigterm_as_interrupt
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.launch.command import check_name, check_word, joined_by_itself, line
from ja_llm.launch.flags import environment
from ja_llm.launch.mounts import Mount
from ja_llm.launch.restarts import MISUSED, RESTART, Restarts, lost
from ja_llm.launch.topology import Slice

_READY = "ACTIVE"
_COMING = ("ACCEPTED", "CREATING", "PROVISIONING", "WAITING_FOR_RESOURCES")
_PATIENCE = 5  # looks at the queue that may fail one after the other
_HOPELESS = r"PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|[Ii]nvalid choice|active account"  # gcloud's words for what waiting does not mend
_PYTHON = "python3.11"  # the images' own python3 is older than ours may be


@dataclasses.dataclass(frozen=True)
class Pod:
    """A TPU VM slice and what runs on it.

    Attributes:
      name: of the queued resource and of its node.
      zone, project: where; project None is gcloud's own setting.
      tpu: the slice.
      command: program and arguments on each worker.
      wheel: of ja_llm, on this machine; or
      image: a container with it (containers/train/Dockerfile).
      runtime: TPU software version; None for the version's usual one.
      spot: machines that may be taken away.
      flags: whether to set the recommended compiler flags.
      mounts: folders of each worker that the container sees.
    """

    name: str
    zone: str
    tpu: Slice
    command: list[str]
    project: str | None = None
    wheel: str | None = None
    image: str | None = None
    runtime: str | None = None
    spot: bool = False
    flags: bool = True
    mounts: Sequence[Mount] = ()

    def check(self) -> None:
        """Raises UsageError where a value can't be handed on."""
        check_name("--name", self.name)
        check_word("--zone", self.zone, r"[a-z]+-[a-z]+\d+-[a-z]")
        if self.project is not None:
            check_word("--project", self.project, r"[a-z][-a-z0-9.:]{4,61}[a-z0-9]")
        if self.runtime is not None:
            check_word("--runtime", self.runtime, r"[a-z0-9][-a-z0-9.]*")
        if (self.wheel is None) == (self.image is None):
            raise UsageError("give --wheel FILE.whl or --image NAME: one of the two brings ja_llm to the workers.")
        if self.wheel is not None and (not self.wheel.endswith(".whl") or not Path(self.wheel).is_file()):
            raise UsageError(
                f"--wheel {self.wheel}: there is no such wheel; make one with python -m pip wheel --no-deps -w dist ."
            )
        if self.image is not None:
            check_word("--image", self.image)
        elif self.mounts:
            raise UsageError("--mount with --wheel: without a container the command sees the workers' own folders; leave it out.")
        if others := [mount.source for mount in self.mounts if not mount.of_machine]:
            raise UsageError(
                f"--mount {others[0]}: a TPU VM has no driver for it; mount or copy it on the workers and give their folder as /FOLDER:PATH."
            )

    def _gcloud(self, group: str, verb: str, *words: str) -> list[str]:
        where = [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else [])]
        return ["gcloud", "compute", "tpus", group, verb, *words, *where]

    def create(self) -> list[str]:
        """Ask for the machines."""
        return self._gcloud(
            "queued-resources",
            "create",
            self.name,
            f"--node-id={self.name}",
            f"--accelerator-type={self.tpu.accelerator}",
            f"--runtime-version={self.runtime or self.tpu.facts.runtime}",
            *(["--spot"] if self.spot else []),
        )

    def state(self) -> list[str]:
        """Ask for the state of that."""
        return self._gcloud("queued-resources", "describe", self.name, "--format=value(state.state)")

    def delete(self) -> list[str]:
        """Give the machines back."""
        return self._gcloud("queued-resources", "delete", self.name, "--force", "--quiet")

    def ssh(self, text: str) -> list[str]:
        """A line of a shell on all workers."""
        return self._gcloud("tpu-vm", "ssh", self.name, "--worker=all", f"--command={text}")

    def install(self) -> list[list[str]]:
        """Bring ja_llm to all workers."""
        if self.image is not None:
            return [self.ssh(f"sudo docker pull {shlex.quote(self.image)}")]
        assert self.wheel is not None
        there = f"/tmp/{Path(self.wheel).name}"
        python = f"command -v {_PYTHON} >/dev/null || {{ sudo apt-get update -q && sudo apt-get install -qy {_PYTHON} {_PYTHON}-venv; }}"
        install = f"{_PYTHON} -m venv ~/ja_llm && ~/ja_llm/bin/pip install -q {shlex.quote(there + '[tpu,gcp]')}"
        copy = self._gcloud("tpu-vm", "scp", self.wheel, f"{self.name}:{there}", "--worker=all")
        return [copy, self.ssh(f"{{ {python}; }} && {install}")]

    def start(self) -> list[str]:
        """Run the command on all workers, whatever an earlier start has left there.

        Under a name of its own (a container, a systemd unit), so that it is one and can be ended when the connection is gone.
        """
        variables = environment(self.tpu.generation, {}) if self.flags else {}
        if self.image is not None:
            sets = [f"--env={name}={value}" for name, value in variables.items()]
            run = ["sudo", "docker", "run", "--rm", f"--name={self.name}", "--privileged", "--net=host", *sets]
            run += [*(word for mount in self.mounts for word in ("-v", mount.docker())), self.image]
            command = joined_by_itself(self.command)
        else:
            sets = [f"--setenv={name}={value}" for name, value in variables.items()]
            run = ["sudo", "systemd-run", f"--unit=ja-llm-{self.name}", "--pipe", "--wait", "--collect", "--quiet", *sets]
            program, *words = (word.replace("$", "$$") for word in joined_by_itself(self.command))  # $NAME is systemd's own
            # The shell of the worker knows its user and home, which systemd-run is told.
            path = f'"$HOME/ja_llm/bin/{program}"' if program in ("ja-llm", "python") else line([program])
            who = '--uid="$(id -u)" --working-directory="$HOME" --setenv=HOME="$HOME"'
            return self.ssh(f"{self._end()}; {line(run)} {who} {path} {line(words)}")
        return self.ssh(f"{self._end()}; {line([*run, *command])}")

    def _end(self) -> str:
        """Asks what runs there to save and end, and waits a minute."""
        what = f"docker stop -t 60 {self.name}" if self.image is not None else f"systemctl stop ja-llm-{self.name}"
        return f"sudo {what} >/dev/null 2>&1"

    def stop(self) -> list[str]:
        """End the command on all workers."""
        return self.ssh(f"{self._end()} || true")

    def dry_run(self, delete: bool) -> str:
        """All that may be run, as lines of a shell."""
        lines = ["# once, and again after the machines were taken away:", line(self.create())]
        lines += [f"# until it says {_READY}:", line(self.state()), *map(line, self.install())]
        lines += [f"# again on code {RESTART} and when a worker is lost, after a pause:", line(self.start())]
        if delete:
            lines += ["# at the end:", line(self.delete())]
        else:
            lines += ["# by hand, when the machines are not needed any more (they cost until then):", f"# {line(self.delete())}"]
        return "\n".join(lines)


class Operator:
    """Carries a `Pod` through: machines, installation, runs."""

    def __init__(self, pod: Pod, restarts: Restarts, poll: float = 30.0, delete: bool = False):
        self._pod, self._restarts, self._poll, self._delete = pod, restarts, poll, delete
        self._asked = False

    def run(self) -> int:
        """Until the command has ended well; returns 0.

        Raises:
          UsageError: the command ended with code 2.
          JaLlmError: it failed, the limit of restarts is reached, or gcloud refused.
          KeyboardInterrupt: Ctrl-C or SIGTERM; the workers were told to save and end.
        """
        self._pod.check()
        with sigterm_as_interrupt():
            try:
                return self._keep_running()
            except KeyboardInterrupt:
                self._say("asked to end; the workers are told to save and end")
                subprocess.run(self._pod.stop())
                raise
            finally:
                back = line(self._pod.delete())
                if self._asked and self._delete and subprocess.run(self._pod.delete()).returncode != 0:
                    self._say(f"the machines could not be given back, and cost; try again: {back}")
                elif self._asked and not self._delete:
                    self._say(f"the machines stay, and cost; give them back with: {back}")

    def _keep_running(self) -> int:
        fresh = True
        while True:
            if fresh:
                self._machines()
            since, fresh = time.monotonic(), False
            code = subprocess.run(self._pod.start()).returncode
            if code == 0:
                return 0
            there = self._state() == _READY
            if there and not lost(code) and code != 255:  # 255: ssh itself, a worker that can't be reached
                kind = UsageError if code == MISUSED else JaLlmError
                raise kind(f"the command ended with code {code} on a worker of {self._pod.name}; what it says stands above.")
            pause = self._restarts.next(None, time.monotonic() - since)
            if pause is None:
                raise JaLlmError(
                    f"{self._pod.name}: {self._restarts.limit} starts again without progress; the last code is {code}."
                )
            why = f"a worker ended with code {code}" if there else "the machines were taken away"
            self._say(f"{why}; all start again in {pause:.0f} s (number {self._restarts.done})")
            time.sleep(pause)
            fresh = not there

    def _machines(self) -> None:
        """Have them, with ja_llm on them."""
        state = self._state()
        if state not in (_READY, *_COMING, None):  # SUSPENDED, FAILED: of no use any more
            self._call(self._pod.delete(), "remove the old request")
            state = None
        if state is None:
            self._call(self._pod.create(), "ask for the machines")
        self._asked = True
        while (state := self._state()) != _READY:
            if state not in (*_COMING, None):
                raise JaLlmError(
                    f"{self._pod.name}: the request for machines is {state}; see gcloud compute tpus queued-resources describe."
                )
            self._say(f"{self._pod.name} is {state or 'not known yet'}; looking again in {self._poll:.0f} s")
            time.sleep(self._poll)
        for words in self._pod.install():
            self._call(words, "install ja_llm on the workers")

    def _state(self) -> str | None:
        """The request's state; None where there is none, and only there: a look that fails is repeated.

        Raises:
          JaLlmError: gcloud can't tell.
        """
        for left in reversed(range(_PATIENCE)):
            found = subprocess.run(self._pod.state(), capture_output=True, text=True)
            if found.returncode == 0 and found.stdout.strip():
                return found.stdout.strip()
            if found.returncode != 0 and "NOT_FOUND" in found.stderr:
                return None
            why = (next((row for row in found.stderr.splitlines() if row.strip()), "") or f"code {found.returncode}")[:300]
            if not left or re.search(_HOPELESS, found.stderr):
                break
            self._say(f"gcloud can't tell the state of {self._pod.name} ({why}); looking again in {self._poll:.0f} s")
            time.sleep(self._poll)
        raise JaLlmError(
            f"{self._pod.name}: gcloud can't tell the state of the request ({why}); try {line(self._pod.state())} by hand, then launch again."
        )

    def _call(self, words: list[str], what: str) -> None:
        if (code := subprocess.run(words).returncode) != 0:
            raise JaLlmError(f"gcloud could not {what} (code {code}): {line(words)[:300]}")

    def _say(self, text: str) -> None:
        print(f"ja-llm launch: {text}", file=sys.stderr, flush=True)
