"""The sections of the report, each a function from data to escaped HTML. `report.py` says their order."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.evaluation.report_commands import eval_command, generate_command
from ja_llm.evaluation.report_data import Run, Stage, windowed
from ja_llm.files import shown
from ja_llm.pages.html import absent, bar, cut, quotations, table
from ja_llm.pages.svg import SERIES, Dot, Line, dot_plot, escape, line_plot, number, thin

_MOST_TEXTS = 5
SENTENCES = (
    "朝の庭では、小さな鳥が木の枝で歌っています。",
    "次のコマンドを実行すると、設定ファイルの内容を確認できます。",
    "The next command prints the contents of the configuration file.",
)


def subtitle(runs: Sequence[Run]) -> str:
    """What each run was made from and how long it trained, one line; of many runs only how many there are."""
    if len(runs) > SERIES:
        return f"{len(runs)} runs: {runs[0].name} to {runs[-1].name}; all of them are among the ledgers below"
    steps = [f"{run.name}: {run.origin or 'trained'}, {number(run.metrics[-1]['step'])} steps" for run in runs if run.metrics]
    return "; ".join(steps) or "no training curve among these directories"


def summary(runs: Sequence[Run], certificate: Mapping[str, Any], corpus: str | Path | None) -> str:
    """Cards: each headline metric of the first evaluated model and of the newest, and the gain in tokens; who was not evaluated."""
    measured = [run for run in runs if run.last]
    cards = []
    if measured:
        after = _trained(measured)
        before = _before(after, measured)
        for task, result in after.tasks.items():
            cards.append(_card(task, result, after, before))
    tokens = _tokens_per_character(certificate)
    if tokens:
        old, new = tokens
        cards.append(
            f'<li><div class="what">tokens per Japanese character</div><div class="value">{number(new, 3)}</div>'
            f'<div class="from">{_arrow(old, new, "lower")} from {number(old, 3)} before</div></li>'
        )
    told = (f'<ul class="cards">{"".join(cards)}</ul>' if cards else "") + _stale(runs, corpus) + _unmeasured(runs, corpus)
    return told or absent("No bits per byte are there.", eval_command(_trained(runs), runs, corpus))


def _unmeasured(runs: Sequence[Run], corpus: str | Path | None) -> str:
    """Names the runs without an evaluation, which would otherwise be missing from the figures in silence."""
    without = [run for run in runs if not run.last]
    if not without:
        return ""
    if len(without) == len(runs):
        return absent("No evaluation is there yet.", eval_command(_trained(runs), runs, corpus))
    names = ", ".join(run.name for run in without[:SERIES])
    more = len(without) - SERIES
    names += f" and {more} more" if more > 0 else ""
    each = "\n".join(eval_command(run, runs, corpus) for run in without[:SERIES])
    return absent(f"No figure here is of {names}: no evaluation of it is there.", each)


def _stale(runs: Sequence[Run], corpus: str | Path | None) -> str:
    """Names the runs whose newest evaluation is of a step before their last."""
    html = ""
    for run in runs:
        if run.last and run.newest is not None and run.last[0] < run.newest:
            told = f"{run.name} at step {number(run.newest)}: its figures are of step {number(run.last[0])}."
            html += absent(told, eval_command(run, runs, corpus))
    return html


def _trained(runs: Sequence[Run]) -> Run:
    """What the page is read for: the first run that goes on from a model and that no other goes on from; else the first run, or the last model."""
    trained = [run for run in runs if run.metrics]
    older = frozenset[str]().union(*(run.ancestors for run in trained))
    ends = [run for run in trained if run.identity not in older]
    return next((run for run in ends if run.ledger.get("parents")), (ends or trained or [runs[-1]])[0])


def _before(after: Run, measured: Sequence[Run]) -> Run | None:
    """The first of the models that it goes on from; where none of those is there, the first model of the page that is no run of training."""
    others = [run for run in measured if run is not after]
    ancestors = [run for run in others if run.identity in after.ancestors]
    return next(iter(ancestors), None) or next((run for run in others if run.ledger.get("job") != "train"), None)


def _card(task: str, result: Mapping[str, Any], after: Run, before: Run | None) -> str:
    old = before.tasks.get(task) if before else None
    about = result.get("about", {})
    headline = about.get("headline", "")
    value = result.get(headline)
    if not isinstance(value, int | float):
        return ""
    metric = headline.replace("_", " ")
    unit = "" if metric in _label(task) else f": {metric}"
    line = "no model before it was evaluated"
    if before and old and isinstance(old.get(headline), int | float):
        if windowed(task) and before.window and after.window and before.window != after.window:
            line = f"no comparison: {escape(before.name)}'s {number(old[headline], 3)} is of another scoring window"
            return _in_card(task, unit, value, line)
        # So few questions or documents can't tell the two apart: neither colour nor percentage.
        unclear = _overlap(old.get("interval"), result.get("interval"))
        change = "no clear change" if unclear else _arrow(old[headline], value, about.get("better", ""))
        line = f"{change} from {number(old[headline], 3)} ({escape(before.name)})"
        line += "; the 95 % intervals overlap" if unclear else ""
    return _in_card(task, unit, value, line)


def _in_card(task: str, unit: str, value: float, line: str) -> str:
    return f'<li><div class="what">{escape(_label(task))}{escape(unit)}</div><div class="value">{number(value, 3)}</div><div class="from">{line}</div></li>'


def _overlap(one: Any, other: Any) -> bool:
    return bool(one and other) and one[0] <= other[1] and other[0] <= one[1]


def _arrow(old: float, new: float, better: str) -> str:
    """The change in words and colour, so that neither is needed alone."""
    if old == new:
        return "unchanged"
    good = (new < old) == (better == "lower")
    sign = "▼" if new < old else "▲"
    change = f"{abs(new / old - 1):.1%}" if old else number(abs(new - old))
    return f'<span class="{"better" if good else "worse"}">{sign} {change} {"better" if good else "worse"}</span>'


def quality(runs: Sequence[Run], controls: Mapping[str, Mapping[str, Any]], corpus: str | Path | None) -> str:
    """The table of all models and controls, and a plot of bits per byte with intervals."""
    rows = [(run.name, _origin(run), run.tasks, False) for run in runs if run.last]
    rows += [(name, "control", dict(tasks), True) for name, tasks in controls.items()]
    tasks = list(dict.fromkeys(task for _, _, found, control in rows for task, r in found.items() if not control or _headline(r)))
    if not tasks:
        return absent("Nothing was evaluated.", eval_command(_trained(runs), runs, corpus))
    heads = "".join(
        f'<th class="n" scope="col">{escape(_label(task))}<span class="ci">{escape(_column(task, rows))}</span></th>'
        for task in tasks
    )
    body = ""
    for name, note, found, control in rows:
        cells = "".join(f'<td class="n">{_value(found.get(task))}</td>' for task in tasks)
        body += f'<tr{" class=control" if control else ""}><th scope="row">{escape(name)}<span class="soft ci">{escape(note)}</span></th>{cells}</tr>'
    results = table("Results of each model", f'<th scope="col">model</th>{heads}', body, wide=True)
    plots = ""
    for task in tasks:
        dots = [dot for name, _, found, _ in rows if (dot := _dot(name, found.get(task)))]
        if task.startswith("bits_per_byte") and len(dots) > 1:
            plots += dot_plot(_label(task), dots, "lower is better; bar: 95 % interval")
    cuts = sorted({t for _, _, found, _ in rows for t, r in found.items() if isinstance(r, Mapping) and r.get("contexts_cut")})
    note = (
        f"<p class=soft>In {escape(', '.join(map(_label, cuts)))} some prompts did not fit into a model's window and lost their beginning.</p>"
        if cuts
        else ""
    )
    missing = _left_out(runs)
    return f'<p class="soft">95 % intervals in brackets, by bootstrap over documents, questions or texts.</p>{_windows(runs, corpus)}{results}{note}{missing}<div class="plots">{plots}</div>'


def _windows(runs: Sequence[Run], corpus: str | Path | None) -> str:
    """That figures of several scoring windows stand side by side; "" where there is one."""
    found: dict[int, list[Run]] = {}
    for run in runs:
        if run.window:
            found.setdefault(run.window, []).append(run)
    if len(found) < 2:
        return ""
    told = "; ".join(f"{number(window)} tokens for {', '.join(run.name for run in found[window])}" for window in sorted(found))
    least = min(found)  # in which each of the models can be measured
    again = next(run for window, of in found.items() if window != least for run in of)
    return (
        f"<p>These models were scored in windows of different lengths: {escape(told)}. A token has only what precedes it in the window to be guessed from, "
        "so bits per byte and continuation choice do not compare between windows. Measured again in the shortest, they do: "
        f"<code>{escape(eval_command(again, found[least], corpus, alike=True))}</code></p>"
    )


def _origin(run: Run) -> str:
    step = run.last[0] if run.last else 0
    return ", ".join(part for part in (run.origin, f"step {number(step)}" if step or not run.origin else "") if part)


def _left_out(runs: Sequence[Run]) -> str:
    found: dict[str, str] = {}
    for run in runs:
        found |= (run.last[1].get("left_out") or {}) if run.last else {}
    return "".join(f'<p class="none">{escape(_label(t))}: not measured, {escape(reason)}.</p>' for t, reason in found.items())


def _headline(result: Any) -> tuple[str, float] | None:
    """Name and value of a task result's headline metric."""
    if not isinstance(result, Mapping):
        return None
    name = result.get("about", {}).get("headline") or ("bits_per_byte" if "bits_per_byte" in result else "")
    value = result.get(name)
    return (name, float(value)) if isinstance(value, int | float) else None


