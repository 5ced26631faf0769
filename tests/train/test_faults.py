"""Planted faults in whole runs of a tiny model: batches that are not finite, spikes, a checkpoint whose bytes changed, a hung source."""

import contextlib
import functools
import http.server
import json
import math
import os
import signal
import threading
import time
from unittest import mock

import jax
import numpy as np
import pytest

from ja_llm.data.schedule import DataSchedule
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.hosts import gathered
from ja_llm.models.config import DecoderConfig
from ja_llm.train import loop, maintenance, preparation
from ja_llm.train.checkpoints import Checkpoints, model_steps
from ja_llm.train.digests import _of_devices, _of_host, digests
from ja_llm.train.evaluating import Evaluation
from ja_llm.train.goodput import Goodput
from ja_llm.train.learning_rates import WarmupConstant
from ja_llm.train.loop import run
from ja_llm.train.optimizers import AdamW
from ja_llm.train.run_config import RunConfig
from ja_llm.train.spikes import SpikeDetector
from ja_llm.train.step import StepOptions
from ja_llm.train.watchdog import Watchdog
from ja_llm.vocab.base import Tokenizer

MODEL = DecoderConfig(
    vocab_size=512, embed_dim=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_dim=8, max_length=8, scan_layers=False
)
BATCH, LENGTH = 2, 8


class Letters(Tokenizer):
    """As much of a tokenizer as a run writes."""

    vocab_size, bos_id, eos_id, unk_id, fingerprint = 32, 0, 1, None, "1" * 64

    def encode(self, text):
        return [ord(c) % 32 for c in text]

    def decode(self, ids):
        return ""

    def encode_with_offsets(self, text):
        return self.encode(text), [(i, i + 1) for i in range(len(text))]

    def id_to_piece(self, index):
        return str(index)

    def _save_model(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "letters.txt").write_text("32")

    def export_hf(self, directory):
        raise NotImplementedError


class Source:
    """Batches that are a pure function of the data step; some are planted to be bad."""

    fingerprint, batch_size, length, licences, contents = "2" * 64, BATCH, LENGTH, {}, []
    repeat_filter = False

    def __init__(self, planted=None, schedule=None):
        self.planted, self.schedule = planted or {}, schedule or DataSchedule.single("3" * 64)
        self.read = []

    def batch(self, data_step):
        tokens = np.random.default_rng(data_step).integers(2, 6, (BATCH, LENGTH + 1)).astype(np.int32)
        weights = np.ones((BATCH, LENGTH), np.float32)
        if self.planted.get(data_step) == "nan":
            weights = weights * np.float32(np.nan)
        if self.planted.get(data_step) == "spike":
            tokens = tokens + 20
        ones = np.ones((BATCH, LENGTH), np.int32)
        return {
            "decoder_input_tokens": tokens[:, :-1],
            "decoder_target_tokens": tokens[:, 1:],
            "decoder_loss_weights": weights,
            "decoder_segment_ids": ones,
            "decoder_positions": np.arange(LENGTH, dtype=np.int32)[None].repeat(BATCH, 0),
        }

    def open(self, positions, shard, shards):
        def batches():
            for stage, data_step in positions:
                self.read.append(data_step)
                yield (stage, data_step), self.batch(data_step)

        return contextlib.closing(batches())


@pytest.fixture
def train(tmp_path):
    """train(name, source, steps, ...) runs in tmp_path / name; returns its lines of metrics."""

    def start(name, source, steps=12, spikes=None, evaluators=None, exporter=None, **settings):
        config = RunConfig(
            tmp_path / name, steps, mesh={"data": 1}, checkpoint_period=4, step=StepOptions(spikes=spikes), **settings
        )
        optimizer, schedule = AdamW(), WarmupConstant(peak=3e-2, warmup_steps=1)
        with jax.default_device(jax.devices()[0]):
            identity = {"mixture": "test"}
            run(
                config,
                MODEL,
                Letters(),
                source,
                optimizer,
                schedule,
                identity=identity,
                evaluators=evaluators,
                exporter=exporter,
            )
        return lines(tmp_path / name)

    return start


def lines(directory):
    values = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in value.items() if k != "tokens_per_second"} for value in values]


