"""The education classifier: training by document sets, scores, and the cut at the best-scored share of what remains."""

import dataclasses
import hashlib
import json
import random

import fasttext
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines import chain, classifier, classify, top_share
from beam_pipelines.config import Classify, Corpus, TopShare
from beam_pipelines.settings.classify import ClassifierTraining
from beam_pipelines.tally import Tally
from beam_pipelines.top_share import bin_of, find_cut, merge_histograms
from beam_pipelines.train_classifier import in_categories, load_settings, read_categories, train_classifier
from beam_pipelines.workspace import Execution, Unit, stage, write_file
from ja_llm import manifest
from ja_llm.documents import Document, document_id, meta_json, to_example, write_record
from ja_llm.errors import JaLlmError, UsageError

SMALL = ClassifierTraining(dimensions=8, buckets=20_000, min_characters=50)
_SUBJECTS = {
    "academic": [
        "定理",
        "関数",
        "分子",
        "酵素",
        "王朝",
        "条約",
        "銀河",
        "地層",
        "細胞",
        "議会",
        "哲学",
        "語族",
        "電子",
        "気圧",
        "憲法",
        "遺伝",
    ],
    "shop": [
        "送料",
        "特価",
        "在庫",
        "通販",
        "割引",
        "予約",
        "会員",
        "店舗",
        "口座",
        "懸賞",
        "人気",
        "激安",
        "福袋",
        "返品",
        "新着",
        "限定",
    ],
    "diary": [
        "散歩",
        "夕飯",
        "電車",
        "友達",
        "天気",
        "映画",
        "昼寝",
        "弁当",
        "休日",
        "写真",
        "花見",
        "風邪",
        "買物",
        "引越",
        "犬小屋",
        "誕生日",
    ],
}


def page(kind: str, seed: int, sentences: int = 8) -> str:
    """Sentences whose subjects are mostly of one kind; two in five are of any, so that no word decides alone."""
    rng = random.Random(f"{kind}{seed}")
    everything = [word for words in _SUBJECTS.values() for word in words]

    def word() -> str:
        return rng.choice(_SUBJECTS[kind] if rng.random() < 0.6 else everything)

    return "\n".join(
        f"{word()}は{word()}と{word()}の{rng.choice('上中下')}で{word()}を{rng.choice('見作知使')}る。" for _ in range(sentences)
    )


def make_set(root, documents: list[Document], split: str = "train"):
    name = f"ja/{split}-00000-of-00001.tfrecord"
    (root / "ja").mkdir(parents=True)
    with open(root / name, "wb") as file:
        for document in documents:
            write_record(file, to_example(document))
    shard = manifest.file_entry(root / name, root, documents=len(documents), characters=1, lang="ja", split=split)
    manifest.write(root, schema=manifest.DOCUMENTS, job="corpus", config={}, inputs=[], shards=[shard], licences={"CC0-1.0": 1})
    return root


def article(i: int) -> Document:
    category = ("数学の定理", "化学", "日本の俳優")[i % 3]
    text = page("academic" if i % 3 < 2 else "diary", i)
    return Document(document_id("w", str(i), "", text), text, meta=meta_json(categories=[category, "ウィキペディア"]))