def _dot(name: str, result: Any) -> Dot | None:
    found = _headline(result)
    if not found:
        return None
    low, high = result.get("interval") or (None, None)
    return Dot(name, found[1], low, high)


def _value(result: Any) -> str:
    dot = _dot("", result)
    if not dot:
        return '<span class="none">–</span>'
    interval = (
        f'<span class="ci">[{number(dot.low)}, {number(dot.high)}]</span>' if dot.low is not None and dot.high is not None else ""
    )
    return f"{number(dot.value)}{interval}"


def _column(task: str, rows: Sequence[tuple[str, str, Mapping[str, Any], bool]]) -> str:
    result: Mapping[str, Any] = next((found[task] for _, _, found, _ in rows if task in found and _headline(found[task])), {})
    better = result.get("about", {}).get("better") or "lower"
    metric = (_headline(result) or ("", 0))[0].replace("_", " ")
    return f"{better} is better" if metric in _label(task) else f"{metric}, {better} is better"


def _label(task: str) -> str:
    """`bits_per_byte_ja` -> "bits per byte, Japanese"."""
    for end, language in (("_en_ja", "English to Japanese"), ("_ja", "Japanese"), ("_en", "English")):
        if task.endswith(end):
            return f"{task.removesuffix(end).replace('_', ' ')}, {language}"
    return task.replace("_", " ")


