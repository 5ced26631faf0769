"""What a scheduled HLO module costs: executed FLOPs, bytes over the links, and the time in which the links are waited for.

The schedule is walked with two clocks. An instruction that computes takes the larger of FLOPs / peak and bytes / HBM bandwidth (the
roofline; Williams et al. 2009, doi 10.1145/1498765.1498785): nothing is faster, most is slower. A collective takes its bytes over the
links of its group; the links do one at a time. A plain collective is waited for whole. One that is split (start ... done) runs beside
what is between, and only what is left at its end is waited for: its exposed time. While loops multiply by their trip counts, those over
experts' tokens by what even use of the experts makes them.

Bytes of ring algorithms over n chips (Thakur et al. 2005, doi 10.1177/1094342005051521): all-gather and reduce-scatter (n - 1) / n of the
whole, all-reduce twice that, all-to-all (n - 1) / n of what a chip holds; a permute, all of it.

Between slices libtpu writes no collective but a `send` and a `recv` through the hosts (its "megascale" runtime), which run beside the
links of a slice; the `recv-done` waits for them.
"""

import dataclasses
import math
import re
from typing import Any

import numpy as np

from ja_llm.compile.hardware import Chip, group_bandwidth
from ja_llm.compile.hlo import COLLECTIVES, Computation, Instruction, Module, first_group

_FREE = {
    *(
        "parameter",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "constant",
        "after-all",
        "partition-id",
        "replica-id",
        "iota",
        "broadcast",
    ),
    *("copy-start", "copy-done", "slice-start", "slice-done", "opt-barrier", "domain", "add-dependency"),
    *("send", "recv"),  # which the hosts' network carries
}
_NO_DATA = {"AllocateBuffer", "AssumeGatherIndicesInBound"}  # custom calls that move nothing


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The devices that a program was compiled for.

    Attributes:
      axes: name -> size, outermost first.
      coords: int [devices, dimensions], in the program's order.
      chip: their generation.
      shape: chips along each dimension of the slice.
      peak: FLOP/s of one in matrix products.
      kernel_peak: FLOP/s of one in the attention kernels' forward pass; None: `peak`.
      slices: int [devices], which slice each is in; None: all in one.
    """

    axes: dict[str, int]
    coords: Any
    chip: Chip
    shape: tuple[int, ...]
    peak: float
    kernel_peak: float | None = None
    slices: Any = None

    @property
    def size(self) -> int:
        return math.prod(self.axes.values())

    def axes_of(self, group: np.ndarray) -> str:
        """Names of the axes along which a group's members differ, e.g. "fsdp" or "data+fsdp"."""
        places = np.unravel_index(group, tuple(self.axes.values()))
        return "+".join(name for name, place in zip(self.axes, places, strict=True) if len(set(place)) > 1) or "none"


@dataclasses.dataclass
class Traffic:
    """Collectives of one kind along the same mesh axes; sums over a step, of one chip.

    Attributes:
      count: how often one runs.
      bytes: of the whole arrays (gathered, reduced, exchanged).
      wire_bytes: that the chip sends.
      seconds: on the links.
      exposed_seconds: of them, while nothing else runs.
      split: how many of `count` are split into start and done.
    """

    count: float = 0
    bytes: float = 0
    wire_bytes: float = 0
    seconds: float = 0
    exposed_seconds: float = 0
    split: float = 0

    def add(self, other: "Traffic", times: float) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + times * getattr(other, field.name))


