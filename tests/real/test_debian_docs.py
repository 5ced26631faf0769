"""What the main job on Debian's documentation must show, read from its result file: `make test-real` runs the job first."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.debian_docs import RESULT, config
from ja_llm.files import read_json

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def result():
    if not RESULT.exists():
        pytest.fail(f"{RESULT} is missing; run python -m benchmarks.debian_docs")
    return read_json(RESULT)


def test_the_result_is_of_todays_settings(result):
    wanted = {
        **dataclasses.asdict(config(Path("debian-docs"))),
        "inputs": "debian-docs/warc/*.warc.gz",
        "pairs": "debian-docs/pairs/messages.jsonl",
    }
    assert result["config"] == wanted


def bits(result, model, lang):
    return result["evaluation"][model]["tasks"][f"bits_per_byte_{lang}"]["bits_per_byte"]


def test_enough_japanese_pages_go_through(result):
    by_stage = {stage["stage"]: stage for stage in result["corpus"]["yields"]}
    assert by_stage["language"]["kept_by"]["ja"]["documents"] >= 1800


def test_every_document_is_accounted_for(result):
    for stage in result["corpus"]["yields"]:
        dropped = sum(count["documents"] for count in stage["dropped"].values())
        assert stage["kept"]["documents"] + dropped == stage["in"]["documents"]


def test_the_vocabulary_certificate_passed_and_text_got_shorter(result):
    assert result["certificate"]["passed"]
    tokens = result["certificate"]["checks"]["tokens_per_japanese_character"]
    assert tokens["after"] < tokens["before"]


def test_japanese_is_learnt(result):
    assert bits(result, "trained", "ja") < bits(result, "expanded", "ja")
    assert bits(result, "trained", "ja") < bits(result, "base", "ja")


def test_controls_saw_as_many_tokens(result):
    assert result["training"]["scratch"]["target_tokens"] == result["training"]["ja"]["target_tokens"]
    identities = [result["ledgers"][name]["identity"] for name in ("ja", "scratch")]
    for key in ("data", "vocabulary", "batch_size", "length", "seed"):
        assert identities[0][key] == identities[1][key]


def test_transformers_agrees_with_us(result):
    for lang in ("ja", "en"):
        assert result["export"][lang]["relative_l2"] <= 1e-5
        assert result["export"][lang]["same_ids"]


def test_the_run_repeats(result):
    if "repeat" not in result:
        pytest.fail("not repeated yet; run python -m benchmarks.debian_docs --repeat")
    assert result["repeat"]["identical"]
