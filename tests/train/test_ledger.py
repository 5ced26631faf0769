"""A run's ledger notes what each call ran with, its folder keeps each call's configuration, and its sentences can be followed."""

import json
from pathlib import Path

import pytest

from ja_llm.data.schedule import DataSchedule
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.train import ledger as module
from ja_llm.train.learning_rates import Joined, WarmupStableDecay, same_rates
from ja_llm.train.ledger import lock_run, new_ledger, open_ledger, write_config
from ja_llm.train.rollback import OffendingStep, roll_back
from ja_llm.train.settings import described

ONE = {"data": 1}


@pytest.fixture
def call(tmp_path, monkeypatch):
    """call(from step, mesh, commit, JAX's version) -> run.json after a call of the training command."""

    def run(from_step, mesh=ONE, commit="aaa", jax="1", seed=0):
        monkeypatch.setattr(module, "_commit", lambda: commit)
        monkeypatch.setattr(module, "software", lambda *_: {"jax": jax})
        open_ledger(tmp_path / "run.json", new_ledger("train", {"seed": seed}, mesh=mesh), from_step)
        return json.loads((tmp_path / "run.json").read_text())

    return run


def test_each_call_with_other_code_software_or_mesh_is_noted_at_its_step(call):
    first = call(0)
    assert first["history"] == [{"from_step": 0, "code": {"commit": "aaa"}, "software": {"jax": "1"}, "mesh": ONE}]
    assert call(5) == first
    call(10, mesh={"data": 2})
    call(15, mesh={"data": 2}, commit="bbb")
    last = call(20, mesh={"data": 2}, commit="bbb", jax="2")
    assert [entry["from_step"] for entry in last["history"]] == [0, 10, 15, 20]
    assert last["history"][:1] == first["history"]
    assert call(25)["history"][-1] == {**first["history"][0], "from_step": 25}  # back again is a change too
    assert last["history"][-1] == {"from_step": 20} | {key: last[key] for key in ("code", "software", "mesh")}
    assert (last["software"], last["identity_hash"]) == ({"jax": "2"}, first["identity_hash"])


def test_a_refused_call_leaves_the_ledger(call):
    before = call(0)
    with pytest.raises(UsageError, match="holds a run with seed = 0, the command says 1"):
        call(5, commit="bbb", seed=1)
    assert call(5) == before


def test_another_configuration_stands_beside_the_first(tmp_path):
    def files():
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    write_config(tmp_path, "a", 0)
    write_config(tmp_path, "a", 5)
    assert files() == {"config.gin": "a"}
    write_config(tmp_path, "b", 5)
    write_config(tmp_path, "b", 8)
    assert files() == {"config.gin": "a", "config.5.gin": "b"}
    write_config(tmp_path, "a", 10)
    write_config(tmp_path, "a", 12)
    assert files() == {"config.gin": "a", "config.5.gin": "b", "config.10.gin": "a"}


@pytest.mark.parametrize(
    ("newest", "says"),
    [
        (6, "in a new MODEL_DIR with INITIAL_CHECKPOINT_PATH=/runs/a@6 and a lower PEAK_LEARNING_RATE"),
        (0, "in a new MODEL_DIR with the settings of this one and a lower PEAK_LEARNING_RATE"),
    ],
)
def test_a_loss_that_is_not_finite_says_where_to_begin_again(newest, says):
    offence = OffendingStep(7, "the loss or its gradient is not finite")
    with pytest.raises(JaLlmError) as caught:
        roll_back(
            DataSchedule(((0, "a"), (4, "b"))), offence, newest, Path("/runs/a/run.json"), done=0, allowed=0, margin=0, write=True
        )
    text = str(caught.value)
    assert "`BatchSource.trace` of data step 2, of stage 1's source" in text  # the batch of training step 6, counted from 0
    assert text.startswith("step 7: ") and says in text and len(text.splitlines()) == 1


def test_a_schedule_may_change_from_here_on_but_not_before(tmp_path):
    path = tmp_path / "run.json"
    short = WarmupStableDecay(peak=1.0, final=0.0, warmup_steps=2, decay_steps=10, total_steps=30)
    longer = WarmupStableDecay(peak=1.0, final=0.0, warmup_steps=2, decay_steps=10, total_steps=60)

    def call(schedule, step, seed=0):
        ledger = new_ledger("train", {"seed": seed, "schedule": described(schedule)}, mesh=ONE)
        return open_ledger(path, ledger, step, lambda old: same_rates(old, schedule, step))

    call(short, 0)
    call(longer, 20)  # up to step 20 both give the constant rate
    stored = json.loads(path.read_text())
    assert stored["identity"]["schedule"]["total_steps"] == 60 and stored["history"][-1]["schedule"]["total_steps"] == 60
    assert stored["history"][-1]["from_step"] == 20
    with pytest.raises(UsageError, match="schedule.total_steps = 60, the command says 30"):
        call(short, 22)  # the decay had begun at step 20
    with pytest.raises(UsageError, match="seed = 0, the command says 1"):
        call(longer, 20, seed=1)
    assert not same_rates({"name": "Unknown"}, short, 5) and same_rates(described(Joined((short, longer), (0, 15))), short, 15)


def test_a_ledger_of_a_newer_version_is_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"schema": "ja_llm.run/9", "identity": {}}))
    with pytest.raises(UsageError, match="'ja_llm.run/9', this version of ja_llm knows 'ja_llm.run/1'"):
        open_ledger(tmp_path / "run.json", new_ledger("train", {}))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    held = lock_run(tmp_path)
    with pytest.raises(UsageError, match="another process trains in this folder"):
        lock_run(tmp_path)
    held.close()
    lock_run(tmp_path)
