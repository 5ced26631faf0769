"""The certificate passes what is right and fails whatever single thing is made wrong."""

import copy
import html.parser
import json

import ml_dtypes
import numpy as np
import pytest

from ja_llm.errors import JaLlmError
from ja_llm.vocab.certificate_page import page
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
    assert certificate["checks"]["reachable"]["dead_pieces"] == ["鯨鮫鯛"] and not certificate["checks"]["reachable"]["passed"]
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


def test_a_text_that_does_not_come_back_fails_and_is_named_by_kind(case, monkeypatch):
    certificate = certify(*case)
    assert set(certificate["checks"]["round_trip"]["hard"].values()) == {"whole"}
    decode = case[1].decode
    monkeypatch.setattr(case[1], "decode", lambda ids: decode(ids).replace("龘", ""))
    certificate = certify(*case)
    assert any(f.startswith("round_trip: 1 texts do not come back") for f in certificate["failures"])
    assert {name for name, how in certificate["checks"]["round_trip"]["hard"].items() if how == "lost"} == {
        "rare and astral kanji"
    }


def test_more_tokens_for_japanese_fail(case, monkeypatch):
    encode = case[1].encode_with_offsets
    monkeypatch.setattr(case[1], "encode_with_offsets", lambda text: tuple(part * 9 for part in encode(text)))
    assert "Japanese takes more tokens than before" in failures(case)


def test_text_per_token_is_told_for_each_domain(case, english, japanese):
    certificate = certify(*case)
    old, new = case[:2]
    assert set(certificate["domains"]) == {"en", "ja", "code"}
    for name, text in (("en", english), ("ja", japanese)):
        found = certificate["domains"][name]
        assert found["characters"] == len(text)
        assert found["characters_per_token"]["before"] == len(text) / len(old.encode(text))
        assert found["bytes_per_token"]["after"] == len(text.encode()) / len(new.encode(text))
    assert certificate["domains"]["en"]["bytes_per_token"]["before"] == certificate["domains"]["en"]["bytes_per_token"]["after"]
    example = certificate["examples"][0]
    assert "".join(example["after"]) == example["text"] and len(example["after"]) < len(example["before"])
    assert "".join(x for x in example["before"] if x != "+") == example["text"]


class Tags(html.parser.HTMLParser):
    """Open tags, and the text in between."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "hr", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_tells_what_the_certificate_does(case):
    right = certify(*case)
    new = copy.deepcopy(case[4])
    new["token_embedder"]["embedding"][-1] += 1
    wrong = certify(*case[:4], new, case[5])
    for certificate, verdict in ((right, "passed"), (wrong, "FAILED")):
        seen = Tags()
        seen.feed(page(certificate, "base <b> & more"))
        assert seen.open == [] and "base <b> & more" in seen.text
        assert seen.text[seen.text.index("Certificate of a vocabulary expansion: ") + 1] == verdict
        text = " ".join(seen.text)
        for part in (
            certificate["old"]["fingerprint"],
            certificate["new"]["fingerprint"],
            "half-width kana",
            "U+2581",
            "reachable",
        ):
            assert part in text, part
        assert f"{certificate['domains']['ja']['characters_per_token']['after']:.3f}" in text
        assert all(reason in text for reason in certificate["failures"])
    older = {k: v for k, v in right.items() if k in ("passed", "failures", "checks", "old", "new")}
    assert "passed" in page(older, "an older one")
