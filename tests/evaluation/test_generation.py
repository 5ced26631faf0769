"""Greedy continuations equal a token-by-token brute force; batches, streams, stops and limits do what they say."""

import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import generation
from ja_llm.evaluation.sampling import Sampling

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
    settings = {"sampling": Sampling(temperature=temperature), "seed": 3}
    together = prefix_generator(batch_size=4).continue_ids([ids(p) for p in PROMPTS], 18, **settings)
    again = prefix_generator(batch_size=4).continue_ids([ids(p) for p in PROMPTS[:2]], 18, **settings)
    assert again == together[:2]
    assert [with_ends(prefix_generator(batch_size=1), n, settings) for n in range(len(PROMPTS))] == [
        text.replace("\ufffd", "") for text in together
    ]


def with_ends(generator, number, settings):
    return "".join(generator.stream(ids(PROMPTS[number]), 18, number=number, **settings))


def test_seed_and_temperature_matter(prefix_generator):
    hot = Sampling(temperature=1.0)
    one, two = (prefix_generator().continue_ids([ids("a")], 30, sampling=hot, seed=s) for s in (0, 1))
    assert one != two
    first, second = prefix_generator().continue_ids([ids("a")] * 2, 30, sampling=hot)
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
    with pytest.raises(UsageError, match="writes 1 to 127 tokens"):
        generator.continue_ids([long], 128)
    with pytest.raises(JaLlmError, match="no token"):
        generator.continue_ids([[]], 2)


def test_top_p_and_numbers_decide_what_is_drawn(prefix_generator):
    prompts = [ids("a")] * 6
    greedy = prefix_generator(batch_size=4).continue_ids(prompts[:1], 12)
    generator = prefix_generator(batch_size=4)
    for narrow in ({"top_p": 1e-6}, {"top_k": 1}, {"min_p": 1.0}):
        assert generator.continue_ids(prompts, 12, sampling=Sampling(temperature=1.0, **narrow)) == greedy * 6
    wide = Sampling(temperature=1.0, top_p=0.95)
    texts = generator.continue_ids(prompts, 12, sampling=wide)
    assert len(set(texts)) > 3
    assert generator.continue_ids(prompts[:2], 12, sampling=wide, numbers=[4, 1]) == [texts[4], texts[1]]


def test_a_penalty_sees_the_prompt_and_what_was_written(prefix_generator, slow_logits):
    prompt = ids("abcabc")
    (tokens,) = prefix_generator(batch_size=2).continue_tokens(
        [prompt], 40, sampling=Sampling(repetition_penalty=1.7), ignore_eos=True
    )
    sequence = list(prompt)
    for _ in range(40):
        logits, seen = slow_logits(sequence), sorted(set(sequence))
        logits[seen] = np.where(logits[seen] > 0, logits[seen] / 1.7, logits[seen] * 1.7)
        sequence.append(int(logits.argmax()))
    assert tokens == sequence[len(prompt) :]
    plain = prefix_generator(batch_size=2).continue_tokens([prompt], 40, ignore_eos=True)[0]
    assert plain != tokens


def test_prompts_and_limits_of_many_lengths_share_few_programs(prefix_generator):
    generator = prefix_generator(batch_size=4)
    generation._compiled_stride.cache_clear()
    prefill, lengths = generator._prefill, set()
    prefill.clear_cache()
    generator._prefill = lambda *args: lengths.add(args[3]) or prefill(*args)
    for limit in (1, 5, 16, 17, 30):
        generator.continue_ids([ids("x" * n) for n in range(0, 90, 7)], limit)
    shapes = prefill._cache_size()
    assert len(lengths) <= 3 and all(length % 64 == 0 or length == generator._max_length for length in lengths), lengths
    programs = generation._compiled_stride(generator._step, 258, Sampling(), 16)._cache_size()
    assert shapes == 3 and programs == 1  # prompts of 32, 64 and 128


def test_a_stream_is_the_batch_and_stops_where_it_stops(prefix_generator):
    generator = prefix_generator(batch_size=1)
    (whole,) = generator.continue_ids([ids("hello")], 30)
    told = whole.replace("\ufffd", "")
    pieces = list(generator.stream(ids("hello"), 30))
    assert "".join(pieces) == told and sum(map(bool, pieces)) > 2
    stop = told[4:7]
    cut = list(generator.stream(ids("hello"), 30, [stop, "never there"]))
    assert "".join(cut) == told[: told.index(stop)] and len(cut) < len(pieces)  # and nothing is computed behind it
    with pytest.raises(UsageError, match="prompt 0 has 121 tokens"):
        next(generator.stream([256, *range(1, 121)], 20))
