"""What the education classifier must make of real pages, read from its result file: `make test-real` measures first."""

import pytest

from benchmarks.education_classifier import GOALS, RESULT
from ja_llm.files import read_json

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def result():
    if not RESULT.exists():
        pytest.fail(f"{RESULT} is missing; run python -m benchmarks.education_classifier")
    return read_json(RESULT)


def test_whole_pages_of_application_manuals_are_told_from_man_pages(result):
    """Of 37 planted pages, not 500: there are no more. Pieces, and all manuals, miss the goals; docs/education_classifier.md says by how much."""
    pages = result["application_manuals"]["held_out"]["pages"]
    assert result["goals"] == GOALS == {"accuracy": 0.99, "share_of_good": 0.95}
    assert pages["accuracy"] > GOALS["accuracy"] and pages["top_share"]["share_of_good"] >= GOALS["share_of_good"]
    assert pages["good"] >= 100 and pages["others"] >= 300 and pages["top_share"]["good"] >= 30


def test_five_hundred_were_planted_where_there_are_as_many(result):
    for labelling in ("all_manuals", "application_manuals"):
        planted = result[labelling]["held_out"]["pieces"]["top_share"]
        assert planted["good"] == 500 and planted["others"] == 4500 and abs(planted["kept"] - 500) <= 15
        assert planted["share_of_good"] > 0.75, "far above the tenth that chance gives"
