"""The report's section on published sets: a table as Swallow's, changes against the first run, what English kept, right and wrong answers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.evaluation.report_data import PROFILES, PUBLISHED, Run, published_name, result_files
from ja_llm.evaluation.samples import finished_tasks, read_samples
from ja_llm.evaluation.svg_suite import bars, radar
from ja_llm.files import read_json
from ja_llm.pages.html import cut, table
from ja_llm.pages.svg import Dot, escape, number

_SHOWN = 2  # right and wrong answers of each task
_LANGUAGES = (("ja", "Japanese"), ("en", "English"))


def suites(runs: Sequence[Run]) -> str:
    """The section; "" where no run was measured on a published set."""
    found = {run.name: published_results(run) for run in runs}
    reasons = _reasons(runs)
    # Choices made otherwise than the profile's are tables of their own.
    marks = sorted({"".join(name.partition("#")[1:]) for results in found.values() for name in results} | {""})
    profiles = {profile + mark: suffix + mark for mark in marks for profile, suffix in PROFILES.items()}
    html = "".join(_profile(found, profile, suffix, reasons) for profile, suffix in profiles.items())
    html += _remarks(found)
    html += _contamination(found) + _mt_bench(runs) + _answers(found)
    return html


def published_results(run: Run) -> dict[str, dict[str, Any]]:
    """Task -> its result with "folder", from every evaluation in the run's folder, the newest last."""
    found: dict[str, dict[str, Any]] = {}
    for path in result_files(run.path):
        value = read_json(path, "results file")
        tasks = value.get("tasks") if isinstance(value, dict) else None
        for name, result in (tasks or {}).items():
            if published_name(name) in PUBLISHED and isinstance(result, dict):
                found[name] = {**result, "folder": path.parent}
    return found


def _reasons(runs: Sequence[Run]) -> dict[str, str]:
    """Task -> why a call left it out, in its own words."""
    found: dict[str, str] = {}
    for run in runs:
        for path in result_files(run.path):
            value = read_json(path, "results file")
            told = value.get("left_out") if isinstance(value, dict) else None
            found |= {str(name): str(why) for name, why in told.items()} if isinstance(told, dict) else {}
    return found


def headline_of(result: Mapping[str, Any] | None) -> Dot | None:
    value = (result or {}).get((result or {}).get("about", {}).get("headline", ""))
    if not isinstance(value, int | float):
        return None
    low, high = (result or {}).get("interval") or (None, None)
    return Dot("", float(value), low, high)


def _mean(results: Mapping[str, dict[str, Any]], names: Sequence[str]) -> Dot | None:
    """The mean over a whole suite, as `eval` gives it in results.json; without an interval where a task keeps no numbers of items."""
    from ja_llm.evaluation.compare import statistic_of
    from ja_llm.evaluation.statistics import suite_mean

    dots = [headline_of(results.get(name)) for name in names]
    if not all(dots):
        return None
    stored = {name: statistic_of(result) for name, result in _stored(results, names).items()}
    whole = {name: statistic for name in names if (statistic := stored.get(name))}
    if len(whole) < len(names):
        return Dot("", sum(dot.value for dot in dots if dot) / len(names))
    mean = suite_mean(whole)
    return Dot("", mean["value"], *mean["interval"])


def _profile(found: Mapping[str, dict[str, dict[str, Any]]], profile: str, suffix: str, reasons: Mapping[str, str]) -> str:
    suites = [(lang, language, [name + suffix for name in _of(lang)]) for lang, language in _LANGUAGES]
    measured = {run: results for run, results in found.items() if any(n in results for _, _, names in suites for n in names)}
    if not measured:
        return ""
    html = f"<h3>Profile {profile}</h3>"
    means: dict[str, dict[str, Dot | None]] = {}
    for _, language, names in suites:
        if not any(name in results for results in measured.values() for name in names):
            continue
        means[language] = {run: _mean(results, names) for run, results in measured.items()}
        html += _scores(measured, names, suffix, f"{language}, profile {profile}", means[language], reasons)
        html += _changes(measured, names, suffix, f"{language} against {next(iter(measured))}, profile {profile}")
    html += _retention(means)
    plots = [
        radar(
            f"{language} tasks, profile {profile}",
            [PUBLISHED[name.removesuffix(suffix)] for name in names],
            [
                (run, [dot.value if (dot := headline_of(results.get(n))) else None for n in names])
                for run, results in measured.items()
            ],
        )
        for _, language, names in suites
    ]
    groups = [(language, [of_runs[run] for run in measured]) for language, of_runs in means.items() if any(of_runs.values())]
    plots.append(bars(f"Means of whole suites, profile {profile}", groups, list(measured), "mean score; line: 95 % interval"))
    return html + f'<div class="plots">{"".join(plots)}</div>'


def _of(lang: str) -> list[str]:
    names = list(PUBLISHED)
    return names[:10] if lang == "ja" else names[10:]


