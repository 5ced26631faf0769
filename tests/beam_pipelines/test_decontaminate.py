"""Documents that hold evaluation items: found through widths, kana and punctuation, dropped or cut, and told by task."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines import chain, config, decontaminate
from beam_pipelines.config import Corpus
from beam_pipelines.decontaminate import cut
from beam_pipelines.settings.decontaminate import Decontaminate
from ja_llm.documents import Document
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.text.ngrams import Index, fold

ITEM = "富士山の標高は三千七百七十六メートルである。"
OTHER = "灯台守は嵐が来る前に十一隻の船を数えた。"


@pytest.fixture
def items(tmp_path):
    lines = [
        {"task": "niilc", "item": "1", "texts": [ITEM]},
        {"task": "jmmlu", "item": "sea/2", "texts": [OTHER, "四番"]},
        {"task": "jmmlu", "item": "short", "texts": ["答えは三番"]},
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "items.jsonl"


def documents(web):
    plain = web.ja_text(1)
    return [
        Document(id="clean", text=plain, lang="ja"),
        Document(id="item", text=f"{plain}\n…富士山の標高は、\u3000三千七百七十六ﾒｰﾄﾙである(出典)…\n{plain}", lang="ja"),
        Document(id="half", text=f"{plain}\n富士山の標高は三千七百だ。", lang="ja"),  # 11 characters: no n-gram of the item
        Document(id="both", text=f"{OTHER}{plain}{ITEM}", lang="ja"),
        Document(id="short", text="答えは三番", lang="ja"),
    ]


def test_documents_with_items_are_dropped_and_the_task_is_told(items, web, run_stages):
    done = run_stages(documents(web), [decontaminate.STAGE], Corpus(decontaminate=Decontaminate(items=[str(items)])))
    assert [d.id for d in done.left] == ["clean", "half", "short"]
    (result,) = done.results["decontaminate"]
    assert result["drops"] == [[1, "contaminated", "niilc/1"], [3, "contaminated", "jmmlu/sea/2, niilc/1"]]
    assert result["tables"] == {"contaminated": {"niilc": 2, "jmmlu": 1}}


def test_cutting_leaves_the_other_sentences(items, web, run_stages):
    how = Corpus(decontaminate=Decontaminate(items=[str(items)], action="cut"))
    given_ = documents(web)
    done = run_stages([*given_, Document(id="all", text=ITEM, lang="ja")], [decontaminate.STAGE], how)
    left = {d.id: d.text for d in done.left}
    plain = web.ja_text(1)
    assert left["item"] == f"{plain}\n{plain}" and left["both"] == plain and left["clean"] == plain
    assert "all" not in left, "nothing is left of it"
    (result,) = done.results["decontaminate"]
    assert [number for number, _ in result["changed"]] == [1, 3] and result["modified"]["contaminated"][0] == 2


def test_coverage_at_its_threshold(items, run_stages):
    """16 of the item's 21 characters lie in n-grams of the document."""
    text = Document(id="x", text=fold(ITEM)[:16] + "ほどだ。", lang="ja")
    for limit, left in ((16 / 21, 0), (16 / 21 + 1e-9, 1)):
        how = Corpus(decontaminate=Decontaminate(items=[str(items)], min_coverage=limit))
        assert len(run_stages([text], [decontaminate.STAGE], how).left) == left


@given(st.lists(st.text("アあ1。\n、", min_size=1, max_size=12), min_size=1, max_size=4), st.text("アあ1。\n、", max_size=60))
@settings(deadline=None)
def test_what_is_cut_is_not_found_again_and_sentences_stay_whole(items, text):
    index = Index({f"t/{k}": [item] for k, item in enumerate(items)}, 3)
    left, found = cut(text, index, 0.5)
    assert not index.found_in(fold(left), 0.5)
    assert (left == text) == (not found)
    assert cut(left, index, 0.5) == (left, {})


def test_held_out_documents_of_an_earlier_version(tmp_path, web, run_stages):
    from ja_llm import manifest
    from ja_llm.documents import to_example, write_record

    root, shards = tmp_path / "version1", []
    for split, text in (("heldout", web.ja_text(7)), ("train", web.ja_text(8))):
        path = root / "ja" / f"{split}-00000-of-00001.tfrecord"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            write_record(file, to_example(Document(id=split, text=text, lang="ja")))
        shards.append(manifest.file_entry(path, root, documents=1, characters=len(text), lang="ja", split=split))
    manifest.write(root, schema=manifest.DOCUMENTS, job="corpus", config={}, inputs=[], shards=shards)
    new = [Document(id=str(k), text=f"{web.ja_text(9)}\n{web.ja_text(k)}", lang="ja") for k in (7, 8, 10)]
    done = run_stages(new, [decontaminate.STAGE], Corpus(decontaminate=Decontaminate(sets=[str(root)])))
    assert [d.id for d in done.left] == ["8", "10"]
    assert done.results["decontaminate"][0]["tables"] == {"contaminated": {"version1": 1}}
    how = Decontaminate(sets=[str(root)], split="test")
    with pytest.raises(UsageError, match="has no test documents"):
        decontaminate.load_items(how)


@pytest.mark.parametrize(
    ("bindings", "sentence"),
    [
        ([], "nothing to look for"),
        (["corpus.Decontaminate.items = ('/nowhere',)"], "/nowhere: there is no such file"),
        (["corpus.Decontaminate.sets = ('/nowhere',)"], "/nowhere"),
        (["corpus.Decontaminate.action = 'hide'"], "'drop' or 'cut'"),
        (["corpus.Decontaminate.min_coverage = 0"], "above 0"),
        (["corpus.Decontaminate.ngram = 0"], "at least 1"),
    ],
)
def test_wrong_settings_are_told_before_anything_runs(bindings, sentence):
    stages = "corpus.Corpus.stages = ('extract', 'language', 'annotate', 'select', 'decontaminate', 'split')"
    with pytest.raises((UsageError, JaLlmError), match=sentence):
        chain.side_files(config.load("swallow_v2", [stages, *bindings]))


def test_items_that_are_not_looked_for_are_told_by_task(items, tmp_path):
    stages = "corpus.Corpus.stages = ('extract', 'language', 'decontaminate', 'split')"
    with open(items, "a") as file:
        for number, text in enumerate(("日本の首都は何処？", "あ" * 12, "あ" * 13, "Who was it?", "short " * 7, "a" * 40)):
            file.write(json.dumps({"task": "qa", "item": number, "texts": [text, "はい"]}) + "\n")
    (notice,) = chain.notices(config.load("swallow_v2", [stages, f"corpus.Decontaminate.items = ({str(items)!r},)"]))
    # Letters and digits: 8 and 12 of 13 in Japanese, 8 and 35 of 40 otherwise.
    assert "5 of 9 evaluation items are too short to be looked for (jmmlu 1, qa 4)" in notice
    assert "13 in Japanese, 40 otherwise" in notice
    less = [stages, f"corpus.Decontaminate.items = ({str(items)!r},)", "corpus.Decontaminate.ngram = 4"]
    assert chain.notices(config.load("swallow_v2", less)) == []


def test_items_too_short_to_be_looked_for_are_no_silent_success(tmp_path, run_stages):
    (tmp_path / "short.jsonl").write_text(json.dumps({"task": "t", "item": "1", "texts": ["短い"]}))
    how = Corpus(decontaminate=Decontaminate(items=[str(tmp_path / "short.jsonl")]))
    with pytest.raises(JaLlmError, match="as long as an n-gram"):
        run_stages([Document(id="x", text="本文", lang="ja")], [decontaminate.STAGE], how)
