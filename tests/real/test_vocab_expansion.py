"""What two real vocabularies must show when 8,000 Japanese pieces are added, read from the result files of the benchmarks."""

import pytest

from benchmarks.vocab_expansion import PAGES, PIECES, RESULT
from benchmarks.vocab_rows import RESULT as ROWS
from ja_llm.files import read_json

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=["smollm2", "llama2_like"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def result(name):
    if not RESULT.exists():
        pytest.fail(f"{RESULT} is missing; run python -m benchmarks.vocab_expansion")
    return read_json(RESULT, "result")["bases"][name]


def test_english_and_code_keep_every_id(result):
    for kind, least in (("heldout_english", 10_000), ("code", 10_000)):
        found = result[kind]
        assert found["lines"] >= least and found["texts"] > 30
        assert (found["lines_identical"], found["texts_identical"], found["share"]) == (found["lines"], found["texts"], 1.0)
        assert found["lines_with_japanese"] < 0.01 * found["lines"]


def test_every_piece_is_reached(result):
    pieces = result["pieces"]
    assert pieces["added"] == PIECES and pieces["dead"] == 0 and pieces["share"] == 1.0
    assert pieces["steps_of_merges_only"] == 0  # parts of characters too come out with some end to them


def test_mostly_japanese_lines_take_forty_per_cent_fewer_tokens(result):
    found = result["mostly_japanese_lines"]
    assert found["lines"] > 3000 and found["saved"] >= 0.4


def test_rows_are_means_in_embedding_and_head(result, name):
    wanted = {"embedding_rows_are_means"} | ({"head_rows_are_means"} if name == "llama2_like" else set())
    assert result["row_errors"].keys() == wanted  # SmolLM2's head is its embedding
    assert max(result["row_errors"].values()) <= 1e-6


def test_the_certificates_in_the_documentation_are_of_this_result(result, name):
    certificate = read_json(PAGES / f"{name}.json", "certificate")
    assert result["certificate_passed"] and certificate["passed"]
    assert {key: certificate[key]["fingerprint"] for key in ("old", "new")} == result["fingerprints"]
    page = (PAGES / f"{name}.html").read_text(encoding="utf-8")
    assert all(fingerprint in page for fingerprint in result["fingerprints"].values())


def test_means_beat_random_rows_on_smollm2_untrained():
    found = read_json(ROWS, "result")["smollm2"]
    assert found["mean"]["documents"] >= 30
    assert found["mean"]["bits_per_byte"] < found["random"]["bits_per_byte"]
    assert found["mean_minus_random"]["interval"][1] < 0


def test_a_tiny_base_was_trained_from_both_at_least_five_times():
    found = read_json(ROWS, "result")["tiny"]
    assert found["steps"] == 200 and len(found["pairs"]) >= 5
    assert all(pair["mean"]["step_0"] < pair["random"]["step_0"] for pair in found["pairs"].values())
    low, high = found["mean_minus_random"]["step_200"]["interval"]  # reported whatever it is
    assert low < found["mean_minus_random"]["step_200"]["difference"] < high
