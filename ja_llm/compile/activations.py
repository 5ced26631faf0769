"""What the forward loop over the layers keeps for the backward loop, read from a compiled program."""

from ja_llm.compile.hlo import Computation, Instruction, Module

_SAME = ("copy", "copy-start", "copy-done", "bitcast", "opt-barrier")


def kept_bytes(module: Module, layers: int) -> int:
    """Bytes of the arrays that one loop of `layers` rounds writes and another one is given: activations for the backward pass.

    0 where layers are no loop (`scan_layers` false, one layer).
    """
    kept: dict[str, int] = {}
    for computation in module.computations.values():
        loops = [i for i in computation.instructions if i.opcode == "while" and module.trips(i) == layers]
        for loop in loops:
            written = _written(module, loop)
            for other in loops:
                if other is loop:
                    continue
                for name in _given(computation, other):
                    source, index = _origin(computation, name)
                    if source is loop and index in written:
                        kept[f"{loop.name} {index}"] = computation.by_name[name].bytes
    return sum(kept.values())


def _written(module: Module, loop: Instruction) -> set[int]:
    """Which parts of a loop's state its body does not only hand on."""
    body = module.computations[loop.attribute("body") or ""]
    found = set()
    for place, name in enumerate(body.root.operands):
        part = body.by_name.get(name)
        if part is None or part.opcode != "get-tuple-element" or _index(part) != place:
            found.add(place)
    return found


def _given(computation: Computation, loop: Instruction) -> tuple[str, ...]:
    """Names of the arrays that a loop begins with."""
    state = computation.by_name.get(loop.operands[0]) if loop.operands else None
    return tuple(n for n in state.operands if n in computation.by_name) if state is not None and state.opcode == "tuple" else ()


def _origin(computation: Computation, name: str) -> tuple[Instruction | None, int]:
    """(loop, index) whose result an array is, through copies and new shapes."""
    here = computation.by_name.get(name)
    while here is not None and here.opcode in _SAME and here.operands:
        here = computation.by_name.get(here.operands[0])
    if here is None or here.opcode != "get-tuple-element" or not here.operands:
        return None, -1
    return computation.by_name.get(here.operands[0]), _index(here)


def _index(part: Instruction) -> int:
    return int(part.rest.partition("index=")[2].split(",")[0].split()[0])