def _scores(
    measured: Mapping[str, dict[str, dict[str, Any]]],
    names: Sequence[str],
    suffix: str,
    title: str,
    means: Mapping[str, Dot | None],
    reasons: Mapping[str, str],
) -> str:
    shown = [name for name in names if any(name in results for results in measured.values())]
    heads = "".join(f'<th class="n" scope="col">{escape(PUBLISHED[name.removesuffix(suffix)])}</th>' for name in shown)
    body = ""
    for run, results in measured.items():
        cells = "".join(f'<td class="n">{_cell(headline_of(results.get(name)))}</td>' for name in shown)
        body += f'<tr><th scope="row">{escape(run)}</th><td class="n"><b>{_cell(means[run])}</b></td>{cells}</tr>'
    missing = {PUBLISHED[name.removesuffix(suffix)]: name for name in names if any(name not in r for r in measured.values())}
    told = [f"{title} ({reasons[name]})" if name in reasons else title for title, name in sorted(missing.items())]
    note = (
        f'<p class="none">Not measured for every run: {escape(", ".join(told))}. A mean is of a whole suite only.</p>'
        if told
        else ""
    )
    return (
        table(title, f'<th scope="col">model</th><th class="n" scope="col">mean</th>{heads}', body, wide=True, caption=True)
        + note
    )


def _cell(dot: Dot | None) -> str:
    if dot is None:
        return '<span class="none">–</span>'
    interval = f'<span class="ci">[{dot.low:.3f}, {dot.high:.3f}]</span>' if dot.low is not None and dot.high is not None else ""
    return f"{dot.value:.3f}{interval}"


def _changes(measured: Mapping[str, dict[str, dict[str, Any]]], names: Sequence[str], suffix: str, title: str) -> str:
    """Paired differences of each run against the first, on the same items."""
    from ja_llm.evaluation.compare import compare

    (_, base), *others = measured.items()
    before = _stored(base, names)
    body, shown = "", [name for name in names if name in before]
    for run, results in others:
        after = _stored(results, names)
        found = compare(after, before)["tasks"]
        if not found:
            continue
        cells = "".join(f'<td class="n">{_difference(found.get(name))}</td>' for name in shown)
        body += f'<tr><th scope="row">{escape(run)}</th>{cells}</tr>'
    if not body:
        return ""
    heads = "".join(f'<th class="n" scope="col">{escape(PUBLISHED[name.removesuffix(suffix)])}</th>' for name in shown)
    hint = '<p class="soft">Change on the same items: interval of the paired bootstrap, p by approximate randomisation. Coloured where the interval leaves out 0.</p>'
    return table(title, f'<th scope="col">change</th>{heads}', body, wide=True, caption=True) + hint


