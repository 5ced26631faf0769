"""The certificate passes what is right and fails whatever single thing is made wrong."""

import copy
import json

import ml_dtypes
import numpy as np
import pytest

from ja_llm.errors import JaLlmError
from ja_llm.vocab.certify import certify, format_certificate, require, tokens_per_character
from ja_llm.vocab.initialise import expand_params
from ja_llm.vocab.sentencepiece_tokenizer import NORMAL, SentencePieceTokenizer


def params_for(size: int, dtype=np.float32, width: int = 8) -> dict:
    rng = np.random.default_rng(1)
    return {
        "token_embedder": {"embedding": rng.normal(size=(size, width)).astype(dtype)},
        "logits_dense": {"kernel": rng.normal(size=(width, size)).astype(dtype)},
    }


@pytest.fixture(scope="module")
def case(base, expansion, english, japanese, code):
    old = params_for(base.vocab_size)
    return [
        base,
        expansion.tokenizer,
        expansion.sources,
        old,
        expand_params(old, expansion.sources),
        {"en": [english], "ja": [japanese], "code": [code]},
    ]


def failures(case) -> str:
    certificate = certify(*case)
    assert certificate["passed"] == (not certificate["failures"])
    return " | ".join(certificate["failures"])


def with_proto(case, change) -> list:
    proto = case[1].proto
    change(proto)
    return [case[0], SentencePieceTokenizer(proto.SerializeToString()), *case[2:]]


def test_a_right_expansion_passes_with_its_figures(case, base, expansion, japanese):
    certificate = certify(*case)
    assert certificate["failures"] == []
    checks = certificate["checks"]
    assert checks["english_and_code_identical"]["share"] == 1.0
    assert checks["english_and_code_identical"]["texts"] > 1000
    assert checks["reachable"]["dead"] == 0
    assert checks["embedding_rows_are_means"]["max_abs_error"] < 1e-6
    assert checks["head_rows_are_means"]["max_abs_error"] < 1e-6
    gain = checks["tokens_per_japanese_character"]
    assert gain["after"] < 0.8 < 1.5 < gain["before"]
    assert certificate["new"] == {"vocab_size": expansion.tokenizer.vocab_size, "fingerprint": expansion.tokenizer.fingerprint}
    assert json.loads(json.dumps(certificate)) == certificate
    require(certificate)
    assert "certificate: passed" in format_certificate(certificate)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_tables_pass_too(case, dtype):
    old = params_for(case[0].vocab_size, dtype)
    assert failures([*case[:3], old, expand_params(old, case[2]), case[5]]) == ""


@pytest.mark.parametrize("where", ["token_embedder", "logits_dense"])
@pytest.mark.parametrize("change", ["new row", "old row", "nan"])
def test_one_wrong_row_fails(case, where, change):
    new = copy.deepcopy(case[4])
    name = "embedding" if where == "token_embedder" else "kernel"
    table = new[where][name] if name == "embedding" else new[where][name].T
    row = case[0].vocab_size + 5 if change != "old row" else 17
    table[row, 3] = np.nan if change == "nan" else table[row, 3] + np.float32(2e-6)
    found = failures([*case[:4], new, case[5]])
    assert ("embedding" if name == "embedding" else "head") in found
    assert ("old rows changed" if change == "old row" else "[5]") in found


def test_swapped_rows_and_a_random_start_fail(case):
    new, size = copy.deepcopy(case[4]), case[0].vocab_size
    table = new["token_embedder"]["embedding"]
    table[[size, size + 200]] = table[[size + 200, size]]
    assert "not the mean" in failures([*case[:4], new, case[5]])
    table[size:] = np.random.default_rng(0).normal(size=table[size:].shape)
    assert "not the mean" in failures([*case[:4], new, case[5]])


@pytest.mark.parametrize("index", [300, -1, -150])
def test_one_wrong_score_fails(case, index):
    def change(proto):
        proto.pieces[index].score -= 0.5

    assert "pieces:" in failures(with_proto(case, change))


def test_a_piece_that_can_not_be_reached_is_listed(case):
    def change(proto):
        proto.pieces.add(piece="鯨鮫鯛", score=proto.pieces[-1].score - 1, type=NORMAL)

    broken = with_proto(case, change)
    broken[2] = [*broken[2], [3]]
    certificate = certify(*broken)
    assert certificate["checks"]["reachable"]["dead_pieces"] == ["鯨鮫鯛"]
    assert not certificate["passed"]


def test_pieces_that_change_english_fail(case):
    def change(proto):
        proto.pieces[-1].piece = "ks"

    found = failures(with_proto(case, change))
    assert "got other ids" in found
    assert "other than Japanese" in found


def test_wrong_sources_fail(case):
    wrong = [list(ids) for ids in case[2]]
    wrong[7] = wrong[8]
    found = failures([case[0], case[1], wrong, case[3], expand_params(case[3], wrong), case[5]])
    assert "sources: the old tokenizer spells these otherwise" in found


def test_tables_of_other_sizes_kinds_or_number_fail(case):
    assert "new rows" not in failures(case)
    assert "_rows" in failures([*case[:4], case[3], case[5]])  # not grown
    assert "pieces were added but" in failures([*case[:2], case[2][:-1], *case[3:]])
    tied = {"token_embedder": case[4]["token_embedder"]}
    assert "vocabulary tables are" in failures([*case[:4], tied, case[5]])
    other = {**case[4], "token_embedder": {"embedding": case[4]["token_embedder"]["embedding"].astype(np.float64)}}
    assert "embedding_rows" in failures([*case[:4], other, case[5]])


def test_require_names_the_reason(case):
    new = copy.deepcopy(case[4])
    new["token_embedder"]["embedding"][-1] += 1
    certificate = certify(*case[:4], new, case[5])
    with pytest.raises(JaLlmError, match="embedding_rows_are_means"):
        require(certificate)
    assert "FAILED" in format_certificate(certificate)


def test_tokens_per_character_counts_tokens_that_touch_japanese(base):
    """日 is a piece, 龘 three bytes; Latin text between does not count."""
    assert tokens_per_character(base, ["x日x"]) == 1.0
    assert tokens_per_character(base, ["some English 龘 and more"]) == 3.0
    assert tokens_per_character(base, ["x日x", "y龘y", "none"]) == 2.0
    assert tokens_per_character(base, ["none at all"]) is None