def curves(runs: Sequence[Run]) -> str:
    """Loss of all runs in one plot; each held-out metric in its own; learning rate."""
    beyond, runs = runs[SERIES:], runs[:SERIES]
    losses = [Line(run.name, (t := thin(run.series("loss"))).points, t.spread) for run in runs if run.series("loss")]
    plots = [line_plot("Training loss", losses, "step", "nats per token")]
    keys = list(dict.fromkeys(key for run in runs for line in run.metrics for key in line if key.startswith("eval/")))
    for key in keys:
        lines = [Line(run.name, run.series(key)) for run in runs if run.series(key)]
        name = key.removeprefix("eval/").replace("/", ": ").replace("_", " ")
        plots.append(line_plot(f"Held-out {name}", lines, "step", name.rsplit(": ", 1)[-1], _levels(runs, key)))
    rates = [Line(run.name, thin(run.series("learning_rate")).points) for run in runs if run.series("learning_rate")]
    plots.append(line_plot("Learning rate", rates, "step", "learning rate"))
    if not any(plots):
        return absent("There is no metrics.jsonl in these directories.", "ja-llm train --gin_file=runs/continue.gin ...")
    speeds = [
        f"{escape(run.name)}: {number(_median([v for _, v in s]), 3)}" for run in runs if (s := run.series("tokens_per_second"))
    ]
    speed = f'<p class="soft">Tokens per second (median): {"; ".join(speeds)}.</p>' if speeds else ""
    faint = '<p class="soft">A line is the mean of neighbouring steps, the faint band their range. Losses per token of different vocabularies do not compare; bits per byte do.</p>'
    left_out = f'<p class="soft">Drawn are the first {SERIES} runs; {len(beyond)} more are not.</p>' if beyond else ""
    return f'{faint}{left_out}<div class="plots">{"".join(plots)}</div>{speed}'