def _stored(results: Mapping[str, dict[str, Any]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The tasks' own result files, which keep the rows of single items."""
    folders = {results[name]["folder"] for name in names if name in results}
    found = {folder: finished_tasks(folder) for folder in folders}
    return {
        name: found[results[name]["folder"]][name] for name in names if name in results and name in found[results[name]["folder"]]
    }


def _difference(found: Mapping[str, Any] | None) -> str:
    if not found:
        return '<span class="none">–</span>'
    low, high = found["interval"]
    sign = "better" if low > 0 else "worse" if high < 0 else ""
    value = f"{found['difference']:+.3f}"
    value = f'<span class="{sign}">{"▲" if sign == "better" else "▼"} {value}</span>' if sign else value
    return f'{value}<span class="ci">[{low:+.3f}, {high:+.3f}]</span><span class="ci">p {found["p_value"]:.3f}</span>'


def _retention(means: Mapping[str, Mapping[str, Dot | None]]) -> str:
    """What of the first run's English mean the others have."""
    english = means.get("English", {})
    (first, base), *others = english.items() if english else (("", None),)
    if base is None or not base.value:
        return ""
    told = [f"{escape(run)} {dot.value / base.value:.1%} ({dot.value - base.value:+.3f})" for run, dot in others if dot]
    return (
        f"<p>English retained, as a share of {escape(first)}'s mean of {base.value:.3f}: {'; '.join(told)}.</p>" if told else ""
    )


def _contamination(found: Mapping[str, dict[str, dict[str, Any]]]) -> str:
    """Scores on items that stand in the training documents, and on the others."""
    body = ""
    for run, results in found.items():
        for name, result in results.items():
            value = result.get("contamination")
            if not isinstance(value, dict):
                continue
            parts = [_part(value.get(side)) for side in ("clean", "seen")]
            cells = "".join(f'<td class="n">{_cell(dot)}</td>' for dot in (headline_of(result), *parts))
            flagged = f'<td class="n">{number(value["flagged"])} of {number(value["items"])}</td>'
            body += f'<tr><th scope="row">{escape(run)}: {escape(name)}</th>{flagged}{cells}</tr>'
    if not body:
        return ""
    heads = "".join(
        f'<th class="n" scope="col">{name}</th>' for name in ("items in the training documents", "all", "clean", "seen")
    )
    return "<h3>Items that stand in the training documents</h3>" + table(
        "Contamination", f'<th scope="col">task</th>{heads}', body, wide=True
    )


def _remarks(found: Mapping[str, dict[str, dict[str, Any]]]) -> str:
    """What stands beside a score: prompts that did not fit, empty answers, and the evaluation's own warnings."""
    told = []
    for run, results in found.items():
        for name, result in results.items():
            counts = {"prompts shortened": result.get("contexts_cut"), "answers empty": result.get("empty")}
            words = [f"{number(count)} {what}" for what, count in counts.items() if isinstance(count, int) and count]
            words += [str(warning) for warning in result.get("warnings", ())]
            told += [f"<li>{escape(run)}, {escape(name)}: {escape('; '.join(words))}</li>"] if words else []
    return f"<h3>Beside the scores</h3><ul>{''.join(told)}</ul>" if told else ""


def _part(value: Any) -> Dot | None:
    return Dot("", value["value"], *value["interval"]) if isinstance(value, dict) else None


def _mt_bench(runs: Sequence[Run]) -> str:
    body = ""
    for run in runs:
        for path in [file.with_name("mt_bench_ja.json") for file in result_files(run.path)]:
            if not path.exists():
                continue
            value = read_json(path, "results file")
            cells = f'<td class="n">{_cell(headline_of(value))}</td><td class="n">{value["score_deviation_of_runs"]:.3f}</td>'
            cells += f'<td class="n">{number(value["n_valid"])} of {number(value["n"])}</td><td>{escape(value["judge"])}</td>'
            body += f'<tr><th scope="row">{escape(run.name)}</th>{cells}</tr>'
    heads = '<th class="n" scope="col">score</th><th class="n" scope="col">deviation of runs</th><th class="n" scope="col">n_valid</th><th scope="col">judge</th>'
    return (
        "<h3>Japanese MT-Bench</h3>" + table("Japanese MT-Bench", f'<th scope="col">model</th>{heads}', body, wide=True)
        if body
        else ""
    )


def _answers(found: Mapping[str, dict[str, dict[str, Any]]]) -> str:
    """The first right and wrong answers of each generated task of the last run that has it."""
    html = ""
    for name in dict.fromkeys(name for results in found.values() for name in results):
        run = [run for run, results in found.items() if name in results][-1]
        shown = _judged(found[run][name]["folder"], name)
        if any(shown.values()):
            quotes = "".join(_quote(sample, kind) for kind, samples in shown.items() for sample in samples)
            html += f"<details><summary>{escape(name)}, {escape(run)}: right and wrong answers</summary>{quotes}</details>"
    return f"<h3>Right and wrong answers</h3>{html}" if html else ""


def _judged(folder: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """A few samples with a text, by whether their own row counts as right (1) or wrong (0).

    Only where a row begins with such a score: that of a corpus measure begins with a length.
    """
    shown: dict[str, list[dict[str, Any]]] = {"right": [], "wrong": []}
    try:
        items = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["items"]
        rows = items["rows"] if items["aggregate"] in ("mean", "best_threshold") else []
        samples = read_samples(folder / f"{name}.samples.jsonl")
    except (OSError, ValueError, KeyError, JaLlmError):
        return shown
    if samples and "choice" in samples[0]:
        samples = _chosen(samples)
    if len(rows) != len(samples):
        return shown
    for row, sample in zip(rows, samples, strict=True):
        kind = {1.0: "right", 0.0: "wrong"}.get(row[0], "")
        if kind and "prediction" in sample and len(shown[kind]) < _SHOWN:
            shown[kind].append(sample)
    return shown


def _chosen(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each question's likeliest candidate as what was answered, and the right one as its gold; on a tie the first."""
    questions: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        questions.setdefault(sample["question"], []).append(sample)
    found = []
    for rows in questions.values():
        best = max(rows, key=lambda row: (row["score"], -row["choice"]))
        gold = next((row for row in rows if row["choice"] == row["label"]), best)
        same = all(row["targets"] == best["targets"] for row in rows)  # options in the context, one and the same end
        texts = {"prediction": best["inputs"][-80:], "targets": gold["inputs"][-80:]} if same else {"prediction": best["targets"]}
        found.append({**gold, **texts})
    return found


def _quote(sample: Mapping[str, Any], kind: str) -> str:
    prediction = sample["prediction"]
    text = prediction[0] if isinstance(prediction, list) and prediction else prediction
    asked = str(sample.get("inputs", "")).strip().rsplit("\n\n", 1)[-1]
    return (
        f"<blockquote><b>{kind}</b>\n<b>{escape(cut(asked, 240))}</b>\n{escape(cut(str(text).strip(), 240)) or '(empty)'}"
        f"\n<b>gold: {escape(cut(str(sample.get('targets', '')).strip(), 160))}</b></blockquote>"
    )
