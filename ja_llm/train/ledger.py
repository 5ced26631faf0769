"""The run's ledger, `run.json`: everything that decides its losses. Same ledger, same hardware -> same losses."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ja_llm import storage
from ja_llm.errors import UsageError
from ja_llm.files import lock_file, read_json, sha256_json, write_json, write_text
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


# What a parent's entry has of its ledger beside its identity: what goes along to an export.
_CARRIED = ("licence", "licences", "generation", "token_ids", "quantisation")


def parent_entry(directory: str | Path, step: int, ledger: dict[str, Any]) -> dict[str, Any]:
    """How a ledger names a model that the run started from: its folder's name, step, identity, licences, what goes along to an export; its own parents inside."""
    return {
        "name": Path(directory).name,
        "step": step,
        "job": ledger.get("job", "unknown"),
        "identity_hash": ledger.get("identity_hash", ""),
        **{key: ledger[key] for key in _CARRIED if ledger.get(key)},
        "parents": ledger.get("parents", []),
    }


# What each part of a ledger that is carried on must be, where it is there.
_KINDS: dict[str, type] = {
    **dict.fromkeys(("job", "identity_hash", "name", "licence"), str),
    **dict.fromkeys(("licences", "generation", "token_ids", "quantisation"), dict),
    "parents": list,
    "step": int,
}


def is_ledger(value: Any) -> bool:
    """Whether a JSON value is what `parent_entry` takes, and its parents what `parent_entry` gave."""
    entries = [value]
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(name, kind()), kind) for name, kind in _KINDS.items()):
            return False
        entries.extend(entry.get("parents", []))
    return True


def lineage(ledger: dict[str, Any]) -> list[dict[str, Any]]:
    """The ledger and its ancestors, youngest first."""
    found = [ledger]
    for entry in found:
        found.extend(parent for parent in entry.get("parents", []) if isinstance(parent, dict))
    return found


def carried(ledger: dict[str, Any], name: str, default: Any = None) -> Any:
    """What the first weights came with; where it was changed since, the youngest."""
    return next((entry[name] for entry in lineage(ledger) if entry.get(name)), default)


def carried_ids(ledger: dict[str, Any], kept: Sequence[int] | None = None) -> dict[str, Any]:
    """The settings that name token ids, for a new ledger.

    Args:
      ledger: of the model that it is made from.
      kept: where ids change: the old id of each new one. Settings of ids that are gone go, too.
    """
    new = None if kept is None else {old: number for number, old in enumerate(kept)}

    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [new[i] for i in value if i in new] if new is not None else value
        return value if new is None else new.get(value)

    found: dict[str, Any] = {}
    for name in ("generation", "token_ids"):
        values = {key: one(value) if key.endswith("_token_id") else value for key, value in carried(ledger, name, {}).items()}
        found[name] = {key: value for key, value in values.items() if value not in (None, [])}
    return {name: values for name, values in found.items() if values}


def lock_run(directory: Path) -> Any:
    """Take the run directory for this process; keep what comes back as long as the run goes on, and close it then.

    Raises:
      UsageError: another process trains in this folder.
    """
    taken = UsageError(f"{directory}: another process trains in this folder; wait for it, or choose another MODEL_DIR.")
    return storage.Lease(directory / ".lock", taken) if storage.is_remote(directory) else lock_file(directory / ".lock", taken)


_CALL = ("code", "software", "mesh")  # what may differ between two calls of one run


