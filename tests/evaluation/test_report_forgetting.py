"""The report's section on forgetting says the gaps, alarms and paired comparisons of runs whose values are known."""

import json
import re

import pytest

from ja_llm.evaluation.report import write_report

HOSTILE = "<b>x<b>"


def write_run(folder, rises, seed=0, alarms=()):
    """A run that probes web_en (rises over 1.0 at step 0, 10, 20, ...), web_ja, and a domain with a hostile name."""
    folder.mkdir(parents=True)
    lines = []
    for place, rise in enumerate(rises):
        line = {"step": 10 * place, "eval/web_en/bits_per_byte": 1.0 + rise, "eval/web_ja/bits_per_byte": 2.0 - place / 10}
        line |= {f"eval/{HOSTILE}/bits_per_byte": 3.0}
        if place:
            line |= {"forgetting/web_en/rise": rise, "forgetting/web_en/rise_error": 0.03}
            line |= {"forgetting/web_en/alarm": float(10 * place in alarms)}
        lines.append(line)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.json").write_text(json.dumps({"job": "train", "identity": {"seed": seed}}))
    return folder


def section(page):
    text = page.read_text(encoding="utf-8")
    return text[text.index('<section id="forgetting">') :].split("</section>")[0]


def test_one_run_has_its_gap_its_alarm_and_a_plot_of_each_domain(tmp_path):
    run = write_run(tmp_path / "run", [0, 0.05, 0.5, 0, -0.25], alarms=(20,))
    found = section(write_report([run], tmp_path / "report.html"))
    # The area of lines through 0, .05, .5, 0 at steps 0 to 30: 10 (.025 + .275 + .25).
    row = found.split('<th scope="row">web_en')[1].split("</tr>")[0]
    assert all(f'<td class="n">{cell}</td>' in row for cell in ("1.0000", "0.500", "20", "30", "5.50")) and "-0.2500" in row
    assert "no gap" in found.split('<th scope="row">web_ja')[1].split("</tr>")[0]
    assert "step 20: web_en: <span" in found and "ALARM" in found and "step 30: web_en: the alarm is off" in found
    assert "Rise of web_en" in found and "Rise of web_ja" in found
    assert HOSTILE not in found and "&lt;b&gt;x&lt;b&gt;" in found
    assert "is the gap smaller" not in found
    # A rise within two standard errors is no gap.
    quiet = section(write_report([write_run(tmp_path / "quiet", [0, 0.05, 0.02])], tmp_path / "q.html"))
    assert "no gap" in quiet.split('<th scope="row">web_en')[1].split("</tr>")[0] and "No alarm went off." in quiet


def test_a_probe_without_a_finite_number_is_told_and_left_out(tmp_path):
    run = write_run(tmp_path / "run", [0, 0.5, float("nan"), float("inf"), 0])
    found = section(write_report([run], tmp_path / "report.html"))
    row = found.split('<th scope="row">web_en')[1].split("</tr>")[0]
    assert "no finite number at 2 of its probes, first at step 20: left out" in row
    # Lines through 0, .5, 0 at steps 0, 10, 40.
    assert all(f'<td class="n">{cell}</td>' in row for cell in ("0.500", "10", "40"))
    assert row.count('<td class="n">10</td>') == 2  # where it is deepest, and the area


@pytest.mark.parametrize(("factor", "says"), [(0.5, "smaller"), (2.0, "larger"), (1.0, "no clear difference")])
def test_kinds_of_runs_are_compared_in_pairs_of_equal_seeds(tmp_path, factor, says):
    runs = []
    for kind, scale in (("plain", 1.0), ("near", factor)):
        for seed in range(5):
            level = 0.4 + 0.1 * seed  # seeds differ far more than kinds
            noise = 1.0 if factor != 1.0 else 1.0 + (0.01 if (seed % 2) == (kind == "near") else 0.0)
            runs.append(write_run(tmp_path / kind / f"seed_{seed}", [0, level * scale * noise, 0], seed))
    found = section(write_report(runs, tmp_path / "report.html"))
    table = found.split("web_en: is the gap smaller?")[1].split("</table>")[0]
    row = table.split('<th scope="row">near')[1].split("</tr>")[0]
    assert says in row and '<td class="n">5</td>' in row
    if factor == 0.5:  # areas 10 x level: differences -2 to -4, mean -3, Student's interval of five
        assert re.search(r"smaller</span>: -3(\.00)? \(-50%\)", row) and "[-3.98, -2.02]" in row
    assert "near (5 seeds)" in found and "plain (5 seeds)" in found


def test_a_page_of_many_runs_stays_readable(tmp_path):
    """Six colours: the seventh kind of run would look like the first, and fifty names are no title."""
    runs = [write_run(tmp_path / f"kind{k}" / f"seed_{s}", [0, 0.4 + k / 10, 0], s) for k in range(7) for s in range(3)]
    text = write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>ja_llm report: 21 runs</h1>" in text and "21 runs: kind0/seed_0 to kind6/seed_2" in text
    curves = text.split('<section id="curves">')[1].split("</section>")[0]
    assert "Drawn are the first 6 runs; 15 more are not" in curves and "kind2" not in curves and "kind1/seed_2" in curves
    found = section(tmp_path / "report.html")
    assert "Drawn are the first 6; 1 more is not" in found
    plot = found.split("<figcaption>Rise of web_en")[1].split("</figure>")[0]
    assert "kind5 (3 seeds)" in plot and "kind6" not in plot


def test_a_run_without_a_baseline_has_no_such_section(tmp_path):
    run = write_run(tmp_path / "run", [0, 0.1])
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(lines[1] + "\n")
    assert 'id="forgetting"' not in write_report([run], tmp_path / "report.html").read_text()
