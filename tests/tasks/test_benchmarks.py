"""The published sets from small files of our own in each original format: prompts, shots, gold, refusals, and a suite from end to end."""

import dataclasses
import hashlib
import json
import random
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from ja_llm import manifest
from ja_llm.cli import main
from ja_llm.documents import Document, document_id, to_example, write_record
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import code_metrics, compare, registry, requests, sandbox, segmenters, shots
from ja_llm.evaluation import run as run_module
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.run import evaluate
from ja_llm.evaluation.seqio_functions import model_functions
from ja_llm.files import atomic_write
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.text.ngrams import fold
from ja_llm.train.checkpoints import save_model
from ja_llm.vocab.base import load_tokenizer

RAW = Path(__file__).parent.parent / "evaluation" / "raw"
ONE = "jglue/jcommonsenseqa-v1.1/valid-v1.1.json"
SETS = registry.suites()["swallow"]


def examples(name, limit=None):
    return registry.resolve(name)[0].examples(Sources(data=RAW), limit)


@pytest.fixture
def words(monkeypatch):
    """Stand-ins for the packages that cut Japanese into words: pairs of characters."""
    monkeypatch.setattr(segmenters, "_importable", lambda package: True)
    monkeypatch.setattr(segmenters, "version", lambda name: f"{name}-stand-in")
    cut = lambda text: [text[n : n + 2] for n in range(0, len(text), 2)]  # noqa: E731
    monkeypatch.setattr(segmenters, "_nagisa", cut)
    monkeypatch.setattr(segmenters, "_mecab", cut)


# task -> (examples, shots, what ends the prompt, gold)
SHAPES = {
    "jcommonsenseqa": (6, 4, "選択肢:0.傘,1.靴,2.机,3.箸,4.枕\n\n### 応答:\n", ("label", 0)),
    "jemhopqa": (4, 4, "質問:『海の手帳』の作者の職業は何ですか？\n\n### 応答:\n", ("golds", ["作家"])),
    "niilc": (4, 4, "質問:水は摂氏何度で凍りますか？\n\n### 応答:\n", ("golds", ["0度", "零度"])),
    "jsquad": (6, 4, "\n質問:青川町の主な産業は何か。\n\n### 応答:\n", ("golds", ["林業"])),
    "xlsum_ja": (4, 1, "主催者は「来年も続けたい」と話している。\n要約:", None),
    "mgsm_ja": (5, 4, "飴は何個残っていますか？\n順を追った答え:", None),
    "wmt20_en_ja": (7, 4, "\nJapanese phrase:", None),
    "wmt20_ja_en": (7, 4, "\nEnglish phrase:", None),
    "jmmlu": (39 - 18 - 16, 5, "\n\n### 応答:\n", None),
    "openbookqa": (16, 4, "\n\nA plant kept in the dark will", ("label", 1)),
    "triviaqa": (4, 4, "Question: Which colour do you get from blue and yellow??\nAnswer:", ("golds", ["Green", "green colour"])),
    "hellaswag": (16, 4, "\n\nWashing dishes: A man stands at the sink. He", ("label", 0)),
    "squad2": (4, 4, "\n\nQuestion: When was the watermill built?\n\nAnswer:", ("golds", ["1820"])),
    "xwino_en": (12, 4, "\n\nThe cup did not fit in the box because the cup", ("label", 0)),
    "mmlu": (32, 5, 'what is 2 plus 1, "counted"?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:', ("label", 0)),
    "gsm8k": (4, 4, "How many loaves are made on 2 such days?\nAnswer:", ("gold", "12")),
    "math": (4, 4, "Problem:\nWhat is $\\frac{2}{6}$ in lowest terms?\n\nSolution:", ("gold", "\\frac{1}{3}")),
    "jhumaneval": (4, 0, 'def add(a, b):\n    """2つの数の和を返す。"""\n', ("entry_point", "add")),
    "humaneval": (4, 0, 'def add(a, b):\n    """Return the sum of two numbers."""\n', ("entry_point", "add")),
    "bbh": (5, 0, "\n\nQ: not ( True ) and ( False ) is\nA: Let's think step by step.\n", ("gold", "False")),
}


