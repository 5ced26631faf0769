"""A run of the whole chain that is killed at any moment, or whose disk fills up: the same command ends in the same bytes."""

import hashlib
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beam_pipelines import corpus
from ja_llm import manifest

STAGES = ["extract", "language", "minhash", "dedup", "annotate", "select", "modify", "host_filter", "decontaminate", "split"]
ITEM = "富士山の標高は三千七百七十六メートルである。"


def bindings(items: Path) -> list[str]:
    return [
        f"corpus.Corpus.stages = {STAGES!r}",
        "corpus.Corpus.shard_bytes = 6000",
        "corpus.Split.heldout_share = 0.3",
        "corpus.Split.split_by = 'document'",
        "corpus.Modify.punctuation = True",
        "corpus.Modify.personal = ('phone',)",
        "corpus.HostFilter.patterns = ('bad.*',)",
        f"corpus.Decontaminate.items = ({str(items)!r},)",
        "corpus.Decontaminate.action = 'cut'",
    ]


@pytest.fixture(scope="module")
def inputs(web, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    (folder / "items.jsonl").write_text(json.dumps({"task": "niilc", "item": "1", "texts": [ITEM]}))

    def page(i, text):
        host = "bad" if i % 7 == 3 else f"site{i % 3}"
        return {"url": f"http://{host}.example/{i}", "body": web.html(text)}

    texts = [web.ja_text(i) for i in range(16)]
    texts[1] += "\n電話は03-1234-5678です。"
    texts[4] += f"\n{ITEM}"
    texts[5] = texts[5].replace("、", "，")
    for name, part in (("a", range(8)), ("b", range(8, 16)), ("c", range(3))):
        web.write_warc(folder / f"{name}.warc.gz", [page(i + 100 * (name == "c"), texts[i]) for i in part])
    return folder


def digest(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and ".work" not in p.parts and p.name != "timings.json"]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def build(inputs: Path, output: Path, workers: int = 1) -> None:
    """The command, in a process group of its own if it is a child."""
    if multiprocessing.parent_process():
        os.setsid()
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    corpus.build_corpus([str(inputs / "*.warc.gz")], output, gin_bindings=bindings(inputs / "items.jsonl"), workers=workers)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children: how far it is, whatever else the machine does."""
    ticks = 0
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (str(pid), *children):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def start():
    """Starts the command in a fresh process that has the imports behind it; gives the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["beam_pipelines.corpus", "beam_pipelines.runner", "apache_beam", __name__])

    def begin(inputs, output, workers=1):
        child = context.Process(target=build, args=(inputs, output, workers))
        child.start()
        return child

    return begin


@pytest.fixture(scope="module")
def undisturbed(inputs, start, tmp_path_factory):
    """The set as it must be, and the CPU seconds that it takes: the less of two runs, as the first one's caches are cold and others' load adds."""
    digests, seconds = [], []
    for name in ("first", "second"):
        output = tmp_path_factory.mktemp(name) / "corpus"
        child, took = start(inputs, output), 0.0
        while child.is_alive():
            took = max(took, cpu_seconds(child.pid))
            time.sleep(0.005)
        assert child.exitcode == 0
        digests.append(digest(output))
        seconds.append(took)
    assert digests[0] == digests[1]
    value = manifest.read(output, manifest.DOCUMENTS, verify=True)
    tables = {table["stage"]: table for table in value["yields"]}
    assert list(tables) == [name for name in STAGES if name not in ("minhash", "annotate")]
    assert tables["modify"]["modified"] and tables["host_filter"]["dropped"] and tables["decontaminate"]["modified"]
    return digests[0], min(seconds)


def kill_and_go_on(share, inputs, output, start, undisturbed):
    """Kill at this share of the work, with all that it started; returns the stages that had begun."""
    whole, took = undisturbed
    child = start(inputs, output)
    while child.is_alive() and cpu_seconds(child.pid) < share * took:
        time.sleep(0.001)
    killed = child.is_alive()
    if killed:
        os.killpg(child.pid, signal.SIGKILL)
    child.join()
    assert not killed or child.exitcode == -signal.SIGKILL
    begun = {folder.name.rpartition("-")[0] for folder in output.glob(".work/*-*")}
    assert not killed or not (output / "manifest.json").exists() or digest(output) == whole
    again = start(inputs, output)
    again.join()
    assert again.exitcode == 0 and digest(output) == whole
    assert not list(output.rglob(".*.tmp")), "what a killed process left must not stay"
    return killed, begun


