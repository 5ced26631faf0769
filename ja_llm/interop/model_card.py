"""README.md of an export: where the weights come from, as the ledger has it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ja_llm.files import read_json
from ja_llm.models.families import family
from ja_llm.train.ledger import carried, lineage
from ja_llm.train.metrics import read_metrics


def licence_of(folder: Path) -> str:
    """The licence that a model folder's README.md states in its front matter, else ""."""
    path = folder / "README.md"
    if not path.is_file():
        return ""
    front = re.match(r"---\n(.*?)\n---\n", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else ""


def model_card(loaded: Any, dtype: str) -> str:
    """The card.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      dtype: of the exported tensors.
    """
    ledger, c = loaded.ledger, loaded.config
    identity = ledger.get("identity", {})
    licences = sorted({licence for entry in lineage(ledger) if (licence := entry.get("licence"))})
    front = ["library_name: transformers", "pipeline_tag: text-generation"]
    if len(licences) == 1:
        front.insert(0, f"license: {licences[0]}")
    rows = [
        (
            "architecture",
            f"{family(c.family).title}, {c.num_layers} layers, width {c.embed_dim}, vocabulary {c.vocab_size}, {dtype}",
        ),
        ("made by", f"ja_llm {ledger.get('software', {}).get('ja_llm', '')}, {ledger.get('job', 'unknown job')}".strip()),
        ("step", str(loaded.step)),
        ("mixture", str(identity.get("mixture", ""))),
        ("tokens", _tokens(identity, loaded.step)),
        ("data fingerprint", str(identity.get("data", ""))),
        (
            "the first weights were rounded to",
            ", ".join(f"{n} {kind}" for kind, n in carried(ledger, "quantisation", {}).items()),
        ),
        ("vocabulary fingerprint", loaded.tokenizer.fingerprint),
        ("ledger identity", str(ledger.get("identity_hash", ""))),
        ("licences of the weights it is made from", ", ".join(licences)),
    ]
    lines = ["---", *front, "---", "", "# Model card", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows if value]
    lines += _data(ledger.get("contents"))
    lines += _measured(getattr(loaded, "directory", None), loaded.step)
    lines += _text_licences([entry.get("licences") for entry in lineage(ledger)])
    ancestors = [entry for entry in lineage(ledger) if entry is not ledger]
    if ancestors:
        lines += ["", "## Made from", ""]
        lines += [
            f"- {entry.get('name', '')} at step {entry.get('step', 0)} ({entry.get('job', 'unknown')}, identity {entry.get('identity_hash', '')[:12]})"
            for entry in ancestors
        ]
    return "\n".join(lines) + "\n"


def _data(stages: Any) -> list[str]:
    """A section on what was read: the tasks' shares and the document sets of each stage of the run."""
    rows = []
    for stage in stages if isinstance(stages, list) else ():
        shares = ", ".join(f"{task} {100 * share:.4g} %" for task, share in stage["shares"].items())
        sets = ", ".join(f"{name} `{str(digest)[:12]}`" for name, digest in stage["documents"].items())
        rows.append(f"| {stage['from_step']} | {shares} | {sets} |".replace("  ", " "))
    head = ["", "## Training data", "", "| from step | tasks, share of the training tokens | document sets |", "|---:|---|---|"]
    return [*head, *rows] if rows else []


def _measured(directory: Path | None, step: int) -> list[str]:
    """A section on the numbers that stand beside the checkpoint: the last loss up to it, held-out curves, results of `ja-llm eval`."""
    rows = [] if directory is None else [*_trained(directory / "metrics.jsonl", step), *_evaluated(directory / "eval", step)]
    table = [f"| {name} | {value:.4g} |" for name, value in rows]
    return ["", "## Measured", "", "| what | value |", "|---|---:|", *table] if table else []


def _trained(path: Path, step: int) -> list[tuple[str, float]]:
    lines = [line for line in read_metrics(path) if line.get("step", 0) <= step] if path.exists() else []
    found: dict[str, tuple[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            measured = name == "loss" or (name.startswith("eval/") and not name.endswith(("_low", "_high")))
            if measured and isinstance(value, int | float):
                found[name] = (line["step"], float(value))
    return [(f"{name.replace('|', '/')} at step {at} of training", value) for name, (at, value) in sorted(found.items())]


def _evaluated(folder: Path, step: int) -> list[tuple[str, float]]:
    path = folder / f"step_{step}" / "results.json"
    tasks = read_json(path, "results").get("tasks", {}) if path.exists() else {}
    rows = []
    for task, values in sorted(tasks.items()):
        name = values.get("about", {}).get("headline")
        if isinstance(values.get(name), int | float):
            rows.append((f"{task}: {name} (step {step})", float(values[name])))
    return rows


def _text_licences(lineage: Sequence[Any]) -> list[str]:
    """A section on the training documents' licences, from {licence: documents} of the run and of what it was made from."""
    counts: dict[str, int] = {}
    for found in lineage:
        for name, documents in found.items() if isinstance(found, dict) else ():
            # A base and its continuation often read the same set: the larger count, not the sum.
            counts[name] = max(documents, counts.get(name, 0))
    if not counts:
        return []
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    cells = [(" ".join(name.split()).replace("|", "\\|") or "not stated", f"{count:,}") for name, count in rows]
    table = [f"| {name} | {count} |" for name, count in cells]
    return ["", "## Training text licences", "", "| licence | documents |", "|---|---:|", *table]


def _tokens(identity: dict[str, Any], step: int) -> str:
    size = identity.get("batch_size", 0) * identity.get("length", 0)
    return f"{step * size:,} in rows of {identity.get('length')}" if size and step else ""
