"""What is handed to Slurm and gcloud: valid by their own rules, and run here against stand-ins of theirs."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ja_llm.cli import main
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.launch.mounts import parse_mounts
from ja_llm.launch.restarts import Restarts
from ja_llm.launch.slurm import Job
from ja_llm.launch.topology import parse_topology
from ja_llm.launch.tpu_vm import Operator, Pod
from tests.launch.words import HOSTILE


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def shell_is_sound(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        # A quoted argument of the user's may look like a mistake (SC1003, SC2016); the rest of the script may not.
        result = subprocess.run(["shellcheck", "-e", "SC1003,SC2016", str(path)], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Programs of these names on PATH: stand_ins(srun="shell text")."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    def put(**programs: str) -> Path:
        for name, text in programs.items():
            write(folder / name, f"#!/bin/bash\n{text}\n")
        return tmp_path

    return put


# Slurm


SRUN = r"""
while [[ "$1" == --* ]]; do shift; done
pids=()
for rank in 0 1 2; do SLURM_PROCID=$rank "$@" & pids+=($!); done
worst=0
for pid in "${pids[@]}"; do wait "$pid"; code=$?; [ $code -gt $worst ] && worst=$code; done
exit $worst
"""


def slurm(folder: Path, command: list[str], **more) -> subprocess.CompletedProcess:
    (folder / "logs").mkdir(exist_ok=True)
    script = write(folder / "job.sh", Job(name="swallow", command=command, nodes=1, gpus=3, **more).script())
    shell_is_sound(script)
    return subprocess.run(["bash", str(script)], capture_output=True, text=True, env={**os.environ, "SLURM_JOB_ID": "7"})


def test_slurm_hands_a_hostile_command_on_as_it_is(stand_ins):
    folder = stand_ins(
        srun=SRUN, **{"ja-llm": f'exec {sys.executable} -c "import sys; sys.stdout.write(str(sys.argv[1:]) + chr(10))" "$@"'}
    )
    result = slurm(folder, HOSTILE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str([*HOSTILE[1:], "--coordinator_address=auto"])] * 3
    assert not (folder / "hacked").exists()


# One process of three ends with `code`, the others with `others`.
@pytest.mark.parametrize(
    ("code", "others", "ends", "again"),
    [(75, 75, 0, True), (2, 2, 2, False), (1, 75, 1, False), ("kill", 1, 0, True), ("kill", 75, 0, True), (0, 0, 0, False)],
)
def test_slurm_queues_the_job_again_for_what_is_lost_and_not_for_what_failed(stand_ins, code, others, ends, again):
    end = "kill -9 $$" if code == "kill" else f"exit {code}"
    folder = stand_ins(
        srun=SRUN,
        sleep="echo paused $1",
        scontrol='echo "scontrol $*"',
        prog=f'if [ "$SLURM_PROCID" = 1 ]; then {end}; fi\nexit {others}',
    )
    result = slurm(folder, ["prog"])
    assert result.returncode == ends, result.stdout + result.stderr
    assert ("scontrol requeue 7" in result.stdout) == again
    if code not in (0, "kill"):
        assert f"process 1 ended with code {code}" in result.stdout


def test_slurm_pauses_longer_and_longer_and_not_without_end(stand_ins):
    folder = stand_ins(srun=SRUN, sleep="echo paused $1", scontrol="true", prog="exit 75")
    said = [slurm(folder, ["prog"], restarts=3) for _ in range(4)]
    assert [re.findall(r"paused (\d+)", one.stdout) for one in said] == [["5"], ["10"], ["20"], []]
    assert said[3].returncode == 1 and "3 starts again without progress" in said[3].stdout


def test_a_task_outlives_the_signal_that_its_process_saves_at(stand_ins):
    saves = "trap 'echo saved; exit 75' TERM; kill -TERM $PPID $$; for i in 1 2 3; do command sleep 0.1; done; exit 3"
    folder = stand_ins(srun=SRUN, scontrol='echo "scontrol $*"', prog=saves, sleep='[ "$1" = 5 ] || exec /bin/sleep "$1"')
    result = slurm(folder, ["prog"])
    assert result.stdout.count("saved") == result.stdout.count("ended with code 75") == 3, result.stdout
    assert "scontrol requeue" in result.stdout


@pytest.mark.parametrize("logs", ["../elsewhere", "scratch/logs"])
def test_slurm_s_logs_may_stand_anywhere_and_the_container_sees_them(stand_ins, logs):
    folder = stand_ins(srun=f'echo "$@"{SRUN}', scontrol="true", sleep="true", prog="exit 1")
    (inside := folder / "run").mkdir()
    (folder / "link").symlink_to(inside)  # a name whose parent is another one
    given = str(folder / logs) if logs.startswith("scratch") else logs
    script = Job(name="swallow", command=["prog"], nodes=1, gpus=3, logs=given, image="lab/ja_llm:1").script()
    shell_is_sound(write(folder / "job.sh", script))
    env = {**os.environ, "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", f"cd {folder}/link && bash {folder}/job.sh"], capture_output=True, text=True, env=env)
    there = (folder / logs.removeprefix("../")).resolve()
    assert done.returncode == 1 and sorted(path.name for path in (there / "7.codes").iterdir()) == ["0", "1", "2"], done.stderr
    assert f"--container-mounts={folder}/link:{folder}/link,{there}:{there} " in done.stdout


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="Slurm is not installed")
def test_slurm_itself_takes_the_script(tmp_path):
    script = write(tmp_path / "job.sh", Job(name="swallow", command=["true"], nodes=1, gpus=0).script())
    subprocess.run(["sbatch", "--test-only", str(script)], check=True)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--name", "a;touch hacked"], "a name is 40 characters at most"),
        (["--name", "job", "--partition", "a b"], "--partition 'a b': it has a character"),
        (["--name", "job", "--account", "$(id)"], "--account '$(id)'"),
        (["--name", "job", "--time", "1\n#SBATCH --x"], "--time"),
        (["--name", "job", "--logs", "a$(id)"], "--logs 'a$(id)'"),
        (["--name", "job", "--logs", "a:b"], "--logs 'a:b'"),
        (["--name", "job", "--image", "x y"], "--image 'x y'"),
        (["--name", "job", "--nodes", "0"], "at least one node"),
    ],
)
def test_slurm_s_values_are_checked(flags, says, capsys):
    assert main(["launch", "slurm", "--nodes", "1", *flags, "--dry_run", "--", "ja-llm", "train"]) == 2
    assert says in capsys.readouterr().err


# The accelerator types and hosts of Google's own tables (TPU v4, v5e, v5p, v6e).
@pytest.mark.parametrize(
    ("text", "chips", "hosts", "accelerator"),
    [
        ("v4:2x2x2", 8, 2, "v4-16"),
        ("v5e:2x2", 4, 1, "v5litepod-4"),
        ("v5e:2x4", 8, 1, "v5litepod-8"),
        ("v5e:4x4", 16, 4, "v5litepod-16"),
        ("v5e:16x16", 256, 64, "v5litepod-256"),
        ("v5p:2x2x1", 4, 1, "v5p-8"),
        ("v5p:4x4x4", 64, 16, "v5p-128"),
        ("v6e:16x16", 256, 64, "v6e-256"),
    ],
)
def test_slices(text, chips, hosts, accelerator):
    found = parse_topology(text)
    assert (found.chips, found.hosts, found.accelerator) == (chips, hosts, accelerator)


@pytest.mark.parametrize("text", ["v5p", "v9:4x4", "v5p:4x4", "v6e:4x4x4", "v6e:3x3", "v6e:0x4", "v6e:4x4;id"])
def test_slices_that_there_are_not(text):
    with pytest.raises(UsageError, match="--topology"):
        parse_topology(text)


# TPU VMs

# Keeps what it is called with; answers with the next state and the next code of its lists.
GCLOUD = r"""
printf '%q ' "$@" >> calls; echo >> calls
next() { head -n 1 "$1"; sed -i 1d "$1"; }
case "$4" in
  describe) state=$(next states)
    case "$state" in
      "") echo "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource was not found." >&2; exit 1 ;;
      [a-z]*) echo "ERROR: $state" >&2; exit 1 ;;
      *) echo "$state" ;;
    esac ;;
  ssh) case "$*" in *systemd-run*|*"docker run"*) exit "$(next codes)" ;; esac ;;
