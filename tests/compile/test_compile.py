"""The run of gin files without its data, the sweep, and a step on four simulated devices: its FLOPs, and what a wrong rule does."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import jax
import pytest

from ja_llm.cli import main
from ja_llm.commands.compiling import REMAT
from ja_llm.compile import aot, child, report
from ja_llm.compile import run as compile_run
from ja_llm.compile.counting import traced_flops
from ja_llm.compile.settings import Candidate, CandidateError, settings
from ja_llm.compile.sweep import proposal, sweep
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.models.config import REMAT_POLICIES
from ja_llm.train.memory import LADDER

FILES = ["models/tiny_test.gin", "runs/pretrain.gin"]
BINDINGS = ["TASK_FEATURE_LENGTHS = {'targets': 32}", "BATCH_SIZE = 16", "MICROBATCHES = 2"]

PROGRAM = """
import dataclasses, json, numpy as np, jax
from ja_llm import sharding
from ja_llm.compile import describe, hlo, schedule
from ja_llm.compile.counting import counted_flops
from ja_llm.compile.hardware import parse_topology
from ja_llm.compile.settings import settings
from ja_llm.models.decoder import Decoder
from ja_llm.train import loop
from ja_llm.train.flops import flops_per_token
from ja_llm.train.state import plan_state
from ja_llm.train.step import loss_sums, make_train_step

found = {}
with settings(%r, [*%r, "MESH = {'fsdp': 4}", "LOSS = 'logits'", "config.DecoderConfig.attention = 'reference'"], vocab_size=96) as run:
    for name, rules in {"right": run.rules, "wrong": [r for r in run.rules if r[0] != "embed"]}.items():
        mesh = sharding.make_mesh(run.mesh)
        plan, transformation = plan_state(run.model, run.optimizer, run.options, mesh, rules)
        rows, batch = sharding.batch_sharding(mesh, rules), (run.batch_size, run.length)
        with sharding.use(mesh, rules):
            train_step = make_train_step(loss_sums, Decoder(run.model), transformation, run.schedule, run.options, axes=plan.axes)
            step = loop.lowered_step(train_step, mesh, rows, plan, batch).compile()
        chip, shape = parse_topology("v5e:2x2")
        where = schedule.Mesh(dict(mesh.shape), np.array([(0, 0), (0, 1), (1, 0), (1, 1)]), chip, shape, 1e12)
        cost = schedule.cost(hlo.parse(step.as_text()), where)
        found[name] = {
            "state": describe.state_bytes(plan, rows, batch),
            "arguments": step.memory_analysis().argument_size_in_bytes,
            "executed": cost.flops * 4,
            "axes": sorted({axes for _, axes in cost.traffic}),
            "bytes": sum(t.bytes for (kind, axes), t in cost.traffic.items() if "gather" in kind),
        }
    found["counted"] = counted_flops(run)
    found["closed"] = flops_per_token(run.model, run.length, causal=False) * run.batch_size * run.length
