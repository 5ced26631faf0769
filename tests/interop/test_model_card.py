"""The card says what the ledger has, and nothing where it has nothing."""

import json
import types

import pytest

from ja_llm.interop.model_card import model_card


def card(directory=None, **ledger):
    config = types.SimpleNamespace(family="llama", num_layers=2, embed_dim=8, vocab_size=300)
    tokenizer = types.SimpleNamespace(fingerprint="f" * 64)
    loaded = types.SimpleNamespace(ledger=ledger, config=config, step=3, tokenizer=tokenizer, directory=directory)
    return model_card(loaded, "bfloat16")


def test_each_stage_tells_its_tasks_and_document_sets():
    stages = [
        {"from_step": 0, "shares": {"web_ja": 0.9, "web_en": 0.1}, "documents": {"web": "ab" * 32}},
        {"from_step": 20, "shares": {"wiki_ja": 1.0}, "documents": {"wiki": "cd" * 32}},
    ]
    section = card(job="train", contents=stages).split("## Training data\n")[1].strip().splitlines()
    assert section[2:] == [
        "| 0 | web_ja 90 %, web_en 10 % | web `abababababab` |",
        "| 20 | wiki_ja 100 % | wiki `cdcdcdcdcdcd` |",
    ]


def test_what_was_measured_at_or_before_the_step_stands_there(tmp_path):
    lines = [
        {"step": 0, "eval/heldout_ja/bits_per_byte": 3.5, "eval/heldout_ja/bits_per_byte_low": 3.4},
        {"step": 2, "loss": 4.25, "eval/heldout_ja/bits_per_byte": 2.125, "grad_norm": 1.0},
        {"step": 3, "loss": 4.125},
        {"step": 4, "loss": 9.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {"tasks": {"niilc": {"char_f1": 0.25, "exact_match": 0.125, "about": {"headline": "char_f1"}}, "odd": {}}}
    (tmp_path / "eval" / "step_3").mkdir(parents=True)
    (tmp_path / "eval" / "step_3" / "results.json").write_text(json.dumps(results))
    section = card(tmp_path, job="train").split("## Measured\n")[1].strip().splitlines()
    assert section[2:] == [
        "| eval/heldout_ja/bits_per_byte at step 2 of training | 2.125 |",
        "| loss at step 3 of training | 4.125 |",
        "| niilc: char_f1 (step 3) | 0.25 |",
    ]
    assert "## Measured" not in card(tmp_path / "empty", job="train")


def test_licences_of_the_training_texts_stand_in_order_of_their_documents():
    text = card(job="train", licences={"CC0-1.0": 7, "CC-BY-SA-4.0": 1200, "": 7, "GPL | MIT\n2": 1})
    section = text.split("## Training text licences\n")[1].strip().splitlines()
    assert section[2:] == ["| CC-BY-SA-4.0 | 1,200 |", "| not stated | 7 |", "| CC0-1.0 | 7 |", "| GPL \\| MIT 2 | 1 |"]


@pytest.mark.parametrize("ledger", [{}, {"licences": {}}, {"licences": ["CC0-1.0"]}])
def test_without_licences_nothing_is_said(ledger):
    assert "licence" not in card(job="train", **ledger)


def test_the_licence_of_the_first_weights_is_the_front_matter_and_a_row():
    text = card(job="train", licences={"CC0-1.0": 1}, parents=[{"name": "base", "licence": "apache-2.0"}])
    assert text.startswith("---\nlicense: apache-2.0\n") and "| licences of the weights it is made from | apache-2.0 |" in text


def test_texts_that_the_base_was_trained_on_count_too():
    text = card(job="train", licences={"CC0-1.0": 7}, parents=[{"name": "base", "licences": {"CC0-1.0": 3, "GFDL-1.3": 2}}])
    assert "| CC0-1.0 | 7 |\n| GFDL-1.3 | 2 |" in text
