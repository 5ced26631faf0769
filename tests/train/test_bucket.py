"""A run in a bucket, against an emulator on loopback: small files, the lease, checkpoints, and a whole run that is killed and gone on with."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ja_llm import storage
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json, write_text
from ja_llm.train.checkpoints import Checkpoints, load_model, model_steps
from ja_llm.train.identity import initial_entry
from ja_llm.train.ledger import lock_run, write_config
from ja_llm.train.metrics import MetricsWriter, read_metrics
from ja_llm.vocab.base import load_tokenizer

SERVER = """
import http.server, sys, time
from http import HTTPStatus
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

http.server.HTTPServer.request_queue_size = 128  # TensorStore asks for more at once than the five that usually may wait


def with_generations(handler):
    # What the emulator lacks of the JSON API: ifGenerationMatch, and the generation of what is downloaded.
    def call(request, response, storage, *rest, **named):
        request.data
        params, query = request.params, request.query
        name = params.get("object_id") or query.get("name", [None])[0]
        try:
            now = storage.get_file_obj(params["bucket_name"], name)["generation"] if name else "0"
        except NotFound:
            now = "0"
        if query.get("ifGenerationMatch", [now])[0] != now:
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif query.get("ifGenerationNotMatch", [None])[0] == now:
            response.status = HTTPStatus.NOT_MODIFIED
        else:
            if handler is download:
                response["x-goog-generation"] = now
            handler(request, response, storage, *rest, **named)

    return call


download = objects.download
for verb in ("download", "insert", "delete"):
    setattr(objects, verb, with_generations(getattr(objects, verb)))

from gcp_storage_emulator.server import create_server

create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket=sys.argv[2]).start()
print("up", flush=True)
time.sleep(86400)
"""


@pytest.fixture(scope="module")
def bucket():
    """gs://bucket, and in this process's environment what leads gcsfs, TensorStore and google-cloud-storage to it."""
    for package in ("gcp_storage_emulator", "gcsfs"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            patch.setenv(name, url)
        # Nobody else is asked who we are.
        patch.setenv("GOOGLE_CLOUD_PROJECT", "none")
        patch.setenv("NO_GCE_CHECK", "true")
        patch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        with subprocess.Popen([sys.executable, "-c", SERVER, str(port), "bucket"], stdout=subprocess.PIPE) as server:
            assert server.stdout.readline() == b"up\n"
            yield "gs://bucket"
            server.kill()


def test_it_is_read_by_gcsfs_also_where_etils_was_used_before(bucket, tmp_path, monkeypatch):
    from etils import epath
    from etils.epath import backend, gpath

    monkeypatch.delenv("EPATH_USE_TF", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as where TensorFlow is installed
    gpath._is_tf_installed.cache_clear()
    assert epath.Path(tmp_path).exists() and gpath._is_tf_installed()  # what orbax does in a run on this machine
    assert storage.place(f"{bucket}/early")._backend is backend.fsspec_backend


def test_small_files(bucket, tmp_path):
    run = storage.absolute(f"{bucket}/small")
    assert not run.exists() and storage.absolute(tmp_path) == tmp_path
    write_json(run / "run.json", {"a": 1})
    assert read_json(run / "run.json") == {"a": 1} and str(run) == f"{bucket}/small"
    with pytest.raises(RuntimeError), storage.written_folder(run / "vocab") as folder:
        (folder / "a").write_text("x")
        raise RuntimeError
    assert not (run / "vocab").exists()
    with storage.written_folder(run / "vocab") as folder:
        (folder / "a").write_text("x")
    with storage.read_folder(run / "vocab") as folder:
        assert [(p.name, p.read_text()) for p in folder.iterdir()] == [("a", "x")]
    with pytest.raises(JaLlmError, match="absent.json: this file does not exist"):
        read_json(run / "absent.json")
    for text in ("one", "one", "two"):
        write_config(run, text, from_step=7)
    assert (run / "config.gin").read_text() == "one" and (run / "config.7.gin").read_text() == "two"
    with pytest.raises(UsageError, match="only local folders"):
        storage.place("s3://bucket/run")
    with pytest.raises(JaLlmError, match=f"{bucket}/small/vocab: there is neither"), storage.read_folder(run / "vocab") as folder:
        load_tokenizer(folder)
    with pytest.raises(JaLlmError, match="gs://nowhere/run/.lock: the bucket can't be used"):
        lock_run(storage.place("gs://nowhere/run"))


def test_metrics_are_mirrored_and_gone_on_with(bucket):
    run = storage.absolute(f"{bucket}/metrics")
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        spool = storage.Spool(run)
        writer = MetricsWriter(spool.folder, start)
        for step in steps:
            writer.write(step, {"loss": step + start / 8})
        writer.close()
        assert not start or not any(line["step"] == 4 for line in lines(run))
        spool.close()
        assert not spool.folder.exists()
    assert lines(run) == [{"step": s, "loss": v} for s, v in ((1, 1.0), (2, 2.0), (3, 3.25), (4, 4.25))]
    assert len(list((run / "tensorboard").iterdir())) == 2


def lines(run):
    with storage.read_folder(run) as folder:
        return read_metrics(folder / "metrics.jsonl")


HOLDER = """
import sys, time
from ja_llm.train.identity import initial_entry
from ja_llm.train.ledger import lock_run
from ja_llm import storage
lock_run(storage.absolute(sys.argv[1]))
print("held", flush=True)
time.sleep(86400)
"""


def test_a_lease_is_refused_while_its_holder_lives_and_taken_when_it_is_dead(bucket, monkeypatch):
    monkeypatch.setattr(storage, "SILENCE", 12.0)
    run = storage.absolute(f"{bucket}/lease")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another process trains in this folder"):
            lock_run(run)
        holder.kill()
    began = time.monotonic()
    lease = lock_run(run)
    assert time.monotonic() - began > 10
    lock_run(run).close()  # this process's own
    lease.close()
    assert not (run / ".lock").exists()


def test_checkpoints_are_kept_restored_and_set_aside(bucket):
    state = {"a": jax.numpy.arange(10.0)}
    place = f"{bucket}/checkpoints_only"
    checkpoints = Checkpoints(place, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, jax.tree.map(lambda x, s=step: x + s, state), {"m": jax.numpy.ones(3)})
    checkpoints.close()
    run = storage.absolute(place)
    write_text(run / "checkpoints/4/params/manifest.ocdbt", "half")  # a save that was killed
    assert model_steps(run) == [2, 3]
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (state, {"m": jax.numpy.ones(3)}))
    checkpoints = Checkpoints(place, keep=2)
    params, _ = checkpoints.restore(3, *like)
    assert np.array_equal(params["a"], np.arange(10.0) + 3)
    where = checkpoints.set_aside(3)
    assert (where / "params").exists() and model_steps(run) == checkpoints.steps() == [2]


def metrics_in(run):
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines(run)]


