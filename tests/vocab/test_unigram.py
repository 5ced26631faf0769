"""Unigram: EM against brute force over all segmentations, likelihood that never falls, union that leaves English alone."""

import copy
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.errors import JaLlmError
from ja_llm.vocab.certify import certify
from ja_llm.vocab.initialise import expand_params
from ja_llm.vocab.japanese import JAPANESE
from ja_llm.vocab.sentencepiece_tokenizer import CONTROL, SentencePieceTokenizer
from ja_llm.vocab.train import train_sentencepiece
from ja_llm.vocab.unigram import expand_unigram, expected_counts, reestimate

FIVE = {"a": math.log(0.3), "b": math.log(0.2), "ab": math.log(0.25), "ba": math.log(0.1), "aba": math.log(0.15)}


@pytest.fixture(scope="module")
def unigram(english, code, base_japanese, tmp_path_factory):
    texts = [english, code, base_japanese]
    return train_sentencepiece(texts, tmp_path_factory.mktemp("unigram"), vocab_size=560, model_type="unigram")


@pytest.fixture(scope="module")
def grown(unigram, japanese):
    return expand_unigram(unigram, [japanese], new_pieces=160)


def segmentations(word: str):
    for cuts in itertools.product([0, 1], repeat=len(word) - 1):
        places = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(word)]
        yield [word[a:b] for a, b in itertools.pairwise(places)]


def brute(word: str, scores: dict[str, float]) -> tuple[float, dict[str, float]]:
    total, counts = 0.0, dict.fromkeys(scores, 0.0)
    for pieces in segmentations(word):
        if all(piece in scores for piece in pieces):
            p = math.exp(sum(scores[piece] for piece in pieces))
            total += p
            for piece in pieces:
                counts[piece] += p
    return math.log(total), {piece: count / total for piece, count in counts.items()}


@given(st.text(alphabet="ab", min_size=1, max_size=10))
def test_five_pieces_equal_brute_force_over_all_segmentations(word):
    log_sum, counts = expected_counts(word, FIVE, 3, -50.0)
    wanted, wanted_counts = brute(word, FIVE)
    assert math.isclose(log_sum, wanted, rel_tol=1e-12, abs_tol=1e-12)
    for piece in FIVE:
        assert math.isclose(counts.get(piece, 0.0), wanted_counts[piece], rel_tol=1e-9, abs_tol=1e-12)


def test_one_step_is_the_brute_force_m_step():
    words = {"abab": 3, "aba": 2, "bab": 1}
    scores, _, likelihoods = reestimate(words, FIVE, {}, 1)
    counts = {piece: sum(n * brute(word, FIVE)[1][piece] for word, n in words.items()) for piece in FIVE}
    for piece in FIVE:
        assert math.isclose(math.exp(scores[piece]), counts[piece] / sum(counts.values()), rel_tol=1e-9)
    for likelihood, s in zip(likelihoods, (FIVE, scores), strict=True):
        assert math.isclose(likelihood, sum(n * brute(word, s)[0] for word, n in words.items()), rel_tol=1e-12)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_likelihood_never_falls_whatever_is_fixed(data):
    pieces = sorted(data.draw(st.sets(st.text(alphabet="abc", min_size=1, max_size=3), min_size=1, max_size=8)) | set("abc"))
    scores = {piece: -data.draw(st.floats(0.1, 6)) for piece in pieces}
    fixed = {piece: scores.pop(piece) for piece in data.draw(st.sets(st.sampled_from(pieces), max_size=4))}
    scores = scores or {"abcabc": -1.0}
    total = math.log(sum(math.exp(s) for s in scores.values()))
    scores = {piece: score - total for piece, score in scores.items()}
    words = data.draw(st.dictionaries(st.text(alphabet="abc", min_size=1, max_size=9), st.integers(1, 4), min_size=1, max_size=5))
    words |= {next(iter(scores)): 1}  # some free piece is expected somewhere
    least = data.draw(st.sampled_from([-math.inf, -3.0, -1.0]))
    found, _, likelihoods = reestimate(words, scores, fixed, 5, least)
    assert math.isclose(sum(map(math.exp, found.values())), 1.0, rel_tol=1e-9)
    assert min(found.values()) >= min(least, math.log(0.5 / len(scores))) - 1e-9
    assert all(b >= a - 1e-9 * abs(a) for a, b in itertools.pairwise(likelihoods))


