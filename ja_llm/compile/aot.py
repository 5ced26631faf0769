"""One step, compiled ahead of time for a TPU slice, and what its compiler says about it.

The step is `ja_llm.train.loop.lowered_step`, the trainer's own, on the devices of a topology that libtpu describes.
"""

import dataclasses
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ja_llm import sharding
from ja_llm.compile import expected, hlo, schedule
from ja_llm.compile.activations import kept_bytes
from ja_llm.compile.describe import GIB, described, model_flops, rates, state_bytes
from ja_llm.compile.gpu import lower_step
from ja_llm.compile.hardware import parse_gpus, parse_topology
from ja_llm.compile.settings import Settings, of_the_candidate
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_write
from ja_llm.models.decoder import Decoder
from ja_llm.train import flops, loop, memory
from ja_llm.train.state import plan_state
from ja_llm.train.step import loss_sums, make_train_step


def topology_devices(topology: str, slices: int = 1) -> Any:
    """The devices of so many slices of a topology ("v5p:4x4x4"), by libtpu.

    Raises:
      UsageError: libtpu is not there, is another process's, or does not know the topology.
    """
    parse_topology(topology)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology_name=topology, platform="tpu", num_slices=slices).devices
    except Exception as error:  # libtpu's errors have no class of their own
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if "lockfile" in why:  # its advice, to delete the file, would not end the other process
            raise UsageError(
                f"--topology {topology} can't be compiled for now: another process on this machine has libtpu, which is for one at a time; wait "
                "until it ends, or start it with JAX_PLATFORMS=cpu (where libtpu is installed, JAX takes it even if there is no TPU)."
            ) from error
        raise UsageError(
            f"--topology {topology} can't be compiled for: {why}; give a shape that the maker offers, and install the extra tpu (libtpu)."
        ) from error


def compile_step(
    settings: Settings, topology: str, compiler_options: Mapping[str, str] | None = None, dump: str | None = None
) -> dict[str, Any]:
    """Compile a run's step for a slice (for GPUs, lower it: `ja_llm.compile.gpu`).

    Args:
      settings: the run.
      topology: e.g. "v5p:4x4x4", in chips, or "h100:16x8", machines and GPUs in each.
      compiler_options: XLA's, by name; what LIBTPU_INIT_ARGS would hold.
      dump: file for the text of the scheduled HLO.

    Returns:
      What `ja_llm.compile.report` shows: see docs/compile.md.

    Raises:
      UsageError: the topology does not exist.
      CandidateError: mesh, batch or model do not fit each other.
      JaLlmError: the compiler failed.
    """
    if (gpus := parse_gpus(topology)) is not None:
        return lower_step(settings, *gpus)
    chip, shape = parse_topology(topology)
    devices = topology_devices(topology, math.prod(settings.dcn_mesh.values()))
    options = settings.options
    with of_the_candidate():
        mesh = sharding.make_mesh(dict(settings.mesh), devices=devices, slices=dict(settings.dcn_mesh))
        sharding.check_batch(mesh, settings.rules, settings.batch_size, settings.length, options.microbatches)
        plan, transformation = plan_state(settings.model, settings.optimizer, options, mesh, settings.rules)
    rows = sharding.batch_sharding(mesh, settings.rules)
    batch = (settings.batch_size, settings.length)
    found = {**described(settings, mesh, topology, devices[0].device_kind), "compiler_options": dict(compiler_options or {})}
    state = state_bytes(plan, rows, batch)
    began, cpu = time.perf_counter(), time.process_time()
    with sharding.use(mesh, settings.rules):
        train_step = make_train_step(
            loss_sums, Decoder(settings.model), transformation, settings.schedule, options, axes=plan.axes
        )
        lowered = loop.lowered_step(train_step, mesh, rows, plan, batch)
        try:
            compiled = lowered.compile(compiler_options=dict(compiler_options or {}))
        except Exception as error:  # XLA's own kinds
            if not memory.is_out_of_memory(error):
                why = (str(error).splitlines() or [type(error).__name__])[0][:300]
                raise JaLlmError(
                    f"the compiler for {topology} failed: {why}; look at --xla and the shapes if this names them."
                ) from error
            compiled, refused = None, str(error)
    found["compile_seconds"] = round(time.perf_counter() - began, 1)
    found["compile_cpu_seconds"] = round(time.process_time() - cpu, 1)
    if compiled is None:
        return {**found, **_refused(refused, state, chip.usable_gib)}
    text = compiled.as_text()
    if dump is not None:
        with atomic_write(Path(dump)) as file:
            file.write(text.encode())
    module = hlo.parse(text)
    found |= _memory(compiled, state, chip.usable_gib, kept_bytes(module, settings.model.num_layers))
    device_mesh = schedule.Mesh(
        axes=dict(mesh.shape),
        coords=np.array([d.coords for d in mesh.devices.flat]),
        chip=chip,
        shape=shape,
        peak=flops.peak_flops(devices[0]) or math.nan,
        slices=np.array([getattr(d, "slice_index", 0) for d in mesh.devices.flat]),
    )
    return {
        **found,
        **_costs(settings, schedule.cost(module, device_mesh), device_mesh),
        **_expected(settings, module, device_mesh),
    }