def test_a_batch_that_is_not_finite_is_rolled_back_noted_and_replayed(train, tmp_path, capsys):
    source = Source({6: "nan"})
    found = train("nan", source)
    # Steps 5 and 6 read data steps 4 and 5; the update of data step 6 is never made: back to step 4, past 4, 5 and 6.
    assert [line["step"] for line in found] == list(range(1, 13)) and all(math.isfinite(line["loss"]) for line in found)
    ledger = json.loads((tmp_path / "nan/run.json").read_text())
    assert ledger["data_schedule"]["skips"] == [{"stage": 0, "from": 4, "to": 7}]
    (entry,) = ledger["rollbacks"]
    assert (entry["step"], entry["to_step"], entry["skipped_batches"]) == (7, 4, 3)
    assert "step 7: the loss or its gradient is not finite; back to step 4" in capsys.readouterr().err
    schedule = DataSchedule.from_json(ledger["data_schedule"])
    assert [schedule.data_step(step) for step in range(8)] == [0, 1, 2, 3, 7, 8, 9, 10]
    # What was read is what the schedule says, and what the log says; batch 6 was asked for and read once, before.
    assert [(line["stage"], line["data_step"]) for line in found] == [schedule.position(step) for step in range(12)]
    assert source.read[:7] == [*range(7)] and source.read[-8:] == [*range(7, 15)]
    assert train("replay", Source({6: "nan"}, schedule)) == found
    assert "rollbacks" not in json.loads((tmp_path / "replay/run.json").read_text())


def test_a_rollback_holds_one_state_and_is_not_timed(train, tmp_path, monkeypatch):
    """A second state on the devices would be out of memory at the size that a run is made for, and restoring takes what it takes."""
    held, phases = [], []
    restore = Checkpoints.restore

    def look(self, *arguments):
        held.append(sum(x.shape == (512, 8) for x in jax.live_arrays()))
        assert phases[-1] == ("start", False)
        return restore(self, *arguments)

    monkeypatch.setattr(Checkpoints, "restore", look)
    monkeypatch.setattr(Watchdog, "sign", lambda self, step, kind, timed=True: phases.append((kind, timed)))
    train("run", Source({6: "nan"}))
    assert held == [0]


def test_a_run_gives_up_after_its_rollbacks(train, tmp_path):
    source = Source({step: "nan" for step in range(5, 99)})
    with pytest.raises(
        JaLlmError,
        match=r"step \d+: .* after 2 rollbacks.*MAX_ROLLBACKS allows 2 in all .* of data step \d+, of stage 0's source.* from step 4 .*nan@4",
    ):
        train("nan", source, max_rollbacks=2)
    assert len(json.loads((tmp_path / "nan/run.json").read_text())["rollbacks"]) == 2


def test_a_spike_is_skipped_or_rolled_back(train, tmp_path):
    found = train("skip", Source({21: "spike"}), 24, spikes=SpikeDetector("skip", factor=6.0, window=8))
    assert [line["step"] for line in found if line["spike"]] == [22]
    plain = train("plain", Source({21: "spike"}), 24)
    assert found[21]["loss"] == pytest.approx(plain[21]["loss"], rel=1e-5) and found[21]["loss"] > found[20]["loss"] + 1
    # The update was not made: the step behind it has the loss of parameters that the spike never touched.
    assert found[22]["loss"] < plain[22]["loss"]
    rolled = train("roll", Source({21: "spike"}), 24, spikes=SpikeDetector("rollback", factor=6.0, window=8))
    ledger = json.loads((tmp_path / "roll/run.json").read_text())
    assert ledger["data_schedule"]["skips"] == [{"stage": 0, "from": 20, "to": 22}]
    assert ledger["rollbacks"][0]["why"].startswith("a spike (loss") and not any(line["spike"] for line in rolled)


def test_a_newest_checkpoint_with_a_changed_byte_is_named_and_the_one_before_is_used(train, tmp_path, capsys):
    whole = train("whole", Source())
    train("run", Source(), steps=8)
    flip(tmp_path / "run/checkpoints/8/params")
    again = Source()
    found = train("run", again)
    said = capsys.readouterr().err
    assert "checkpoints/8: this checkpoint is damaged (params/" in said and "the run goes on from step 4" in said
    assert again.read[0] == 4 and found == whole
    assert len(list((tmp_path / "run/damaged").iterdir())) == 1
    for step in (8, 12):
        flip(tmp_path / f"run/checkpoints/{step}/optimizer")
    with pytest.raises(
        JaLlmError, match="checkpoints/8: this checkpoint is damaged .* it is the only one of this run: put a copy back"
    ):
        train("run", Source(), steps=16)


