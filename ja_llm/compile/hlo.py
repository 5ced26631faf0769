"""Reading the text of an optimised, scheduled HLO module: computations, instructions, shapes, trip counts, replica groups.

Only what cost and schedule ask for. A module's text is XLA's stable dump format (`Compiled.as_text()`); instructions of a scheduled
module stand in the order in which they run.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

from ja_llm.models.grouped import expected_rounds

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([\d,]*)\]")


def bits(dtype: str) -> int:
    """Of one element ("s32", "f8e4m3fn", "bf16")."""
    if dtype in _BITS:
        return _BITS[dtype]
    number = re.search(r"\d+", dtype)
    return int(number[0]) if number else 32


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      name: without the percent sign.
      type: result, e.g. "bf16[8192,4096]{1,0:T(8,128)(2,1)}" or a tuple of such.
      opcode: e.g. "fusion", "all-gather-start".
      operands: names.
      rest: attributes behind the operands, as text.
      literal: what stands between the brackets (a constant's value, a parameter's number).
      root: the computation's result.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    literal: str
    root: bool

    @functools.cached_property
    def arrays(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(dtype, shape) of each array of the result."""
        plain = re.sub(r"\{[^{}]*\}", "", self.type)
        return tuple((d, tuple(map(int, s.split(","))) if s else ()) for d, s in _ARRAY.findall(plain))

    @property
    def bytes(self) -> int:
        """Of the result, without tiling's padding."""
        return sum(math.prod(shape) * bits(dtype) // 8 for dtype, shape in self.arrays)

    def attribute(self, name: str) -> str | None:
        """Name of the computation that an attribute gives (calls, body, condition, to_apply)."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return match[1] if match else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in order, and by name."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {i.name: i for i in self.instructions}

    @property
    def root(self) -> Instruction:
        return next((i for i in self.instructions if i.root), self.instructions[-1])

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {int(i.literal): i for i in self.instructions if i.opcode == "parameter"}

    def users(self, name: str) -> list[Instruction]:
        return [i for i in self.instructions if name in i.operands]


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations by name; `entry` is where it begins."""

    computations: dict[str, Computation]
    entry: str

    def called(self, instruction: Instruction) -> Computation | None:
        """What a fusion, an async-start or a call computes."""
        name = instruction.attribute("calls") or (instruction.attribute("to_apply") if instruction.opcode == "call" else None)
        return self.computations.get(name) if name else None

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instruction and whatever it calls, fusions in fusions too (loops aside)."""
        yield instruction
        if (body := self.called(instruction)) is not None:
            for inner in body.instructions:
                yield from self.inside(inner)

    def trips(self, loop: Instruction) -> int:
        """How often a while loop runs: its counter begins at 0, is below a constant in the condition and grows by another in the body.

        XLA's loops of products beside gathers go two chunks at a time. 1 where the bound is not known; the counter grows by 1 where that is not.
        """
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known[1])
        condition = self.computations.get(loop.attribute("condition") or "")
        if condition is None:
            return 1
        where, compare = self._defined(condition, condition.root)
        if compare.opcode != "compare" or "direction=LT" not in compare.rest:
            return 1
        counter, bound = (self._resolved(where, name) for name in compare.operands[:2])
        if bound is None or bound.opcode != "constant":
            return 1
        place = re.search(r"index=(\d+)", counter.rest) if counter is not None else None
        step = self._step(loop, int(place[1])) if place else 1
        return -(-int(bound.literal) // step)

    def rounds(self, loop: Instruction) -> float:
        """As `trips`; of a loop that ends with the data, how often it is expected to run."""
        name = re.search(r'op_name="([^"]*)"', loop.rest)
        found = expected_rounds(name[1]) if name else None
        return self.trips(loop) if found is None else found.all

    def _step(self, loop: Instruction, place: int) -> int:
        """By how much a loop's body adds to element `place` of its state."""
        body = self.computations.get(loop.attribute("body") or "")
        if body is None or body.root.opcode != "tuple" or place >= len(body.root.operands):
            return 1
        grown = self._resolved(_Scope(body), body.root.operands[place])
        if grown is None:
            return 1
        where, add = self._defined(body, grown)
        if add.opcode != "add":
            return 1
        found = [self._resolved(where, name) for name in add.operands]
        return next((int(one.literal) for one in found if one is not None and one.opcode == "constant"), 1) or 1

    def _defined(self, computation: Computation, instruction: Instruction) -> "tuple[_Scope, Instruction]":
        """The instruction, or what a fusion makes it by, and where that stands; of a fusion of several results, the one that is taken."""
        place = None
        if instruction.opcode == "get-tuple-element" and instruction.operands:
            source = computation.by_name.get(instruction.operands[0])
            found = re.search(r"\bindex=(\d+)", instruction.rest)
            if source is not None and source.opcode == "fusion" and found is not None:
                instruction, place = source, int(found[1])
        if instruction.opcode == "fusion" and (inner := self.called(instruction)) is not None:
            scope, root = _Scope(inner, _Scope(computation), instruction.operands), inner.root
            if place is not None and root.opcode == "tuple" and place < len(root.operands):
                root = self._resolved(scope, root.operands[place]) or root
            return scope, root
        return _Scope(computation), instruction

    def _resolved(self, where: "_Scope", name: str) -> Instruction | None:
        """An operand by where it comes from: through copies and bitcasts, and out of a fusion to what that is given."""
        found = where.computation.by_name.get(name)
        while found is not None and found.opcode in ("copy", "bitcast", "convert") and found.operands:
            found = where.computation.by_name.get(found.operands[0])
        if found is not None and found.opcode == "parameter" and where.outer is not None:
            return self._resolved(where.outer, where.given[int(found.literal)])
        return found


@dataclasses.dataclass(frozen=True)
class _Scope:
    """A computation, and for a fusion's the one around it with the operands that it is given."""

    computation: Computation
    outer: "_Scope | None" = None
    given: tuple[str, ...] = ()


def parse(text: str) -> Module:
    """The module of a dump."""
    computations: dict[str, Computation] = {}
    entry, name, lines = "", "", []
    for line in text.splitlines():
        if line.startswith((" ", "\t")) and name:
            if (found := _instruction(line)) is not None:
                lines.append(found)
        elif line.startswith("}") and name:
            computations[name] = Computation(name, tuple(lines))
            name, lines = "", []
        elif (match := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)) and not line.startswith("HloModule"):
            name = match[2]
            entry = name if match[1] else entry
    return Module(computations, entry or next(reversed(computations), ""))