def _memory(compiled: Any, state: dict[str, int], usable: float, activations: int) -> dict[str, Any]:
    """Bytes by kind against what a program may use; `activations` are a part of the temporaries."""
    analysis = compiled.memory_analysis()
    program, named = analysis.generated_code_size_in_bytes, sum(state.values())
    # The sum of all buffers counts those twice that are never there together; where the compiler tells its peak, that is the measure.
    total = (getattr(analysis, "peak_memory_in_bytes", 0) or memory.needed_bytes(compiled) or 0) + program
    activations = min(activations, max(0, total - named - program))
    temporaries = min(analysis.temp_size_in_bytes, max(0, total - named - program)) - activations
    kinds = {**state, "activations": activations, "temporaries": max(0, temporaries), "program": program}
    # Padding of arrays to the chip's tiles, results that reuse no argument, and the like.
    kinds["other"] = max(0, total - sum(kinds.values()))
    gib = {kind: size / GIB for kind, size in kinds.items()}
    # The compiler refuses by its own figure; ours is a guess for some chips (`ja_llm.compile.hardware`), and the careful one of the two decides.
    fits = total <= usable * GIB
    return {"fits": fits, "spare_gib": usable - total / GIB, "gib_per_chip": {**gib, "total": total / GIB, "usable": usable}}


def _refused(message: str, state: dict[str, int], usable: float) -> dict[str, Any]:
    """By how much a program is over for which the compiler found no place.

    Its message names either what the whole program uses, or the temporaries alone, to which the state is added here.
    """
    gib = {kind: size / GIB for kind, size in state.items()}
    named = sum(gib.values())
    if (alone := _amount(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds", message)) is not None:
        total = named + alone
    elif (used := _amount(r"Used ([\d.]+)([KMGT]?) of", message)) is not None:
        total = max(used, named)
    else:
        total = max(usable + (_amount(r"capacity by ([\d.]+)([KMGT]?)", message) or 0.0), named)
    gib["temporaries"] = total - named
    return {
        "fits": False,
        "spare_gib": usable - total,
        "gib_per_chip": {**gib, "total": total, "usable": usable},
        "refused": message.splitlines()[0][:400],
    }


def _amount(pattern: str, message: str) -> float | None:
    """GiB."""
    match = re.search(pattern, message)
    return None if match is None else float(match[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[match[2]] / GIB


def _costs(settings: Settings, cost: schedule.Cost, mesh: schedule.Mesh) -> dict[str, Any]:
    """FLOPs, traffic and the time that they make up."""
    found = model_flops(settings)
    exposed = sum(t.exposed_seconds for t in cost.traffic.values())
    return {
        "flops": {
            **found,
            "executed": cost.flops * mesh.size,
            "executed_attention": cost.kernel_flops * mesh.size,
            "executed_over_model": cost.flops * mesh.size / found["model_causal"],
        },
        "collectives": [
            {"kind": kind, "axes": axes, **{name: value for name, value in vars(traffic).items()}}
            for (kind, axes), traffic in sorted(cost.traffic.items())
        ],
        "time": {
            "compute_seconds": cost.compute_seconds,
            "collective_seconds": sum(t.seconds for t in cost.traffic.values()),
            "exposed_seconds": exposed,
            "step_seconds": cost.seconds,
            **rates(settings, cost.seconds, mesh.size, mesh.peak),
        },
    }


def _expected(settings: Settings, module: hlo.Module, mesh: schedule.Mesh) -> dict[str, Any]:
    """The same schedule at published speeds; see `ja_llm.compile.expected`."""
    speeds = expected.ACHIEVED[mesh.chip.platform_name]
    slower = dataclasses.replace(mesh, peak=speeds.peak * speeds.products, kernel_peak=speeds.attention_flops(settings.length))
    cost = schedule.cost(module, slower)
    exposed = sum(t.exposed_seconds for t in cost.traffic.values())
    name = mesh.chip.platform_name
    found = expected.step_seconds(name, settings.length, cost.flops - cost.kernel_flops, cost.kernel_seconds, exposed)
    return {"expected": {**found, **rates(settings, found["step_seconds"], mesh.size, speeds.peak)}}
