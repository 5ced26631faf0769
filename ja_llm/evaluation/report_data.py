"""What a report is made of, read from run directories, document sets and certificates. Absent parts are None or empty."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.evaluation.samples import read_samples
from ja_llm.files import read_json
from ja_llm.manifest import path_in
from ja_llm.train.metrics import read_metrics

# Published sets in the order of Swallow's tables, ten Japanese and ten English ones, as the tables call them.
PUBLISHED = {
    "jcommonsenseqa": "JCom",
    "jemhopqa": "JEMHopQA",
    "niilc": "NIILC",
    "jsquad": "JSQuAD",
    "xlsum_ja": "XL-Sum",
    "mgsm_ja": "MGSM",
    "wmt20_en_ja": "WMT20 en-ja",
    "wmt20_ja_en": "WMT20 ja-en",
    "jmmlu": "JMMLU",
    "jhumaneval": "JHumanEval",
    "openbookqa": "OpenBookQA",
    "triviaqa": "TriviaQA",
    "hellaswag": "HellaSwag",
    "squad2": "SQuAD2",
    "xwino_en": "XWINO",
    "mmlu": "MMLU",
    "gsm8k": "GSM8K",
    "math": "MATH",
    "bbh": "BBH",
    "humaneval": "HumanEval",
}
# Profile -> what stands behind a task's name.
PROFILES = {"swallow": "", "strict": "_strict"}


def published_name(task: str) -> str:
    """The set's name in PUBLISHED of a task in any profile, with whatever choices ("jsquad_strict#begins_document.no")."""
    return task.partition("#")[0].removesuffix("_strict")


def windowed(task: str) -> bool:
    """Whether a task's figures depend on `eval --length`."""
    return task.startswith(("bits_per_byte", "continuation_choice"))


@dataclasses.dataclass(frozen=True)
class Run:
    """One model or run directory.

    Attributes:
      name: how the page calls it; unique on the page.
      path: the directory.
      metrics: lines of metrics.jsonl.
      ledger: run.json, or {}.
      results: eval/step_N/results.json by step; or results.json itself, of a folder that `eval --out` wrote.
    """

    name: str
    path: Path
    metrics: list[dict[str, Any]]
    ledger: dict[str, Any]
    results: dict[int, dict[str, Any]]

    @property
    def last(self) -> tuple[int, dict[str, Any]] | None:
        """The newest evaluated step and its results."""
        return max(self.results.items(), key=lambda pair: pair[0]) if self.results else None

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The newest results by task but published sets: bits per byte before the others, Japanese before English."""
        found = self.last[1]["tasks"] if self.last else {}
        found = {task: result for task, result in found.items() if published_name(task) not in {*PUBLISHED, "mt_bench_ja"}}
        return dict(
            sorted(found.items(), key=lambda pair: (not pair[0].startswith("bits_per_byte"), "_ja" not in pair[0], pair[0]))
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the newest evaluation."""
        return (self.last[1].get("settings") or {}) if self.last else {}

    @property
    def window(self) -> int | None:
        """The newest evaluation's scoring window in tokens; None where nothing that depends on it was measured."""
        return self.settings.get("length") if any(map(windowed, self.tasks)) else None

    @property
    def trained_window(self) -> int | None:
        """Tokens a row of the run's training, in which it measures itself, too."""
        return (self.ledger.get("identity") or {}).get("length")

    @property
    def origin(self) -> str:
        """What it was made from, in a few words, as its ledger has it."""
        parents = self.ledger.get("parents") or [{}]
        job, parent = self.ledger.get("job"), parents[0].get("name", "")
        if job == "train":
            return f"trained on from {parent}" if parent else "trained from random weights"
        if job == "vocab expand":
            return f"{parent} with more pieces, untrained" if parent else "expanded, untrained"
        return "imported" if job == "import" else ""

    @property
    def ancestors(self) -> frozenset[str]:
        """Identity hashes of what it was made from, and of what these were made from."""
        found, waiting = set(), list(self.ledger.get("parents") or [])
        while waiting:
            parent = waiting.pop()
            found.add(str(parent.get("identity_hash", "")))
            waiting += parent.get("parents") or []
        return frozenset(found - {""})

    @property
    def identity(self) -> str:
        """What others call it as their ancestor."""
        return str(self.ledger.get("identity_hash", ""))

    @property
    def newest(self) -> int | None:
        """Step of the newest checkpoint that has parameters."""
        steps = [int(item.parent.name) for item in self.path.glob("checkpoints/*/params") if item.parent.name.isdigit()]
        return max(steps, default=None)

    def series(self, key: str) -> list[tuple[float, float]]:
        """(step, value) of a metric."""
        return [(float(m["step"]), float(m[key])) for m in self.metrics if isinstance(m.get(key), int | float) and "step" in m]

    def samples(self, task: str) -> list[dict[str, Any]]:
        """Samples of a task at the newest evaluated step."""
        folder = self.path / "eval" / f"step_{self.last[0]}" if self.last else self.path
        path = (folder if folder.is_dir() else self.path) / f"{task}.samples.jsonl"
        return read_samples(path) if path.exists() else []


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the corpus job: documents in and out, and dropped by reason."""

    name: str
    documents_in: int | None
    documents_out: int | None
    dropped: dict[str, int]


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read run directories; equal folder names get their parents' names in front.

    Raises:
      UsageError: a directory does not exist or holds neither a model, a run nor results.
      JaLlmError: a file in it can't be read.
    """
    folders = [Path(p) for p in paths]
    if not folders:
        raise UsageError("no run is named; give at least one run directory.")
    runs = []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: this run directory does not exist.")
        if not any((folder / part).exists() for part in ("metrics.jsonl", "run.json", "model.json", "eval", "results.json")):
            raise UsageError(
                f"{folder}: this is no run directory (there is no metrics.jsonl, run.json, model.json, eval or results.json in it)."
            )
        full = folder.absolute()
        alone = sum(other.absolute().name == full.name for other in folders) == 1
        name = full.name if alone else f"{full.parent.name}/{full.name}"
        ledger = read_json(folder / "run.json", "ledger") if (folder / "run.json").exists() else {}
        runs.append(
            Run(name, folder, _metrics(folder / "metrics.jsonl"), ledger if isinstance(ledger, dict) else {}, _results(folder))
        )
    return runs