def crawled(i: int) -> Document:
    host = "ja.wikipedia.org" if i % 10 == 0 else f"site{i}.example.jp"
    text = page("academic" if i % 10 == 0 else ("shop", "diary")[i % 2], 10_000 + i)
    return Document(document_id("c", str(i), "", text), text, url=f"https://{host}/{i}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    sets = make_set(root / "wiki", [article(i) for i in range(900)]), make_set(root / "crawl", [crawled(i) for i in range(900)])
    card = train_classifier(*sets, root / "model", ["化学", "数学*"], SMALL)
    return root, sets, card


def test_accuracy_on_documents_held_out(trained):
    root, _, card = trained
    assert card["validation"]["accuracy"] > 0.99
    assert card["documents"]["positives"] == 600 == card["documents"]["negatives"]
    assert 80 < card["documents"]["validation"] < 160
    assert json.loads((root / "model/model.json").read_text()) == card
    # The figures of the card by fastText's own reading of documents that are neither of the training nor of its validation.
    model = fasttext.load_model(str(root / "model/model.bin"))
    said = [
        (kind, model.predict(classifier.features(page(kind, 50_000 + i), "characters", 2000))[0][0])
        for i in range(100)
        for kind in ("academic", "shop")
    ]
    assert sum((kind == "academic") == (label == "__label__pos") for kind, label in said) > 0.99 * len(said)


def test_equal_input_gives_an_equal_model_and_held_out_text_is_not_used(trained):
    root, sets, card = trained
    again = train_classifier(*sets, root / "again", ["化学", "数学*"], SMALL)
    sums = [hashlib.sha256((root / name / "model.bin").read_bytes()).hexdigest() for name in ("model", "again")]
    assert sums[0] == sums[1] and again == card
    make_set(root / "heldout", [article(i) for i in range(90)], split="heldout")
    with pytest.raises(JaLlmError, match="0 documents are too few to train on"):
        train_classifier(root / "heldout", sets[1], root / "none", [], SMALL)
    with pytest.raises(JaLlmError, match="0 documents in these 1 categories are too few"):
        train_classifier(*sets, root / "none", ["料理"], SMALL)
    with pytest.raises(UsageError, match="exists already"):
        train_classifier(*sets, root / "model", [], SMALL)
    assert not (root / "none").exists()


def test_categories_and_settings(tmp_path):
    document = Document("0" * 32, "", meta=meta_json(categories=["日本の数学者", "化学"]))
    assert in_categories(document, []) and in_categories(document, ["化学"]) and in_categories(document, ["*数学者"])
    assert not in_categories(document, ["数学"]) and not in_categories(Document("0" * 32, ""), ["化学"])
    (tmp_path / "c.txt").write_text("# academic\n化学\n\n 数学*  # all of it\n", encoding="utf-8")
    assert read_categories(tmp_path / "c.txt") == ["化学", "数学*"]
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UsageError, match="there is no category in this file"):
        read_categories(tmp_path / "empty.txt")
    assert load_settings(["corpus.ClassifierTraining.epochs = 3"]).epochs == 3
    with pytest.raises(UsageError, match=r"ClassifierTraining.validation_share = 1: it must be between 0 and 1"):
        load_settings(["corpus.ClassifierTraining.validation_share = 1"])


def chain_of(work, documents, gone=(), lang="ja"):
    """Finished stages extract and one that has dropped the documents numbered `gone`."""
    extracted, unit, offsets = stage(work, "extract", 1, None), Unit("u", "u", ""), []
    rules = stage(work, "rules", 1, None, [extracted])
    for this in (extracted, rules):
        this.folder.mkdir(parents=True)
    with write_file(extracted.file(unit, ".tfrecord")) as file:
        for document in documents:
            offsets.append(file.tell())
            write_record(file, to_example(dataclasses.replace(document, lang=lang)))
    extracted.finish(unit, {**Tally(0, 0, 1).to_json(), "offsets": offsets, "damaged": []})
    tally = Tally(0, 0, 1)
    for number in gone:
        tally.drop_document(number, documents[number], "broken_rule")
    rules.finish(unit, tally.to_json())
    return unit, extracted, rules


def kept_by_top_share(work, documents, config, gone=(), lang="ja"):
    """Numbers that stay after extract, classify, rules, top_share."""
    unit, extracted, rules = chain_of(work, documents, gone, lang)
    scored = stage(work, "classify", 1, None, [extracted])
    scored.folder.mkdir()
    scored.finish(unit, classify.run(unit, scored, [extracted], config))
    this = stage(work, "top_share", 1, None, [rules])
    this.folder.mkdir()
    top_share.run_all(this, [unit], [extracted, scored, rules], config, Execution())
    dropped = {number for number, *_ in this.result(unit)["drops"]}
    return set(range(len(documents))) - dropped - set(gone), this.result(unit)


