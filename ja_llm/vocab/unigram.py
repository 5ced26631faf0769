"""Expansion of SentencePiece unigram models: union with Japanese pieces, whose scores are estimated by EM.

Glot500 (Imani et al. 2023, arXiv:2305.12182) joins a unigram model with one trained on the new languages; LLM-jp then estimates
the scores anew by EM. Here the base's scores stay what they are, to the bit, so that a text without Japanese has the same
best segmentation. The new pieces are a distribution of their own beside them: their probabilities have the sum 1.

EM for a unigram model (Kudo 2018, arXiv:1804.10959, section 3.2): the likelihood of a text is the sum over all of its
segmentations x of prod_i p(x_i). E step: expected counts c(x) by forward and backward sums over the lattice of the text.
M step: p(x) = c(x) / sum c over the pieces that are free, none below a floor, which maximises the expected log-likelihood under
their sum; so the likelihood of the text never falls.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import gin

from ja_llm.errors import JaLlmError
from ja_llm.progress import track
from ja_llm.vocab.expand import check_base, expansion_by, piece_sources
from ja_llm.vocab.expansion import Expansion, check_counts
from ja_llm.vocab.japanese import count_runs, is_japanese, nothing_to_learn
from ja_llm.vocab.sentencepiece_tokenizer import NORMAL, UNIGRAM, SentencePieceTokenizer, parse_proto
from ja_llm.vocab.train import train_model

_UNKNOWN_PENALTY = 10.0  # SentencePiece: a character that no piece covers costs 10 more than the rarest piece


@gin.configurable
def expand_unigram(
    base: SentencePieceTokenizer,
    texts: Iterable[str],
    new_pieces: int = 16000,
    align: int = 8,
    segments: str = "word",
    max_piece_length: int = 8,
    min_count: int = 2,
    epochs: int = 4,
) -> Expansion:
    """Add Japanese pieces to a SentencePiece unigram model.

    Args:
      base: the tokenizer of the model to expand.
      texts: Japanese training texts (never held-out ones).
      new_pieces: how many to add, at most; fewer where the texts have no more.
      align: the final vocabulary size is a multiple of this, by taking fewer pieces.
      segments: what pieces may not cross, see `ja_llm.vocab.japanese.Runs`.
      max_piece_length: longest piece in characters (LLM-jp's for Japanese).
      min_count: leave out pieces that save fewer tokens than this on the texts.
      epochs: EM steps after each choice of pieces.

    Raises:
      JaLlmError: the base is no unigram model or rewrites characters; the texts hold no Japanese, or too little for `align`.
      UsageError: a number is below 1.
    """
    config = {
        "new_pieces": new_pieces,
        "align": align,
        "segments": segments,
        "max_piece_length": max_piece_length,
        "min_count": min_count,
        "epochs": epochs,
    }
    check_counts(config)
    check_base(base, UNIGRAM, "unigram")
    words = count_runs(texts, segments)
    if not words:
        raise nothing_to_learn()
    old = {p.piece: p.score for p in base.proto.pieces if p.type == NORMAL}
    found = _train(words, len({c for word in words for c in word}) + 2 * new_pieces + 3, max_piece_length)
    known = {p.piece for p in base.proto.pieces}
    scores = normalised({piece: score for piece, score in found.items() if piece not in known and is_japanese(piece)})
    if not scores:
        raise JaLlmError("the texts hold no Japanese piece that this vocabulary lacks; give other text or leave it as it is.")
    scores, counts, _ = reestimate(words, scores, old, epochs, _floor(old))
    spelt = dict(zip(scores, piece_sources(base, list(scores)), strict=True))
    # What a piece saves; a character wherever it stands, because new text has words that no piece covers.
    characters = Counter[str]()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    saved = {p: max(counts[p], characters[p] if len(p) == 1 else 0) * max(1, len(spelt[p]) - 1) for p in scores}
    ranked = [p for p in sorted(scores, key=lambda p: (-saved[p], len(p), p)) if saved[p] >= min_count]

    def grown(pieces: Sequence[str]) -> SentencePieceTokenizer:
        chosen, _, _ = reestimate(words, normalised({piece: scores[piece] for piece in pieces}), old, epochs, _floor(old))
        return _append(base, dict(sorted(chosen.items(), key=lambda item: (-item[1], item[0]))))

    return expansion_by(base, ranked, found, grown, config)


def _train(words: Counter[str], size: int, longest: int) -> dict[str, float]:
    lines = (f"{word}\t{count}" for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0])))
    model = train_model(
        lines,
        size,
        "unigram",
        input_format="tsv",
        character_coverage=1.0,
        max_sentencepiece_length=longest,
        split_by_unicode_script=False,
        add_dummy_prefix=False,
        pad_id=-1,
    )
    return {p.piece: p.score for p in parse_proto(model).pieces if p.type == NORMAL}


def normalised(scores: Mapping[str, float]) -> dict[str, float]:
    """Log-probabilities with the sum of probabilities 1, in the same proportions."""
    total = _log_sum(list(scores.values()))
    return {piece: score - total for piece, score in scores.items()}


def _log_sum(values: Collection[float]) -> float:
    top = max(values, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(v - top) for v in values))


def expected_counts(word: str, scores: Mapping[str, float], longest: int, unknown: float) -> tuple[float, dict[str, float]]:
    """Forward and backward sums over all segmentations of a word.

    Args:
      word: the characters.
      scores: log-probability of each piece.
      longest: characters of the longest piece.
      unknown: score of a character that is no piece by itself.

    Returns:
      (log of the sum over segmentations, how often each piece is expected in one); a character that is no piece counts as itself.
    """
    size = len(word)
    edges: list[list[tuple[int, str, float]]] = [[] for _ in range(size + 1)]  # by end
    for start in range(size):
        for end in range(start + 1, min(start + longest, size) + 1):
            piece = word[start:end]
            score = scores.get(piece, unknown if end == start + 1 else None)
            if score is not None:
                edges[end].append((start, piece, score))
    forward = [0.0] + [-math.inf] * size
    for end in range(1, size + 1):
        forward[end] = _log_sum([forward[start] + score for start, _, score in edges[end]])
    backward = [-math.inf] * size + [0.0]
    reached: list[list[float]] = [[] for _ in range(size + 1)]
    reached[size].append(0.0)
    for end in range(size, 0, -1):
        backward[end] = _log_sum(reached[end])
        for start, _, score in edges[end]:
            reached[start].append(backward[end] + score)
    counts: defaultdict[str, float] = defaultdict(float)
    for end in range(1, size + 1):
        for start, piece, score in edges[end]:
            counts[piece] += math.exp(forward[start] + score + backward[end] - forward[size])
    return forward[size], counts


def reestimate(
    words: Mapping[str, int], scores: Mapping[str, float], fixed: Mapping[str, float], epochs: int, least: float = -math.inf
) -> tuple[dict[str, float], dict[str, float], list[float]]:
    """EM over the scores of some pieces, beside others that stay.

    Args:
      words: stretches of text that no piece crosses, and how often each stands in it.
      scores: log-probabilities of the free pieces; their sum is kept at 1.
      fixed: scores of further pieces.
      epochs: steps.
      least: no free score falls below this.

    Returns:
      (new scores, expected counts under the scores before the last step, log-likelihood of the text before each step and after
      the last). Without `least` a piece that is expected nowhere is left out.
    """
    scores = _best_scores({piece: math.exp(score) for piece, score in scores.items()}, least)
    counts: dict[str, float] = {}
    likelihoods = []
    for _ in track(range(epochs), "EM", "step", epochs):
        likelihood, found = _expect(words, scores, fixed)
        likelihoods.append(likelihood)
        counts = {piece: found.get(piece, 0.0) for piece in scores}
        scores = _best_scores(counts, least)
    return scores, counts, [*likelihoods, _expect(words, scores, fixed)[0]]


def _best_scores(counts: Mapping[str, float], least: float) -> dict[str, float]:
    """The log-probabilities with the sum 1, none below `least`, that maximise sum count * log p: proportional, or the least."""
    floor = min(math.exp(least), 0.5 / len(counts))  # so many pieces that the least would be too much: half of it all
    low: set[str] = set()
    while True:
        total = math.fsum(count for piece, count in counts.items() if piece not in low)
        share = (1.0 - floor * len(low)) / total if total else 0.0
        under = {piece for piece, count in counts.items() if piece not in low and count * share < floor}
        if not under:
            break
        low |= under
    probabilities = {piece: floor if piece in low else count * share for piece, count in counts.items()}
    return {piece: math.log(p) for piece, p in probabilities.items() if p > 0}


def _expect(words: Mapping[str, int], scores: Mapping[str, float], fixed: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    joined = {**fixed, **scores}
    longest = max(map(len, joined))
    unknown = min(fixed.values(), default=min(joined.values())) - _UNKNOWN_PENALTY
    counts: defaultdict[str, float] = defaultdict(float)
    likelihood = 0.0
    for word, times in words.items():
        log_sum, found = expected_counts(word, joined, longest, unknown)
        likelihood += times * log_sum
        for piece, count in found.items():
            counts[piece] += times * count
    return likelihood, counts


def _floor(old: Mapping[str, float]) -> float:
    """Just above the base's rarest piece: below it a score would move the price of unknown characters, and with it old text."""
    return min(old.values()) + 0.01


def _append(base: SentencePieceTokenizer, scores: Mapping[str, float]) -> SentencePieceTokenizer:
    proto = base.proto
    for piece, score in scores.items():
        proto.pieces.add(piece=piece, score=score, type=NORMAL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    proto.ClearField("self_test_data")
    return SentencePieceTokenizer(proto.SerializeToString(deterministic=True), base.bos_id, base.eos_id)


def wrong_scores(base: SentencePieceTokenizer, added: Iterable[Any]) -> list[str]:
    """What is wrong with the scores of new pieces, as far as it can be seen without the text that they were estimated on.

    They are above the base's lowest, fall from id to id, and are probabilities with the sum 1: to what rounding the scores to
    float32 can move it, sum p * |score| * 2^-24, and twice that for the sum itself. A rare piece's own probability is below that.
    """
    lowest = min(p.score for p in base.proto.pieces if p.type == NORMAL)
    pieces = list(added)
    out = [p.piece for p in pieces if not lowest < p.score < 0.0 + (len(pieces) == 1)]
    wrong = [f"scores of new pieces are not between the base's lowest and 0: {out[:20]}"] if out else []
    risen = [b.piece for a, b in itertools.pairwise(pieces) if not b.score <= a.score]
    if risen:
        wrong.append(f"new pieces stand behind less likely ones: {risen[:20]}")
    mass = math.fsum(math.exp(p.score) for p in pieces) if pieces else 1.0
    noise = 2 * math.fsum(math.exp(p.score) * abs(p.score) * 2.0**-24 for p in pieces)
    return wrong if abs(mass - 1.0) <= noise else [*wrong, f"the probabilities of the new pieces have the sum {mass}, not 1"]
