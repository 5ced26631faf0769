"""The report is one valid page that loads nothing, shows what was measured, and lets no text of the data become markup."""

import html.parser
import json
import re
import shutil
import subprocess
import sys

import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.continuations import keep_samples
from ja_llm.evaluation.report import write_report
from ja_llm.pages.svg import Dot, Line, dot_plot, line_plot, number, thin, tick, ticks

HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=y>&amp;$title${x}"
VOID = {"meta", "br", "img", "link", "input", "hr"}
SHAPES = {"line", "circle", "polyline", "polygon", "path"}


class Checker(html.parser.HTMLParser):
    """Checks that tags close in order, ids are unique and no attribute loads anything."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.text, self.problems = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name.startswith("on") or name in ("src", "srcset", "data", "action", "background", "poster"):
                self.problems.append((tag, name, value))
            if name in ("href", "xlink:href") and not value.startswith("#"):
                self.problems.append((tag, name, value))
            if name == "style" and "url" in value:
                self.problems.append((tag, name, value))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            assert tag in SHAPES, tag
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


def check(path):
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == [] and checker.problems == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert not {"script", "img", "link", "iframe", "object", "embed", "base", "form"} & set(checker.tags)
    assert "default-src 'none'" in page and not re.search(r"@import|url\(", page)
    targets = set(re.findall(r'href="#(\w+)"', page))
    assert targets == {i for i in checker.ids if i in targets} and len(targets) == 9
    return page, " ".join(checker.text)


def task(headline, value, better="lower", **more):
    about = {
        "headline": headline,
        "better": better,
        "description": f"About {headline}. {HOSTILE}",
        "signatures": {"chrf": HOSTILE},
    }
    return {headline: value, "interval": [value * 0.9, value * 1.1], "about": about, "contexts_cut": 3, **more}


@pytest.fixture
def runs(tmp_path):
    for name, step, bits in (("base", 0, 3.25), ("ja", 40, 1.75)):
        folder = tmp_path / name / "eval" / f"step_{step}"
        folder.mkdir(parents=True)
        tasks = {"bits_per_byte_ja": task("bits_per_byte", bits), "translate_ui_en_ja": task("chrf", 12.5, "higher")}
        (folder / "results.json").write_text(json.dumps({"tasks": tasks, "left_out": {"bits_per_byte_en": HOSTILE}}))
        sample = {"id": "1", "inputs": f"English: {HOSTILE}\nJapanese:", "targets": "保存", "prediction": HOSTILE, "cut": 0}
        (folder / "translate_ui_en_ja.samples.jsonl").write_text(json.dumps(sample) + "\n")
        (tmp_path / name / "run.json").write_text(
            json.dumps({"job": HOSTILE, "identity_hash": HOSTILE, "identity": {HOSTILE: 1}})
        )
    lines = [{"step": n, "loss": 5 - n / 20, "learning_rate": 1e-3, "tokens_per_second": 1000.0} for n in range(1, 41)]
    lines.insert(20, {"step": 20, f"eval/{HOSTILE}/bits_per_byte": 2.0})
    (tmp_path / "ja/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41, "lo')
    return [tmp_path / "base", tmp_path / "ja"]


@pytest.fixture
def full(runs, tmp_path):
    """Arguments of a report with every part, hostile text in all of them."""
    corpus = tmp_path / "corpus"
    (corpus / "dropped").mkdir(parents=True)
    stage = {"stage": HOSTILE, "in": {"documents": 5210}, "kept": {"documents": 4980}, "dropped": {HOSTILE: {"documents": 230}}}
    (corpus / "manifest.json").write_text(json.dumps({"yields": [stage], "totals": {"documents": 4980}}))
    (corpus / "dropped/short.jsonl").write_text(json.dumps({"url": HOSTILE, "text": HOSTILE}) + "\nnot json\n")
    certificate = {"passed": True, "old": {"vocab_size": 4000}, "new": {"vocab_size": 8000}}
    certificate["checks"] = {
        "tokens_per_japanese_character": {"passed": True, "before": 2.96, "after": 0.71},
        HOSTILE: {"reason": HOSTILE},
    }
    return {
        "corpus": corpus,
        "certificate": certificate,
        "controls": {HOSTILE: {"bits_per_byte_ja": {"bits_per_byte": 2.5, "interval": [2.4, 2.6]}, "training_documents": 7}},
        "samples": {"prompts": [HOSTILE], HOSTILE: [HOSTILE]},
    }


def test_a_full_page_is_valid_and_hostile_text_stays_text(runs, full, tmp_path):
    page, text = check(write_report(runs, tmp_path / "report.html", **full))
    assert "<script" not in page and "<img" not in page
    assert text.count("alert(1)") >= 12
    for shown in (
        "3.250",
        "1.750",
        "2.500",
        "5,210",
        "4,980 (95.6%)",
        "0.710",
        "保存",
        "ja_llm report: base, ja",
        "short: 1 sample",
    ):
        assert shown in text, shown
    assert re.search(r"▼ 46\.2% better", text)
    assert "Not measured" not in text
    # Each plot has a text alternative that tells its figures.
    plots = re.findall(r'<svg class="plot"[^>]*role="img" aria-label="([^"]+)"', page)
    assert len(plots) == 4 and any("from 4.950 at 1 to 3 at 40" in p for p in plots)


def test_absent_parts_are_said_and_equal_input_gives_an_equal_page(runs, tmp_path):
    empty = tmp_path / "empty"
    (empty / "eval").mkdir(parents=True)
    page, text = check(write_report([empty], tmp_path / "a.html"))
    assert text.count("Not measured") == 6
    check(write_report(runs, tmp_path / "b.html"))
    check(write_report(runs, tmp_path / "c.html"))
    assert (tmp_path / "b.html").read_bytes() == (tmp_path / "c.html").read_bytes()


def test_wrong_input_is_a_sentence(runs, tmp_path):
    (tmp_path / "other").mkdir()
    for given, said in (
        ([], "no run is named"),
        ([tmp_path / "none"], "does not exist"),
        ([tmp_path / "other"], "no run directory"),
    ):
        with pytest.raises(UsageError, match=said):
            write_report(given, tmp_path / "r.html")
    with pytest.raises(UsageError, match="corpu: this folder does not exist"):
        write_report(runs, tmp_path / "r.html", corpus=tmp_path / "corpu")
    with pytest.raises(JaLlmError, match=r"manifest\.json"):
        write_report(runs, tmp_path / "r.html", corpus=tmp_path / "other")
    with open(tmp_path / "ja/metrics.jsonl", "a") as file:
        file.write('\n{"step": 42}\n')
    with pytest.raises(JaLlmError, match="line 42 can't be read"):
        write_report(runs, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def measured_in(run, length):
    (path,) = run.glob("eval/*/results.json")
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "settings": {"length": length, "limit": 20}}))


def test_figures_of_several_scoring_windows_are_not_compared_in_silence(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in runs:
        measured_in(run, 128)
    _, text = check(write_report(runs, tmp_path / "same.html"))
    assert "windows of different lengths" not in text and "46.2% better" in text
    assert "ja-llm eval --checkpoint ja --documents DOCUMENTS --limit 20 --length 128" in text
    measured_in(runs[1], 512)
    _, text = check(write_report(runs, tmp_path / "mixed.html"))
    assert "windows of different lengths: 128 tokens for base; 512 tokens for ja." in text
    assert "do not compare" in text and "46.2% better" not in text
    # The one in the longer window is to be measured again, in that of the other; a run's own command keeps the run's own window.
    assert text.count("ja-llm eval --checkpoint ja --documents DOCUMENTS --limit 20 --length 128") == 1
    assert text.count("ja-llm eval --checkpoint ja --documents DOCUMENTS --limit 20 --length 512") == 1


def test_a_level_in_another_window_than_the_curve_is_not_drawn_beside_it(runs, tmp_path):
    with open(runs[1] / "metrics.jsonl", "w") as file:
        file.writelines(json.dumps({"step": n, "eval/web_ja/bits_per_byte": 2.0 - n / 100}) + "\n" for n in range(1, 9))
    (runs[1] / "run.json").write_text(json.dumps({"identity": {"length": 128}}))
    for length, drawn in ((128, True), (512, False)):
        measured_in(runs[0], length)
        page, _ = check(write_report(runs, tmp_path / "r.html"))
        (plot,) = re.findall(r'<svg[^>]*aria-label="[^"]*Held-out.*?</svg>', page, re.S)
        assert ("base" in plot) is drawn


def test_a_run_without_an_evaluation_is_named_with_the_command_that_makes_it_comparable(runs, full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measured_in(runs[0], 128)
    (runs[1] / "eval/step_40/results.json").unlink()
    command = "ja-llm eval --checkpoint ja --documents corpus --limit 20 --length 128"
    page, text = check(write_report(runs, tmp_path / "r.html", corpus=full["corpus"]))
    summary = page[page.index('id="summary"') : page.index('id="quality"')]
    assert "No figure here is of ja" in summary and command in summary
    # Nothing measured at all: in the window that it was trained in, as the verb's own is another.
    (runs[0] / "eval/step_0/results.json").unlink()
    (runs[1] / "run.json").write_text(json.dumps({"identity": {"length": 64}}))
    _, text = check(write_report(runs, tmp_path / "r.html", corpus=full["corpus"]))
    assert text.count("ja-llm eval --checkpoint ja --documents corpus --length 64") == 3


def ledger(run, identity, *parents, job="train"):
    """Writes run.json; `parents` are ledgers."""
    value = {"job": job, "identity_hash": identity, "parents": list(parents)}
    (run / "run.json").write_text(json.dumps(value))
    return value


def test_the_headline_is_of_the_run_that_goes_on_from_the_others_whatever_their_order(runs, tmp_path):
    base, ja = runs
    shutil.copytree(ja, twin := tmp_path / "twin")
    (base / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n')  # a run itself
    ledger(ja, "c", {**ledger(base, "a"), "name": "base"})
    expanded = {"job": "vocab expand", "identity_hash": "b", "parents": [{"job": "train", "identity_hash": "a"}]}
    ledger(twin, "d")
    for parents in ([{"job": "train", "identity_hash": "a"}], [expanded]):
        ledger(ja, "c", *parents)
        for order in ([base, ja], [ja, base], [twin, base, ja], [twin, ja, base]):
            page, _ = check(write_report(order, tmp_path / "r.html"))
            summary = page[page.index('id="summary"') : page.index('id="quality"')]
            assert '<div class="value">1.75</div>' in summary and "46.2% better</span> from 3.25 (base)" in summary, summary
    # Beside its twin, or a sibling, alone nothing before it was measured.
    shutil.copytree(ja, sibling := tmp_path / "sibling")
    ledger(sibling, "e", expanded)
    for order in ([twin, ja], [ja, sibling]):
        page, _ = check(write_report(order, tmp_path / "r.html"))
        assert "no model before it was evaluated" in page


def test_figures_of_an_older_step_are_said_to_be_so_and_each_missing_one_has_its_command(runs, full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open(runs[1] / "metrics.jsonl", "w") as file:
        file.write('{"step": 1250, "loss": 3.0}\n')  # a run that was killed fifty steps behind its newest checkpoint
    for step in (40, 1200):
        (runs[1] / f"checkpoints/{step}/params").mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / name / "eval").mkdir(parents=True)
    page, text = check(write_report([*runs, "one", "two"], tmp_path / "r.html", corpus=full["corpus"]))
    assert "ja at step 1,200: its figures are of step 40." in text and "No figure here is of one, two" in text
    summary = page[page.index('id="summary"') : page.index('id="quality"')]
    for name in ("ja", "one", "two"):
        assert summary.count(f"<code>ja-llm eval --checkpoint {name} --documents corpus --pairs PAIRS</code>") == 1


def test_the_hint_on_generated_text_is_complete(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ja/eval").mkdir(parents=True)
    _, text = check(write_report(["ja"], "r.html"))
    assert "ja-llm generate --checkpoint ja --prompt 日本の春は --samples samples.json" in text
    assert "ja-llm report ja --out report.html --samples samples.json" in text
    keep_samples("samples.json", ["日本の春は"], "ja", ["花が咲く。"])
    _, text = check(write_report(["ja"], "r.html", samples="samples.json"))
    assert "日本の春は 花が咲く。" in text and "No text was generated" not in text


def test_equal_folder_names_are_told_apart(tmp_path):
    for name in ("one/ja", "two/ja"):
        (tmp_path / name / "eval").mkdir(parents=True)
    _, text = check(write_report([tmp_path / "one/ja", tmp_path / "two/ja"], tmp_path / "r.html"))
    assert "one/ja, two/ja" in text


def test_plots_put_points_where_the_axes_say():
    svg = line_plot("t", [Line("a", [(0, 1.0), (10, 3.0)])], "step", "loss")
    (points,) = re.findall(r'<polyline class="line s0" points="([^"]+)"', svg)
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in points.split())
    grid = {t: float(y) - 3.5 for y, t in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', svg)}
    assert y0 == pytest.approx(grid["1"], abs=0.11) and y1 == pytest.approx(grid["3"], abs=0.11)
    assert x0 < x1 and y0 > y1
    assert line_plot("t", [Line("a", [(0, float("nan"))])], "x", "y") == "" == dot_plot("t", [], "x")
    dots = dot_plot("t", [Dot("a", 2.0, 1.0, 3.0), Dot("b", 2.0)], "x")
    assert dots.count("<circle") == 2 and dots.count('class="whisker') == 1
    assert "NaN" not in line_plot("t", [Line("a", [(1, 2.0)])], "x", "y")


def test_figures_and_ticks():
    assert [number(v) for v in (0, 1234567, 0.5, 3.14159, 12345.678, -0.0012345)] == [
        "0", "1,234,567", "0.5000", "3.142", "12,346", "-0.001234",
    ]  # fmt: skip
    assert ticks(0.1, 0.9, 4) == [0.2, 0.4, 0.6, 0.8] and ticks(5, 5) == [5]
    assert [tick(v) for v in (0.0005, 2.5, 2.26, 1000, 0.25)] == ["0.0005", "2.5", "2.26", "1,000", "0.25"]
    curve = thin([(float(n), float(n % 2)) for n in range(1000)], 100)
    assert len(curve.points) == 100 and all(y == 0.5 for _, y in curve.points)
    assert all((low, high) == (0.0, 1.0) for _, low, high in curve.spread)


def test_writing_a_report_needs_neither_jax_nor_tensorflow():
    code = (
        "import sys; import ja_llm.evaluation.report, ja_llm.evaluation.report_parts;"
        "print([m for m in ('jax', 'tensorflow', 'seqio', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_levels_to_compare_with_are_drawn_or_told():
    lines = [Line("ja", [(0, 5.0), (10, 3.0)])]
    page = line_plot("t", lines, "step", "bits", [("base", 5.5), ("imported", 5.52), ("far", 99.0)])
    assert page.count('class="level"') == 2 and ">imported, base<" in page, "labels on one another are joined"
    assert "Outside the plot: far 99." in page and "far: 99" in page.split("<desc>")[1].split("</desc>")[0]
    assert 'class="level"' not in line_plot("t", lines, "step", "bits")
