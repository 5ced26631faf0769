"""The run's ledger, `run.json`: everything that decides its losses. Same ledger, same hardware -> same losses."""

import subprocess
from pathlib import Path
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.files import read_json, sha256_json, write_json
from ja_llm.manifest import software

SCHEMA = "ja_llm.run/1"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "sentencepiece", "tokenizers")


def new_ledger(job: str, identity: dict[str, Any], parents: list[dict[str, Any]] | None = None, **extra: Any) -> dict[str, Any]:
    """A ledger.

    Args:
      job: what made it: "train", "import", "vocab expand".
      identity: the values that decide the numbers; a run can be resumed only with the same ones.
      parents: `parent_entry` of each model it was made from.
      **extra: anything else worth keeping (mesh, schedule, licences).
    """
    return {
        "schema": SCHEMA,
        "job": job,
        "identity": identity,
        "identity_hash": sha256_json(identity),
        "parents": parents or [],
        "code": {"commit": _commit()},
        "software": software(*_PACKAGES),
        **extra,
    }


def parent_entry(directory: str | Path, step: int, ledger: dict[str, Any]) -> dict[str, Any]:
    """How a ledger names a model that the run started from: its folder's name, step, identity and licence; its own parents inside."""
    return {
        "name": Path(directory).name,
        "step": step,
        "job": ledger.get("job", "unknown"),
        "identity_hash": ledger.get("identity_hash", ""),
        **({"licence": ledger["licence"]} if ledger.get("licence") else {}),
        "parents": ledger.get("parents", []),
    }


def lock_run(directory: Path) -> Any:
    """Take the run directory for this process; keep what comes back as long as the run goes on (the lock ends with the process).

    Raises:
      UsageError: another process trains in this folder.
    """
    import fcntl

    directory.mkdir(parents=True, exist_ok=True)
    file = open(directory / ".lock", "a")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(
            f"{directory}: another process trains in this folder; wait for it, or choose another MODEL_DIR."
        ) from None
    return file


def open_ledger(path: Path, ledger: dict[str, Any]) -> dict[str, Any]:
    """Write the ledger of a new run, or check that an existing one describes the same run.

    Returns:
      The ledger in force: the stored one for a resumed run, with the mesh history extended.

    Raises:
      UsageError: the folder holds a run with other settings; the first difference is named.
    """
    if not path.exists():
        write_json(path, ledger)
        return ledger
    stored = read_json(path, "ledger")
    old, new = stored.get("identity", {}), ledger["identity"]
    if old != new:
        name, was, now = first_difference(old, new)
        raise UsageError(
            f"{path.parent}: this folder holds a run with {name} = {was!r}, the command says {now!r}; "
            "give the same settings to go on, or another MODEL_DIR for a new run."
        )
    meshes = stored.get("mesh_history", [stored.get("mesh")])
    merged = {
        **stored,
        "mesh": ledger.get("mesh"),
        "mesh_history": meshes + [ledger.get("mesh")] if meshes[-1:] != [ledger.get("mesh")] else meshes,
    }
    if merged != stored:
        write_json(path, merged)
    return merged


def first_difference(old: Any, new: Any, prefix: str = "") -> tuple[str, Any, Any]:
    """The first (by name) leaf in which two nested dicts differ: (dotted name, old value, new value)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return first_difference(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    return prefix, old, new


def _commit() -> str:
    """The checkout's commit, with "-dirty" when files differ from it; "" for an installed wheel."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()