def _metrics(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return sorted(read_metrics(path), key=lambda line: line["step"])


def _results(folder: Path) -> dict[int, dict[str, Any]]:
    found = {}
    for path in result_files(folder):
        step = path.parent.name.removeprefix("step_")
        value = read_json(path, "results file")
        if isinstance(value, dict) and isinstance(value.get("tasks"), dict):
            if step.isdigit():
                found[int(step)] = value
            elif path.parent == folder and isinstance(value.get("step"), int):
                found[value["step"]] = value
    return found


def result_files(folder: Path) -> list[Path]:
    """The results.json of evaluations in a run's folder, the newest step last; a folder that `eval --out` wrote holds its own."""

    def order(path: Path) -> tuple[int, str]:
        step = path.parent.name.removeprefix("step_")
        return (int(step) if step.isdigit() else -1, path.parent.name)

    own = [path] if (path := folder / "results.json").is_file() else []
    return sorted(folder.glob("eval/*/results.json"), key=order) + own


def read_corpus(corpus: str | Path) -> tuple[list[Stage], dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """(stages, totals, a few dropped samples by reason) of a document set; `corpus` is its folder or its manifest.

    Raises:
      UsageError: the folder does not exist.
      JaLlmError: the manifest is missing or can't be read.
    """
    path = Path(corpus)
    path = path if path.is_file() else path_in(path)
    value = read_json(path, "manifest")
    stages = [stage for entry in _entries(value.get("yields")) if (stage := _stage(entry))]
    dropped = {}
    for file in sorted((path.parent / "dropped").glob("*.jsonl")):
        dropped[file.stem] = _first_lines(file, 3)
    return stages, value.get("totals") or {}, dropped


def _entries(yields: Any) -> list[dict[str, Any]]:
    return [entry for entry in yields if isinstance(entry, dict)] if isinstance(yields, list) else []


def _stage(entry: dict[str, Any]) -> Stage | None:
    """A stage of the corpus job: {"stage", "in", "kept", "dropped": {reason: count}}, each count with "documents"."""

    def documents(count: Any) -> int | None:
        value = count.get("documents") if isinstance(count, dict) else count
        return int(value) if isinstance(value, int | float) else None

    reasons = entry.get("dropped")
    reasons = reasons if isinstance(reasons, dict) else {}
    dropped = {str(reason): found for reason, count in reasons.items() if (found := documents(count)) is not None}
    came, kept = documents(entry.get("in")), documents(entry.get("kept"))
    return None if came is None and kept is None and not dropped else Stage(str(entry.get("stage", "stage")), came, kept, dropped)


def _first_lines(path: Path, most: int) -> list[dict[str, Any]]:
    found = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
            if len(found) == most:
                break
    return found
