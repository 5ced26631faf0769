"""The embedded base is what the docs say: small, English, a Hugging Face folder with its ledger and its log."""

import json

import numpy as np
import pytest

from ja_llm.interop.hf import LEDGER, import_hf
from ja_llm.models.decoder import Decoder
from ja_llm.quickstart import make_base
from ja_llm.quickstart.run import embedded_base
from ja_llm.train.checkpoints import load_model
from ja_llm.train.metrics import read_metrics

TEXT = "The following options are read from the file in your home directory."


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The base as the quickstart imports it."""
    target = tmp_path_factory.mktemp("base") / "models"
    import_hf(embedded_base(), target)
    return load_model(target)


def test_it_is_small_and_of_the_promised_size(base):
    assert sum(path.stat().st_size for path in embedded_base().iterdir()) <= 6_000_000
    parameters = sum(leaf.size for leaf in _leaves(base.params))
    assert 1_000_000 <= parameters <= 4_000_000
    assert base.config.family == "llama" and base.tokenizer.vocab_size == 3000


def test_transformers_gives_its_logits(base):
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(embedded_base(), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_base())
    ids = [base.tokenizer.bos_id, *base.tokenizer.encode(TEXT)]
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == ids[1:]
    tokens = np.asarray([ids], np.int32)
    ours = np.asarray(Decoder(base.config).apply({"params": base.params}, tokens, tokens), np.float64)
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens.astype(np.int64))).logits.double().numpy()
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


def test_its_ledger_and_log_are_of_the_command_that_makes_it(tmp_path):
    ledger = json.loads((embedded_base() / LEDGER).read_text())
    wanted = make_base.config(tmp_path)
    identity = ledger["identity"]
    assert ledger["step"] == identity["schedule"]["total_steps"] == wanted.base.steps
    assert (identity["batch_size"], identity["length"], identity["schedule"]["peak"]) == (
        wanted.batch_size,
        wanted.length,
        wanted.base.rate,
    )
    assert ledger["licences"] and ledger["code"]["commit"] and "dirty" not in ledger["code"]["commit"]
    lines = read_metrics(embedded_base().with_name("base.metrics.jsonl"))
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, wanted.base.steps + 1))
    card = (embedded_base() / "README.md").read_text()
    assert "## Training text licences" in card and all(f"| {name} |" in card for name in ledger["licences"])


def test_it_knows_english_and_no_japanese(base):
    from ja_llm.evaluation.bits_per_byte import sequence_scores, summarise
    from ja_llm.evaluation.scoring import Scorer

    scorer = Scorer.from_decoder(base.config, None, 4, 128)
    scorer.use(base.params)

    def bits(text):
        ids = [base.tokenizer.bos_id, *base.tokenizer.encode(text), base.tokenizer.eos_id]
        return summarise(sequence_scores(scorer, [(ids, len(text.encode()))]))["bits_per_byte"]

    assert bits(TEXT) < 2.0, "a uniform choice among 256 bytes costs 8"
    assert bits("".join(reversed(TEXT))) > 2 * bits(TEXT)
    assert bits("むかし、この町には古い橋がありました。") > 3.0


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)