@pytest.mark.parametrize("name", SHAPES)
def test_prompts_shots_and_gold_of_each_set(name):
    count, number, end, gold = SHAPES[name]
    found = examples(name)
    assert len(found) == count
    assert found[0]["inputs"].endswith(end)
    assert all(len(e["meta"]["shots"]) == number for e in found)
    assert gold is None or found[0]["meta"][gold[0]] == gold[1]
    for e in found:  # no question is its own shot
        assert e["meta"].get("question", e["id"]) not in e["meta"]["shots"]
    question = found[0]["meta"].get("question", found[0]["id"])
    assert examples(name) == found
    assert examples(name, 1) == [e for e in found if e["meta"].get("question", e["id"]) == question]
    assert len(examples(name + "_strict")) == count * {"jcommonsenseqa": 5, "jmmlu": 4}.get(name, 1)


def test_fixed_shots_are_a_common_prefix_and_drawn_ones_are_not():
    for name in ("jcommonsenseqa", "jemhopqa", "niilc", "jsquad", "jmmlu", "math", "wmt20_en_ja_strict"):
        assert len({tuple(e["meta"]["shots"]) for e in examples(name)}) == 1, name
    for name in ("xlsum_ja", "mgsm_ja", "wmt20_en_ja", "triviaqa", "gsm8k", "squad2", "openbookqa"):
        assert len({tuple(e["meta"]["shots"]) for e in examples(name)}) > 1, name


def test_two_shapes_of_the_harness():
    """lm-eval 0.4.13: doc_to_text of bbh_cot_fewshot ends in a line end; triviaqa's doc_to_target is the list of aliases, a shot shows its first."""
    record = {"question": "q", "answer": "Value", "golds": ["Alias", "Value"]}
    for suffix, shown in (("", " Alias"), ("_strict", " Value")):
        prompt = registry.resolve("triviaqa" + suffix)[0].examples.keywords["prompt"]
        assert prompt.answer(record) == shown
    assert examples("bbh_strict")[0]["inputs"].endswith("step by step.")
    assert examples("bbh")[0]["inputs"].endswith("step by step.\n")


def test_shots_are_drawn_as_the_protocols_draw_them():
    """The published programs' calls of Python's generator, written out here as they stand there."""
    asked, pool = [{"id": n} for n in range(9)], [{"id": 100 + n} for n in range(20)]
    random.seed(42)
    train = list(pool)
    random.shuffle(train)
    assert next(shots.llm_jp(asked, pool, 4))[1] == train[:18][:4]

    generator = random.Random()
    generator.seed(42)
    docs = list(asked)
    generator.shuffle(docs)
    drawn = [(doc, [x for x in generator.sample(docs, 5) if x != doc][:4]) for doc in list(docs)]
    ours = list(shots.harness_0_3(asked, asked, 4))
    assert [doc for doc, _ in ours] == [doc for doc, _ in drawn]
    generator = random.Random(42)
    generator.shuffle(docs := list(asked))
    assert [s for _, s in ours] == [[x for x in generator.sample(asked, 5) if x != doc][:4] for doc in docs]

    generator = random.Random(1234)
    assert [s for _, s in shots.harness_0_4(asked, pool, 4)] == [generator.sample(pool, 4) for _ in asked]
    for rule in (shots.harness_0_3, shots.harness_0_4, shots.plain):
        assert all(len(s) == 4 and doc not in s for doc, s in rule(asked, asked, 4))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model with random weights and a vocabulary made of the fixtures."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("model")
    (folder / "vocab").mkdir()
    texts = [e["inputs"] for name in SHAPES for e in examples(name)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.split("\n") if line]),
        model_prefix=str(folder / "vocab/tokenizer"),
        vocab_size=700,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        num_threads=1,
    )
    tokenizer = load_tokenizer(folder / "vocab")
    config = DecoderConfig(
        tokenizer.vocab_size, embed_dim=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32, max_length=256
    )
    save_model(folder / "model", config=config, params=init_params(config, jax.random.key(0)), tokenizer=tokenizer, ledger={})
    return folder / "model"


