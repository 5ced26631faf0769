"""Compiler flags that are recommended for each kind of hardware: one table, with the source of each flag.

XLA ends a process whose XLA_FLAGS name something that it does not know, and libtpu does so with LIBTPU_INIT_ARGS; so
`tests/launch/test_flags.py` looks for each name in the library that reads it, and gives the GPU's and the CPU's to a real process.

Sources:
  MaxText: AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py (05d3525), the sets that its published runs share.
  Levanter: its contributors' guide, scoped VMEM by TPU generation.
  JAX: docs.jax.dev, "GPU performance tips", sections on XLA flags and on communication.
  Rendezvous: seen here; simulated devices of a busy machine abort in XLA's collective rendezvous with the default patience.
None of the values was measured by us on the hardware: the speeds are their authors' word, that the flags exist is tested.
"""

import dataclasses
from collections.abc import Mapping

from ja_llm.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
      name: without the dashes.
      value: as it is written.
      why: what it does, in some words.
      source: which of the module's sources recommends it.
      checked: how its existence is known: "binary" (its name stands in the library), "run" (a process takes it, too), or "no".
    """

    name: str
    value: str
    why: str
    source: str
    checked: str

    def __str__(self) -> str:
        return f"--{self.name}={self.value}"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One kind of device.

    Attributes:
      kind: "tpu", "gpu" or "cpu".
      variable: which environment variable the flags go into.
      flags: the flags.
    """

    kind: str
    flags: tuple[Flag, ...]

    @property
    def variable(self) -> str:
        return "LIBTPU_INIT_ARGS" if self.kind == "tpu" else "XLA_FLAGS"


def _tpu(name: str, value: str, why: str, source: str = "MaxText") -> Flag:
    return Flag(name, value, why, source, "binary")


def _xla(name: str, value: str, why: str, source: str = "JAX") -> Flag:
    return Flag(name, value, why, source, "run")


_GATHERS = (
    _tpu("xla_enable_async_all_gather", "true", "gathering parameters (fsdp) runs beside compute"),
    _tpu("xla_tpu_enable_async_collective_fusion", "true", "collectives are fused with the compute that hides them"),
    _tpu("xla_tpu_enable_async_collective_fusion_fuse_all_gather", "true", "the same for all-gathers"),
    _tpu("xla_tpu_enable_async_collective_fusion_multiple_steps", "true", "a collective may hide behind several operations"),
    _tpu("xla_tpu_overlap_compute_collective_tc", "true", "compute and collectives overlap on the tensor core"),
)
_SLICES = (
    _tpu("xla_tpu_enable_data_parallel_all_reduce_opt", "true", "all-reduces between slices (DCN) are pipelined"),
    _tpu("xla_tpu_data_parallel_opt_different_sized_ops", "true", "the same for arrays of different sizes"),
)
_LAYER_BYTES = str(512 * 2**20)  # 8B: a layer's bf16 parameters are 416 MiB
_GPU = (
    _xla("xla_gpu_enable_latency_hiding_scheduler", "true", "collectives start early and end late"),
    _xla("xla_gpu_all_gather_combine_threshold_bytes", _LAYER_BYTES, "one all-gather a layer, not one an array"),
    _xla("xla_gpu_reduce_scatter_combine_threshold_bytes", _LAYER_BYTES, "one reduce-scatter a layer"),
    _xla("xla_gpu_all_reduce_combine_threshold_bytes", _LAYER_BYTES, "one all-reduce a layer"),
    _xla("xla_gpu_enable_pipelined_all_gather", "true", "the next layer's parameters come during this one"),
    _xla("xla_gpu_enable_pipelined_reduce_scatter", "true", "a layer's gradients leave during the next one"),
    _xla("xla_gpu_enable_pipelined_all_reduce", "true", "the same for all-reduces"),
    _xla(
        "xla_gpu_enable_while_loop_double_buffering",
        "true",
        "the scan over layers is unrolled twice, so that pipelines have no copy",
    ),
)
_CPU = (_xla("xla_cpu_collective_call_terminate_timeout_seconds", "300", "patience of simulated devices", "Rendezvous"),)


def _vmem(kib: str, source: str) -> Flag:
    return _tpu("xla_tpu_scoped_vmem_limit_kib", kib, "fast memory that one kernel may take", source)


HARDWARE: dict[str, Hardware] = {
    "v4": Hardware("tpu", (*_GATHERS, *_SLICES)),
    "v5e": Hardware("tpu", (*_GATHERS, *_SLICES, _vmem("50000", "Levanter"))),
    "v5p": Hardware("tpu", (*_GATHERS, *_SLICES, _vmem("50000", "Levanter"))),
    "v6e": Hardware("tpu", (*_GATHERS, *_SLICES, _vmem("98304", "MaxText"))),
    "a100": Hardware("gpu", _GPU),
    "h100": Hardware("gpu", _GPU),
    "h200": Hardware("gpu", _GPU),
    "cpu": Hardware("cpu", _CPU),
}


def hardware(name: str) -> Hardware:
    """The entry of the table.

    Raises:
      UsageError: there is none.
    """
    if name not in HARDWARE:
        raise UsageError(f"--hardware {name!r}: there is no such kind; known are {', '.join(HARDWARE)}.")
    return HARDWARE[name]


def environment(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """What to set for `name` beside `given` (variable -> value); a flag that `given` sets already keeps its value there."""
    entry = hardware(name)
    own = given.get(entry.variable, "")
    named = {word.lstrip("-").split("=")[0] for word in own.split()}
    words = [str(flag) for flag in entry.flags if flag.name not in named]
    return {entry.variable: " ".join([*words, own]).strip()}


def compiler_options(name: str) -> dict[str, str]:
    """The same for a compiler that is called with options and reads no variable (flag -> value)."""
    return {flag.name: flag.value for flag in hardware(name).flags}


def table() -> str:
    """The table as Markdown, a row for each flag and value; it stands in docs/pod.md."""
    rows: dict[tuple[str, Flag], list[str]] = {}
    for name, entry in HARDWARE.items():
        for flag in entry.flags:
            rows.setdefault((entry.variable, flag), []).append(name)
    lines = ["| variable | flag | hardware | what for | source | known to exist by |", "|---|---|---|---|---|---|"]
    for (variable, flag), names in rows.items():
        lines.append(f"| {variable} | `{flag}` | {', '.join(names)} | {flag.why} | {flag.source} | {flag.checked} |")
    return "\n".join(lines)
