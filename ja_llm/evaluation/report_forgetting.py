"""The report's section on forgetting: each probed domain's rise over step 0, its stability gap and alarms, and runs in pairs of seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ja_llm.evaluation.report_data import Run
from ja_llm.pages.html import table
from ja_llm.pages.svg import SERIES, Line, escape, line_plot, number, thin

if TYPE_CHECKING:  # it loads NumPy, which a report of runs without probes does without
    from ja_llm.evaluation.stability_gap import Gap, PairedDifference

_NOISE = 2.0  # standard errors that a rise has to exceed to be called a gap


def domains(runs: Sequence[Run]) -> list[str]:
    """Names of what was probed at step 0 and later in one of the runs."""
    return list(dict.fromkeys(name for run in runs for name in _probed(run)))


def forgetting(runs: Sequence[Run]) -> str:
    """A table of gaps, a plot for each domain, and where several seeds of two kinds of run are there, whose areas are smaller."""
    html = (
        '<p class="soft">How far each domain is above its bits per byte of step 0 (above 0: forgotten; below 0: learnt). The stability gap is the first '
        f"rise of more than {_NOISE:g} standard errors over documents, as far as those were measured: its greatest height, how many steps until it was back, and "
        "the area under all rises.</p>"
    )
    html += _alarms(runs)
    groups = _groups(runs)
    if groups:
        html += "".join(_paired(domain, groups) for domain in domains(runs))
    body = "".join(_row(run, domain) for domain in domains(runs) for run in runs if domain in _probed(run))
    heads = "".join(
        f'<th class="n" scope="col">{head}</th>'
        for head in ("at step 0", "depth", "deepest at step", "length in steps", "area, bits per byte x steps", "at the end")
    )
    gaps = table("Stability gaps", f'<th scope="col">domain, run</th>{heads}', body, wide=True)
    if len(runs) > 2 * SERIES:
        gaps = f"<details><summary>the gaps of all {len(runs)} runs</summary>{gaps}</details>"
    plots = "".join(_plot(domain, runs, groups) for domain in domains(runs))
    more = len(groups or runs) - SERIES
    left_out = (
        f'<p class="soft">Drawn are the first {SERIES}; {more} more {"is" if more == 1 else "are"} not.</p>' if more > 0 else ""
    )
    return f'{html}{gaps}{left_out}<div class="plots">{plots}</div>'


def gap_of(run: Run, domain: str) -> "Gap":
    """The stability gap of a probed domain; its tolerance is the noise of the probe as the run measured it."""
    from ja_llm.evaluation.stability_gap import stability_gap

    errors = [value for _, value in run.series(f"forgetting/{domain}/rise_error")]
    return stability_gap(_curve(run, domain), _NOISE * statistics.median(errors) if errors else 0.0)


def _curve(run: Run, domain: str) -> list[tuple[float, float]]:
    return [(step, bits) for step, bits in run.series(f"eval/{domain}/bits_per_byte") if math.isfinite(bits)]


def _broken(run: Run, domain: str) -> list[float]:
    """Steps at which a probe gave no finite number."""
    return [step for step, bits in run.series(f"eval/{domain}/bits_per_byte") if not math.isfinite(bits)]


def _probed(run: Run) -> list[str]:
    """Domains whose curve has a baseline: step 0, and a later one."""
    names = dict.fromkeys(key.split("/")[1] for line in run.metrics for key in line if _is_probe(key))
    return [name for name in names if len(curve := _curve(run, name)) > 1 and curve[0][0] == 0]


def _whole(run: Run, domain: str) -> bool:
    """Whether all of a probed domain's curve is known."""
    return domain in _probed(run) and not _broken(run, domain)


def _is_probe(key: str) -> bool:
    return key.startswith("eval/") and key.endswith("/bits_per_byte") and key.count("/") == 2


def _row(run: Run, domain: str) -> str:
    gap = gap_of(run, domain)
    errors = run.series(f"forgetting/{domain}/rise_error")
    if gap.begins is None:
        told = ["no gap", "–", "–"]
    else:
        length = number(gap.length, 3) if gap.recovers is not None else f"{number(gap.length, 3)}, not back"
        told = [number(gap.depth, 3), number(gap.deepest or 0.0), length]
    end = f"{gap.final:+.4f}" + (f'<span class="ci">± {number(errors[-1][1], 2)}</span>' if errors else "")
    cells = [f"{gap.baseline:.4f}", *told, number(gap.area, 3)]
    broken = _broken(run, domain)
    warned = (
        f'<span class="worse ci">no finite number at {len(broken)} of its probes, first at step {number(broken[0])}: left out</span>'
        if broken
        else ""
    )
    return (
        f'<tr><th scope="row">{escape(domain)}<span class="soft ci">{escape(run.name)}</span>{warned}</th>'
        + "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
        + f'<td class="n">{end}</td></tr>'
    )


