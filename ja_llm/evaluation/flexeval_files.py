"""Scores of published sets as FlexEval lays them down, so that what reads its folders and fills its tables reads ours.

    OUT/MODEL/TASK/config.json     {"eval_setup", "language_model", "save_dir", "metadata"}
    OUT/MODEL/TASK/metrics.json    {measure: number}
    OUT/MODEL/TASK/outputs.jsonl   one line an item

Names of files and fields: FlexEval's documentation, docs/getting_started.md (sbintuitions/flexeval). Its presets ask in shapes of their own, so
equal names make no equal protocol; config.json says what ours was.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.evaluation.report_data import read_runs
from ja_llm.evaluation.report_suites import published_results
from ja_llm.evaluation.samples import read_samples
from ja_llm.files import atomic_write, write_json


def write_flexeval(runs: Sequence[str | Path], out: str | Path) -> list[Path]:
    """Write the newest results of every published set of every run.

    Args:
      runs: model or run directories, or folders that `eval --out` wrote.
      out: gets a folder a model. Prompts in outputs.jsonl are as long as our samples keep them: their last 400 characters.

    Returns:
      The folders of the tasks.

    Raises:
      UsageError: a directory is missing, or no run was measured on a published set.
      JaLlmError: a file can't be read.
    """
    written = []
    for run in read_runs(runs):
        for task, result in published_results(run).items():
            folder = Path(out) / run.name / task
            folder.mkdir(parents=True, exist_ok=True)
            samples = result["folder"] / f"{task}.samples.jsonl"
            lines = _outputs(read_samples(samples)) if samples.exists() else []
            with atomic_write(folder / "outputs.jsonl") as file:
                file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
            value = json.loads((result["folder"] / "results.json").read_text(encoding="utf-8"))
            config = {
                "eval_setup": {"class_path": f"ja_llm.{task}", "init_args": result["about"]},
                "language_model": {"class_path": "ja_llm", "init_args": {"model_name": run.name, **value.get("identity", {})}},
                "save_dir": str(folder),
                "metadata": {key: value[key] for key in ("settings", "software", "data") if key in value},
            }
            write_json(folder / "config.json", config)
            write_json(folder / "metrics.json", {name: number for name, number in result.items() if isinstance(number, float)})
            written.append(folder)
    if not written:
        raise UsageError(f"{runs[0]}: no published set was measured there; run `ja-llm eval --suite swallow` first.")
    return written


def _outputs(samples: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Lines of outputs.jsonl: of written texts, or of choices, a question's candidates in one."""
    if not samples or "choice" not in samples[0]:
        keys = (("lm_prompt", "inputs"), ("lm_output", "prediction"))
        return [
            {**{new: s[old] for new, old in keys if old in s}, "task_inputs": {"id": s["id"]}, "references": [s["targets"]]}
            for s in samples
        ]
    questions: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        questions.setdefault(sample["question"], []).append(sample)
    return [_choices(rows) for rows in questions.values()]


def _choices(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores = [row["score"] for row in rows]
    by_bytes = [row["score"] / max(len(row["targets"].encode()), 1) for row in rows]
    return {
        "prefix": rows[0]["inputs"],
        "choices": [row["targets"] for row in rows],
        "answer_index": rows[0]["label"],
        "log_probs": scores,
        "prediction": scores.index(max(scores)),
        "byte_norm_log_probs": by_bytes,
        "byte_norm_prediction": by_bytes.index(max(by_bytes)),
    }
