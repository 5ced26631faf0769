import subprocess
import sys

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


def test_only_shards_in_the_manifest_of_the_language_and_split_count():
    names = [
        "ja/train-00001-of-00002.tfrecord",
        "ja/train-00000-of-00002.tfrecord",
        "ja/heldout-00000-of-00001.tfrecord",
        "en/train-00000-of-00001.tfrecord",
    ]
    chosen = registry.shards(registry.task("web_ja"), {"shards": [{"name": n} for n in names]}, "train")
    assert [s["name"] for s in chosen] == sorted(names[:2])
