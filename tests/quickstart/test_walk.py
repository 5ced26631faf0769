"""The whole path in one process, as small as it gets: every stage is the real one, only the steps are few."""

import dataclasses
import json
import re

import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.quickstart.pages import encode, load_pages
from ja_llm.quickstart.run import closing_words, quickstart
from ja_llm.quickstart.walk import NewBase, Walk, WalkConfig


def sizes(inputs, base):
    """Makes its own base, so that the walk of benchmarks/debian_docs.py is walked too."""
    return WalkConfig(
        inputs=inputs,
        preset="quickstart",
        base=NewBase("models/tiny_test.gin", pieces=400, steps=6, rate=3e-3),
        new_pieces=80,
        length=32,
        batch_size=4,
        steps=6,
        rate=2e-3,
        twin_rate=2e-3,
        eval_period=3,
        eval_limit=4,
    )


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    out = tmp_path_factory.mktemp("walk") / "quickstart"
    return out, quickstart(out, sizes=sizes)


def test_pages_become_a_model_a_report_and_an_export(walked, capsys):
    out, result = walked
    kept = {(s["lang"], s["split"]): s["documents"] for s in result["corpus"]["shards"]}
    articles = sum(page.lang == "ja" and page.kind == "article" for page in load_pages())
    assert kept[("ja", "train")] + kept[("ja", "heldout")] == articles, "every article stays, every copy and spam page goes"
    assert result["certificate"]["passed"]
    for name in ("base", "expanded", "trained", "scratch"):
        tasks = result["results"][name]["tasks"]
        assert 0 < tasks["bits_per_byte_ja"]["bits_per_byte"] < 30
        assert 0 < tasks["bits_per_byte_en"]["bits_per_byte"] < 30
    ledger = json.loads((out / "runs/ja/run.json").read_text())
    assert [p["job"] for p in ledger["parents"]] == ["vocab expand"]
    assert ledger["parents"][0]["parents"][0]["job"] == "import"
    assert "<svg" in (out / "report.html").read_text()
    pages = sum(page.kind == "article" and page.lang in ("ja", "en") for page in load_pages())
    assert ledger["licences"] == {"CC0-1.0": pages}
    assert f"| CC0-1.0 | {pages} |" in (out / "export/README.md").read_text()
    assert (out / "export/model.safetensors").stat().st_size > 1000


def test_transformers_loads_the_export_and_cuts_text_as_we_do(walked):
    import torch
    import transformers

    from ja_llm.train.checkpoints import load_model

    out, _ = walked
    ours = load_model(out / "runs/ja")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "export")
    text = "朝の庭では、小さな虫が歩いています。 In the morning, a small beetle walks."
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ours.tokenizer.encode(text)
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "export", dtype=torch.float32)
    assert model.num_parameters() == sum(leaf.size for leaf in _leaves(ours.params))


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_the_same_call_again_finds_everything_done_and_gives_the_same_numbers(walked, capsys):
    out, result = walked
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*") if p.is_file() and "checkpoints" in p.parts}
    again = quickstart(out, sizes=sizes)
    assert again["results"] == result["results"]
    assert before == {p: p.stat().st_mtime_ns for p in before}
    table, narration = capsys.readouterr()
    assert all(len(line) <= 80 for line in table.splitlines())
    trained = result["results"]["trained"]["tasks"]
    row = next(line for line in table.splitlines() if "after training (ja)" in line)
    assert row.split()[-2:] == [f"{trained[f'bits_per_byte_{lang}']['bits_per_byte']:.3f}" for lang in ("ja", "en")]
    dropped = re.search(r"(\d+) in, (\d+) kept .*?, (\d+) dropped", " ".join(table.split()))
    came, kept, gone = map(int, dropped.groups())
    assert came == kept + gone == len(load_pages()) + 3, "every response is accounted for"
    for verb in ("corpus build", "import", "vocab expand", "cache", "train", "eval", "generate", "export", "report"):
        assert f"] {verb}: " in narration and f"$ ja-llm {verb.split()[0]} " in narration


def test_what_was_forgotten_is_said_in_words():
    def results(**bits):
        return {
            name: {"tasks": {f"bits_per_byte_{k}": {"bits_per_byte": v} for k, v in zip(("ja", "en"), pair, strict=True)}}
            for name, pair in bits.items()
        }

    words = closing_words(results(base=(8.0, 2.0), trained=(2.0, 2.1), scratch=(2.5, 3.0)))
    assert "75.0% fewer bits than for the base" in " ".join(words.split())
    assert "20.0% fewer than for the twin" in " ".join(words.split())
    assert "forgot English text of these pages' kind costs 5.0% more bits than for the base" in " ".join(words.split())
    assert "English  English text of these pages' kind costs 5.0% fewer bits" in closing_words(
        results(base=(8.0, 2.0), trained=(2.0, 1.9), scratch=(1.0, 3.0))
    )


def test_pages_of_one_language_are_refused_before_anything_is_trained(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for page in [p for p in load_pages() if p.lang == "ja" and p.kind == "article"][:30]:
        (site / f"{page.slug}.html").write_bytes(encode(page))
    with pytest.raises(JaLlmError, match="no English one is left to train on"):
        quickstart(tmp_path / "out", pages=site, sizes=sizes)
    assert not (tmp_path / "out/models").exists() and not (tmp_path / "out/vocab_en").exists()


def test_other_pages_or_another_base_are_another_walk(tmp_path, walked):
    site = tmp_path / "site"
    site.mkdir()
    (site / "a.html").write_text("<p>a</p>")
    with pytest.raises(JaLlmError, match="no document is left"):
        quickstart(tmp_path / "out", pages=site, sizes=sizes)
    (site / "a.html").write_text("<p>b</p>")
    with pytest.raises(UsageError, match="begun with other sizes, pages"):
        quickstart(tmp_path / "out", pages=site, sizes=sizes)
    with pytest.raises(UsageError, match="begun with other sizes, pages"):
        quickstart(walked[0], pages=site, sizes=sizes)


def test_a_base_of_the_same_sizes_is_another_base(tmp_path, monkeypatch):
    def given(inputs, base):
        return dataclasses.replace(sizes(inputs, base), base=base)

    def stop(self):
        raise KeyboardInterrupt

    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"a": 1}')
    monkeypatch.setattr(Walk, "corpus", stop)
    for _ in range(2):
        with pytest.raises(JaLlmError, match="stopped"):
            quickstart(tmp_path / "out", base=base, sizes=given)
    (base / "config.json").write_text('{"a": 2}')
    with pytest.raises(UsageError, match="pages, base or gin files"):
        quickstart(tmp_path / "out", base=base, sizes=given)
    with pytest.raises(UsageError, match="--workers -1"):
        quickstart(tmp_path / "new", workers=-1)
    assert not (tmp_path / "new").exists()


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Walk, "corpus", interrupted)
    with pytest.raises(JaLlmError, match="are kept in out, the same command goes on"):
        quickstart("out", sizes=sizes)


def test_a_base_that_is_none_is_refused_before_anything_is_made(tmp_path):
    for folder, why in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "no config.json")):
        with pytest.raises(UsageError, match=why):
            quickstart(tmp_path / "out", base=folder)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_refused(tmp_path, walked):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds something else"):
        quickstart(tmp_path, sizes=sizes)
    with pytest.raises(UsageError, match="other sizes"):
        quickstart(walked[0])
