"""Greedy continuations equal a token-by-token brute force; batches, stops and limits do what they say."""

import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.generation import _nucleus

PROMPTS = ["a", "hello", "日本", "x" * 50, "", "zz"]


def ids(prompt):
    return [256, *prompt.encode()]


def test_greedy_equals_brute_force(prefix_generator, slow_logits, byte_tokenizer):
    texts = prefix_generator(batch_size=4).continue_ids([ids(p) for p in PROMPTS], 20)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        sequence = ids(prompt)
        for _ in range(20):
            sequence.append(int(np.argmax(slow_logits(sequence))))
            if sequence[-1] == 257:
                break
        expected = byte_tokenizer.decode(sequence)[len(prompt) :]
        # Only an end says that a character was left unfinished; at the limit its bytes are not shown.
        assert text == (expected if sequence[-1] == 257 else expected.rstrip("\ufffd"))
        assert sequence[-1] == 257 or not text.endswith("\ufffd")
    assert any(texts)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_its_batch(prefix_generator, temperature):
    generator = prefix_generator(batch_size=4, temperature=temperature, seed=3)
    together = generator.continue_ids([ids(p) for p in PROMPTS], 18)
    again = prefix_generator(batch_size=4, temperature=temperature, seed=3).continue_ids([ids(p) for p in PROMPTS[:2]], 18)
    assert again == together[:2]


def test_seed_and_temperature_matter(prefix_generator):
    one, two = (prefix_generator(temperature=1.0, seed=s).continue_ids([ids("a")], 30) for s in (0, 1))
    assert one != two
    first, second = prefix_generator(temperature=1.0).continue_ids([ids("a")] * 2, 30)
    assert first != second


def test_stop_text_and_token_limit(prefix_generator):
    generator = prefix_generator()
    (text,) = generator.continue_ids([ids("hello")], 30)
    assert len(text) > 5
    stop = text[3:5]
    assert generator.continue_ids([ids("hello")], 30, [stop, "never there"]) == [text[: text.index(stop)]]
    (short,) = generator.continue_ids([ids("hello")], 4)
    assert text.encode("utf-8", "replace").startswith(short.rstrip("\ufffd").encode("utf-8", "replace"))


def test_what_does_not_fit_is_refused_or_cut(prefix_generator):
    generator = prefix_generator()
    long = [256, *range(1, 121)]
    with pytest.raises(UsageError, match="121 tokens"):
        generator.continue_ids([long], 20)
    cut = [256, *range(1, 121)[-(128 - 20 - 1) :]]
    assert generator.continue_ids([long], 20, cut_prompts=True) == generator.continue_ids([cut], 20)
    with pytest.raises(UsageError, match="from 1 to 127"):
        generator.continue_ids([long], 128)
    with pytest.raises(JaLlmError, match="no token"):
        generator.continue_ids([[]], 2)


def test_nucleus_is_the_smallest_set_of_likely_tokens():
    draw = np.random.default_rng(0)
    for top_p in (0.1, 0.5, 0.95):
        logits = draw.normal(size=(40, 30)).astype(np.float32) * 3
        kept = np.isfinite(np.asarray(_nucleus(logits, top_p)))
        for row, keeps in zip(logits.astype(np.float64), kept, strict=True):
            shares = np.exp(row) / np.exp(row).sum()
            wanted, total = set(), 0.0
            for token in sorted(range(30), key=lambda t: -shares[t]):
                if total >= top_p:
                    break
                wanted.add(token)
                total += shares[token]
            assert set(np.flatnonzero(keeps)) == wanted


def test_top_p_and_numbers_decide_what_is_drawn(prefix_generator):
    prompts = [ids("a")] * 6
    greedy = prefix_generator(batch_size=4).continue_ids(prompts[:1], 12)
    assert prefix_generator(batch_size=4, temperature=1.0, top_p=1e-6).continue_ids(prompts, 12) == greedy * 6
    generator = prefix_generator(batch_size=4, temperature=1.0, top_p=0.95)
    texts = generator.continue_ids(prompts, 12)
    assert len(set(texts)) > 3
    assert generator.continue_ids(prompts[:2], 12, numbers=[4, 1]) == [texts[4], texts[1]]
