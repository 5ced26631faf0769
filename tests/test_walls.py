"""The import walls of docs/architecture.md, held statically (imports inside functions too) and in fresh interpreters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TENSORFLOW = {"tensorflow", "tensorflow_text", "seqio", "t5x"}
BEAM = {"apache_beam"}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}

# room (prefix of module names) -> top-level packages and project prefixes that may not be imported, anywhere in the file
FORBIDDEN = {
    "ja_llm.text": {"ja_llm"} | TENSORFLOW | BEAM | JAX,
    "ja_llm.vocab": TENSORFLOW | BEAM | {"ja_llm.data", "ja_llm.evaluation", "ja_llm.interop"},
    "ja_llm.models": TENSORFLOW | BEAM | {"ja_llm.train", "ja_llm.data", "ja_llm.vocab"},
    "ja_llm.attention": TENSORFLOW | BEAM | {"ja_llm.train", "ja_llm.data", "ja_llm.models", "ja_llm.vocab"},
    "ja_llm.losses": TENSORFLOW | BEAM | {"ja_llm.train", "ja_llm.data", "ja_llm.models", "ja_llm.vocab"},
    "ja_llm.sharding": TENSORFLOW | BEAM | {"ja_llm.train", "ja_llm.data"},
    "ja_llm.data.store": TENSORFLOW | BEAM | JAX,
    "ja_llm.data.packing": TENSORFLOW | BEAM | JAX,
    "ja_llm.data.mixing": TENSORFLOW | BEAM | JAX,
    "ja_llm.data.batches": TENSORFLOW | BEAM,
    "ja_llm.train": TENSORFLOW | BEAM | {"ja_llm.data.cache", "ja_llm.data.registry", "ja_llm.data.seqio_vocabulary", "tasks"},
    "ja_llm.train.loop": {"ja_llm.data", "ja_llm.evaluation"},
    "ja_llm.launch": TENSORFLOW | BEAM | JAX | {"ja_llm.train", "ja_llm.data", "ja_llm.models"},
    "ja_llm.interop": (TENSORFLOW - {"t5x"}) | BEAM,
    "beam_pipelines": TENSORFLOW
    | JAX
    | {"ja_llm.models", "ja_llm.train", "ja_llm.data", "ja_llm.interop", "ja_llm.evaluation", "ja_llm.commands", "tasks"},
    "ja_llm": {"ja_llm.cli"},
    "tasks": {"ja_llm.cli"},
}
MAY_IMPORT_CLI = {"ja_llm.__main__", "ja_llm.train.__main__"}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("ja_llm", "tasks", "beam_pipelines"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def inside(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_module_of_a_room_imports_what_the_wall_forbids(room):
    members = {n: p for n, p in modules().items() if inside(n, room)}
    assert members, f"{room} is gone; change this table"
    broken = []
    for name, path in members.items():
        for imported in imports(name, path):
            own = room.startswith("ja_llm.") and inside(imported, room)
            wall = any(inside(imported, f) for f in FORBIDDEN[room])
            if wall and not own and not (name in MAY_IMPORT_CLI and inside(imported, "ja_llm.cli")):
                broken.append(f"{name} imports {imported}")
    assert not broken


def loaded_by(code: str) -> set[str]:
    """Top-level packages in sys.modules of a fresh interpreter after `code`."""
    program = f"{code}\nimport sys\nprint('LOADED', *sorted({{m.split('.')[0] for m in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split("LOADED", 1)[1].split())


def import_all(prefixes: tuple[str, ...], skip: tuple[str, ...] = ()) -> str:
    names = [n for n in modules() if any(inside(n, p) for p in prefixes) and not n.endswith("__main__") and n not in skip]
    return "\n".join(f"import {n}" for n in names)


def test_training_and_its_rooms_load_no_tensorflow_and_no_beam():
    rooms = (
        "ja_llm.vocab",
        "ja_llm.models",
        "ja_llm.attention",
        "ja_llm.losses",
        "ja_llm.sharding",
        "ja_llm.train",
        "ja_llm.interop",
        "ja_llm.data.store",
        "ja_llm.data.packing",
        "ja_llm.data.batches",
    )
    assert not loaded_by(import_all(rooms, skip=("ja_llm.interop.t5x",))) & (TENSORFLOW | BEAM)  # that one is loaded inside t5x


def test_corpus_jobs_load_no_jax_and_no_tensorflow():
    assert not loaded_by(import_all(("beam_pipelines",))) & (JAX | TENSORFLOW)


def test_command_line_loads_nothing_heavy():
    assert not loaded_by("from ja_llm.cli import build_parser; build_parser()") & (JAX | TENSORFLOW | BEAM | {"numpy"})


def test_task_names_are_registered_without_tensorflow():
    assert not loaded_by(import_all(("tasks",))) & TENSORFLOW