def _levels(runs: Sequence[Run], key: str) -> list[tuple[str, float]]:
    """(name, bits per byte) of the models without a curve, such as the base, for the plot of eval/TASK_LANGUAGE/bits_per_byte."""
    task = f"bits_per_byte_{key.split('/')[1].rsplit('_', 1)[-1]}"
    if not key.endswith("/bits_per_byte"):
        return []
    # A level in another scoring window than the curves' says nothing beside them.
    windows = {run.trained_window for run in runs if run.series(key)}
    without = [run for run in runs if not run.series(key) and (run.window is None or {run.window} == windows)]
    return [(run.name, dot.value) for run in without if (dot := _dot(run.name, run.tasks.get(task)))]


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def funnel(stages: Sequence[Stage], totals: Mapping[str, Any], dropped: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Documents in and out of each stage, reasons, and what was dropped."""
    if not stages:
        return absent("No document set was named, or its manifest holds no yields.", "ja-llm report RUN --documents DIR")
    body = ""
    for stage in stages:
        came, went = stage.documents_in, stage.documents_out
        share = went / came if came and went is not None else None
        kept = f" ({share:.1%})" if share is not None else ""
        body += f'<tr><th scope="row">{escape(stage.name)}</th><td class="n">{_count(came)}</td><td class="n">{_count(went)}{kept}{bar(share)}</td></tr>'
        reasons = sorted(stage.dropped.items(), key=lambda pair: (-pair[1], pair[0]))
        if reasons:
            told = ", ".join(f"{escape(reason)} {number(count)}" for reason, count in reasons)
            body += f'<tr class="sub"><td colspan="3">dropped: {told}</td></tr>'
    head = '<th scope="col">stage</th><th class="n" scope="col">documents in</th><th class="n" scope="col">kept</th>'
    stages_table = table("Documents in and out of each stage", head, body)
    sums = ", ".join(f"{escape(k.replace('_', ' '))} {number(v)}" for k, v in totals.items() if isinstance(v, int | float))
    told = f"<p>In the set: {sums}.</p>" if sums else ""
    first, last = stages[0].documents_in, stages[-1].documents_out
    if first and last is not None:
        told = f"<p>Of {number(first)} pages {number(last)} were kept ({last / first:.1%}).</p>" + told
    return told + stages_table + "".join(_dropped(reason, found) for reason, found in dropped.items() if found)


def _dropped(reason: str, found: Sequence[Mapping[str, Any]]) -> str:
    entries = []
    for sample in found:
        about = ((k, v) for k, v in sample.items() if k not in ("text", "id") and v not in (None, "", {}))
        entries.append((" · ".join(f"{k}: {cut(str(v), 120)}" for k, v in about), str(sample.get("text") or "")))
    return quotations(f"dropped as {reason}: {len(found)} {'sample' if len(found) == 1 else 'samples'}", entries)


def _count(value: int | None) -> str:
    return number(value) if value is not None else "–"


def vocabulary(runs: Sequence[Run], certificate: Mapping[str, Any]) -> str:
    """The certificate's figures, and example sentences in the pieces of each vocabulary among the runs."""
    html = ""
    if certificate:
        passed = certificate.get("passed")
        sizes = [certificate.get(k, {}).get("vocab_size") for k in ("old", "new") if isinstance(certificate.get(k), Mapping)]
        grown = (
            f" The vocabulary grew from {number(sizes[0])} to {number(sizes[1])} ids." if len(sizes) == 2 and all(sizes) else ""
        )
        html += (
            f"<p>The expansion's certificate {'passed' if passed else 'FAILED' if passed is False else 'is there'}.{grown}</p>"
        )
        checks = certificate.get("checks")
        if isinstance(checks, Mapping):
            rows = "".join(
                f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{"passed" if c.get("passed") else "FAILED"}</td><td>{escape(_figures(c))}</td></tr>'
                for name, c in checks.items()
                if isinstance(c, Mapping)
            )
            head = '<th scope="col">check</th><th scope="col">result</th><th scope="col">figures</th>'
            html += table("Checks of the certificate", head, rows)
    else:
        html += absent(
            "No certificate of a vocabulary expansion was named.",
            "ja-llm report RUN --certificate models/expanded/certificate.json",
        )
    return html + _pieces(runs)


def _figures(check: Mapping[str, Any]) -> str:
    told = [
        f"{k.replace('_', ' ')} {number(v)}" for k, v in check.items() if isinstance(v, int | float) and not isinstance(v, bool)
    ]
    return "; ".join([*told, *([str(check["reason"])] if check.get("reason") else [])])


def _tokens_per_character(certificate: Mapping[str, Any]) -> tuple[float, float] | None:
    checks = certificate.get("checks")
    found = checks.get("tokens_per_japanese_character", {}) if isinstance(checks, Mapping) else {}
    old = found.get("before", certificate.get("tokens_per_japanese_character_before"))
    new = found.get("after", certificate.get("tokens_per_japanese_character_after"))
    return (float(old), float(new)) if isinstance(old, int | float) and isinstance(new, int | float) else None


def _pieces(runs: Sequence[Run]) -> str:
    from ja_llm.vocab.base import load_tokenizer

    vocabularies: dict[str, tuple[list[str], Any]] = {}
    for run in runs:
        if (run.path / "vocab").is_dir():
            try:
                tokenizer = load_tokenizer(run.path / "vocab")
            except JaLlmError:
                continue  # the table of models is worth more than a complaint here; `ja-llm eval` names the damage
            vocabularies.setdefault(tokenizer.fingerprint, ([], tokenizer))[0].append(run.name)
    html = ""
    for sentence in SENTENCES if vocabularies else ():
        html += f"<h3>{escape(sentence)}</h3>"
        for names, tokenizer in vocabularies.values():
            pieces = [tokenizer.id_to_piece(i) for i in tokenizer.encode(sentence)]
            row = "".join(f"<span{' class=byte' if p.startswith('<0x') else ''}>{escape(p)}</span>" for p in pieces)
            html += f'<p class="soft">{escape(", ".join(names))}: {len(pieces)} tokens</p><p class="pieces">{row}</p>'
    return html


def texts(runs: Sequence[Run], samples: Mapping[str, Any], again: str) -> str:
    """Continuations of the same prompts, and translations, model beside model; `again` is the page's own command."""
    html = ""
    prompts = samples.get("prompts")
    if isinstance(prompts, Sequence) and prompts:
        names = [name for name in samples if name != "prompts"]
        for place, prompt in enumerate(prompts):
            html += f"<h3>{escape(prompt)}…</h3>"
            for name in names:
                text = samples[name][place] if place < len(samples[name]) else ""
                # A model that does not know how to go on often writes empty lines.
                line = re.sub(r"\s*\n\s*", " ⏎ ", text)
                html += f"<blockquote><b>{escape(name)}</b>\n<b>{escape(prompt)}</b>{escape(line)}</blockquote>"
    html += _translations(runs)
    if html:
        return html
    run = _trained(runs)
    return (
        absent("No text was generated.", f"{generate_command(run)} --samples samples.json")
        + "<p>It keeps the text (once for each model, with the same prompts); make the page again: "
        f"<code>{escape(again)} --samples samples.json</code></p>"
    )


def _translations(runs: Sequence[Run], task: str = "translate_ui_en_ja") -> str:
    found = {run.name: {s["id"]: s for s in run.samples(task)} for run in runs}
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        return ""
    first = next(iter(found.values()))
    chosen = [i for i in first if all(i in rows for rows in found.values())][:_MOST_TEXTS]
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("English", "reference", *found))
    body = ""
    for i in chosen:
        source = first[i]["inputs"].rsplit("English: ", 1)[-1].rsplit("\nJapanese:", 1)[0]
        cells = [source, first[i]["targets"], *(rows[i].get("prediction", "") for rows in found.values())]
        body += "<tr>" + "".join(f'<td><div class="text">{escape(cut(c, 120)) or "(empty)"}</div></td>' for c in cells) + "</tr>"
    title = f"User-interface texts, English to Japanese (the first {len(chosen)})"
    return f"<h3>{title}</h3>{table(title, heads, body, wide=True)}"