def test_old_pieces_stay_and_every_new_one_is_reached(unigram, grown, japanese):
    before, after = unigram.proto.pieces, grown.tokenizer.proto.pieces
    assert list(after)[: len(before)] == list(before)
    assert len(grown.pieces) > 100 and grown.tokenizer.vocab_size % 8 == 0
    for i, piece in enumerate(grown.pieces):
        assert unigram.vocab_size + i in grown.tokenizer.encode(f"(x) {piece}."), piece
    assert math.isclose(sum(math.exp(p.score) for p in list(after)[len(before) :]), 1.0, abs_tol=1e-6)
    assert len(grown.tokenizer.encode(japanese)) < 0.6 * len(unigram.encode(japanese))
    assert grown.tokenizer.decode(grown.tokenizer.encode(japanese)) == japanese


@given(text=st.text(max_size=60).filter(lambda t: not JAPANESE.search(t)))
@settings(max_examples=200, deadline=None)
def test_ids_of_text_without_japanese_never_change(unigram, grown, text):
    assert grown.tokenizer.encode(text) == unigram.encode(text)


def test_the_certificate_passes_and_one_wrong_score_or_row_fails_it(unigram, grown, english, japanese):
    rng = np.random.default_rng(0)
    old = {"token_embedder": {"embedding": rng.normal(size=(unigram.vocab_size, 4)).astype(np.float32)}}
    new = expand_params(old, grown.sources)
    case = [unigram, grown.tokenizer, grown.sources, old, new, {"en": [english], "ja": [japanese]}]
    assert certify(*case)["failures"] == []
    for index, by in ((-1, 0.3), (-40, -0.3), (300, 0.1)):
        proto = grown.tokenizer.proto
        proto.pieces[index].score += by
        broken = SentencePieceTokenizer(proto.SerializeToString())
        assert any(f.startswith("pieces:") for f in certify(unigram, broken, *case[2:])["failures"]), index
    made = {"recorded": grown.tokenizer.fingerprint}
    assert certify(*case, fingerprints=made)["failures"] == []
    for change in (lambda p: p[-1], lambda p: min(p[unigram.vocab_size :], key=lambda piece: piece.score)):
        proto = grown.tokenizer.proto
        change(proto.pieces).score += 1e-6  # the rarest: its whole probability is less than rounding moves the sum
        broken = SentencePieceTokenizer(proto.SerializeToString())
        assert broken.fingerprint != grown.tokenizer.fingerprint
        failed = certify(unigram, broken, *case[2:], fingerprints=made)["failures"]
        assert any(f.startswith("recorded: the fingerprint is") for f in failed)
    proto = grown.tokenizer.proto
    proto.pieces[-1].score, proto.pieces[-30].score = proto.pieces[-30].score, proto.pieces[-1].score
    broken = SentencePieceTokenizer(proto.SerializeToString())
    assert "stand behind less likely ones" in " ".join(certify(unigram, broken, *case[2:])["failures"])
    wrong = copy.deepcopy(new)
    wrong["token_embedder"]["embedding"][-3, 1] += 1e-5
    assert "not the mean" in " ".join(certify(*case[:4], wrong, case[5])["failures"])


def test_a_piece_that_is_a_special_token_already_is_left_out_and_told(unigram, grown, japanese):
    assert "ファイル" in grown.pieces
    proto = unigram.proto
    proto.pieces.add(piece="ファイル", score=0.0, type=CONTROL)
    without = expand_unigram(SentencePieceTokenizer(proto.SerializeToString()), [japanese], new_pieces=160)
    assert "ファイル" not in without.pieces and without.unreachable == ["ファイル"]


def test_other_models_and_other_texts_are_refused(base, unigram, english):
    with pytest.raises(JaLlmError, match="no SentencePiece unigram"):
        expand_unigram(base, ["日本"], new_pieces=8)
    with pytest.raises(JaLlmError, match="no Japanese characters"):
        expand_unigram(unigram, [english], new_pieces=8)
    proto = unigram.proto
    proto.normalizer_spec.precompiled_charsmap, proto.normalizer_spec.name = b"", "nmt_nfkc"
    proto.trainer_spec.treat_whitespace_as_suffix = True
    with pytest.raises(JaLlmError, match="nmt_nfkc"):
        expand_unigram(SentencePieceTokenizer(proto.SerializeToString()), ["日本"], new_pieces=8)
