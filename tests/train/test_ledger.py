"""A run's ledger notes what each call ran with, its folder keeps each call's configuration, and its sentences can be followed."""

import json
import math

import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.train import ledger as module
from ja_llm.train.ledger import new_ledger, open_ledger, write_config
from ja_llm.train.loop import _report

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


class Kept:
    """The checkpoints of a run, as far as a loss that is not finite asks for them."""

    def __init__(self, directory, *steps):
        self.directory, self._steps, self.waited = directory, list(steps), False

    def wait(self):
        self.waited = True

    def steps(self):
        return self._steps if self.waited else []


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ((4, 6), "in a new MODEL_DIR with INITIAL_CHECKPOINT_PATH=/runs/a@6 and a lower PEAK_LEARNING_RATE"),
        ((), "in a new MODEL_DIR with the settings of this one and a lower PEAK_LEARNING_RATE"),
    ],
)
def test_a_loss_that_is_not_finite_says_where_to_begin_again(steps, says):
    metrics = {"finite": 0.0, "loss": math.nan, "target_tokens": 1.0}
    with pytest.raises(JaLlmError) as caught:
        _report((7, metrics), 0.0, None, None, Kept("/runs/a", *steps))
    text = str(caught.value)
    assert text.startswith("step 7: ") and says in text and len(text.splitlines()) == 1