def test_the_swallow_suite_on_the_command_line(model, tmp_path, words, capsys, monkeypatch, edited):
    command = [
        "eval",
        "--checkpoint",
        str(model),
        "--suite",
        "swallow",
        "--data",
        str(RAW),
        "--out",
        str(tmp_path),
        "--limit",
        "2",
    ]
    assert main(command) == 0
    told = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["tasks"]) == set(SETS) and not results["left_out"]
    for name, task in results["tasks"].items():
        headline = task["about"]["headline"]
        low, high = task["interval"]
        assert 0 <= low <= high <= 1 and 0 <= task[headline] <= 1 and task[f"{headline}_standard_error"] >= 0, name
    for suite in ("swallow_ja", "swallow_en", "swallow"):
        tasks = [results["tasks"][name] for name in registry.suites()[suite]]
        assert results["suites"][suite]["value"] == pytest.approx(np.mean([t[t["about"]["headline"]] for t in tasks]))
        assert suite in told
    assert "nagisa-stand-in|nrefs:1" in results["tasks"]["wmt20_en_ja"]["about"]["signatures"]["bleu_nagisa"]
    units = f"model-stand-in-{load_tokenizer(model / 'vocab').fingerprint[:12]}"  # of one vocabulary, comparable with no other
    assert results["tasks"]["xlsum_ja"]["about"]["signatures"] == {"rouge2": f"rouge2|units:{units}"}
    assert results["data"]["files"][ONE] == hashlib.sha256((RAW / ONE).read_bytes()).hexdigest()
    # Nothing is measured twice, and another file of the same set is another request.
    monkeypatch.setattr(run_module.Runners, "run", lambda *unused: pytest.fail("nothing is left to do"))
    assert main(command) == 0
    capsys.readouterr()
    with pytest.raises(pytest.fail.Exception):
        raw = edited(ONE, lambda b: b.replace("傘".encode(), "笠".encode()))
        evaluate(model, "jcommonsenseqa", data=raw, out_dir=tmp_path, limit=2)


def test_an_oracle_has_one_on_every_measure_and_nobody_is_below_the_floor(model, tmp_path, words, monkeypatch):
    """Models whose results are known: always right, and always silent."""

    def right(self, template, found, start=0):
        samples = []
        for e in found:
            meta = json.loads(e["meta"])
            text = e["targets_pretokenized"].decode()
            text = {"mgsm_ja": f"答えは{meta.get('gold')}", "math": f"\\boxed{{{meta.get('gold')}}}"}.get(template.name, text)
            text = f"So the answer is {meta['gold']}." if template.name == "bbh" else text
            text = (meta["golds"] or [""])[0] if template.name in ("squad2", "triviaqa") else text
            text = [text] * 3 + ["    return None"] * 7 if "entry_point" in meta else text
            score = 0.0 if meta.get("choice") == meta.get("label") else -9.0
            score = (-9.0 if meta["golds"] else 0.0) if template.name == "squad2" else score
            samples.append({"id": e["id"].decode(), "cut": 0, "prediction": text, "score": score})
        return samples

    monkeypatch.setattr(run_module.Runners, "run", right)
    results = evaluate(model, "swallow", data=RAW, out_dir=tmp_path / "right")
    for name, task in results["tasks"].items():
        assert task[task["about"]["headline"]] == pytest.approx(0.3 if "humaneval" in name else 1.0), name
    assert results["suites"]["swallow"]["value"] == pytest.approx((18 + 2 * 0.3) / 20)
    code = results["tasks"]["humaneval"]
    assert code["programs_out_of_memory"] == 0
    assert (code["pass_at_10"], code["answer_at_10"], code["programs"], code["programs_timed_out"]) == (1.0, 1.0, 40, 0)

    def silent(self, template, found, start=0):
        text = [""] * 10 if template.runs_code else ""
        return [{"id": e["id"].decode(), "cut": 0, "prediction": text, "score": -1.0} for e in found]

    monkeypatch.setattr(run_module.Runners, "run", silent)
    tasks = evaluate(model, "swallow", data=RAW, out_dir=tmp_path / "silent")["tasks"]
    assert tasks["squad2"]["best_exact"] == 0.5 == tasks["squad2"]["exact"]  # half of the questions have no answer
    for name in (
        "jcommonsenseqa",
        "jemhopqa",
        "xlsum_ja",
        "mgsm_ja",
        "wmt20_en_ja",
        "gsm8k",
        "bbh",
        "triviaqa",
        "math",
        "humaneval",
    ):
        assert tasks[name][tasks[name]["about"]["headline"]] == 0.0, name