print(json.dumps(found))
"""


def compile_tiny(bindings):
    """A tiny step over four devices, under the default rules and without the one that spreads `embed`."""
    flags = "--xla_force_host_platform_device_count=4 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % (FILES, bindings)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def compiled():
    return compile_tiny(BINDINGS)


def test_flops_of_the_closed_form_the_trace_and_the_executable_agree(compiled):
    assert compiled["counted"] == pytest.approx(compiled["closed"], rel=0.01)
    assert compiled["right"]["executed"] == pytest.approx(compiled["closed"], rel=0.01)


def test_experts_are_counted_as_often_as_they_are_chosen():
    """In trace and closed form; the executable multiplies whole tiles: 128 rows on a device, one tile, and half a tile more for each of four experts."""
    experts = ["config.DecoderConfig.num_experts = 4", "config.DecoderConfig.experts_per_token = 2"]
    found = compile_tiny([*BINDINGS, *experts])
    with settings(FILES, [*BINDINGS, *experts], vocab_size=96) as run:
        kernels = 3 * run.model.num_layers * run.model.embed_dim * run.model.mlp_dim
        chosen = 6.0 * run.batch_size * run.length * 2 * kernels
    assert found["counted"] == pytest.approx(found["closed"], rel=0.01)
    for name in ("right", "wrong"):
        assert found[name]["executed"] == pytest.approx(found["closed"] + (1 + 4 / 2 - 1) * chosen, rel=0.01)


def test_state_by_kind_is_what_the_program_takes(compiled):
    for name in ("right", "wrong"):
        assert sum(compiled[name]["state"].values()) == pytest.approx(compiled[name]["arguments"], rel=0.01)


def test_a_wrong_rule_makes_bytes_jump(compiled):
    right, wrong = compiled["right"], compiled["wrong"]
    assert wrong["state"]["parameters"] == 4 * right["state"]["parameters"]
    assert wrong["state"]["optimizer"] > 3.9 * right["state"]["optimizer"]
    assert right["bytes"] > 0 and wrong["bytes"] == 0  # parameters that nobody spreads are not gathered
    assert right["axes"] == ["fsdp"]


def test_a_run_needs_no_data_to_be_compiled():
    with settings(FILES, [*BINDINGS, "SCHEDULE = @learning_rates.WarmupConstant()"], vocab_size=96) as run:
        assert (run.model.vocab_size, run.batch_size, run.length, run.options.microbatches) == (96, 16, 32, 2)
        changed = run.changed(Candidate("full", 4, {"tensor": 2}))
        assert (changed.model.remat_policy, changed.options.microbatches, changed.mesh) == ("full", 4, {"tensor": 2})
        assert run.changed(Candidate()) == run
        with pytest.raises(UsageError, match="remat policy 'most'"):
            run.changed(Candidate("most"))


@pytest.mark.parametrize("experts", [1, 4])
def test_a_remat_policy_computes_again_what_it_does_not_keep(experts):
    chosen = [f"config.DecoderConfig.num_experts = {experts}", f"config.DecoderConfig.experts_per_token = {min(experts, 2)}"]
    with settings(FILES, [*BINDINGS, *chosen], vocab_size=96) as run:
        flops = {p: traced_flops(dataclasses.replace(run.model, remat_policy=p), run) for p in REMAT_POLICIES}
        model, tokens = run.model, run.batch_size * run.length
    width, heads = model.embed_dim, model.head_dim
    # All but the product back from the feed-forward width, whose result the backward pass does not ask for.
    weights = width * heads * (2 * model.num_heads + 2 * model.num_kv_heads) + 2 * model.experts_per_token * model.mlp_dim * width
    weights += width * experts if experts > 1 else 0  # the router
    attention = 2 * model.num_heads * heads * run.length  # scores, and values by them: of the plain product no name is kept
    again = {policy: (count - flops["none"]) / (2 * tokens * model.num_layers) for policy, count in flops.items()}
    balance = experts if experts > 1 else 0  # of the balance loss, which names nothing either
    assert again == {
        "none": 0,
        "minimal": attention + balance,
        "attention": weights + attention + balance,
        "full": weights + attention + balance,
    }


@pytest.mark.parametrize(
    "files, bindings, said",
    [
        (FILES, BINDINGS, "--vocab_size"),
        (FILES[1:], BINDINGS, "MODEL"),
        (FILES, [], "TASK_FEATURE_LENGTHS"),
        (FILES, [*BINDINGS, "LOSS = 'most'"], "LOSS"),
        (FILES, [*BINDINGS, "CHECKPOINT_PERIOD = 'often'"], "CHECKPOINT_PERIOD"),
        (FILES, [*BINDINGS, "TASK_FEATURE_LENGTHS = {'targets': 128}"], "128 tokens"),
    ],
)
def test_what_is_missing_or_wrong_is_named(files, bindings, said):
    size = None if said == "--vocab_size" else 96
    with pytest.raises(UsageError, match=said), settings(files, bindings, vocab_size=size):
        pass


def result(policy: str, number: int, mesh: dict, gib: float, seconds: float) -> dict:
    return {
        **{"remat_policy": policy, "microbatches": number, "mesh": mesh, "fits": gib <= 16, "spare_gib": 16 - gib},
        **{"gib_per_chip": {"total": gib, "usable": 16}, "time": {"step_seconds": seconds, "exposed_seconds": seconds / 10}},
        "flops": {"executed_over_model": 1.3},
    }


def test_a_sweep_finds_the_fastest_that_fits_without_compiling_all():
    # Memory and time of a made-up machine: remat saves memory and costs time, each microbatch costs time.
    need, slow = {"minimal": 40, "attention": 24, "full": 12}, {"minimal": 1.0, "attention": 1.1, "full": 1.3}
    asked = []

    def one(c):
        asked.append((c["remat_policy"], c["microbatches"]))
        seconds = slow[c["remat_policy"]] + 0.01 * c["microbatches"]
        return result(c["remat_policy"], c["microbatches"], c["mesh"], need[c["remat_policy"]] / c["microbatches"], seconds)

    found = sweep(one, ["full", "minimal", "attention"], [1, 2, 4, 8], [{"fsdp": 4}])
    assert (found[0]["remat_policy"], found[0]["microbatches"]) == ("minimal", 4)
    assert asked == [("minimal", 1), ("minimal", 2), ("minimal", 4), ("attention", 1), ("attention", 2), ("full", 1)]
    said = proposal(found)
    assert "remat_policy = 'minimal', MICROBATCHES = 4, MESH = {'fsdp': 4}" in said and "3 with" in said
    assert "nothing fits" in proposal(sweep(one, ["minimal"], [1], [{}]))


def test_a_sweep_leaves_out_what_does_not_divide_and_asks_once():
    asked, lines = [], []

    def one(c):
        asked.append((c["remat_policy"], c["microbatches"]))
        if 16 % c["microbatches"]:
            raise CandidateError(f"16 rows in {c['microbatches']} microbatches do not divide.")
        if c["microbatches"] == 8:
            raise JaLlmError("the compiler was ended by SIGKILL.")
        return result(c["remat_policy"], c["microbatches"], c["mesh"], 99 if c["remat_policy"] == "minimal" else 1, 1.0)

    found = sweep(one, ["minimal", "full"], [8, 3, 4], [{"fsdp": 4}], lines.append)
    assert asked == [("minimal", 3), ("minimal", 4), ("minimal", 8), ("full", 4)]
    assert (found[0]["remat_policy"], found[0]["microbatches"]) == ("full", 4)
    assert sum("left out" in line and "3 microbatches do not divide" in line for line in lines) == 1
    assert sum("left out" in line and "SIGKILL" in line for line in lines) == 1
    with pytest.raises(CandidateError, match="5 microbatches"):
        sweep(one, ["minimal", "full"], [3, 5], [{"fsdp": 4}])


def test_what_a_sweep_found_is_written_as_it_comes(tmp_path, monkeypatch):
    out = tmp_path / "found.json"

    def one(*_, candidate, **__):
        if candidate["microbatches"] == 2:
            assert len(json.loads(out.read_text())["results"]) == 1
            raise KeyboardInterrupt
        return result("full", candidate["microbatches"], {"fsdp": 4}, 99, 1.0)

    monkeypatch.setattr(compile_run, "compile_in_child", one)
    with pytest.raises(KeyboardInterrupt):
        compile_run.run(FILES, BINDINGS, "v5e:2x2", policies=["full"], microbatches=[1, 2], out=str(out))
    assert json.loads(out.read_text())["results"][0]["microbatches"] == 1


def test_policies_are_named_when_one_is_misspelt(capsys):
    assert REMAT == LADDER
    with pytest.raises(SystemExit, match="2"):
        main(["compile", "--topology", "v5e:2x2", "--remat", "foo"])
    assert "choose from" in (said := capsys.readouterr().err) and "attention" in said


def test_an_indivisible_batch_is_the_candidate_s_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(aot, "topology_devices", lambda *_: jax.devices()[:1])
    with settings(FILES, BINDINGS, vocab_size=96) as run, pytest.raises(CandidateError, match="microbatches"):
        aot.compile_step(run.changed(Candidate(microbatches=3)), "v5e:2x2")
    answer = tmp_path / "result.json"

    def refused(*_):
        raise CandidateError("no.")

    monkeypatch.setattr(aot, "compile_step", refused)
    asked = {"files": FILES, "bindings": BINDINGS, "topology": "v5e:2x2", "search_paths": "", "vocab_size": 96}
    (tmp_path / "request.json").write_text(json.dumps({**asked, "candidate": {}, "compiler_options": {}, "dump": None}))
    child.main(str(tmp_path / "request.json"), str(answer))
    assert child._KINDS[json.loads(answer.read_text())["kind"]] is CandidateError


def test_memory_of_the_host_is_blamed_only_for_a_killed_compiler():
    assert "SIGKILL" in (killed := child._without_answer("v5e:2x2", -9, "")) and "memory ran out" in killed
    assert child._without_answer("v5e:2x2", 1, "INVALID_ARGUMENT: No such compile option: 'xla_tpu_foo'\n").endswith(
        "ended with code 1: INVALID_ARGUMENT: No such compile option: 'xla_tpu_foo'"
    )


def test_only_compilations_for_tpus_wait_for_each_other_and_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open(tmp_path / f"ja_llm-libtpu-{os.getuid()}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def answer(words, **_):
            Path(words[-1]).write_text('{"found": {}}')

        monkeypatch.setattr(subprocess, "run", answer)
        threading.Timer(1.0, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        assert child.compile_in_child(FILES, BINDINGS, "h100:1x2") == {}
        assert capsys.readouterr().err == ""
        assert child.compile_in_child(FILES, BINDINGS, "v5e:2x2") == {}
        assert "waiting for another compilation" in capsys.readouterr().err


@pytest.mark.parametrize(
    "message, total",
    [
        ("RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (43.77G) exceeds available HBM (15.75G).", 53.77),
        ("RESOURCE_EXHAUSTED: Used 17.50G of 15.75G hbm. Exceeded hbm capacity by 1.75G.", 17.5),
        ("RESOURCE_EXHAUSTED: Exceeded hbm capacity by 512.0M.", 16.25),
    ],
)
def test_a_refusal_says_by_how_much(message, total):
    found = aot._refused(message, {"parameters": 4 * 2**30, "optimizer": 6 * 2**30}, 15.75)
    assert found["gib_per_chip"]["total"] == pytest.approx(total)
    assert not found["fits"] and found["spare_gib"] == pytest.approx(15.75 - total)


def test_memory_by_kind_adds_up():
    class Analysis:
        argument_size_in_bytes, output_size_in_bytes, alias_size_in_bytes = 11 * 2**30, 10 * 2**30, 10 * 2**30
        temp_size_in_bytes, generated_code_size_in_bytes = 4 * 2**30, 2**29

    class Compiled:
        memory_analysis = Analysis

    state = {"parameters": 3 * 2**30, "optimizer": 6 * 2**30, "batch": 2**29}
    found = aot._memory(Compiled, state, 15.75, activations=3 * 2**30)
    gib = found["gib_per_chip"]
    assert gib["total"] == 11 + 4 + 0.5  # results take the arguments' places
    assert (gib["activations"], gib["temporaries"], gib["program"]) == (3, 1, 0.5)
    assert gib["other"] == 1.5 == gib["total"] - sum(gib[k] for k in (*state, "activations", "temporaries", "program"))
    assert found["fits"] and found["spare_gib"] == 0.25
    Analysis.temp_size_in_bytes = 36 * 2**30  # by a compiler that has more than we know of
    much = aot._memory(Compiled, state, 15.75, activations=0)
    assert much["fits"] is False and much["spare_gib"] == 15.75 - 47.5
    assert "the compiler took it" in (said := report._verdict({**much, "time": {}})) and "31.75 GiB too much" in said
    Analysis.temp_size_in_bytes = 4 * 2**30
    Analysis.peak_memory_in_bytes = 13 * 2**30  # less than the sum: some buffers are never there together
    gib = aot._memory(Compiled, state, 15.75, activations=3 * 2**30)["gib_per_chip"]
    assert (gib["total"], gib["activations"], gib["temporaries"], gib["other"]) == (13.5, 3, 0.5, 0)


def test_a_libtpu_that_another_process_has_is_said_to_be_so(monkeypatch):
    from jax.experimental import topologies

    def taken(**options):
        raise RuntimeError(
            'ABORTED: Internal error when accessing libtpu multi-process lockfile. Run "$ sudo rm /tmp/libtpu_lockfile".'
        )

    monkeypatch.setattr(topologies, "get_topology_desc", taken)
    with pytest.raises(UsageError, match="another process on this machine has libtpu.*JAX_PLATFORMS=cpu") as found:
        aot.topology_devices("v5p:2x2x1")
    assert "rm /tmp" not in str(found.value)