def test_the_top_tenth_of_the_survivors_holds_the_planted_good_pages(trained, tmp_path):
    """500 good and 500 bad pages among 4,000 others, and 1,000 good ones that a rule has dropped and that must not count."""
    root, _, _ = trained
    kinds = ["academic"] * 500 + ["shop"] * 500 + ["diary", "shop"] * 2000 + ["academic"] * 1000
    order = random.Random(1).sample(range(len(kinds)), len(kinds))
    documents = [Document(f"{i:032x}", page(kinds[i], 20_000 + i)) for i in order]
    gone = {place for place, i in enumerate(order) if i >= 5000}
    config = Corpus(classify=Classify(models={"education": str(root / "model/model.bin")}))
    kept, result = kept_by_top_share(tmp_path, documents, config, gone)
    assert 0.97 * 500 < len(kept) < 1.03 * 500, "a tenth of the 5,000 that the rules left"
    good, bad = (sum(order[n] in numbers for n in kept) for numbers in (range(500), range(500, 1000)))
    assert good >= 0.95 * 500 and bad <= 0.05 * 500, (good, bad)
    assert set(result["dropped"]) == {"below_top_share"} and list(result["cuts"]) == ["education"]
    english, _ = kept_by_top_share(tmp_path / "en", documents[:50], config, lang="en")
    assert english == set(range(50)), "what is not scored is not cut"


def write_model(path, rows, **more):
    """A fastText model of somebody else: words, and no card."""
    text = path.with_suffix(".txt")
    text.write_text("".join(f"{label} {line}\n" for label, line in rows), encoding="utf-8")
    model = fasttext.train_supervised(input=str(text), dim=4, epoch=25, lr=1.0, thread=1, verbose=0, bucket=1000, **more)
    model.save_model(str(path))
    return model


def test_models_of_others_score_by_the_worth_of_their_labels(tmp_path):
    """Four classes 0 to 3, as Swallow's second classifier: the score is the expected class."""
    model = write_model(tmp_path / "classes.bin", [(f"__label__{i % 4}", f"語{i % 4} 文") for i in range(200)])
    one = classifier.Classifier(tmp_path / "classes.bin", {})
    for text in ("語0\n文", "語3 文", "語1", "知らない"):
        labels, probabilities = model.predict(text.replace("\n", " "), k=-1)
        expected = sum(int(label[-1]) * min(p, 1.0) for label, p in zip(labels, probabilities, strict=True))
        assert one.score(text) == pytest.approx(expected, abs=2e-6)
    assert one.score("語3 文") > 2.5 > 0.5 > one.score("語0 文") and one.score("\n \n") == 0.0
    write_model(tmp_path / "named.bin", [(("__label__good", "__label__bad")[i % 2], f"語{i % 2}") for i in range(50)])
    with pytest.raises(JaLlmError, match="none of its labels .*__label__.* is worth anything; bind corpus.Classify.label_values"):
        classifier.Classifier(tmp_path / "named.bin", {"__label__pos": 1.0})
    (tmp_path / "text.bin").write_bytes(b"no model at all")
    with pytest.raises(JaLlmError, match="this is no fastText classifier"):
        classifier.Classifier(tmp_path / "text.bin", {})