def test_items_in_the_training_documents_are_scored_apart(model, tmp_path, monkeypatch):
    """Two of six questions stand in a training document, spelt in katakana and full width; the model knows just those."""
    found = examples("jcommonsenseqa")
    asked = [e["meta"]["asked"] for e in found]
    assert all(a in e["inputs"] and e["inputs"].count("\n\n### 応答") == 5 for a, e in zip(asked, found, strict=True))
    known = [asked[0], asked[2]]
    to_katakana = {code: code + 0x60 for code in range(0x3041, 0x3097)}
    text = "前書き。" + "".join(known).translate(to_katakana) + "、後書き。"
    path = tmp_path / "documents/ja/train-00000-of-00001.tfrecord"
    with atomic_write(path) as file:
        write_record(file, to_example(Document(id=document_id("t", "", "", text), text=text, lang="ja")))
    entry = manifest.file_entry(path, tmp_path / "documents", documents=1, lang="ja", split="train")
    manifest.write(tmp_path / "documents", schema=manifest.DOCUMENTS, job="test", config={}, inputs=[], shards=[entry])

    def run(self, template, rows, start=0):
        labels = [json.loads(e["meta"]) for e in rows]
        texts = [str(m["label"]) if m["asked"] in known else "9" for m in labels]
        return [{"id": e["id"].decode(), "cut": 0, "prediction": t} for e, t in zip(rows, texts, strict=True)]

    monkeypatch.setattr(run_module.Runners, "run", run)
    results = evaluate(model, "jcommonsenseqa", data=RAW, out_dir=tmp_path / "out", training=[tmp_path / "documents"])
    value = results["tasks"]["jcommonsenseqa"]["contamination"]
    assert (value["items"], value["flagged"]) == (6, 2) and value["too_short"] == sum(len(fold(a)) < 13 for a in asked)
    assert value["seen"]["value"] == 1.0 and value["clean"]["value"] == 0.0
    assert results["tasks"]["jcommonsenseqa"]["exact_match"] == pytest.approx(2 / 6)
    again = evaluate(model, "jcommonsenseqa", data=RAW, out_dir=tmp_path / "out")
    assert "contamination" not in again["tasks"]["jcommonsenseqa"]  # it belongs to the call that asked for it


