"""Likelihoods and greedy texts equal transformers' on tiny models of several families, with and without shared prefixes."""

import dataclasses

import jax
import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.branch_scoring import ContinuationScorer
from ja_llm.evaluation.generation import Generator
from ja_llm.evaluation.prefix_cache import PrefixCache, bucket, shared_blocks
from ja_llm.interop.hf import import_hf
from ja_llm.train.checkpoints import load_model
from ja_llm.vocab.train import train_sentencepiece

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB = 300
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
}
FAMILIES = {
    "Llama": {},
    # A window shorter than the shared prefix.
    "Gemma2": {"head_dim": 8, "sliding_window": 50, "query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0},
    "GPTBigCode": {},
}
BIGCODE = {"vocab_size": VOCAB, "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 160}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = ["海は青い。 The sea is blue." * 3] * 20
    return train_sentencepiece(texts, tmp_path_factory.mktemp("vocab"), vocab_size=VOCAB)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tokenizer, tmp_path_factory):
    """(transformers' model with large random weights, the same one of ours)"""
    torch.manual_seed(1)
    name = request.param
    config = getattr(transformers, f"{name}Config")(**({**SIZES, **FAMILIES[name]} if name != "GPTBigCode" else BIGCODE))
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.dim() > 1:
                value.mul_(10 if "emb" not in key and "wte" not in key else 3)
    folder = tmp_path_factory.mktemp(name)
    model.save_pretrained(folder / "theirs")
    tokenizer.save(folder / "theirs")
    import_hf(folder / "theirs", folder / "ours")
    return model, load_model(folder / "ours")


def rows(seed=0):
    """Two kinds of questions behind examples of their own, some with choices of one token, some alone, one with an empty text."""
    draw = np.random.default_rng(seed)
    ids = lambda n: draw.integers(0, VOCAB, n).tolist()  # noqa: E731
    found = []
    for length in (70, 75):
        examples = ids(length)
        for number in range(5):
            question = ids(12 + number)
            texts = [ids(1) for _ in range(4)] if number % 2 else [ids(int(n)) for n in draw.integers(2, 9, 4)]
            if number == 2:
                texts[1] = [*texts[0][:7], 5]  # one choice begins with another
            found += [(examples + question, text) for text in texts]
    long = ids(100)
    found += [(ids(1), ids(9)), (ids(110), ids(8)), ([0], []), ([0], [0, 0]), (ids(120), ids(9))]
    return [*found, *((long, text) for text in ([7, 3], [7, 8], [9, 7], [7, 3, 4]))]


@pytest.fixture(scope="module")
def theirs(case):
    """transformers' log-likelihoods and whether the text is the greedy one, row by row, without padding or cache."""
    found = []
    for context, text in rows():
        with torch.no_grad():
            logits = case[0](torch.tensor([context + text])).logits[0].double().log_softmax(-1).numpy()
        picked = [(logits[p][t], logits[p].argmax() == t) for p, t in enumerate(text, len(context) - 1)]
        found.append((sum(p for p, _ in picked), all(g for _, g in picked)))
    return found


@pytest.mark.parametrize("share", [True, False])
def test_likelihoods_equal_transformers(case, theirs, share):
    scorer = ContinuationScorer(case[1], 8, share)
    scores = scorer(rows())
    np.testing.assert_allclose([s.nats for s in scores], [nats for nats, _ in theirs], atol=1e-4)
    assert [s.greedy for s in scores] == [greedy for _, greedy in theirs]
    assert [s.tokens for s in scores] == [len(text) for _, text in rows()]
    # Texts that differ in their last token alone are one row; nothing else is saved without sharing.
    alone = sum(len(context + text) for context, text in {(tuple(c), tuple(t[:-1])) for c, t in rows() if t})
    assert scorer.computed == alone if not share else scorer.computed < alone / 2


def prompts():
    draw = np.random.default_rng(3)
    examples = draw.integers(3, VOCAB, 90).tolist()
    return [examples + draw.integers(3, VOCAB, n).tolist() for n in (3, 20, 27, 9, 4)]


@pytest.mark.parametrize("share", [True, False])
def test_greedy_texts_equal_transformers(case, share):
    model, ours = case
    generator = Generator(ours, 8)
    if share:
        cache = PrefixCache(ours.config, ours.params)
        generator.share_prefixes(cache)
    texts = generator.continue_ids(prompts(), 24)
    for prompt, text in zip(prompts(), texts, strict=True):
        with torch.no_grad():
            ids = model.generate(
                torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=ours.tokenizer.eos_id, pad_token_id=0
            )[0].tolist()
        ids = ids[len(prompt) :]
        ids = ids[: ids.index(ours.tokenizer.eos_id)] if ours.tokenizer.eos_id in ids else ids
        assert text == generator._text(prompt, ids, ())[0]
    assert not share or cache.computed == 64


ONE_FAMILY = pytest.mark.parametrize("case", ["Llama"], indirect=True)

# What goes wrong in prefix caches and padding -> how it is put into the code.
FAULTS = {
    "a token of the prefix is missing": ("prefix", lambda tokens: tokens[:-1]),
    "a token of the prefix is another one": ("prefix", lambda tokens: (*tokens[:-1], (tokens[-1] + 1) % VOCAB)),
    "padding counts as a token": ("lengths", lambda lengths: np.where(lengths > 0, lengths + 1, lengths)),
    "the first token is taken for padding": ("lengths", lambda lengths: np.maximum(lengths - 1, 0)),
    "the stem of the row above": ("rows", lambda leaves: [*leaves[1:], leaves[0]]),
    "another group's prefix": ("stale", None),
}


@ONE_FAMILY
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_error_is_seen(case, theirs, monkeypatch, fault):
    where, change = FAULTS[fault]
    if where == "prefix":
        plain = PrefixCache.rows
        monkeypatch.setattr(
            PrefixCache, "rows", lambda self, prefix, *rest: plain(self, change(prefix) if prefix else prefix, *rest)
        )
    if where == "lengths":
        padded = ContinuationScorer._padded
        monkeypatch.setattr(ContinuationScorer, "_padded", lambda self, rows: (lambda t, n: (t, change(n)))(*padded(self, rows)))
    if where == "rows":
        score = ContinuationScorer._score
        turned = lambda self, leaves, cache: score(self, leaves if cache is None else change(list(leaves)), cache)  # noqa: E731
        monkeypatch.setattr(ContinuationScorer, "_score", turned)
    if where == "stale":
        plain, first = PrefixCache.rows, []
        monkeypatch.setattr(
            PrefixCache,
            "rows",
            lambda self, prefix, *rest: (
                (first.append(prefix), plain(self, first[0], *rest))[1] if prefix else plain(self, prefix, *rest)
            ),
        )
    try:
        scores = ContinuationScorer(case[1], 8)(rows())
    except JaLlmError as error:
        assert "NaN" in str(error)  # places beyond the row are read
        return
    assert max(abs(s.nats - nats) for s, (nats, _) in zip(scores, theirs, strict=True)) > 1e-2


@ONE_FAMILY
def test_results_do_not_depend_on_what_was_scored_before(case):
    fresh = ContinuationScorer(case[1], 8)
    used = ContinuationScorer(case[1], 8)
    used(rows(seed=4))
    assert used(rows()) == fresh(rows())


def test_blocks_and_buckets():
    a, b = tuple(range(200)), tuple(range(150)) + (9,) * 50
    assert shared_blocks([a, b, a], 2) == [128] * 3
    assert shared_blocks([a, a], 2) == [0, 0]  # the same question's choices are no shared prefix
    assert shared_blocks([a, a, a[:63]], 2) == [0] * 3 and shared_blocks([], 2) == []
    sizes = [bucket(n, 1000) for n in range(1, 1001)]
    assert sizes == sorted(sizes) and all(n <= size for n, size in enumerate(sizes, 1)) and len(set(sizes)) == 12
    assert all(size <= 1.5 * n for n, size in enumerate(sizes, 1) if n > 128)


@ONE_FAMILY
def test_rows_that_do_not_fit_are_refused(case):
    scorer = ContinuationScorer(case[1], 2)
    with pytest.raises(UsageError, match="row 1 has no context token"):
        scorer([([1], [2]), ([], [2])])
    with pytest.raises(UsageError, match="row 0 has 162 tokens, but the model knows 160"):
        scorer([([1] * 102, [2] * 60)])
    with pytest.raises(JaLlmError, match=f"token id {VOCAB}, but the model has {VOCAB} rows"):
        scorer([([1], [VOCAB])])
    with pytest.raises(UsageError, match="at least 1"):
        ContinuationScorer(case[1], 0)
    broken = dataclasses.replace(case[1], params=jax.tree.map(lambda x: x * np.nan, case[1].params))
    with pytest.raises(JaLlmError, match="NaN or infinity for row 0"):
        ContinuationScorer(broken, 2)([([1], [2])])
