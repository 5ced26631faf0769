"""Prompts that do not fit, by the Japanese harness's rules: what is left out, found by trying every way by hand."""

import json
from pathlib import Path

import pytest

from ja_llm.evaluation import registry
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.long_prompts import _sentences

RAW = Path(__file__).parent / "raw"


def example(name):
    template = registry.resolve(name)[0]
    found = template.examples(Sources(data=RAW), 1)[0]
    return template, found["inputs"], json.loads(json.dumps(found["meta"]))


@pytest.mark.parametrize("name", ["mgsm_ja", "mgsm_ja_strict"])
def test_worked_examples_go_one_by_one_from_the_first(name):
    template, whole, meta = example(name)
    blocks = whole.split("\n\n")
    assert len(blocks) == 5
    left = ["\n\n".join(blocks[n:]) for n in range(5)]
    for room in (len(whole), len(whole) - 1, len(left[1]), len(left[1]) - 1, len(left[3]), len(left[4]), len(left[4]) - 1, 0):
        fits = next((text for text in left if len(text) <= room), left[4])  # the question itself stays whole
        assert template.long_prompt(meta, len, room, 10**6) == fits


def test_articles_are_cut_alike_at_the_end_of_a_sentence():
    template, whole, meta = example("xlsum_ja_strict")
    shot, asked = meta["parts"]["shots"][0], meta["parts"]["record"]
    bare = whole.replace(shot["text"], "", 1).replace(asked["text"], "", 1)
    for record, number in ((shot, 40), (asked, 30)):
        record["text"] = "".join(f"{record['id']}の{n}番目の文です。" for n in range(number))
    text = template.long_prompt(meta, len, len(bare) + 301, 10**6)
    kept = [part.split("\n")[0] for part in text.split("記事:")[1:]]
    for record, part in ((shot, kept[0]), (asked, kept[1])):
        assert record["text"].startswith(part) and part.endswith("。") and len(part) <= 150
        assert len(part + record["text"][len(part) :].split("。")[0] + "。") > 150  # no further sentence would fit
    assert len(text) == len(bare) + sum(map(len, kept)) and text.endswith("要約:")
    all_of_it = template.long_prompt(meta, len, 10**6, 10**6)
    assert len(all_of_it) == len(bare) + len(shot["text"]) + len(asked["text"]) and asked["text"] in all_of_it
    # As published the reference's own length decides, whatever is written.
    published = registry.resolve("xlsum_ja")[0]
    room = len(bare) + 301
    assert published.long_prompt(meta, len, 0, room + len(asked["reference"]) + 10) == text
    assert len(published.long_prompt(meta, len, 0, room + len(asked["reference"]) + 10 - 250)) < len(text)


@pytest.mark.parametrize(
    ("room", "kept"), [(7, "一。二二。三三"), (6, "一。二二。"), (5, "一。二二。"), (4, "一。"), (1, "一"), (0, "")]
)
def test_whole_sentences_or_else_characters(room, kept):
    assert _sentences("一。二二。三三", len, room) == kept
