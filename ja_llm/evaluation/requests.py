"""What decides the numbers of a task: its request. Equal requests give equal results, and only those are taken over from an earlier call."""

import functools
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ja_llm.evaluation.examples import Example, Sources
from ja_llm.evaluation.registry import JUDGED, EvaluationTask, names, resolve
from ja_llm.files import sha256_file, sha256_json

# What makes prompts, runs the model and counts; not what shows results.
_CODE = ("tasks", *(f"ja_llm.{room}" for room in ("evaluation", "models", "attention", "losses", "vocab", "text", "data")))
_SHOWS = ("report", "svg", "published", "score_table", "flexeval_files", "lm_eval_adapter")


@functools.cache
def code_fingerprint() -> str:
    """SHA-256 over the Python files that decide numbers: a prompt or a rule that was edited is another request."""
    found = {}
    for package in _CODE:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for path in sorted(Path(folder).rglob("*.py")):
                if not path.name.startswith(_SHOWS):
                    found[f"{package}/{path.relative_to(folder)}"] = sha256_file(path)
    return sha256_json(found)


def prompts_fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 over what the model is asked, to the letter, and the gold texts."""
    return sha256_json([[example["inputs"], example["targets"]] for example in examples])


def weights_fingerprint(params: Any) -> str:
    """SHA-256 over names, shapes, types and bytes of all arrays: numbers are taken over from an earlier call for equal weights only."""
    import jax

    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def request(
    template: EvaluationTask,
    identity: Mapping[str, Any],
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    prompts: str | None,
) -> dict[str, Any]:
    """Everything that decides the numbers of one task.

    Args:
      template: the task.
      identity: of the model: weights, vocabulary, step.
      data: of `EvaluationTask.data`.
      settings: of the call.
      prompts: of `prompts_fingerprint`, where the examples are made of original files; None where the data and the code say it all.
    """
    return {
        "task": template.name,
        "version": template.version,
        "model": identity,
        "data": data,
        "code": code_fingerprint(),
        "examples": settings["documents" if template.whole_set else "limit"],
        "batch_size": settings["batch_size"],
        **({"prompts": prompts} if prompts else {}),
        **({} if template.model_window else {"length": settings["length"]}),
        **({"mesh": settings["mesh"]} if "mesh" in settings else {}),
        **({key: settings.get(key) for key in ("judge", "chat")} if template.kind == JUDGED else {}),
        **({"without_sandbox": True} if template.runs_code and settings.get("without_sandbox") else {}),
    }


def same_request(
    name: str,
    stored: dict[str, Any],
    identity: Mapping[str, Any],
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    sources: Sources,
) -> bool:
    """Whether a task that an earlier call measured may stand beside this call's in one table.

    Only tasks that need pairs read them, so pairs that one of the calls was not given contradict nothing. Every task reads the
    document set (a translation must not stand in it), so that one must be the same. Prompts follow from data and code.
    """
    if name not in names() or not isinstance(stored.get("data"), dict):
        return False
    before = stored["data"]
    if "files" in before:
        now = resolve(name)[0].data(sources) if sources.data is not None else before
        if now != before:
            return False
    else:
        if "pairs" in before and "pairs" in data and before["pairs"] != data["pairs"]:
            return False
        if before.get("documents") != data.get("documents"):
            return False
    judged: dict[str, Any] = {key: stored[key] for key in ("judge", "chat") if key in stored}  # of a call that named no judge
    return stored == request(resolve(name)[0], identity, before, {**settings, **judged}, stored.get("prompts"))