_HEAD = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")


def _instruction(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    if not head:
        return None
    at = head.end()
    end = _closing(line, at) + 1 if line[at] == "(" else line.index(" ", at)
    type_text, opcode_at = line[at:end], end + 1
    # A tuple's layout may follow its bracket; the opcode is the word before the next opening bracket.
    open_at = line.index("(", opcode_at)
    opcode = line[opcode_at:open_at].split()[-1]
    close = _closing(line, open_at)
    inner = line[open_at + 1 : close]
    operands = tuple(re.findall(r"%([\w.\-]+)", inner))
    return Instruction(head[2], type_text, opcode, operands, line[close + 1 :], inner, bool(head[1]))


def _closing(line: str, at: int) -> int:
    depth = 0
    for place in range(at, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if depth == 0:
            return place
    return len(line) - 1


def first_group(rest: str, devices: int) -> np.ndarray:
    """int [members]: the first group of a collective, as places in the program's device order.

    Understands lists ({{0,1},{2,3}}), iota ([2,4]<=[8], with a transposition T(1,0)), meshes (mesh['a'=4,'b'=2] {'a'}; a part of an axis
    is 'a':(before)size) and pairs of a permute.
    """
    if match := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest):
        return np.array([int(match[1]), int(match[2])])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return np.array([int(n) for n in match[1].split(",")])
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        grid = np.arange(devices).reshape([int(n) for n in match[3].split(",")])
        if match[4]:
            grid = grid.transpose([int(n) for n in match[4].split(",")])
        return grid.reshape(int(match[1]), int(match[2]))[0]
    if match := re.search(r"replica_groups=@?\w*mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        return _mesh_group(match[1], match[2], devices)
    return np.arange(devices)


def _mesh_group(sizes_text: str, axes_text: str, devices: int) -> np.ndarray:
    names = re.findall(r"'([^']+)'=(\d+)", sizes_text)
    sizes = [int(size) for _, size in names]
    wanted = {
        name: (int(before or 1), int(size or 0)) for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes_text)
    }
    shape: list[int] = []
    taken: list[int] = []
    for (name, _), size in zip(names, sizes, strict=True):
        if name not in wanted:
            shape.append(size)
            continue
        before, part = wanted[name][0], wanted[name][1] or size
        shape += [before, part, size // before // part]
        taken.append(len(shape) - 2)
    order = [i for i in range(len(shape)) if i not in taken] + taken
    count = math.prod(shape[i] for i in taken)
    return np.arange(devices).reshape(shape).transpose(order).reshape(-1, count)[0]
