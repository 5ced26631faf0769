"""The card says what the ledger has, and nothing where it has nothing."""

import types

import pytest

from ja_llm.interop.model_card import model_card


def card(**ledger):
    config = types.SimpleNamespace(family="llama", num_layers=2, embed_dim=8, vocab_size=300)
    tokenizer = types.SimpleNamespace(fingerprint="f" * 64)
    return model_card(types.SimpleNamespace(ledger=ledger, config=config, step=3, tokenizer=tokenizer), "bfloat16")


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