def open_ledger(
    path: Path,
    ledger: dict[str, Any],
    from_step: int = 0,
    same_past: Callable[[Any], bool] = lambda _: False,
    *,
    accept: Sequence[str] = (),
    write: bool = True,
) -> dict[str, Any]:
    """Write the ledger of a new run, or check that an existing one describes the same run.

    Args:
      path: of run.json.
      ledger: what this call would write for a new run.
      from_step: the step that this call goes on from.
      same_past: whether the stored schedule of the learning rate gave the same rates up to `from_step` as this call's: then it may be
        another one from there on (a longer run, an anneal).
      accept: parts of the identity that may differ all the same; the history says so.
      write: False only looks.

    Returns:
      The ledger in force: the stored one for a resumed run, with this call's code, software, mesh and data schedule. `history` lists them
      with the step that they took over at, one entry for each call in which one of them changed.

    Raises:
      UsageError: the folder holds a run with other settings; the first difference is named.
    """
    call = {key: ledger.get(key) for key in _CALL}
    if not path.exists():
        ledger = {**ledger, "history": [{"from_step": from_step, **call}]}
        if write:
            write_json(path, ledger)
        return ledger
    stored = read_json(path, "ledger")
    if stored.get("schema") != SCHEMA:
        raise UsageError(
            f"{path}: the schema of this ledger is {stored.get('schema')!r}, this version of ja_llm knows {SCHEMA!r}; go on with the version "
            "that wrote it, or give another MODEL_DIR."
        )
    old, new = stored.get("identity", {}), ledger["identity"]
    if (
        old.get("schedule") != new.get("schedule")
        and {**old, "schedule": 0} == {**new, "schedule": 0}
        and same_past(old["schedule"])
    ):
        call["schedule"] = new["schedule"]
        stored = {**stored, "identity": new, "identity_hash": ledger["identity_hash"]}
        old = new
    for name in sorted(set(accept) - old.keys() - new.keys()):
        raise UsageError(f"train.accept names {name!r}, which no ledger has; its settings are {', '.join(sorted(old))}.")
    accepted = {name: old.get(name) for name in sorted(set(accept)) if old.get(name) != new.get(name)}
    if accepted:
        call["accepted"] = accepted
        old = {
            **{name: value for name, value in old.items() if name not in accepted},
            **{n: new[n] for n in accepted if n in new},
        }
        if old == new:
            stored = {**stored, "identity": new, "identity_hash": ledger["identity_hash"]}
    if old != new:
        name, was, now = first_difference(old, new)
        raise UsageError(
            f"{path.parent}: this folder holds a run with {_told(name, was, now)}; "
            "give the same settings to go on, or another MODEL_DIR for a new run"
            f" (train.accept = ({name.split('.')[0]!r},) goes on all the same)."
        )
    history = stored.get("history", [])
    if not history or {"schedule", "accepted"} & call.keys() or {key: history[-1].get(key) for key in _CALL} != call:
        history = [*history, {"from_step": from_step, **call}]
    merged = {**stored, **{key: call[key] for key in _CALL}, "history": history}
    merged |= {key: ledger[key] for key in ("data_schedule", "contents") if key in ledger}  # stages may have come
    if write and merged != read_json(path, "ledger"):
        write_json(path, merged)
    return merged


_HASHED = {
    "data": "other data (the token stores of CACHE_DIR, their rates, PACKING, REPEAT_FILTER or TASK_FEATURE_LENGTHS have changed)",
    "vocabulary": "another vocabulary (that of CACHE_DIR has changed)",
}


def _told(name: str, was: Any, now: Any) -> str:
    """What differs; of a hash, which nobody can read, what it is of and its beginning."""
    if name in _HASHED:
        return f"{_HASHED[name]}: {name} {str(was)[:12]} then, {str(now)[:12]} now"
    return f"{name} = {was!r}, the command says {now!r}"


def write_config(directory: Path, text: str, from_step: int = 0) -> None:
    """Keep a run's configuration: `config.gin` by the first call, `config.<step>.gin` by one that goes on with another.

    Args:
      directory: the run directory.
      text: the configuration of this call.
      from_step: the step that this call goes on from.
    """
    first = directory / "config.gin"
    later = {int(step): p for p in directory.glob("config.*.gin") if (step := p.name.split(".")[1]).isdigit()}
    newest = later[max(later)] if later else first
    if not first.exists():
        write_text(first, text)
    elif newest.read_bytes().decode("utf-8", "replace") != text:
        write_text(directory / f"config.{from_step}.gin", text)


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
