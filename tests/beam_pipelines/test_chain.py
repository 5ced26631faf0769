"""The chain: what a preset may order, what stages hand on, and that a changed value repeats only what it touches."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines import annotate, carry, chain, config, filters_en, filters_ja, minhash, rules, select
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import annotations, changed_documents, places, remaining, remaining_with, write_annotations
from beam_pipelines.tally import Tally, merge_samples, shown_samples
from beam_pipelines.workspace import Stage, Unit, stage, write_file
from beam_pipelines.yields import make_yields
from ja_llm.documents import Document, document_id, to_example, write_record
from ja_llm.errors import JaLlmError, UsageError

V1 = config.load("swallow_v1").japanese
UNIT = Unit("unit", "unit.warc.gz", "")


def make_stage(work, name: str, before=()) -> Stage:
    this = stage(work, name, 1, None, before)
    this.folder.mkdir(parents=True)
    return this


def make_source(work, pairs) -> tuple[list[Document], list[Stage]]:
    """Stages `extract` and `language` of one unit, from (text, language) pairs."""
    extracted, tally, offsets = make_stage(work, "extract"), Tally(5, 100, 1), []
    documents = [Document(document_id("s", f"u{i}", "", t), t, url=f"http://h/{i}") for i, (t, _) in enumerate(pairs)]
    with write_file(extracted.file(UNIT, ".tfrecord")) as file:
        for document in documents:
            offsets.append(file.tell())
            tally.keep(document.text)
            write_record(file, to_example(document))
    extracted.finish(UNIT, {**tally.to_json(), "offsets": offsets, "damaged": []})
    languages = make_stage(work, "language", [extracted])
    write_annotations(languages, UNIT, ((i, {"lang": lang}) for i, (_, lang) in enumerate(pairs)))
    languages.finish(UNIT, Tally(5, 100, 1).to_json())
    return documents, [extracted, languages]


def test_a_document_is_what_the_last_stage_left(tmp_path):
    documents, before = make_source(tmp_path, [("一", "ja"), ("二", "ja"), ("three", "en"), ("四", "ja")])
    dropping = make_stage(tmp_path, "drops", before)
    tally = Tally(5, 100, 1)
    tally.drop_document(1, documents[1], "too_short", note="because")
    dropping.finish(UNIT, tally.to_json())
    changing = make_stage(tmp_path, "first", [dropping])
    again = make_stage(tmp_path, "second", [changing])
    for this, numbers in ((changing, (0, 2)), (again, (2, 3))):
        tally = Tally(5, 100, 1)
        with changed_documents(this, UNIT) as changed:
            for number in numbers:
                new = dataclasses.replace(documents[number], text=f"{this.name}{number}")
                tally.modify(documents[number], new, ["rewritten"])
                changed.write(number, new)
        this.finish(UNIT, {**tally.to_json(), "changed": changed.places})
    chain_of = [*before, dropping, changing, again]
    found = [(number, document.text, lang) for number, document, lang in remaining(UNIT, chain_of)]
    assert found == [(0, "first0", "ja"), (2, "second2", "en"), (3, "second3", "ja")]
    assert [n for n, *_ in remaining(UNIT, chain_of[:2])] == [0, 1, 2, 3], "a stage sees what stands before it alone"
    assert [index for index, _ in places(UNIT, chain_of)] == [3, 0, 4, 4]
    assert [lang for *_, lang in remaining(UNIT, [before[0]])] == [""] * 4, "without identification it is the document's own"


def test_annotations_come_back_to_their_documents(tmp_path):
    _, before = make_source(tmp_path, [(t, "ja") for t in "一二三四"])
    this = make_stage(tmp_path, "annotate", before)
    write_annotations(this, UNIT, [(1, {"x": 0.1, "url": "あ\ud800"}), (3, {"x": 1e-17})])
    tally = Tally(5, 100, 1)
    tally.drop_document(1, Document("0" * 32, "二"), "reason")
    this.finish(UNIT, tally.to_json())
    assert list(annotations(UNIT, this)) == [(1, {"x": 0.1, "url": "あ\ud800"}), (3, {"x": 1e-17})]
    assert [(n, values) for n, *_, values in remaining_with(UNIT, [*before, this], "annotate")] == [
        (0, {}),
        (2, {}),
        (3, {"x": 1e-17}),
    ]
    with pytest.raises(JaLlmError, match="no stage 'nowhere' before this one"):
        list(remaining_with(UNIT, before, "nowhere"))


def test_carried_annotations_stand_in_the_metadata(tmp_path):
    documents, before = make_source(tmp_path, [(t, "ja") for t in "一二三"])
    this = make_stage(tmp_path, "classify", before)
    write_annotations(this, UNIT, [(0, {"education": 0.5, "other": 1}), (2, {"education": 0.25})])
    this.finish(UNIT, Tally(5, 100, 1).to_json())
    carried = make_stage(tmp_path, "carry", [this])
    corpus = Corpus(stages=["extract", "classify", "carry", "split"], carried=["classify.education"])
    carried.finish(UNIT, carry.run(UNIT, carried, [*before, this], corpus))
    found = [document for _, document, _ in remaining(UNIT, [*before, this, carried])]
    assert [json.loads(d.meta) for d in found] == [{"classify.education": 0.5}, {}, {"classify.education": 0.25}]
    assert [dataclasses.replace(d, meta="{}") for d in found] == documents
    with pytest.raises(UsageError, match="carried = .'lines.x'.: it must be of the form 'stage.name', with a stage"):
        dataclasses.replace(corpus, carried=["lines.x"]).validate()


def test_counts_are_pages_characters_and_bytes_and_samples_are_of_the_whole():
    documents = [Document(f"{i:032x}", "あ" * i + "a") for i in range(1, 9)]
    whole, halves = Tally(3, 5, 7), [Tally(3, 5, 7), Tally(3, 5, 7)]
    for i, document in enumerate(documents):
        for tally in (whole, halves[i % 2]):
            tally.drop_document(i, document, "long")
    assert whole.to_json()["dropped"] == {"long": [8, 36 + 8, 3 * 36 + 8]}
    results = [json.loads(json.dumps(tally.to_json())) for tally in halves]
    assert merge_samples(results, 3) == merge_samples([whole.to_json()], 3)
    assert {entry["text"] for entry in merge_samples(results, 3)["long"]} <= {
        d.text if len(d.text) <= 5 else d.text[:4] + "…" for d in documents
    }


def test_yields_of_a_modifying_stage_add_up(tmp_path):
    tally = Tally(5, 30, 1)
    before, after = Document("1" * 32, "本文" * 50 + "。。おわり"), Document("1" * 32, "本文" * 50 + "。終")
    tally.modify(before, after, ["stops", "footer"], "ja")
    tally.keep("ああ", "ja")
    tally.drop_document(2, before, "bad")
    spec = chain.StageSpec("modify", 1, lambda c: None)
    (table,) = make_yields(chain.Finished([spec], [], {}), {"modify": [tally.to_json()]})
    assert table["in"] == {"documents": 3, "characters": 105 + 2 + 105, "bytes": 315 + 6 + 315}
    assert table["kept"] == {"documents": 2, "characters": 102 + 2, "bytes": 306 + 6}
    assert table["modified"] == {kind: {"documents": 1, "characters": 105, "bytes": 315} for kind in ("footer", "stops")}
    (sample,) = merge_samples([tally.to_json()], 5, "modified_samples")["stops"]
    assert (sample["at"], sample["before"], sample["after"]) == (98, "本文。。おわり", "本文。終")


@given(
    st.lists(st.tuples(st.text("あいa。\n", max_size=60), st.text("あいa。\n", max_size=60)), min_size=1, max_size=8),
    st.integers(0, 9),
    st.integers(0, 90),
)
def test_what_is_shown_is_what_a_marker_of_that_size_would_hold(texts, samples, characters):
    """Cut from a marker that holds more, as a run with other `samples` does, or drawn anew: the same."""
    corpus = dataclasses.replace(Corpus(), samples=samples, sample_characters=characters)
    larger, own = Tally(9, 90, 1), Tally(samples, characters, 1)
    for i, (before, after) in enumerate(texts):
        one, other = (Document(f"{i:032x}", text) for text in (before, after))
        for tally in (larger, own):
            tally.drop_document(i, one, "short")
            tally.modify(one, other, ["changed"])
    held = json.loads(json.dumps(larger.to_json()))
    for group in ("samples", "modified_samples"):
        shown = merge_samples([shown_samples(held, corpus)], samples, group)
        assert shown == merge_samples([own.to_json()], samples, group)


@pytest.mark.parametrize(
    ("name", "fine", "broken", "wanted"),
    [
        ("MinHash.bands", (1, 9_999), (0, 10_000, 70_000), "from 1 to 9,999"),
        ("MinHash.rows", (1, 9_999), (0, 10_000), "from 1 to 9,999"),
        ("MinHash.ngram", (1, 9_999), (0, 10_000), "from 1 to 9,999"),
        ("MinHash.seed", (0, 2**32 - 1), (-1, 2**32), "from 0 to 4,294,967,295"),
        ("Corpus.samples", (0, 1000), (-1,), "0 or more"),
        ("Corpus.sample_characters", (0, 1000), (-5,), "0 or more"),
        ("Extraction.reset_caches_every", (1,), (0, -1), "a positive number"),
    ],
)
def test_numbers_that_would_break_in_the_middle_of_a_run_are_refused(name, fine, broken, wanted):
    for value in fine:
        config.load("swallow_v2", [f"corpus.{name} = {value}"])
    for value in broken:
        with pytest.raises(UsageError, match=f"^corpus.{name} = {value}: it must be {wanted}; change this binding"):
            config.load("swallow_v2", [f"corpus.{name} = {value}"])


def test_the_extreme_seeds_and_bands_sign():
    settings_ = dataclasses.replace(config.load("swallow_v2").minhash, bands=9_999, rows=1, seed=2**32 - 1)
    assert minhash.Signer(settings_).signatures(["富士山の標高は三千七百七十六メートルである。"]).shape == (1, 9_999)


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (("extract", "polish", "split"), "names 'polish'; the stages are extract, language"),
        (("language", "split"), "the first must be 'extract' and the last 'split'"),
        (("extract", "language"), "the first must be 'extract' and the last 'split'"),
        (("extract", "select", "annotate", "split"), "has 'select' without 'annotate' before it"),
        (("extract", "dedup", "split"), "has 'dedup' without 'minhash' before it"),
        (("extract", "language", "language", "split"), "names 'language' twice"),
    ],
)
def test_an_order_that_means_nothing_is_refused(stages, sentence):
    with pytest.raises(UsageError, match=sentence):
        chain.specs(Corpus(stages=stages))


def test_every_preset_has_an_order_that_can_be_walked():
    from ja_llm.gin_utils import packaged_configs

    for path in sorted((packaged_configs() / "corpus").glob("*.gin")):
        names = [spec.name for spec in chain.specs(config.load(path.stem))]
        assert names[0] == "extract" and names[-1] == "split", path.stem
    v1, v2 = (list(config.load(name).stages) for name in ("swallow_v1", "swallow_v2"))
    assert v1.index("select") < v1.index("dedup") and v2.index("dedup") < v2.index("select")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.sampled_from("あいの漢字カー。、a b\n…"), max_size=80), st.sampled_from(["ja", "en"])), max_size=4
    ),
    st.sampled_from(rules.rule_names(V1)),
    st.data(),
)
def test_annotate_then_select_is_the_direct_filter(tmp_path_factory, pairs, rule, data):
    """Through files and JSON and back, each text is decided as by measuring and comparing at once, at limits that some text meets."""
    name, _, statistic = rule
    work = tmp_path_factory.mktemp("w")
    direct = [filters_ja.measure(text) if lang == "ja" else filters_en.measure(text) for text, lang in pairs]
    limit = data.draw(st.sampled_from([d[statistic] for d in direct if statistic in d] or [1.0]))
    japanese = dataclasses.replace(
        V1, **{other: None for other, *_ in rules.rule_names(V1)}, drop_on_limit=data.draw(st.sampled_from([(), (name,)]))
    )
    japanese = dataclasses.replace(japanese, **{name: limit})
    corpus = Corpus(japanese=japanese, english=dataclasses.replace(Corpus().english, min_words=2))
    _, before = make_source(work, pairs)
    measured = make_stage(work, "annotate", before)
    measured.finish(UNIT, annotate.run(UNIT, measured, before, corpus))
    result = select.run(UNIT, make_stage(work, "select", [measured]), [*before, measured], corpus)
    expected = []
    for number, (statistics, (_, lang)) in enumerate(zip(direct, pairs, strict=True)):
        reason = rules.decide(statistics, japanese if lang == "ja" else corpus.english, lang)
        expected += [[number, reason]] if reason else []
    assert result["drops"] == expected
    assert [values for _, values in annotations(UNIT, measured)] == direct


def test_presets_are_what_their_comments_say():
    assert config.load("swallow_v2") == dataclasses.replace(Corpus(), languages=("ja",)) and Corpus().split.split_by == "group"
    japanese = ("swallow_v1", "swallow_v2", "swallow_v2_rapid", "swallow_v2_education")
    both = ("debian_docs", "quickstart", "decontaminate", "wikipedia")
    for names, languages in ((japanese, ["ja"]), (both, ["ja", "en"])):
        assert all(list(config.load(name).languages) == languages for name in names), (
            "v1 and v2 are of Japanese pages, as published"
        )
    few = [config.load(name).split.split_by for name in ("debian_docs", "quickstart")]
    assert few == ["document", "document"]
    b, r = config.load("swallow_v2").minhash.bands, config.load("swallow_v2").minhash.rows
    assert [round(1 - (1 - j**r) ** b, 3) for j in (0.5, 0.8, 0.9)] == [0.019, 0.897, 1.0]