esac
exit 0
"""


def operate(folder: Path, states: list[str], codes: list[int], limit: int = 3, delete: bool = False, **more) -> list[str]:
    """The verbs that gcloud was asked for."""
    (folder / "states").write_text("".join(f"{state}\n" for state in states))
    (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
    given = {"image": "ghcr.io/lab/ja_llm:1", **more}
    machine = Pod(name="swallow", zone="europe-west4-b", tpu=parse_topology("v6e:4x4"), command=["ja-llm", "train"], **given)
    try:
        assert Operator(machine, Restarts(limit=limit, first=0.01), poll=0.01, delete=delete).run() == 0
    finally:
        calls = (folder / "calls").read_text().splitlines()
    return ["run" if "docker\\ run" in call else call.split()[3] for call in calls]


def test_machines_are_asked_for_waited_for_and_kept_over_a_restart(stand_ins):
    folder = stand_ins(gcloud=GCLOUD)
    verbs = operate(folder, ["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "ACTIVE"], [75, 0])
    assert verbs == ["describe", "create", "describe", "describe", "describe", "ssh", "run", "describe", "run"]


def test_machines_that_were_taken_away_are_asked_for_again(stand_ins):
    folder = stand_ins(gcloud=GCLOUD)
    # gcloud's own code is 1 where the machine is gone: the state says that it is no failure of the run.
    verbs = operate(folder, ["ACTIVE", "ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE"], [1, 0], delete=True)
    assert verbs == [
        "describe",
        "describe",
        "ssh",
        "run",
        "describe",
        "describe",
        "delete",
        "create",
        "describe",
        "ssh",
        "run",
        "delete",
    ]


def test_a_look_that_fails_takes_no_machines_away(stand_ins, capsys):
    folder = stand_ins(gcloud=GCLOUD)
    verbs = operate(folder, ["unavailable", "ACTIVE", "ACTIVE", "unavailable", "connection reset", "ACTIVE"], [75, 0])
    assert verbs == ["describe", "describe", "describe", "ssh", "run", "describe", "describe", "describe", "run"]
    said = capsys.readouterr().err
    assert "gcloud can't tell the state of swallow (ERROR: unavailable)" in said and "taken away" not in said


@pytest.mark.parametrize(("states", "looks"), [(["unavailable"], 5), (["call: PERMISSION_DENIED"], 1)])
def test_a_state_that_can_t_be_told_ends_the_launch(stand_ins, states, looks):
    folder = stand_ins(gcloud=GCLOUD)
    with pytest.raises(JaLlmError, match="gcloud can't tell the state of the request"):
        operate(folder, [*states, *["unavailable"] * 9], [])
    assert len((folder / "calls").read_text().splitlines()) == looks


def test_sigterm_ends_as_ctrl_c_does_and_gives_the_machines_back(stand_ins):
    # The launcher is told to end while the command runs, and again while it tells the workers.
    told = GCLOUD.replace('exit "$(next codes)"', "kill -TERM $PPID; exec /bin/sleep 5").replace(
        "esac ;;\nesac", '*"docker stop"*) kill -TERM $PPID; /bin/sleep 0.6; echo > told ;; esac ;;\nesac'
    )
    assert told.count("kill") == 2
    folder = stand_ins(gcloud=told)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        operate(folder, ["ACTIVE"] * 3, [], delete=True)
    calls = (folder / "calls").read_text().splitlines()
    assert "docker\\ run" in calls[-3] and "docker\\ stop" in calls[-2] and calls[-1].split()[3] == "delete"
    assert (folder / "told").exists()  # the second signal has not cut that short
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_container_on_a_worker_sees_its_folders(tmp_path):
    given = {"name": "swallow", "zone": "europe-west4-b", "tpu": parse_topology("v6e:4x4"), "command": ["true"]}
    machine = Pod(**given, image="i", mounts=parse_mounts(["/mnt/disks/tokens:/mnt/tokens:ro"]))
    machine.check()
    (tmp_path / "x.whl").touch()
    with pytest.raises(UsageError, match="--mount with --wheel"):
        Pod(**given, wheel=str(tmp_path / "x.whl"), mounts=machine.mounts).check()
    assert "-v /mnt/disks/tokens:/mnt/tokens:ro i true" in machine.start()[-2 if "--zone" in machine.start()[-1] else -1]


@pytest.mark.parametrize(("code", "kind"), [(1, JaLlmError), (2, UsageError)])
def test_a_run_that_failed_on_its_workers_is_not_started_again(stand_ins, code, kind):
    folder = stand_ins(gcloud=GCLOUD)
    with pytest.raises(kind, match=f"ended with code {code} on a worker of swallow"):
        operate(folder, ["ACTIVE"] * 3, [code])
    assert (folder / "codes").read_text() == ""


def test_a_worker_that_is_lost_again_and_again_ends_the_launch(stand_ins):
    with pytest.raises(JaLlmError, match="2 starts again without progress; the last code is 255"):
        operate(stand_ins(gcloud=GCLOUD), ["ACTIVE"] * 9, [255] * 9, limit=2)


@pytest.mark.parametrize("way", ["image", "wheel"])
def test_what_is_printed_is_what_runs(stand_ins, capsys, way):
    folder = stand_ins(gcloud=GCLOUD, sudo='printf "%s\\n" "$@" > words')
    (folder / "ja_llm-1-py3-none-any.whl").touch()
    brings = {"image": ["--image", "ghcr.io/lab/ja_llm:1"], "wheel": ["--wheel", "ja_llm-1-py3-none-any.whl"]}[way]
    words = ["launch", "tpu-vm", "--name", "swallow", "--zone", "europe-west4-b", "--topology", "v6e:4x4", *brings]
    (folder / "states").write_text("\nACTIVE\n")
    (folder / "codes").write_text("0\n")
    assert main([*words, "--dry_run", "--", *HOSTILE]) == 0
    printed = write(folder / "printed.sh", "#!/bin/bash\n" + capsys.readouterr().out)
    shell_is_sound(printed)
    assert not (folder / "calls").exists()
    assert main([*words, "--", *HOSTILE]) == 0
    ran = (folder / "calls").read_text()
    (folder / "calls").unlink()
    (folder / "states").write_text("ACTIVE\n")
    (folder / "codes").write_text("0\n")
    subprocess.run(["bash", str(printed)], check=True)
    again = (folder / "calls").read_text()
    assert [one for one in ran.splitlines() if " describe " not in one] == [
        one for one in again.splitlines() if " describe " not in one
    ]
    # On a worker a shell reads it, and the program gets the words as they were given.
    remote = next(
        one
        for one in Pod("swallow", "europe-west4-b", parse_topology("v6e:4x4"), HOSTILE, **{way: "i"}).start()
        if "--command" in one
    )
    subprocess.run(["bash", "-c", remote.split("=", 1)[1]], check=True)
    said = (folder / "words").read_text().splitlines()[-len(HOSTILE) :]
    if way == "wheel":  # systemd reads $NAME, and $$ as $
        assert all("$" not in word.replace("$$", "") for word in said)
        said = [word.replace("$$", "$") for word in said]
    assert said == [*HOSTILE[1:], "--coordinator_address=auto"]
    assert not (folder / "hacked").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"name": "-x"}, "a name is"),
        ({"zone": "a b"}, "--zone"),
        ({"project": "p;id"}, "--project"),
        ({"image": None}, "one of the two"),
        ({"image": None, "wheel": "/nowhere/x.whl"}, "there is no such wheel"),
        ({"runtime": "$(id)"}, "--runtime"),
        ({"mounts": parse_mounts(["gs://lab:/mnt"])}, "no driver"),
    ],
)
def test_a_pod_s_values_are_checked(more, says):
    given = {
        "name": "swallow",
        "zone": "europe-west4-b",
        "tpu": parse_topology("v6e:4x4"),
        "command": ["true"],
        "image": "i",
        **more,
    }
    with pytest.raises(UsageError, match=says):
        Pod(**given).check()


@pytest.mark.parametrize(("verb", "program"), [("slurm", "sbatch"), ("gke", "kubectl"), ("tpu-vm", "gcloud")])
def test_without_its_program_a_launch_is_printed(verb, program, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    more = {"slurm": ["--nodes=2"], "gke": ["--image=i", "--topology=v6e:4x4"]}.get(
        verb, ["--zone=europe-west4-b", "--topology=v6e:4x4", "--image=i"]
    )
    assert main(["launch", verb, "--name=swallow", *more, "--", "ja-llm", "train"]) == 0
    said = capsys.readouterr()
    assert (
        said.err == f"ja-llm launch: {program} is not installed here, so this is printed and not run.\n"
        and "--coordinator_address=auto" in said.out
    )
