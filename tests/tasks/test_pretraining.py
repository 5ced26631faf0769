import subprocess
import sys
from pathlib import Path

import pytest

from ja_llm.data import registry
from ja_llm.errors import UsageError


def test_the_registered_tasks_and_their_shares():
    assert {"web_ja", "web_en"} <= set(registry.task_names())
    assert "swallow_ja90_en10" in registry.mixture_names()
    assert registry.resolve("swallow_ja90_en10") == {"web_ja": 0.9, "web_en": 0.1}
    assert registry.resolve("web_ja") == {"web_ja": 1.0}
    assert {name: registry.task(name).lang for name in ("web_ja", "web_en")} == {"web_ja": "ja", "web_en": "en"}


def test_names_are_listed_without_tensorflow_or_jax():
    code = "import sys; from ja_llm.data import registry; registry.mixture_names(); print([m for m in ('tensorflow', 'seqio', 'jax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(UsageError, match="no task or mixture 'web_jp'.*web_ja"):
        registry.resolve("web_jp")
    with pytest.raises(UsageError, match="there are .*swallow_ja90_en10"):
        registry.resolve("qqqqqqq")
    with pytest.raises(UsageError, match="is a mixture.*web_ja, web_en"):
        registry.task("swallow_ja90_en10")


@pytest.mark.parametrize(
    ("rates", "sentence"),
    [
        ({"web_ja": 0.9, "web_xx": 0.1}, "no task 'web_xx'"),
        ({"web_ja": 0.9, "web_en": 0.2}, "add up to 1.1"),
        ({"web_ja": 1.0, "web_en": 0.0}, "above 0"),
        ({"web_ja": float("nan"), "web_en": 0.5}, "above 0"),
        ({}, "add up to 0"),
    ],
)
def test_rates_that_are_no_shares_are_refused(rates, sentence):
    registry.task_names()
    with pytest.raises(UsageError, match=sentence):
        registry.add_mixture("broken", rates)
    assert "broken" not in registry.mixture_names()


def test_names_can_not_be_taken_twice_or_be_paths():
    with pytest.raises(UsageError, match="is taken"):
        registry.add_task("web_ja", lang="ja")
    with pytest.raises(UsageError, match="can't be the name"):
        registry.add_task("web/ja", lang="ja")
    with pytest.raises(UsageError, match="'data/wiki' can't be the name of a document set"):
        registry.add_task("wiki_ja", lang="ja", documents="data/wiki")
    assert "wiki_ja" not in registry.task_names()


@pytest.fixture
def two_sets():
    """A mixture of tasks over the document sets "web" and "wiki"."""
    registry.task_names()
    registry.add_task("wiki_ja", lang="ja", documents="wiki")
    registry.add_mixture("web_and_wiki", {"web_ja": 0.6, "web_en": 0.1, "wiki_ja": 0.3})
    yield "web_and_wiki"
    registry.remove("web_and_wiki")
    registry.remove("wiki_ja")


def test_the_document_set_is_part_of_what_a_task_is(two_sets):
    assert registry.task("web_ja").documents == registry.task("web_ja").config()["documents"] == "web"
    assert registry.task("wiki_ja").config()["documents"] == "wiki"


def test_each_set_has_its_folder(two_sets):
    tasks = registry.resolve(two_sets)
    assert registry.document_folders(tasks, "a") == {"web": Path("a"), "wiki": Path("a")}
    assert registry.document_folders(tasks, {"wiki": "b", "web": "a"}) == {"web": Path("a"), "wiki": Path("b")}
    assert registry.document_folders(["wiki_ja"], {"wiki": "b", "web": "a"}) == {"wiki": Path("b")}
    with pytest.raises(UsageError, match="task 'wiki_ja' reads the document set 'wiki'.*add --documents wiki=DIR"):
        registry.document_folders(tasks, {"web": "a"})
    registry.check_all_read(two_sets, {"web": "a", "wiki": "b"})
    registry.check_all_read(two_sets, "a")
    with pytest.raises(UsageError, match="--documents code=c: 'web_and_wiki' reads no document set 'code', only web, wiki"):
        registry.check_all_read(two_sets, {"web": "a", "wiki": "b", "code": "c"})
    with pytest.raises(UsageError, match="'web_ja' reads no document set 'wiki'"):
        registry.check_all_read("web_ja", {"web": "a", "wiki": "b"})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["data/corpus"], "data/corpus"),
        (["web=a", "wiki=b=c"], {"web": "a", "wiki": "b=c"}),
        (["wiki=b", "data/corpus"], {"web": "data/corpus", "wiki": "b"}),
        (["./wiki=b"], "./wiki=b"),
        (["web=a", "code=c"], {"web": "a", "code": "c"}),
        (["d", "code=c"], {"web": "d", "wiki": "d", "code": "c"}),
    ],
)
def test_folders_are_given_with_names_or_without(two_sets, values, expected):
    assert registry.parse_documents(values, two_sets) == expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["a", "b"], "--documents b: only one folder can go without a name; write NAME=b"),
        (["web=a", "web=b"], "'web' has the folder a already"),
        (["web="], "--documents web=: give the name"),
        (["=a"], "--documents =a: give the name"),
        (["web=a", "wiki=b", "c"], "--documents c: each document set .* has a folder of its own"),
    ],
)
def test_folders_that_can_not_be_meant_are_refused(two_sets, values, sentence):
    with pytest.raises(UsageError, match=sentence):
        registry.parse_documents(values, two_sets)


def test_only_shards_in_the_manifest_of_the_language_and_split_count():
    names = [
        "ja/train-00001-of-00002.tfrecord",
        "ja/train-00000-of-00002.tfrecord",
        "ja/heldout-00000-of-00001.tfrecord",
        "en/train-00000-of-00001.tfrecord",
    ]
    chosen = registry.shards(registry.task("web_ja"), {"shards": [{"name": n} for n in names]}, "train")
    assert [s["name"] for s in chosen] == sorted(names[:2])