def test_two_runs_are_compared_item_by_item(model, tmp_path, words, monkeypatch, capsys):
    def answering(share):
        def run(self, template, found, start=0):
            samples = []
            for n, e in enumerate(found):
                meta = json.loads(e["meta"])
                right = n % 6 < share
                samples.append({"id": e["id"].decode(), "cut": 0, "prediction": str(meta["label"]) if right else "9"})
            return samples

        return run

    for name, share in (("base", 1), ("ours", 4)):
        monkeypatch.setattr(run_module.Runners, "run", answering(share))
        baseline = tmp_path / "base" if name == "ours" else None
        results = evaluate(model, "jcommonsenseqa", data=RAW, out_dir=tmp_path / name, baseline=baseline)
    found = results["comparison"]["tasks"]["jcommonsenseqa"]
    assert found["difference"] == pytest.approx(3 / 6) and not results["comparison"]["left_out"]
    # Three of six answers differ, all one way: 2 of 8 ways to swap them are as large.
    assert found["p_value"] == pytest.approx(2 / 8, abs=0.05)
    assert "+0.5000" in run_module.format_results(results)
    other = evaluate(model, "jcommonsenseqa", data=RAW, out_dir=tmp_path / "less", limit=3, baseline=tmp_path / "base")
    assert other["comparison"]["left_out"] == {"jcommonsenseqa": "the two were measured on other files or limits"}
    with pytest.raises(UsageError, match="no results of an evaluation"):
        evaluate(model, "jcommonsenseqa", data=RAW, out_dir=tmp_path / "none", baseline=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    ["jcommonsenseqa", "jsquad", "xlsum_ja", "mgsm_ja", "wmt20_ja_en", "hellaswag", "xwino_en", "squad2", "gsm8k", "humaneval"],
)
def test_metrics_equal_seqios_evaluator(model, name):
    """seqio's own Evaluator on the same registered task, with the same outputs, computes the same numbers."""
    import seqio

    tokenizer = load_tokenizer(model / "vocab")
    task = registry.bind(name, tokenizer, Sources(data=RAW))
    found = list(task.get_dataset(sequence_length=None, split="heldout", shuffle=False).as_numpy_iterator())
    draw = np.random.default_rng(len(name))
    scores = (-draw.random(len(found)) * 9).tolist()
    texts = [draw.choice([e["targets_pretokenized"].decode(), "3", "the answer is 12.", ""]) for e in found]
    texts = [str(text).strip() for text in texts]
    # Beside other values seqio takes ids alone, not texts, and all equally many.
    tokens = [[*tokenizer.encode(text), *[tokenizer.eos_id] * 99][:99] for text in texts]
    if name == "humaneval":  # ten texts an example, some of them right
        texts = [[e["targets_pretokenized"].decode()] * n + ["    pass"] * (10 - n) for n, e in enumerate(found)]
    samples = [{"score": s, "prediction": p} for s, p in zip(scores, texts, strict=True)]
    ours = run_module.compute_metrics(task, found, samples)

    class Kept(seqio.Logger):
        def __call__(self, task_name, step, metrics, **rest):
            self.metrics = {k: getattr(v, "value", v) for k, v in metrics.items()}

    logger = Kept("")
    evaluator = seqio.Evaluator(
        task.name,
        feature_converter=seqio.PrefixLMFeatureConverter(pack=False),
        eval_split="heldout",
        sequence_length={"inputs": 1024, "targets": 512},
        logger_cls=[lambda output_dir: logger],
        log_dir="/nonexistent",
    )
    done, _ = evaluator.evaluate(
        compute_metrics=True,
        step=0,
        predict_fn=model_functions(
            registry.resolve(name)[0], types.SimpleNamespace(tokenizer=tokenizer, run=lambda t, rows: samples)
        )["predict_fn"],
        score_fn=lambda dataset, **kw: list(enumerate(scores)),
        predict_with_aux_fn=lambda dataset, **kw: (list(enumerate(tokens)), {"scores": list(scores)}),
    )
    done.result()
    assert logger.metrics == pytest.approx(ours)


@pytest.mark.skipif(bool(sandbox.why_not()), reason=sandbox.why_not() or "it works")
def test_where_an_answer_ends_and_what_a_prompts_last_newline_is():
    kept, stripped = examples("humaneval")[0], examples("humaneval_stripped")[0]
    assert kept["inputs"] == stripped["inputs"] + "\n" and stripped["meta"]["prompt"] == stripped["inputs"]
    completion = "    return a + b"
    assert sandbox.run(code_metrics.program(kept["meta"], completion)).passed
    assert sandbox.run(code_metrics.program(stripped["meta"], "\n" + completion)).passed
    assert not sandbox.run(code_metrics.program(stripped["meta"], "    return a - b")).passed


def test_code_is_refused_before_the_model_is_loaded_where_there_is_no_sandbox(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "why_not", lambda: "there is no sandbox here.")
    with pytest.raises(JaLlmError, match="no sandbox here"):
        evaluate(tmp_path / "no model", "humaneval", data=RAW, out_dir=tmp_path)
    with pytest.raises(UsageError, match="no model"):
        evaluate(tmp_path / "no model", "humaneval", data=RAW, out_dir=tmp_path, run_generated_code_without_sandbox=True)


