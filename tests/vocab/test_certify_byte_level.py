"""The certificate of a byte-level expansion: right, and wrong in one place."""

import copy
import json

import numpy as np
import pytest

from ja_llm.vocab.byte_level import to_characters
from ja_llm.vocab.certify import certify
from ja_llm.vocab.expand_byte_level import expand_byte_level
from ja_llm.vocab.initialise import expand_params
from ja_llm.vocab.kinds import kind_of


@pytest.fixture(scope="module", params=["smollm2", "llama3"])
def case(request, byte_level, english, code, japanese):
    base = byte_level([english, code], request.param)
    rng = np.random.default_rng(0)
    rows = base.vocab_size + 24  # padded, as Qwen's tables are
    old = {
        "token_embedder": {"embedding": rng.normal(size=(rows, 8)).astype(np.float32)},
        "logits_dense": {"kernel": rng.normal(size=(8, rows)).astype(np.float32)},
    }
    expansion = expand_byte_level(base, [japanese], new_pieces=200)
    new = expand_params(old, expansion.sources, base_size=base.vocab_size, padding=3)
    return [base, expansion.tokenizer, expansion.sources, old, new, {"en": [english], "ja": [japanese], "code": [code]}]


def failures(case, **options) -> str:
    return " | ".join(certify(*case, **{"padding": 3, **options})["failures"])


def test_a_right_expansion_passes(case):
    certificate = certify(*case, padding=3)
    assert certificate["failures"] == []
    checks = certificate["checks"]
    assert checks["english_and_code_identical"]["share"] == 1.0 and checks["english_and_code_identical"]["texts"] > 1000
    assert checks["reachable"]["dead"] == 0
    assert checks["embedding_rows_are_means"]["max_abs_error"] < 1e-6
    assert checks["head_rows_are_means"]["max_abs_error"] < 1e-6
    assert checks["old_head_rows_identical"]["base_padding_dropped"] == 24
    gain = checks["tokens_per_japanese_character"]
    assert gain["after"] < 0.6 * gain["before"]
    assert json.loads(json.dumps(certificate)) == certificate


def with_json(case, change) -> list:
    value = json.loads(case[1].model_text)
    change(value)
    return [case[0], case[1].with_model(value), *case[2:]]


def test_a_changed_old_merge_a_lost_new_merge_and_a_foreign_piece_fail(case):
    size = case[0].vocab_size

    def swap_old(value):
        merges = value["model"]["merges"]
        merges[3], merges[4] = merges[4], merges[3]

    def lose(value):
        del value["model"]["merges"][-5]

    def rename(value):
        vocab = value["model"]["vocab"]
        name = next(p for p, i in vocab.items() if i == size + 7)
        value["model"]["merges"] = [m for m in value["model"]["merges"] if name not in m and "".join(m) != name]
        del vocab[name]
        vocab["zq"] = size + 7

    def move_special(value):
        value["added_tokens"][0]["special"] = False

    assert "old merges changed" in failures(with_json(case, swap_old))
    assert "are never used" in failures(with_json(case, lose))
    assert "other than Japanese characters" in failures(with_json(case, rename))
    assert "added_tokens changed" in failures(with_json(case, move_special))


def test_new_merges_in_another_order_fail(case):
    """Any two that make a piece of their own; which of two neighbours without one comes first only the fingerprint tells."""
    old, vocab = len(case[0].model_json["model"]["merges"]), case[0].model_json["model"]["vocab"]
    own = [n for n, m in enumerate(case[1].model_json["model"]["merges"]) if n >= old and "".join(m) not in vocab]
    draw = np.random.default_rng(0)
    for a, b in (draw.choice(own, 2, replace=False) for _ in range(10)):

        def swap(value, a=a, b=b):
            merges = value["model"]["merges"]
            merges[a], merges[b] = merges[b], merges[a]

        broken = with_json(case, swap)
        assert "in another order than the pieces" in " | ".join(kind_of(case[0]).changes(broken[1])), (a, b)
    assert "pieces: new merges stand in another order" in failures(broken)
    assert "recorded: the fingerprint is" in failures(broken, fingerprints={"recorded": case[1].fingerprint})
    assert "recorded" not in failures(case, fingerprints={"recorded": case[1].fingerprint})


def test_a_merge_that_cuts_english_otherwise_fails(case):
    def join(value):
        value["model"]["merges"].append(["t", "h"] if ["t", "h"] not in value["model"]["merges"] else ["q", "z"])
        a, b = value["model"]["merges"][-1]
        if a + b not in value["model"]["vocab"]:
            value["model"]["vocab"][a + b] = max(value["model"]["vocab"].values()) + 1

    assert "pieces:" in failures(with_json(case, join))


@pytest.mark.parametrize(
    ("where", "row"), [("embedding", -4), ("kernel", -4), ("embedding", -1), ("kernel", -1), ("embedding", 9)]
)
def test_one_wrong_row_of_pieces_or_padding_fails(case, where, row):
    new = copy.deepcopy(case[4])
    table = new["token_embedder"]["embedding"] if where == "embedding" else new["logits_dense"]["kernel"].T
    table[row, 2] += np.float32(2e-6)
    found = failures([*case[:4], new, case[5]])
    wanted = "old rows changed" if row == 9 else "not zero" if row == -1 else "not the mean"
    assert wanted in found and ("embedding" if where == "embedding" else "head") in found


def test_padding_that_the_model_does_not_mask_fails(case):
    assert "0 that pad" in failures(case, padding=0)


def test_a_piece_that_no_merge_makes_is_dead(case):
    def add(value):
        vocab = value["model"]["vocab"]
        a, b = to_characters("する".encode()), to_characters("鯨".encode())
        for piece in (a, b, a + b):
            vocab.setdefault(piece, max(vocab.values()) + 1)

    broken = with_json(case, add)
    broken[2] = [*case[2], *[[3]] * (broken[1].vocab_size - case[1].vocab_size)]
    assert "never used" in failures(broken)