def flip(item):
    """Change one byte in the middle of the numbers that a checkpoint holds."""
    path = max(item.glob("ocdbt.process_*/d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


def test_digests_of_host_and_device_agree_and_see_one_bit_and_a_swap():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 4, 5)).astype(np.float32), np.int32(7), rng.integers(0, 255, (6,)).astype(np.uint8)]
    arrays.append(np.asarray(jax.numpy.asarray(arrays[0], "bfloat16")))
    arrays.append(rng.normal(size=(3, 50_000)).astype(np.float32))  # more than the host takes at a time
    bits = arrays[-1].view(np.uint32).reshape(-1).tolist()
    by_definition = (sum(bits) % 2**32, sum(n * (2 * place + 1) for place, n in enumerate(bits)) % 2**32)
    assert _of_host(arrays[-1]) == by_definition
    on_device = _of_devices([jax.numpy.asarray(a) for a in arrays])
    assert [list(map(int, pair)) for pair in on_device] == [list(_of_host(np.asarray(a))) for a in arrays]
    first = digests({"a": arrays[0]})
    changed = arrays[0].copy()
    changed.view(np.uint32)[1, 2, 3] ^= 1
    swapped = arrays[0].copy()
    swapped[0, 0, [0, 1]] = swapped[0, 0, [1, 0]]
    assert digests({"a": changed}) != first and digests({"a": swapped}) != first


def test_a_notice_of_maintenance_saves_and_ends_as_sigterm_does(train, tmp_path):
    class Answer(http.server.BaseHTTPRequestHandler):
        notice = "NONE"

        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.notice.encode())

        def log_message(self, *unused):
            pass

    class Told(Source):
        def batch(self, data_step):
            Answer.notice = "TERMINATE_ON_HOST_MAINTENANCE" if data_step >= 5 else "NONE"
            time.sleep(0.3 if data_step >= 5 else 0)
            return super().batch(data_step)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with (
        mock.patch("ja_llm.train.maintenance.watched", functools.partial(maintenance.watched, period=0.05)),
        pytest.raises(JaLlmError, match=r"stopped at step \d+ of 99") as stopped,
    ):
        train("run", Told(), steps=99, maintenance=f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    assert stopped.value.exit_code == 75 and model_steps(tmp_path / "run")[-1] > 4


def test_a_run_goes_on_with_other_data_only_where_that_is_said(train, tmp_path):
    class Other(Source):
        fingerprint = "4" * 64

    train("run", Source(), steps=4)
    with pytest.raises(
        JaLlmError, match=r"holds a run with other data \(the token stores .*: data 222222222222 then, 444444444444 now.*accept"
    ):
        train("run", Other(), steps=8)
    with pytest.raises(JaLlmError, match=r"train.accept names 'date', which no ledger has"):
        train("run", Other(), steps=8, accept=("date",))
    assert len(train("run", Other(), steps=8, accept=("data",))) == 8
    ledger = json.loads((tmp_path / "run/run.json").read_text())
    assert ledger["identity"]["data"] == "4" * 64
    assert [(entry["from_step"], entry.get("accepted")) for entry in ledger["history"]] == [(0, None), (4, {"data": "2" * 64})]
    assert len(train("run", Other(), steps=12)) == 12  # and from there on it is the run's


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("eval_period", 7),
        ("alarms", [{"rise": 1}]),
        ("keep_best", {"keep": 2}),
        ("mesh", {"data": 2}),
        ("evaluators", [["x", "theirs"]]),
    ],
)
def test_processes_with_different_commands_are_refused_by_the_setting(train, tmp_path, monkeypatch, name, other):
    """Before anything waits for all: with other probes, alarms or tasks one would evaluate or stop where the others do not."""

    class Probe:
        fingerprint = "ours"

    def told(word):  # what a second process, whose command or data has a slip, would say
        assert name in json.loads(word) and json.loads(word)["evaluators"] == [["x", "ours"]]
        return [word, json.dumps(json.loads(word) | {name: other})]

    monkeypatch.setattr(preparation, "told_by_all", told)
    with pytest.raises(
        UsageError, match=rf"process 1 of this run has {name}.* = .*, process 0 has .*; give all processes the same command"
    ):
        train("run", Source(), evaluators={"x": Probe()})
    assert not (tmp_path / "run").exists()