def test_a_set_without_its_packages_is_left_out_of_a_suite_and_refused_by_name(model, tmp_path, monkeypatch):
    monkeypatch.setattr(segmenters, "_importable", lambda package: False)
    monkeypatch.setattr(
        run_module.Runners,
        "run",
        lambda self, template, found, start: [
            {"id": e["id"].decode(), "cut": 0, "prediction": [""] * 10 if template.runs_code else "", "score": 0.0} for e in found
        ],
    )
    results = evaluate(model, "swallow_ja", data=RAW, out_dir=tmp_path, limit=1)
    assert results["left_out"] == {"wmt20_en_ja": "it needs the package nagisa (pip install 'ja_llm[eval-ja]')"}
    assert results["suites"]["swallow_ja"]["missing"] == ["wmt20_en_ja"] and results["suites"]["swallow_ja"]["tasks"] == 9
    with pytest.raises(UsageError, match="wmt20_en_ja: this task needs the package nagisa"):
        evaluate(model, "wmt20_en_ja", data=RAW, out_dir=tmp_path)
    with pytest.raises(UsageError, match="needs the original files of its set"):
        evaluate(model, "jsquad", out_dir=tmp_path)


def silent(self, template, found, start=0):
    text = [""] * 10 if template.runs_code else ""
    return [{"id": e["id"].decode(), "cut": 0, "prediction": text, "score": -1.0} for e in found]


def test_a_suite_runs_what_can_run_and_marks_its_mean(model, tmp_path, edited, words, monkeypatch):
    """As after `fetch eval-data`, which can't give every file."""
    monkeypatch.setattr(run_module.Runners, "run", silent)
    raw = edited("mgsm/train_ja.jsonl", None)
    results = evaluate(model, "swallow_ja", data=raw, out_dir=tmp_path, limit=1)
    assert (
        list(results["left_out"]) == ["mgsm_ja"]
        and "train_ja.jsonl: this evaluation file is missing" in results["left_out"]["mgsm_ja"]
    )
    mean = results["suites"]["swallow_ja"]
    assert (mean["tasks"], mean["missing"]) == (9, ["mgsm_ja"]) and "swallow" not in results["suites"]
    told = run_module.format_results(results)
    assert "mean of 9 tasks of 10: incomplete" in told and "mgsm_ja " in told and "1 answers empty" in told
    with pytest.raises(JaLlmError, match="evaluation file is missing"):
        evaluate(model, ["mgsm_ja", "jsquad"], data=raw, out_dir=tmp_path)
    alone = evaluate(model, "jsquad", data=RAW, out_dir=tmp_path / "alone", limit=1)
    assert not alone["suites"]  # nobody asked for one