@pytest.fixture(scope="module")
def killed(bucket, training):
    """A run in the bucket that was killed behind its first checkpoint, and gone on with."""
    place = f"{bucket}/runs/killed"
    run, command = storage.place(place), training.command(place, 20, EVAL_PERIOD=10)
    with subprocess.Popen(command, env=training.environment(), stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline and process.poll() is None and not model_steps(run):
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    before = model_steps(run)
    assert process.returncode == -signal.SIGKILL and before[-1] < 20
    result = subprocess.run(command, env=training.environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return run


@pytest.mark.slow  # with the two below: a minute on a quiet machine
@pytest.mark.timeout(3600)
def test_a_killed_run_has_the_metrics_of_an_undisturbed_one_on_this_machine(killed, straight, metrics):
    assert metrics_in(killed) == metrics(straight)
    names = {path.name for path in straight.iterdir()} - {".lock"}
    assert {path.name for path in killed.iterdir()} == names and model_steps(killed) == [15, 20]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_its_checkpoint_is_that_of_the_run_on_this_machine(killed, straight):
    there, here = load_model(f"{killed}@20"), load_model(straight)
    assert (there.step, there.config, there.tokenizer.fingerprint) == (20, here.config, here.tokenizer.fingerprint)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(there.params), jax.tree.leaves(here.params), strict=True))
    assert initial_entry(str(killed), here.config, here.tokenizer) == {
        **initial_entry(str(straight), here.config, here.tokenizer),
        "name": "killed",
    }
    with pytest.raises(UsageError, match="there is no checkpoint 7; there are 15, 20"):
        load_model(f"{killed}@7")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_generate_reads_it_onto_another_mesh(killed, straight, training):
    words = [sys.executable, "-m", "ja_llm", "generate", "--prompt", "朝の", "--max_tokens", "8", "--checkpoint"]
    outputs = []
    for more in ([str(straight)], [str(killed), "--mesh", "data=2,tensor=2"]):
        result = subprocess.run([*words, *more], env=training.environment(devices=4), capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout)
    assert outputs[0] == outputs[1] and outputs[0].strip()
