"""The evaluation tasks as seqio tasks: right examples, deterministic, and the metrics that seqio and sacrebleu compute."""

import itertools
import json

import numpy as np
import pytest

from ja_llm import manifest
from ja_llm.documents import Document, document_id, to_example, write_record
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import metrics, registry
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.statistics import described
from ja_llm.files import atomic_write

NOUNS = ["犬", "猫", "鳥", "魚", "駅", "本", "水", "山", "川", "空"]
VERBS = ["見ます", "好きです", "探しています", "知りません", "覚えました"]
ENGLISH = ["printer", "window", "folder", "kernel", "mirror", "archive", "network", "package"]


def sentences(lang, number):
    order = np.random.default_rng(number)
    if lang == "ja":
        return [f"私は{NOUNS[order.integers(10)]}と{NOUNS[order.integers(10)]}を{VERBS[order.integers(5)]}。" for _ in range(24)]
    return [
        f"The {ENGLISH[order.integers(8)]} of the {ENGLISH[order.integers(8)]} is number {order.integers(99)}. "
        for _ in range(24)
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A document set of our own sentences: 12 held-out and 6 training documents a language."""
    folder = tmp_path_factory.mktemp("documents")
    shards = []
    for lang, (split, count) in itertools.product(("ja", "en"), (("heldout", 12), ("train", 6))):
        texts = ["".join(sentences(lang, n + 100 * (split == "train"))) for n in range(count)]
        found = [Document(id=document_id("test", lang + split, "", t), text=t, lang=lang, url=f"https://x/{lang}") for t in texts]
        path = folder / lang / f"{split}-00000-of-00001.tfrecord"
        with atomic_write(path) as file:
            for document in sorted(found, key=lambda d: d.id):
                write_record(file, to_example(document))
        shards.append(manifest.file_entry(path, folder, documents=count, lang=lang, split=split))
    manifest.write(folder, schema=manifest.DOCUMENTS, job="test", config={}, inputs=[], shards=shards)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "messages.jsonl"
    rows = [{"en": f"Open the window number {n}", "ja": f"{n}番の窓を開く"} for n in range(40)]
    rows += [{"en": "The printer of the", "ja": "印刷機の話"}, {"en": "A sentence of its own", "ja": "私は"}]  # in training text
    rows += [{"en": "Not translated at all", "ja": "Not translated at all"}, {"en": "Two\nlines of text", "ja": "二\n行"}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"en": "cut of', encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    import sentencepiece

    from ja_llm.vocab.base import load_tokenizer

    folder = tmp_path_factory.mktemp("vocab")
    lines = [s for n in range(40) for lang in ("ja", "en") for s in sentences(lang, n)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=420,
        byte_fallback=True,
        minloglevel=2,
        num_threads=1,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def bound(root, pairs, tokenizer):
    """Binds each task once: name -> (seqio task, its examples)."""
    found = {}
    for name in registry.suites()["first"]:
        task = registry.bind(name, tokenizer, Sources(root, pairs), limit=10)
        dataset = task.get_dataset(sequence_length=None, split="heldout", shuffle=False)
        found[name] = task, list(dataset.as_numpy_iterator())
    return found


@pytest.mark.parametrize("lang", ["ja", "en"])
def test_bits_per_byte_task_holds_whole_documents(bound, tokenizer, root, lang):
    _, examples = bound[f"bits_per_byte_{lang}"]
    documents = Sources(root).documents(lang)[:10]
    assert [e["id"].decode() for e in examples] == sorted(d.id for d in documents)
    for example, document in zip(examples, documents, strict=True):
        assert [*example["inputs"], *example["targets"]] == tokenizer.document_ids(document.text)
        assert example["inputs"].tolist() == [tokenizer.bos_id]
        assert json.loads(example["meta"])["bytes"] == len(document.text.encode())


@pytest.mark.parametrize("lang, span", [("ja", 32), ("en", 80)])
def test_choice_task(bound, tokenizer, root, lang, span):
    _, examples = bound[f"continuation_choice_{lang}"]
    texts = {d.id: d.text for d in Sources(root).documents(lang)}
    assert len(examples) == 4 * 10
    labels = set()
    for start in range(0, len(examples), 4):
        rows = examples[start : start + 4]
        notes = [json.loads(r["meta"]) for r in rows]
        (question,) = {n["question"] for n in notes}
        (label,) = {n["label"] for n in notes}
        labels.add(label)
        (prefix,) = {r["inputs_pretokenized"].decode() for r in rows}
        candidates = [r["targets_pretokenized"].decode() for r in rows]
        assert texts[question].startswith(prefix + candidates[label])
        assert {len(c) for c in candidates} == {span} and len(set(candidates)) == 4
        for choice, row in enumerate(rows):
            assert notes[choice]["choice"] == choice
            # One tokenization of the whole text, cut; nothing lost at the border.
            assert [*row["inputs"], *row["targets"]] == [tokenizer.bos_id, *tokenizer.encode(prefix + candidates[choice])]
            others = [text for i, text in texts.items() if i != question]
            assert choice == label or any(candidates[choice] in text for text in others)
    assert len(labels) > 1


def test_examples_are_deterministic_and_a_limit_is_a_prefix(root, pairs):
    for name in registry.suites()["first"]:
        template = registry.resolve(name)[0]
        ten = template.examples(Sources(root, pairs), 10)
        assert template.examples(Sources(root, pairs), 10) == ten
        five = template.examples(Sources(root, pairs), 5)
        strip = [{**e, "meta": {k: v for k, v in e["meta"].items() if k != "left_out"}} for e in ten + five]
        assert strip[len(ten) :] == strip[: len(five)]


def test_translation_leaves_out_what_was_trained_on(root, pairs):
    template = registry.resolve("translate_ui_en_ja")[0]
    examples = template.examples(Sources(root, pairs), None)
    asked = {e["meta"]["source"] for e in examples}
    assert asked == {f"Open the window number {n}" for n in range(40)}
    assert {e["meta"]["left_out"] for e in examples} == {2}
    assert len(template.examples(Sources(None, pairs), None)) == 42
    for e in examples:
        assert e["inputs"].endswith(f"\n\nEnglish: {e['meta']['source']}\nJapanese:")
        assert e["inputs"].count("English: ") == 4


def test_metrics_equal_seqios_evaluator(bound):
    """seqio's own Evaluator on the same task, with the same outputs, computes the same numbers."""
    import seqio

    from ja_llm.evaluation.run import compute_metrics

    for name, (task, examples) in bound.items():
        generator = np.random.default_rng(len(name))
        scores = (-generator.random(len(examples)) * 100).tolist()
        predictions = [f"{n}番の窓を{'開く' if n % 2 else '閉じる'} " for n in range(len(examples))]
        samples = [{"score": s, "prediction": p} for s, p in zip(scores, predictions, strict=True)]
        ours = compute_metrics(task, examples, samples)

        class Kept(seqio.Logger):
            def __call__(self, task_name, step, metrics, **rest):
                self.metrics = {k: getattr(v, "value", v) for k, v in metrics.items()}

        logger = Kept("")
        evaluator = seqio.Evaluator(
            task.name,
            feature_converter=seqio.PrefixLMFeatureConverter(pack=False),
            eval_split="heldout",
            sequence_length={"inputs": 512, "targets": 4096},
            logger_cls=[lambda output_dir, logger=logger: logger],
            log_dir="/nonexistent",
        )
        done, _ = evaluator.evaluate(
            compute_metrics=True,
            step=0,
            predict_fn=lambda dataset, p=predictions, **kw: list(enumerate(p)),
            score_fn=lambda dataset, s=scores, **kw: list(enumerate(s)),
        )
        done.result()
        assert logger.metrics == pytest.approx(ours), name


def test_choice_accuracy_by_hand():
    def row(question, choice, label, size):
        return {"question": question, "choice": choice, "label": label, "bytes": size}

    targets = [row("a", 0, 1, 10), row("a", 1, 1, 40), row("b", 0, 0, 10), row("b", 1, 0, 10)]
    result = metrics.choice_accuracy(targets, [-10.0, -20.0, -3.0, -3.0])
    # a: the shorter wins by sum (-10), the right one by byte (-0.5 against -1); b: a tie goes to the first.
    assert (result["accuracy"], result["accuracy_per_byte"], result["questions"], result["chance"]) == (0.5, 1.0, 2, 0.5)
    assert result["accuracy_standard_error"] == pytest.approx(np.sqrt(0.25 / 2))


def test_translation_quality_is_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu")
    references = ["画像を保存", "フォルダーを開く", "ページを印刷", "設定"]
    predictions = ["画像を保存する", "フォルダを開く", "", "設定"]
    result = metrics.translation_quality([{"reference": r} for r in references], predictions)
    assert result["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, [references]).score)
    assert result["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, [references], tokenize="char").score)
    assert (result["exact_match"], result["empty"]) == (0.25, 1)
    assert result["chrf_low"] < result["chrf"] < result["chrf_high"]
    assert result == metrics.translation_quality([{"reference": r} for r in references], predictions)
    assert "tok:char" in metrics.translation_signatures()["bleu"]


def test_every_measure_of_ones_own_corpus_keeps_rows_with_an_error():
    """What a paired test and a standard error need; the rows give the measure itself."""
    documents = [
        {"bytes": size, "tokens": 3, "unknown": 0, "domain": f"{n % 2}.example"} for n, size in enumerate((9, 0, 30, 21))
    ]
    scores = [-10.0, -1.0, -20.0, -40.0]
    bits, statistic = metrics.document_bits(documents, scores), metrics.document_bits.statistic(documents[2:], scores[2:])
    assert statistic.value == pytest.approx(60 / np.log(2) / 51) and bits["bits_per_byte_standard_error"] > 0
    parts = metrics.document_bits.parts(documents, scores)
    assert list(parts) == ["0.example", "1.example"] and parts["0.example"]["value"] == pytest.approx(30 / np.log(2) / 39)
    assert parts["1.example"]["documents"] == 1
    row = lambda question, choice: {"question": question, "choice": choice, "label": 0, "bytes": 5}  # noqa: E731
    choices = [row("a", 0), row("a", 1), row("b", 0), row("b", 1)]
    assert metrics.choice_accuracy.statistic(choices, [-1.0, -2.0, -3.0, -1.0]).rows.tolist() == [[1.0], [0.0]]
    references = [{"reference": r} for r in ("画像を保存", "設定", "ページを印刷")]
    texts = ["画像を保存する", "設定", "印刷"]
    quality, statistic = metrics.translation_quality(references, texts), metrics.translation_quality.statistic(references, texts)
    assert statistic.value == pytest.approx(quality["chrf"]) and len(statistic.rows) == 3 and quality["bleu_standard_error"] > 0
    assert described(statistic)["standard_error"] == pytest.approx(quality["chrf_standard_error"], rel=0.2)
    for name in registry.suites()["first"]:
        (fn,) = registry.resolve(name)[0].metric_fns
        assert fn.name == registry.resolve(name)[0].headline


def test_bad_input_is_a_sentence(root, pairs, tmp_path):
    with pytest.raises(UsageError, match="did you mean bits_per_byte_ja"):
        registry.resolve("bits_per_byte_jaa")
    with pytest.raises(UsageError, match="needs a document set"):
        registry.resolve("bits_per_byte_ja")[0].examples(Sources(None, pairs), 1)
    with pytest.raises(UsageError, match="needs aligned pairs"):
        registry.resolve("translate_ui_en_ja")[0].examples(Sources(root), 1)
    with pytest.raises(UsageError, match="does not exist"):
        Sources(root, tmp_path / "none.jsonl").fingerprint()
    garbage = tmp_path / "garbage.jsonl"
    garbage.write_bytes(b"\xff\xfe not json\n" * 5)
    with pytest.raises(JaLlmError, match="5 of 5 lines"):
        registry.resolve("translate_ui_en_ja")[0].examples(Sources(root, garbage), 1)
    garbage.write_text("")
    with pytest.raises(JaLlmError, match="no pair is usable"):
        registry.resolve("translate_ui_en_ja")[0].examples(Sources(root, garbage), 1)
    with pytest.raises(JaLlmError, match="no held-out 'ko' document"):
        from ja_llm.evaluation.examples import whole_documents

        whole_documents(Sources(root), None, lang="ko")