def test_an_edited_prompt_or_rule_is_measured_anew(model, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(run_module.Runners, "run", lambda *rest: calls.append(1) or silent(*rest))

    def measure():
        calls.clear()
        results = evaluate(model, "jsquad", data=RAW, out_dir=tmp_path, limit=1)
        return len(calls), results

    assert measure()[0] == 1 and measure()[0] == 0
    template = registry.resolve("jsquad")[0]

    def other(sources, limit):
        return [{**e, "inputs": e["inputs"] + " "} for e in template.examples(sources, limit)]

    monkeypatch.setitem(registry._TASKS, "jsquad", dataclasses.replace(template, examples=other))
    assert measure()[0] == 1 and measure()[0] == 0  # the version is as it was
    monkeypatch.setattr(requests, "code_fingerprint", lambda: "edited")
    count, results = measure()
    assert count == 1 and len(results["code"]) == 64
    stored = json.loads((tmp_path / "jsquad.json").read_text())
    assert stored["request"]["code"] == "edited" and stored["request"]["prompts"] == stored["about"]["prompts"]


def test_code_that_ran_without_a_sandbox_is_on_record(model, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module.Runners, "run", silent)
    monkeypatch.setattr(sandbox, "why_not", lambda: "")
    results = evaluate(model, "humaneval", data=RAW, out_dir=tmp_path, limit=1, run_generated_code_without_sandbox=True)
    stored = json.loads((tmp_path / "humaneval.json").read_text())
    assert stored["request"]["without_sandbox"] and results["settings"]["without_sandbox"]
    monkeypatch.setattr(run_module.Runners, "run", lambda *unused: pytest.fail("it is measured anew"))
    with pytest.raises(pytest.fail.Exception):
        evaluate(model, "humaneval", data=RAW, out_dir=tmp_path, limit=1)


def test_numbers_in_other_units_are_not_compared():
    def result(units):
        about = {"headline": "rouge2", "signatures": {"rouge2": units}}
        request = {"version": 1, "data": {}, "examples": None}
        return {"xlsum_ja": {"about": about, "request": request, "items": {"rows": [[0.5], [0.2]], "aggregate": "mean"}}}

    same = compare.compare(result("model-a"), result("model-a"))
    assert same["tasks"]["xlsum_ja"]["difference"] == 0 and not same["left_out"]
    found = compare.compare(result("model-a"), result("model-b"))
    assert not found["tasks"] and found["left_out"] == {"xlsum_ja": "the two were measured in other units (model-a and model-b)"}


def test_one_token_that_is_hardly_ever_a_label_is_warned_of(model, tmp_path, monkeypatch):
    def run(self, template, found, start=0):
        return [{"id": e["id"].decode(), "cut": 0, "prediction": "\n" if n else "3"} for n, e in enumerate(found)]

    monkeypatch.setattr(run_module.Runners, "run", run)
    results = evaluate(model, "jcommonsenseqa", data=RAW, out_dir=tmp_path)
    task = results["tasks"]["jcommonsenseqa"]
    assert task["answer_is_a_label"] == pytest.approx(1 / 6) and "17% of the answers of one token" in task["warnings"][0]
    assert "warning: 17%" in run_module.format_results(results)
    monkeypatch.setattr(
        run_module.Runners, "run", lambda self, t, found, s: [{**r, "prediction": "4"} for r in run(self, t, found)]
    )
    assert "warnings" not in evaluate(model, "jcommonsenseqa", data=RAW, out_dir=tmp_path / "b")["tasks"]["jcommonsenseqa"]


def test_one_choice_of_a_profile_can_be_made_otherwise():
    """Gemma takes BOS in the published evaluation; the others do not."""
    (name,) = registry.with_options("jsquad", {"begins_document": "yes"})
    other, plain = registry.resolve(name)[0], registry.resolve("jsquad")[0]
    assert name == "jsquad#begins_document.yes" and other.begins_document and not plain.begins_document
    assert other.examples(Sources(data=RAW), 2) == examples("jsquad", 2) and other.headline == plain.headline
    found = registry.with_options(["swallow_ja", "openbookqa_strict"], {"rouge_segmenter": "character", "llm_jp_shots": "first"})
    tasks = {t.name: t for t in registry.resolve(found)}
    assert len(tasks) == 11 and "openbookqa_strict#llm_jp_shots.first#rouge_segmenter.character" in tasks
    shot = tasks["jsquad#llm_jp_shots.first#rouge_segmenter.character"].examples(Sources(data=RAW), 1)[0]["meta"]["shots"]
    assert shot != examples("jsquad", 1)[0]["meta"]["shots"]
    assert found[0] in registry.averaged_suites()
    for name, options, sentence in (
        ("jsquad", {"bos": "yes"}, "bos: a profile has no such choice; there are begins_document, "),
        ("jsquad", {"begins_document": "true"}, "begins_document=true: this choice takes yes, no"),
        ("bits_per_byte_ja", {"begins_document": "no"}, "bits_per_byte_ja: this has no choices of a profile"),
    ):
        with pytest.raises(UsageError, match=sentence):
            registry.with_options(name, options)
