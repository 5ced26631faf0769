"""Preprocessors stand in a cache's identity: the same in every process, and never alike by chance."""

import functools
import json
import subprocess
import sys

import pytest

from ja_llm.data.registry import TaskTemplate, add_task, remove, task_names
from ja_llm.errors import UsageError


def shorten(dataset, most=100, words=()):
    return dataset


class Callable:
    def __call__(self, dataset):
        return dataset

    def method(self, dataset):
        return dataset


def described(*preprocessors):
    return TaskTemplate("t", "ja", preprocessors=preprocessors).config()["preprocessors"]


def test_preprocessors_are_described_by_module_name_and_arguments():
    partial = functools.partial(shorten, most=7, words=("a", "あ"))
    name = f"{__name__}.shorten"
    assert described(shorten, partial) == [name, {"function": name, "args": [], "keywords": {"most": 7, "words": ["a", "あ"]}}]
    assert described(functools.partial(partial, most=8)) != described(partial)
    # What a finished cache's manifest gives back is compared with this.
    assert json.loads(json.dumps(described(partial))) == described(partial)


def test_the_same_task_has_the_same_identity_in_another_process():
    program = (
        "import functools, json; from ja_llm.data.registry import TaskTemplate, resolve; "
        "print(json.dumps(TaskTemplate('t', 'ja', preprocessors=(functools.partial(resolve, 7, name='x'),)).config()))"
    )
    texts = {subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(texts) == 1 and "ja_llm.data.registry.resolve" in texts.pop()


@pytest.mark.parametrize(
    ("preprocessor", "says"),
    [
        (lambda dataset: dataset, "'<lambda>' has no name"),
        (functools.partial(lambda dataset, n: dataset, n=1), "'<lambda>' has no name"),
        (Callable(), "'Callable' has no name"),
        (Callable().method, "'Callable.method' has no name"),
        (functools.partial(shorten, words={"a"}), "'shorten' is given {'a'}, but only JSON"),
        (functools.partial(shorten, words=[{1: "a"}]), "is given {1: 'a'}, but only JSON"),
        (functools.partial(shorten, most=float("nan")), "is given nan, but only JSON"),
        (functools.partial(shorten, most=Callable), "is given <class"),
    ],
)
def test_what_has_no_lasting_description_is_refused_when_it_is_registered(preprocessor, says):
    with pytest.raises(UsageError, match=says):
        add_task("refused_ja", lang="ja", preprocessors=[preprocessor])
    assert "refused_ja" not in task_names()


def test_a_local_function_is_refused():
    def local(dataset):
        return dataset

    with pytest.raises(UsageError, match="task 'local_ja': the preprocessor 'test_a_local_function_is_refused.<locals>.local'"):
        add_task("local_ja", lang="ja", preprocessors=[local])
    remove("local_ja")