def meaning(runs: Sequence[Run], controls: Mapping[str, Any]) -> str:
    """Each measure in a sentence or two: the tasks' own, and what the page uses throughout."""
    items: dict[str, str] = {}
    for run in runs:
        for task, result in run.tasks.items():
            signatures = "; ".join(f"{k}: {v}" for k, v in (result.get("about", {}).get("signatures") or {}).items())
            items.setdefault(
                _label(task),
                result.get("about", {}).get("description", "") + (f" sacreBLEU signatures: {signatures}." if signatures else ""),
            )
    items |= {
        "Bits per byte": "The cost of a text in bits, divided by its UTF-8 bytes; whole documents in a window of a fixed number of tokens, the end of a document counted. "
        "It does not depend on the tokenizer, so it compares a model before and after its vocabulary changed. A Japanese character is three bytes, "
        "so Japanese and English figures do not compare with each other. With more pieces a window holds more text, so a part of the fall by expansion is context.",
        "Interval": "If the held-out documents were drawn again, the figure would lie in this range 19 times out of 20. Intervals of two models on the "
        "same documents may overlap and the models still differ.",
        "English after Japanese training": "A rise of English bits per byte is what was forgotten; the mixture's share of English keeps it small. A fall "
        "means that the held-out English is of the kind trained on; what was forgotten of other English is then not measured.",
        "Twin": "The same architecture, vocabulary, mixture and number of tokens from random weights: the difference is what the base was worth.",
        "Loss": "Mean negative log-likelihood per token in nats. Tokens of another vocabulary are other units.",
    }
    if controls:
        items["Character 5-gram"] = (
            "Letter statistics without a network: a model that does not beat it has learnt nothing beyond neighbouring characters."
        )
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in items.items() if v) + "</dl>"


