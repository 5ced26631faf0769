"""`report.html`: one self-contained page on one or several runs, side by side.

No clock, no script, no network: equal input gives an equal page, and a Content-Security-Policy forbids it to load anything.
Whatever comes from data is escaped. A part whose input is absent says "not measured" and how to measure it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.evaluation import report_parts as parts
from ja_llm.evaluation.report_commands import report_command
from ja_llm.evaluation.report_data import read_corpus, read_runs
from ja_llm.evaluation.report_forgetting import domains, forgetting
from ja_llm.evaluation.report_suites import suites
from ja_llm.files import atomic_write, read_json
from ja_llm.pages.html import page
from ja_llm.pages.svg import SERIES


def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    corpus: str | Path | None = None,
    certificate: str | Path | Mapping[str, Any] | None = None,
    controls: Mapping[str, Mapping[str, Any]] | None = None,
    samples: Mapping[str, Any] | str | Path | None = None,
) -> Path:
    """Write the page.

    Args:
      runs: model or run directories, in the order of the tables' rows: base first, then what was made of it.
      out: the file, usually RUN/report.html.
      corpus: document set (or its manifest.json), for yields and samples of what was dropped.
      certificate: of a vocabulary expansion: certificate.json or its content.
      controls: further rows: name -> {task: {"bits_per_byte": ..., "interval": [low, high]}}, such as a character 5-gram.
      samples: {"prompts": [texts], model name: [continuations], ...}, or a JSON file with that.

    Returns:
      `out` as a path.

    Raises:
      UsageError, JaLlmError: a directory or file that was named is missing or can't be read.
    """
    found = read_runs(runs)
    stages, totals, dropped = read_corpus(corpus) if corpus else ([], {}, {})
    proof = read_json(certificate, "certificate") if isinstance(certificate, str | Path) else dict(certificate or {})
    texts = read_json(samples, "samples file") if isinstance(samples, str | Path) else samples or {}
    if not isinstance(texts, Mapping) or not all(isinstance(value, list) for value in texts.values()):
        raise JaLlmError(f"{samples}: these samples are no object of lists; give the samples.json of a quickstart.")
    published = suites(found)
    again = report_command(found, {"documents": corpus, "certificate": certificate, "samples": samples})
    sections = [
        ("summary", "In short", parts.summary(found, proof, corpus)),
        ("quality", "Quality before and after", parts.quality(found, controls or {}, corpus)),
        *([("sets", "Published sets", published)] if published else []),
        ("curves", "Training curves", parts.curves(found)),
        *([("forgetting", "Forgetting", forgetting(found))] if domains(found) else []),
        ("corpus", "What became of the pages", parts.funnel(stages, totals, dropped)),
        ("vocabulary", "Vocabulary", parts.vocabulary(found, proof)),
        ("texts", "Generated text", parts.texts(found, texts, again)),
        ("meaning", "What the numbers mean", parts.meaning(found, controls or {})),
        ("next", "Commands to go on", parts.commands(found, corpus, again)),
        ("ledger", "Ledgers", parts.ledgers(found)),
    ]
    title = "ja_llm report: " + (", ".join(run.name for run in found) if len(found) <= SERIES else f"{len(found)} runs")
    whole = page(title, parts.subtitle(found), sections)
    out = Path(out)
    with atomic_write(out) as file:
        file.write(whole.encode("utf-8", "replace"))
    return out