def test_goodput_shares_add_up_and_lost_steps_are_told(tmp_path):
    path = tmp_path / "goodput.json"
    first = Goodput(path, time.time())
    first.starts_at(0)
    for step in range(10):
        first.phase("step", step)
        time.sleep(0.01)
    first.phase("checkpoint", 10)
    first.write()
    second = Goodput(path, time.time())
    second.starts_at(5)  # the second half was done for nothing
    total = second.total()
    assert total["lost"] == pytest.approx(total["step"], rel=0.01) and total["lost"] > 0.03
    assert sum(second.shares().values()) == pytest.approx(1)
    path.write_text("{")
    assert Goodput(path, time.time()).total()["lost"] == 0


def test_memory_that_runs_out_elsewhere_is_not_blamed_on_the_step(train, monkeypatch):
    """What the step would need is found by compiling it with less and less, which says nothing of an evaluation."""

    def full(*arguments, **named):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    monkeypatch.setattr(Evaluation, "measure", full)
    with pytest.raises(
        JaLlmError, match="not enough memory for an evaluation beside the run's own state; bind train.eval_documents"
    ):
        train("run", Source(), steps=2, evaluators={"all": None})
    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(JaLlmError, match="not enough memory to save a checkpoint"):
        train("save", Source(), steps=2)
    monkeypatch.setattr(loop.Report, "fetch", full)
    with pytest.raises(JaLlmError, match="the step does not fit into the device's memory"):
        train("step", Source(), steps=2)


def test_an_export_that_a_kill_prevented_is_made_up_for(train, tmp_path):
    """A kill between a save and its export, the last one too, leaves a checkpoint without it."""
    made = []
    train("run", Source(), steps=8)
    train("run", Source(), steps=8, exporter=made.append, export_period=4)  # a finished run
    assert made == [4, 8]
    train("run", Source(), steps=12, exporter=made.append, export_period=8)
    assert made == [4, 8, 8, 12]  # whoever exports passes over what is there


@pytest.mark.parametrize("order", [("slow", "other"), ("other", "slow")])
def test_sigterm_during_an_evaluation_saves_at_its_step_and_what_is_left_is_measured_later(train, tmp_path, order):
    """Steps that no checkpoint is due at (6), and the last one (8), whose evaluation nothing would follow."""
    when, source = [], Source()  # when: the data step behind which the signal comes, once

    def slow(params):
        if when and source.read and source.read[-1] == when[0]:
            when.clear()
            os.kill(os.getpid(), signal.SIGTERM)
        return {"x": 1.0}

    evaluators = {name: slow if name == "slow" else lambda _: {"x": 2.0} for name in order}
    settings = {"steps": 8, "eval_period": 6, "evaluators": evaluators}
    for saved in (6, 8):
        when.append(saved - 1)
        if saved == 8 and order == ("other", "slow"):  # all of it is measured: the run is at its end
            train("run", source, **settings)
        else:
            with pytest.raises(JaLlmError, match=f"stopped at step {saved} of 8") as stopped:
                train("run", source, **settings)
            assert stopped.value.exit_code == 75
        assert not when and model_steps(tmp_path / "run")[-1] == saved
        at = [line["step"] for line in lines(tmp_path / "run") if "loss" in line]
        assert at == list(range(1, saved + 1))  # no step more, none less
    assert train("run", source, **settings) == train("undisturbed", Source(), **settings)


def test_sigterm_inside_one_long_evaluator_is_heard_behind_its_batch(train, tmp_path):
    source, since = Source(), []

    def long(params):
        for _ in range(100):
            if source.read and source.read[-1] == 5:  # behind step 6
                since.append(1)
                if len(since) == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
            gathered(np.zeros(1))
        return {"x": 1.0}

    settings = {"steps": 8, "eval_period": 6, "evaluators": {"long": long}}
    with pytest.raises(JaLlmError, match="stopped at step 6 of 8") as stopped:
        train("run", source, **settings)
    assert stopped.value.exit_code == 75 and len(since) == 3 and model_steps(tmp_path / "run")[-1] == 6
    assert not any("eval/long/x" in line for line in lines(tmp_path / "run") if line["step"] == 6)
    assert train("run", source, **settings) == train("undisturbed", Source(), **settings)


def test_the_speed_of_a_step_has_no_save_and_no_export_in_it(train, tmp_path, monkeypatch):
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *a, **k: (time.sleep(1.0), save(*a, **k)))
    train("run", Source(), steps=8, exporter=lambda _: time.sleep(1.0), export_period=4)
    values = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    tokens = {value["step"]: value["target_tokens"] / value["tokens_per_second"] for value in values}
    assert tokens[5] < 2.0  # seconds