@dataclasses.dataclass
class Cost:
    """Of a computation that runs once.

    Attributes:
      flops: executed, of matrix products and kernels.
      kernel_flops: of them, those of attention kernels.
      kernel_seconds: that the attention kernels take.
      compute_seconds: of all that is no collective.
      seconds: with what is exposed of the collectives.
      traffic: (kind, axes) -> what goes over the links.
    """

    flops: float = 0
    kernel_flops: float = 0
    kernel_seconds: float = 0
    compute_seconds: float = 0
    seconds: float = 0
    traffic: dict[tuple[str, str], Traffic] = dataclasses.field(default_factory=dict)

    def add(self, other: "Cost", times: float) -> None:
        for name in ("flops", "kernel_flops", "kernel_seconds", "compute_seconds", "seconds"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for key, traffic in other.traffic.items():
            self.traffic.setdefault(key, Traffic()).add(traffic, times)


def cost(module: Module, mesh: Mesh) -> Cost:
    """The whole module's."""
    return _walk(module, module.computations[module.entry], mesh)


def _walk(module: Module, computation: Computation, mesh: Mesh) -> Cost:
    """Run through a computation's schedule once."""
    total = Cost()
    links_free, network_free = 0.0, 0.0
    running: dict[str, tuple[float, Traffic]] = {}  # start -> (when it ends, where its exposed time is counted)
    carried: dict[str, str] = {}  # what hands a running collective on -> its start
    between: dict[str, tuple[float, Traffic]] = {}  # the same of transfers between slices, by the name that both ends give
    for instruction in computation.instructions:
        carried |= _held(instruction, running, carried)
        if instruction.opcode == "while":
            body = module.computations[instruction.attribute("body") or ""]
            total.add(_walk(module, body, mesh), module.rounds(instruction))
        elif instruction.opcode == "conditional":
            branches = [_walk(module, module.computations[n], mesh) for n in _branches(instruction) if n in module.computations]
            total.add(max(branches, key=lambda c: c.seconds, default=Cost()), 1)
        elif (found := _handed_on(instruction, running, carried)) is not None:
            if not _is_done(instruction):  # XLA's TPU compiler fuses products with a gather that goes on beside them
                carried[instruction.name] = found
                if instruction.opcode == "fusion":
                    _compute(total, module, computation, instruction, mesh)
                continue
            end, traffic = running.pop(found)
            waited = max(0.0, end - total.seconds)
            traffic.exposed_seconds += waited
            total.seconds += waited
        elif (core := _collective(module, instruction)) is not None and not _goes_on(instruction):
            key, one = _traffic(core, instruction, module, mesh)
            begins = max(total.seconds, links_free)
            links_free = begins + one.seconds
            sums = total.traffic.setdefault(key, Traffic())
            if _is_start(instruction):
                one.split = 1
                sums.add(one, 1)
                running[instruction.name] = (links_free, sums)
                continue
            one.exposed_seconds = links_free - total.seconds
            sums.add(one, 1)
            total.seconds = links_free
        elif instruction.opcode == "send" and (rendezvous := _rendezvous(instruction)) is not None:
            key, one = _between_slices(computation, instruction, mesh)
            network_free = max(total.seconds, network_free) + one.seconds
            sums = total.traffic.setdefault(key, Traffic())
            sums.add(one, 1)
            between[rendezvous] = network_free, sums
        elif (
            instruction.opcode == "recv-done"
            and (rendezvous := _rendezvous(computation.by_name[instruction.operands[0]])) in between
        ):
            end, traffic = between.pop(rendezvous)
            waited = max(0.0, end - total.seconds)
            traffic.exposed_seconds += waited
            total.seconds += waited
        elif instruction.opcode not in _FREE and not instruction.opcode.endswith("-done"):
            _compute(total, module, computation, instruction, mesh)
    return total


def _compute(total: Cost, module: Module, computation: Computation, instruction: Instruction, mesh: Mesh) -> None:
    """Add an instruction that computes."""
    kernel = _kernel(instruction)
    flops = _flops(module, computation, instruction)
    rate = mesh.peak if kernel is None or mesh.kernel_peak is None else mesh.kernel_peak * _PACE[kernel]
    seconds = max(flops / rate, _moved(module, computation, instruction) / mesh.chip.hbm_bytes_per_second)
    total.flops += flops
    total.compute_seconds += seconds
    total.seconds += seconds
    if kernel is not None:
        total.kernel_flops += flops
        total.kernel_seconds += seconds


def _branches(instruction: Instruction) -> list[str]:
    match = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
    names = match[1] if match else " ".join(re.findall(r"(?:true|false)_computation=(\S+)", instruction.rest))
    return re.findall(r"%?([\w.\-]+)", names)


def _is_start(instruction: Instruction) -> bool:
    return instruction.opcode.endswith("-start") or "async-collective-start" in instruction.name


def _is_done(instruction: Instruction) -> bool:
    return instruction.opcode.endswith("-done") or "async-collective-done" in instruction.name


def _handed_on(instruction: Instruction, running: dict[str, Any], carried: dict[str, str]) -> str | None:
    """The running collective that an instruction ends, or hands on: a part of the start's result, a fusion that is given one."""
    if instruction.opcode not in ("get-tuple-element", "fusion") and not _is_done(instruction):
        return None
    place = re.search(r"\bindex=(\d+)", instruction.rest) if instruction.opcode == "get-tuple-element" else None
    for name in (*((f"{instruction.operands[0]} {place[1]}",) if place else ()), *instruction.operands):
        start = carried.get(name, name)
        if start in running:
            return start
    return None


def _held(instruction: Instruction, running: dict[str, Any], carried: dict[str, str]) -> dict[str, str]:
    """Running collectives in a tuple, and in the state of a loop that begins with it: "NAME PLACE" -> start."""
    if instruction.opcode == "tuple":
        starts = [carried.get(name, name) for name in instruction.operands]
        return {f"{instruction.name} {at}": start for at, start in enumerate(starts) if start in running}
    if instruction.opcode == "while":
        begin = f"{instruction.operands[0]} "
        return {f"{instruction.name} {key.removeprefix(begin)}": start for key, start in carried.items() if key.startswith(begin)}
    return {}


def _goes_on(instruction: Instruction) -> bool:
    """Whether a fusion multiplies beside a collective that began before the loop that it is in, and ends behind it."""
    return (instruction.attribute("calls") or "").startswith("async_collective_fusion")


def _collective(module: Module, instruction: Instruction) -> Instruction | None:
    """The collective that an instruction is or, as a fusion or an async start, contains."""
    for inner in module.inside(instruction) if instruction.opcode in ("fusion", "async-start", "call") else [instruction]:
        if inner.opcode.removesuffix("-start") in COLLECTIVES:
            return inner
    return None


def _rendezvous(instruction: Instruction) -> str | None:
    """What both ends of a transfer between slices call it; None for one to the host alone."""
    found = re.search(r'_xla_host_transfer_rendezvous="([^"]+)"', instruction.rest)
    return found[1] if found and "_xla_megascale_transfer_type=" in instruction.rest else None


def _between_slices(computation: Computation, send: Instruction, mesh: Mesh) -> tuple[tuple[str, str], Traffic]:
    """What a chip exchanges with those at its place in all other slices; `bytes` of the arrays that these chips hold together.

    All slices: which of them take part stands in `_xla_megascale_target`, whose meaning is not published. A mesh with two axes over slices is
    counted too high by this, and by the names of both axes.
    """
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', send.rest)
    kind = {"ONE_TO_ONE": "collective-permute"}.get(found[1], found[1].lower().replace("_", "-")) if found else "all-reduce"
    given = float(computation.by_name[send.operands[0]].bytes)
    slices = np.zeros(mesh.size, int) if mesh.slices is None else np.asarray(mesh.slices)
    here = np.flatnonzero((np.asarray(mesh.coords) == mesh.coords[0]).all(axis=-1))
    group = here[np.unique(slices[here], return_index=True)[1]]
    wire, whole = _wire(kind, given, len(group))
    return (kind, mesh.axes_of(group)), Traffic(1, whole, wire, wire / mesh.chip.dcn_bytes_per_second, split=1)


def _wire(kind: str, given: float, n: int) -> tuple[float, float]:
    """(bytes that a chip sends, bytes of the whole array) of a collective over n chips of which each is given `given` bytes."""
    share = (n - 1) / n if n > 1 else 0.0
    whole, factor = {
        "all-gather": (given * n, share),
        "reduce-scatter": (given, share),
        "all-reduce": (given, 2 * share),
        "all-to-all": (given, share),
        "ragged-all-to-all": (given, share),
    }.get(kind, (given, 1.0))
    return whole * factor, whole


def _traffic(core: Instruction, outer: Instruction, module: Module, mesh: Mesh) -> tuple[tuple[str, str], Traffic]:
    group = first_group(core.rest, mesh.size)
    kind, n = core.opcode.removesuffix("-start"), len(group)
    where = next(c for c in module.computations.values() if core.name in c.by_name and c.by_name[core.name] is core)
    given = sum(where.by_name[name].bytes for name in core.operands if name in where.by_name)
    if kind == "all-reduce" and core is not outer and any(i.opcode == "dynamic-slice" for i in module.inside(outer)):
        kind = "reduce-scatter"  # which XLA's TPU compiler writes as an all-reduce whose part is taken, in one fusion
    wire, whole = _wire(kind, given, n)
    between = mesh.slices is not None and len(set(mesh.slices[group])) > 1
    bandwidth = mesh.chip.dcn_bytes_per_second if between else group_bandwidth(mesh.chip, mesh.shape, mesh.coords[group])
    return (kind, mesh.axes_of(group)), Traffic(1, whole, wire, wire / bandwidth)


def _flops(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Of the matrix products in an instruction, and of the attention kernels."""
    if instruction.opcode == "custom-call":
        return _kernel_flops(computation, instruction)
    total = 0.0
    for where, inner in _with_homes(module, computation, instruction):
        arrays = [a.arrays[0][1] for name in inner.operands[:2] if (a := where.by_name.get(name)) is not None]
        if inner.opcode == "dot" and len(arrays) == 2:
            found = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", inner.rest)
            depth = math.prod(arrays[0][int(i)] for i in found[1].split(",")) if found else 1
            total += 2.0 * math.prod(inner.arrays[0][1]) * depth
        elif inner.opcode == "convolution" and len(arrays) == 2:
            # Which a TPU's products are. M K, K N and M N: the root of their product is M N K, whatever the window. (With batch dimensions
            # B it is too large by the root of B; the models here have none.)
            total += 2.0 * math.sqrt(math.prod(map(math.prod, (*arrays, inner.arrays[0][1]))))
    return total


def _with_homes(module: Module, computation: Computation, instruction: Instruction) -> Any:
    yield computation, instruction
    if (body := module.called(instruction)) is not None:
        for inner in body.instructions:
            yield from _with_homes(module, body, inner)


# Matrix products that each kernel of `ja_llm.attention.flash` does for a query and a key: scores and values; these anew with the
# gradients of scores, keys and values; scores, their gradient and that of the queries.
_PRODUCTS = {"attention_forward": 2, "attention_dkv": 4, "attention_dq": 3}
# Published speeds of backward passes count 5 products where two kernels do 7.
_PACE = {"attention_forward": 1.0, "attention_dkv": 7 / 5, "attention_dq": 7 / 5}


def _kernel(instruction: Instruction) -> str | None:
    """Which attention kernel an instruction is."""
    if instruction.opcode != "custom-call":
        return None
    return next((name for name in _PRODUCTS if instruction.name.startswith(name)), None)


def _kernel_flops(computation: Computation, instruction: Instruction) -> float:
    """Of an attention kernel over a causal row that is one document: half of all pairs."""
    kernel = _kernel(instruction)
    arrays = [a.arrays[0][1] for name in instruction.operands if (a := computation.by_name.get(name)) and len(a.arrays) == 1]
    wide = [shape for shape in arrays if len(shape) == 4]
    if kernel is None or len(wide) < 2:
        return 0.0
    queries, keys = wide[0], wide[1]
    return _PRODUCTS[kernel] * 2.0 * math.prod(queries) * max(keys[2:]) / 2


def _moved(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Bytes that an instruction reads and writes; of an array that it takes a slice of, or writes one into, only the slice."""
    if any(f'custom_call_target="{target}"' in instruction.rest for target in _NO_DATA):
        return 0.0
    if instruction.opcode in ("dynamic-slice", "gather", "slice"):
        return 2.0 * instruction.bytes
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * computation.by_name[instruction.operands[1]].bytes
    body = module.called(instruction)
    total = 0.0
    for place, name in enumerate(instruction.operands):
        if (operand := computation.by_name.get(name)) is not None:
            total += operand.bytes if body is None else _read(module, body, place, operand.bytes)
    return total + (instruction.bytes if body is None else _written(body, instruction))


def _read(module: Module, body: Computation, place: int, whole: int) -> float:
    """Bytes that a fusion reads of its parameter number `place`, in the fusions inside of it, too."""
    parameter = body.parameters.get(place)
    if parameter is None:
        return float(whole)
    total = 0.0
    for user in body.users(parameter.name):
        if user.opcode in ("dynamic-slice", "gather", "slice"):
            total += user.bytes
        elif user.opcode == "tuple" or user.opcode in COLLECTIVES:  # handed on, or counted as what goes over the links
            continue
        elif user.opcode == "fusion" and (inner := module.called(user)) is not None:
            for at, name in enumerate(user.operands):
                total += _read(module, inner, at, whole) if name == parameter.name else 0.0
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != parameter.name:
            return float(whole)
    return min(total, whole)


def _written(body: Computation, instruction: Instruction) -> float:
    """Bytes that a fusion writes: where its result is an array with a new slice in it, the slice."""
    roots = [body.root]
    if body.root.opcode == "tuple":
        roots = [body.by_name[name] for name in body.root.operands if name in body.by_name]
    total = 0.0
    for root in roots:
        while root.opcode == "bitcast" and root.operands and root.operands[0] in body.by_name:
            root = body.by_name[root.operands[0]]
        if root.opcode == "parameter" or root.opcode in COLLECTIVES:
            continue
        update = body.by_name.get(root.operands[1]) if root.opcode == "dynamic-update-slice" else None
        total += root.bytes if update is None else update.bytes
    return min(total, instruction.bytes) if instruction.bytes else total