def commands(runs: Sequence[Run], corpus: str | Path | None, again: str) -> str:
    """What can be typed next, with the run's own paths as the folder of the call sees them; `again` is the page's own command."""
    trained = _trained(runs)
    documents = shlex.quote(shown(corpus)) if corpus else "DOCUMENTS"
    export = f"ja-llm export {shlex.quote(shown(trained.path))} --out {shlex.quote(shown(trained.path) + '-hf')}"
    lines = [
        ("see what it writes", generate_command(trained)),
        ("measure it again, or another model", eval_command(trained, runs, corpus)),
        ("read what the corpus job dropped, and why", f"ja-llm corpus stats {documents}"),
        ("use it with transformers", export),
        ("compare runs on one page", again),
        ("walk the path on your own pages (HTML or WARC)", "ja-llm quickstart --pages my-site/ --out mine"),
        ("walk it on real text: docs/first_steps.md", "ja-llm fetch debian-docs --out data/debian-docs"),
    ]
    return f"<pre>{escape(chr(10).join(f'# {what}{chr(10)}{line}' for what, line in lines))}</pre>"


def ledgers(runs: Sequence[Run]) -> str:
    """What decides each run's numbers: same ledger, same hardware, same losses."""
    html = ""
    for run in runs:
        if not run.ledger:
            html += f'<p class="none">{escape(run.name)}: there is no run.json.</p>'
            continue
        identity = run.ledger.get("identity_hash", "")
        told = json.dumps(run.ledger, ensure_ascii=False, indent=1, sort_keys=True)
        html += f"<details><summary>{escape(run.name)} · {escape(run.ledger.get('job', ''))} · {escape(str(identity)[:12])}</summary><pre>{escape(told)}</pre></details>"
    return html
