"""What is given to the model and what is scored: one text's own ids, cut at one place for all candidates of a question."""

import io
import itertools

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.evaluation.registry import SCORE, EvaluationTask, token_ids
from ja_llm.vocab.sentencepiece_tokenizer import SentencePieceTokenizer


def template(**more):
    return EvaluationTask("t", SCORE, "ja", lambda *unused: [], (), "accuracy", "higher", "", **more)


def make_tokenizer():
    """SentencePiece with the piece こが whatever the text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ねこが好き、いぬも好き。a cat and a dog"] * 20),
        model_writer=model,
        vocab_size=330,
        hard_vocab_limit=False,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["こが"],
        num_threads=1,
        minloglevel=2,
    )
    return SentencePieceTokenizer(model.getvalue())


TOKENIZER = make_tokenizer()


def test_a_piece_over_the_boundary_moves_the_cut_of_every_candidate():
    candidates = ["が好き", "も好き"]
    pieces = [[TOKENIZER.id_to_piece(i) for i in TOKENIZER.encode("ねこ" + c)] for c in candidates]
    assert any("こが" in piece for piece in pieces[0]) and not any("こも" in piece for piece in pieces[1])
    contexts, targets = zip(*(token_ids(TOKENIZER, "ねこ", c, candidates, template()) for c in candidates), strict=True)
    assert contexts[0] == contexts[1]
    assert "こ" not in TOKENIZER.decode(
        contexts[0][1:]
    )  # こ is scored with both candidates, as with the one that it is joined to
    assert [TOKENIZER.decode(t) for t in targets] == ["こが好き", "こも好き"]
    # Alone, the second candidate would have been given こ for nothing.
    assert len(token_ids(TOKENIZER, "ねこ", "も好き", ["も好き"], template())[0]) > len(contexts[0])


WORDS = st.text("ねこがも好き、 a漢", min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(st.text("ねこがも好き、 a漢", max_size=8), st.lists(WORDS, min_size=1, max_size=4), st.booleans())
def test_context_is_one_for_all_and_the_ids_are_those_of_the_whole_text(context, candidates, eos):
    made = [token_ids(TOKENIZER, context, c, candidates, template(append_eos=eos)) for c in candidates]
    assert all(before == made[0][0] for before, _ in made)
    for candidate, (before, after) in zip(candidates, made, strict=True):
        end = [TOKENIZER.eos_id] if eos else []
        assert before + after == [TOKENIZER.bos_id, *TOKENIZER.encode(context + candidate), *end]
        assert after, "nothing would be scored"
    for order in itertools.permutations(candidates):
        assert token_ids(TOKENIZER, context, candidates[0], order, template(append_eos=eos)) == made[0]


def test_one_changed_value_of_a_large_array_is_another_fingerprint():
    import jax.numpy as jnp
    import numpy as np

    from ja_llm.evaluation.run import weights_fingerprint

    large = np.zeros((1024, 2048), np.float32)
    known = weights_fingerprint({"a": large, "b": np.ones(3, np.float32)})
    assert known == weights_fingerprint({"a": jnp.asarray(large), "b": np.ones(3, np.float32)})
    for place in ((0, 0), (511, 1023), (1023, 2047)):
        other = large.copy()
        other[place] = np.finfo(np.float32).tiny
        assert weights_fingerprint({"a": other, "b": np.ones(3, np.float32)}) != known, place
    for value in ({"a": large.T, "b": np.ones(3, np.float32)}, {"b": large, "a": np.ones(3, np.float32)}, {"a": large}):
        assert weights_fingerprint(value) != known
    halves = [np.zeros(4096, jnp.bfloat16) for _ in range(2)]
    halves[1][-1] = 1e-30
    assert weights_fingerprint(halves[:1]) != weights_fingerprint(halves[1:])


@pytest.mark.parametrize("inputs", ["", "ねこ"])
def test_without_candidates_only_what_lies_in_the_inputs_is_context(inputs):
    before, after = token_ids(TOKENIZER, inputs, "も好き", [], template())
    assert TOKENIZER.decode(before[1:]) == inputs and len(before) == 1 + (len(TOKENIZER.encode(inputs)) if inputs else 0)
    assert before + after == [TOKENIZER.bos_id, *TOKENIZER.encode(inputs + "も好き")]