def test_several_classifiers_keep_the_union(tmp_path):
    """A page stays if one of them counts it among its best, as Llama 3.3 Swallow's corpus was made."""
    rows = [(("__label__pos", "__label__neg")[i % 2], ("甲 甲", "乙 乙")[i % 2]) for i in range(100)]
    write_model(tmp_path / "first.bin", rows)
    write_model(tmp_path / "second.bin", [(label, {"甲 甲": "丙 丙", "乙 乙": "丁 丁"}[line]) for label, line in rows])
    texts = ["甲 甲 乙"] * 10 + ["丙 丙 丁"] * 10 + ["乙 乙"] * 40 + ["丁 丁"] * 40
    documents = [Document(f"{i * 7919:032x}", text) for i, text in enumerate(texts)]
    models = {name: str(tmp_path / f"{name}.bin") for name in ("first", "second")}
    kept, _ = kept_by_top_share(
        tmp_path / "w", documents, Corpus(classify=Classify(models=models), top_share=TopShare(share=0.1))
    )
    assert kept == set(range(20))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.floats(0.01, 1.0), st.integers(0, 5))
def test_the_cut_keeps_the_share_and_the_best(scores, share, seed):
    """However scores are equal, wherever they come from: what stays is the best, and the share is met but for the hash at the edge."""
    split = random.Random(seed).randrange(len(scores) + 1)
    tables = [{"m": sorted((bin_of(s), part.count(s)) for s in set(part))} for part in (scores[:split], scores[split:]) if part]
    histogram = merge_histograms(tables)["m"]
    assert histogram == {bin_of(s): scores.count(s) for s in set(scores)}
    cut = find_cut(histogram, share)
    above, at = (sum(test(bin_of(s)) for s in scores) for test in (lambda b: b > cut.edge, lambda b: b == cut.edge))
    assert above + cut.within * at == pytest.approx(share * len(scores)) and 0 < cut.within <= 1 + 1e-9
    documents = [Document(f"{i:032x}", "") for i in range(len(scores))]
    kept = {i for i, s in enumerate(scores) if cut.keeps(s, documents[i], seed)}
    assert all(scores[i] <= scores[j] for i in range(len(scores)) if i not in kept for j in kept)
    assert above <= len(kept) <= above + at


def test_the_chain_says_what_is_missing(trained, tmp_path):
    stages = ["extract", "classify", "top_share", "split"]
    with pytest.raises(UsageError, match="has 'top_share' without 'classify' before it"):
        chain.specs(Corpus(stages=["extract", "top_share", "split"]))
    with pytest.raises(UsageError, match="the stage 'classify' has no model"):
        chain.side_files(Corpus(stages=stages))
    with pytest.raises(JaLlmError, match=r"x\.bin: this classifier does not exist; train one"):
        chain.side_files(Corpus(stages=stages, classify=Classify(models={"e": "x.bin"})))
    digests = []
    for name in ("one", "two"):  # equal bytes at another path are the same classifier; other bytes are not
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.bin").write_bytes(b"model")
        config = Corpus(stages=stages, classify=Classify(models={"e": str(tmp_path / name / "m.bin")}))
        digests += chain.side_files(config).values()
    (tmp_path / "two/m.bin").write_bytes(b"other")
    assert digests[0] == digests[1] != list(chain.side_files(config).values())[0]


def test_the_command_line(trained, capsys):
    from ja_llm.cli import main

    root, sets, card = trained
    (root / "list.txt").write_text("化学\n数学*\n", encoding="utf-8")
    argv = [
        "corpus",
        "train-classifier",
        "--positives",
        str(sets[0]),
        "--negatives",
        str(sets[1]),
        "--categories",
        str(root / "list.txt"),
    ]
    bindings = [
        f"corpus.ClassifierTraining.{name} = {getattr(SMALL, name)}" for name in ("dimensions", "buckets", "min_characters")
    ]
    argv += ["--output", str(root / "typed"), *(f"--gin_bindings={b}" for b in bindings)]
    assert main(argv) == 0
    assert f"accuracy {card['validation']['accuracy']:.4f}" in capsys.readouterr().out
    assert (root / "typed/model.bin").read_bytes() == (root / "model/model.bin").read_bytes()
    assert main(argv) == 2 and "exists already" in capsys.readouterr().err