def test_killed_at_a_random_moment(inputs, start, undisturbed, tmp_path):
    killed, begun = kill_and_go_on(random.Random(1).uniform(0.5, 0.8), inputs, tmp_path / "out", start, undisturbed)
    assert killed and begun


def living(group: int) -> dict[int, str]:
    """The processes of a group that have not ended, with their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, process_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def wait_for(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_only_the_launcher_killed_its_workers_end_too(inputs, start, tmp_path):
    """As the system does when memory runs out. The lock is free then, so nobody may write on behind the next run.

    Killed as soon as they are there: that is when Beam's own worker waits longest, for a launcher to speak to.
    """
    child = start(inputs, tmp_path / "out", workers=2)
    group = child.pid

    def workers() -> list[str]:
        return [line for line in living(group).values() if "beam_pipelines.worker" in line]

    assert wait_for(lambda: len(workers()) == 2, 60), living(group)
    os.kill(group, signal.SIGKILL)
    child.join()
    try:
        assert wait_for(lambda: not living(group), 20), living(group)
    finally:
        for pid in living(group):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("whole_group", [False, True])
def test_sigterm_ends_as_ctrl_c_does(inputs, tmp_path, whole_group):
    """Sent to the command alone (kill) or to all that it started (a service's stop): one sentence, and no worker stays."""
    output = tmp_path / "out"
    values = [word for value in bindings(inputs / "items.jsonl") for word in ("--gin_bindings", value)]
    command = ["--input", str(inputs / "*.warc.gz"), "--output", str(output), "--workers", "2", *values]
    with (tmp_path / "said").open("wb") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "beam_pipelines.corpus", *command], stderr=said, stdout=said, start_new_session=True
        )
    try:
        assert wait_for(lambda: sum("beam_pipelines.worker" in line for line in living(child.pid).values()) == 2, 90)
        time.sleep(1)  # until they speak with the command: that is what broke off with tracebacks
        (os.killpg if whole_group else os.kill)(child.pid, signal.SIGTERM)
        assert child.wait(30) == 1
        usual = re.compile(r"note: |[\w ]+: \d+/\d+ ")  # before the work, and progress
        told = [line for line in (tmp_path / "said").read_text().splitlines() if not usual.match(line)]
        assert told == ["corpus: stopped; what was finished is kept, the same command goes on from there."]
        assert wait_for(lambda: not living(child.pid), 20), living(child.pid)
    finally:
        for pid in living(child.pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_ten_random_moments(inputs, start, undisturbed, tmp_path):
    draw = random.Random(2)
    runs = [
        kill_and_go_on(share, inputs, tmp_path / f"out{k}", start, undisturbed)
        for k, share in enumerate(draw.uniform(0.02, 0.95) for _ in range(10))
    ]
    assert sum(killed for killed, _ in runs) >= 8  # the others ended before their moment
    assert len({frozenset(begun) for _, begun in runs}) >= 3, "the moments must lie in several stages"


_SMALL_DISK = """
mount -t tmpfs -o size=$2 none "$1" || exit 9
head -c $3 /dev/zero > "$1/filler"
copy=$4; out=$1; shift 4
"$@"; code=$?
[ $code = 1 ] || exit 8
[ -e "$out/corpus/manifest.json" ] && exit 7
rm "$out/filler"
"$@" || exit 6
cp -r "$out/corpus" "$copy"
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_in_the_middle(inputs, undisturbed, tmp_path):
    """A real one: a file system with room for half of what the run writes; freed, the same command goes on."""
    whole, _ = undisturbed
    (disk := tmp_path / "disk").mkdir()
    room, copy = 4 << 20, tmp_path / "copy"
    command = [
        sys.executable,
        "-m",
        "beam_pipelines.corpus",
        "--input",
        str(inputs / "*.warc.gz"),
        "--output",
        str(disk / "corpus"),
    ]
    command += [f"--gin_bindings={binding}" for binding in bindings(inputs / "items.jsonl")]
    script = [
        "unshare",
        "-rm",
        "bash",
        "-c",
        _SMALL_DISK,
        "small",
        str(disk),
        str(room),
        str(room - (120 << 10)),
        str(copy),
        *command,
    ]
    done = subprocess.run(script, capture_output=True, text=True)
    if done.returncode == 9 or "unshare" in done.stderr.partition("\n")[0]:
        pytest.skip(f"this system lets nobody mount a small disk ({done.stderr[-200:]})")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "the disk is full" in line]
    assert len(said) == 1 and "free some space and run the same command again" in said[0] and "Traceback" not in done.stderr
    assert digest(copy) == whole