def _alarms(runs: Sequence[Run]) -> str:
    """Each alarm in words, when it went on and off."""
    told = []
    judged = False
    for run in runs:
        for domain in _watched(run):
            judged = True
            was = 0.0
            for step, on in run.series(f"forgetting/{domain}/alarm"):
                if on != was:
                    rises = dict(run.series(f"forgetting/{domain}/rise"))
                    above = f", {rises[step]:+.4f} bits per byte against step 0" if step in rises else ""
                    what = '<span class="worse">ALARM</span>' if on else "the alarm is off"
                    told.append(f"<li>{escape(run.name)}, step {number(step)}: {escape(domain)}: {what}{above}</li>")
                was = on
    if not judged:
        return '<p class="none">No alarm bounds were set (ALARMS of ja-llm train).</p>'
    return f"<h3>Alarms</h3><ul>{''.join(told)}</ul>" if told else "<p>No alarm went off.</p>"


def _watched(run: Run) -> list[str]:
    found = dict.fromkeys(key for line in run.metrics for key in line if key.startswith("forgetting/") and key.endswith("/alarm"))
    return [key.split("/")[1] for key in found]


def _plot(domain: str, runs: Sequence[Run], groups: Mapping[str, Mapping[int, Run]]) -> str:
    """Rises over step 0, with the 95 % interval over documents; of paired runs the mean over seeds, with their range."""
    lines = []
    if groups:
        for name, seeds in list(groups.items())[:SERIES]:
            curves = [dict(_curve(run, domain)) for run in seeds.values() if domain in _probed(run)]
            steps = sorted(set.intersection(*(set(c) for c in curves))) if curves else []
            rises = [[curve[step] - curve[0.0] for curve in curves] for step in steps]
            points = [(step, statistics.fmean(found)) for step, found in zip(steps, rises, strict=True)]
            spread = [(step, min(found), max(found)) for step, found in zip(steps, rises, strict=True)]
            lines.append(Line(f"{name} ({len(curves)} seeds)", points, spread))
    else:
        for run in runs[:SERIES]:
            if domain in _probed(run):
                curve = _curve(run, domain)
                rises_of = [(step, value - curve[0][1]) for step, value in curve]
                errors = dict(run.series(f"forgetting/{domain}/rise_error"))
                band = [(step, v - 1.96 * errors.get(step, 0.0), v + 1.96 * errors.get(step, 0.0)) for step, v in rises_of]
                thinned = thin(rises_of)
                lines.append(Line(run.name, thinned.points, band if errors and not thinned.spread else thinned.spread))
    return line_plot(f"Rise of {domain}", lines, "step", "bits per byte above step 0", [("step 0", 0.0)])


def _groups(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    """Kinds of runs in the order given, {folder that holds them: {seed: run}}; {} unless two kinds share three seeds or more."""
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        seed = (run.ledger.get("identity") or {}).get("seed")
        if isinstance(seed, int) and _probed(run):
            found.setdefault(run.path.absolute().parent.name, {})[seed] = run
    base = next(iter(found.values()), {})
    found = {name: seeds for name, seeds in found.items() if len(seeds.keys() & base.keys()) >= 3}
    return found if len(found) > 1 else {}


def _paired(domain: str, groups: Mapping[str, Mapping[int, Run]]) -> str:
    """Areas of each kind of run against those of the first, over the seeds that both have."""
    from ja_llm.evaluation.stability_gap import paired_difference

    base_name, base = next(iter(groups.items()))
    body = ""
    for name, runs in groups.items():
        shared = sorted(seed for seed in runs if seed in base and all(_whole(run, domain) for run in (runs[seed], base[seed])))
        areas = [gap_of(runs[seed], domain).area for seed in shared]
        depths = [gap_of(runs[seed], domain).depth for seed in shared]
        finals = [gap_of(runs[seed], domain).final for seed in shared]
        if len(shared) < 2:
            continue
        against = "–"
        if name != base_name:
            against = _told(paired_difference(areas, [gap_of(base[seed], domain).area for seed in shared]))
        cells = [f"{len(shared)}", number(statistics.fmean(depths), 3), number(statistics.fmean(areas), 4)]
        body += (
            f'<tr><th scope="row">{escape(name)}</th>'
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + f"<td>{against}</td>"
            + f'<td class="n">{statistics.fmean(finals):+.4f}</td></tr>'
        )
    if not body or not any(
        gap_of(run, domain).area for seeds in groups.values() for run in seeds.values() if domain in _probed(run)
    ):
        return ""  # nothing that any of them forgot
    heads = ("seeds", "depth", "area", f"area against {base_name}, of the same seeds", "at the end")
    sides = ("n", "n", "n", "", "n")  # as the cells below
    head = '<th scope="col">runs</th>' + "".join(
        f'<th class="{side}" scope="col">{escape(text)}</th>' for side, text in zip(sides, heads, strict=True)
    )
    note = "<p class=\"soft\">Means over seeds; the interval is Student's, 95 %, of the mean of the pairs' differences.</p>"
    return f"<h3>{escape(domain)}: is the gap smaller?</h3>{note}{table(f'Paired areas of {domain}', head, body, wide=True)}"


def _told(found: "PairedDifference") -> str:
    """A difference in words, with its interval."""
    kind = {"smaller": "better", "larger": "worse"}.get(found.verdict)
    share = "" if found.relative is None else f" ({found.relative:+.0%})"
    verdict = f'<span class="{kind}">{found.verdict}</span>' if kind else found.verdict
    interval = f"[{number(found.low, 3)}, {number(found.high, 3)}]"
    return f'{verdict}: {number(found.mean, 3)}{share}<span class="ci">{interval}</span>'
