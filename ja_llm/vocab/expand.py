"""Vocabulary expansion: give an English SentencePiece BPE model Japanese pieces without touching its English.

Swallow on Llama 2 (Fujii et al. 2024, arXiv:2404.17790): train a Japanese BPE on a sample, remove the pieces that the base has,
add the rest. Made exact here:

- Pieces hold Japanese characters only, so no merge can ever fire in a text without them: English and code keep their
  ids whatever the scores are.
- The trainer sees Japanese runs cut by script and no spaces, so no piece carries the word-start mark:
  running text has none between its words, so a piece that begins with it would hardly ever be used.
- Which pieces: those that save the most tokens on the sample. A character that the base spells in three bytes saves two
  tokens each time, a merge saves one each time that it fires.
- BPE reaches a piece through its intermediate merges: they come along, and every piece is checked by encoding it with
  the finished model. Pieces that the base's own, stronger merges make unreachable are replaced by the next best.
- Scores go on below the base's lowest one in steps of one, in the order of the trained merges; ids go on after the base's.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gin

from ja_llm.errors import JaLlmError
from ja_llm.progress import Progress
from ja_llm.vocab.expansion import Expansion, check_counts
from ja_llm.vocab.japanese import count_runs, is_japanese, nothing_to_learn
from ja_llm.vocab.sentencepiece_tokenizer import BPE, NORMAL, SentencePieceTokenizer, load_processor, parse_proto
from ja_llm.vocab.train import train_model


def midtext_processor(tokenizer: SentencePieceTokenizer) -> Any:
    """A SentencePieceProcessor with the same pieces that puts no space in front: it encodes a surface as in running text."""
    proto = tokenizer.proto
    proto.normalizer_spec.add_dummy_prefix = False
    return load_processor(proto)


def piece_sources(tokenizer: SentencePieceTokenizer, pieces: Sequence[str]) -> list[list[int]]:
    """Ids that `tokenizer` gives for each surface inside a running text (no word-start piece in front of it)."""
    return midtext_processor(tokenizer).encode(list(pieces), out_type=int)


@gin.configurable
def expand_sentencepiece(
    base: SentencePieceTokenizer,
    texts: Iterable[str],
    new_pieces: int = 16000,
    align: int = 8,
    segments: str = "word",
    max_piece_length: int = 16,
    min_count: int = 2,
) -> Expansion:
    """Add Japanese pieces to a SentencePiece BPE model.

    Args:
      base: the tokenizer of the model to expand.
      texts: Japanese training texts (never held-out ones). Only runs of Japanese characters are used, and only their
        counts are held in memory, so the result does not depend on the order of the texts.
      new_pieces: how many to add, at most; fewer where the texts have no more.
      align: the final vocabulary size is a multiple of this (a sharded table divides evenly), by taking fewer pieces:
        there are no padding rows.
      segments: what pieces may not cross: "word", "script" or "none" (fewest tokens, but pieces that run across words), see
        `ja_llm.vocab.japanese.Runs`.
      max_piece_length: longest piece in characters.
      min_count: leave out pieces that save fewer tokens than this on the texts.

    Raises:
      JaLlmError: the base is no BPE model or its scores leave no room; the texts hold no Japanese.
      UsageError: a number is below 1.
    """
    config = {
        "new_pieces": new_pieces,
        "align": align,
        "segments": segments,
        "max_piece_length": max_piece_length,
        "min_count": min_count,
    }
    check_counts(config)
    check_base(base, BPE, "BPE")
    runs = count_runs(texts, segments)
    if not runs:
        raise nothing_to_learn()
    characters = len({c for run in runs for c in run})
    proto = parse_proto(_train(runs, characters + 2 * new_pieces + 3, max_piece_length))
    trained = {p.piece: p.score for p in proto.pieces if p.type == NORMAL and is_japanese(p.piece)}
    ranked = _by_tokens_saved(base, proto, trained, runs, min_count)

    def grown(pieces: Sequence[str]) -> SentencePieceTokenizer:
        return _append(base, sorted(pieces, key=lambda p: (len(p) > 1, -trained.get(p, -math.inf), p)))

    return expansion_by(base, ranked, trained, grown, config)


def expansion_by(
    base: SentencePieceTokenizer,
    ranked: Sequence[str],
    trained: Iterable[str],
    grown: Callable[[Sequence[str]], SentencePieceTokenizer],
    config: Mapping[str, Any],
) -> Expansion:
    """The expansion by the best pieces that can be reached.

    Args:
      base: the tokenizer to expand.
      ranked: as `choose` takes it.
      trained: all pieces that were learnt; those that the base has as control or user-defined ones are told as left out.
      grown: as `choose` takes it.
      config: the settings, with `new_pieces` and `align`.
    """
    tokenizer, unreachable = choose(base, ranked, config["new_pieces"], config["align"], grown)
    special = {p.piece for p in base.proto.pieces if p.type != NORMAL} & set(trained)
    return Expansion(tokenizer, added_sources(base, tokenizer), base.vocab_size, dict(config), [*unreachable, *sorted(special)])


def check_base(base: SentencePieceTokenizer, model_type: int, named: str) -> None:
    """Raise JaLlmError unless a model is of this type and leaves the characters of a text as they are."""
    proto = base.proto
    if proto.trainer_spec.model_type != model_type:
        raise JaLlmError(f"this vocabulary is no SentencePiece {named} model; choose one, or expand it as what it is.")
    if proto.normalizer_spec.precompiled_charsmap or proto.trainer_spec.treat_whitespace_as_suffix:
        raise JaLlmError(
            f"this vocabulary rewrites characters before it splits them (normaliser {proto.normalizer_spec.name or 'unnamed'}), which "
            "expansion does not support; use one with identity normalisation."
        )


def _train(runs: Counter[str], vocab_size: int, max_piece_length: int) -> bytes:
    lines = (f"{run}\t{count}" for run, count in sorted(runs.items(), key=lambda item: (-item[1], item[0])))
    return train_model(
        lines,
        vocab_size,
        input_format="tsv",
        character_coverage=1.0,
        max_sentencepiece_length=max_piece_length,
        split_by_unicode_script=False,
        add_dummy_prefix=False,
        pad_id=-1,
    )


def derivation(piece: str, scores: dict[str, float]) -> list[str]:
    """Pieces of two characters and more that BPE forms on the way from the characters of `piece` to its segmentation.

    In the order of formation; ends with `piece` itself when BPE reaches it.
    """
    parts = list(piece)
    formed: list[str] = []
    while True:
        pairs = [(scores.get(a + b, -math.inf), -i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))]
        score, position = max(pairs, default=(-math.inf, 0))
        if score == -math.inf:
            return formed
        i = -position
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        formed.append(parts[i])


def _by_tokens_saved(
    base: SentencePieceTokenizer, proto: Any, trained: dict[str, float], runs: Counter[str], min_count: int
) -> list[str]:
    """Trained pieces that the base lacks, those that save most tokens on the runs first."""
    processor = load_processor(proto)
    names = [p.piece for p in proto.pieces]
    used: Counter[int] = Counter()
    items = sorted(runs.items())
    with Progress("count tokens saved", len(items), "run") as progress:
        for start in range(0, len(items), 10000):
            block = items[start : start + 10000]
            for ids, (_, count) in zip(processor.encode([run for run, _ in block], out_type=int), block, strict=True):
                for i in ids:
                    used[i] += count
            progress.update(len(block))
    saved: Counter[str] = Counter()
    for i, count in used.items():
        for piece in derivation(names[i], trained):
            saved[piece] += count
    characters: Counter[str] = Counter()
    for run, count in items:
        for character in run:
            characters[character] += count
    spelt = piece_sources(base, sorted(characters))
    for character, ids in zip(sorted(characters), spelt, strict=True):
        saved[character] = characters[character] * max(1, len(ids) - 1)
    known = {p.piece for p in base.proto.pieces}
    wanted = [p for p, count in saved.items() if p not in known and count >= min_count and is_japanese(p)]
    # Among equals: short before long, then the trained rank. A part saves no fewer tokens than the whole, so it stands before it.
    return sorted(wanted, key=lambda p: (-saved[p], len(p), -trained.get(p, -math.inf), p))


def choose(
    base: SentencePieceTokenizer,
    ranked: Sequence[str],
    new_pieces: int,
    align: int,
    grown: Callable[[Sequence[str]], SentencePieceTokenizer],
) -> tuple[SentencePieceTokenizer, list[str]]:
    """Add the best pieces that can be reached.

    Args:
      base: the tokenizer to expand.
      ranked: candidates, the best first, and the parts of a piece before it.
      new_pieces: how many to add, at most.
      align: the number of ids is a multiple of this, by taking fewer pieces.
      grown: makes the tokenizer with these pieces behind the base's.

    Returns:
      (the tokenizer, candidates left out because it would not give them even for their own surface).

    Raises:
      JaLlmError: there are too few pieces for `align`.
    """
    unreachable: list[str] = []
    with Progress("choose pieces", None, "round") as progress:
        while True:
            banned = set(unreachable)
            free = [piece for piece in ranked if piece not in banned]
            count = min(len(free), new_pieces)
            count -= (base.vocab_size + count) % align
            if count <= 0:
                raise JaLlmError(
                    f"{len(free)} pieces can be added, too few to bring {base.vocab_size} ids to a multiple of {align}; "
                    "give more Japanese text or ask for more pieces."
                )
            tokenizer = grown(free[:count])
            dead = dead_pieces(tokenizer, base.vocab_size)
            progress.update(note=f"{len(unreachable) + len(dead)} out of reach")
            if not dead:
                return tokenizer, unreachable
            unreachable.extend(dead)


def added_sources(base: SentencePieceTokenizer, grown: SentencePieceTokenizer) -> list[list[int]]:
    """The base's ids for the surface of each piece behind its own."""
    return piece_sources(base, [grown.id_to_piece(i) for i in range(base.vocab_size, grown.vocab_size)])


def dead_pieces(tokenizer: SentencePieceTokenizer, first: int) -> list[str]:
    """Pieces from id `first` on that the tokenizer does not give for their own surface inside a running text."""
    names = [tokenizer.id_to_piece(i) for i in range(first, tokenizer.vocab_size)]
    encoded = piece_sources(tokenizer, names)
    return [name for i, (name, ids) in enumerate(zip(names, encoded, strict=True)) if ids != [first + i]]


def expected_scores(base: SentencePieceTokenizer, count: int) -> list[float]:
    """Scores of `count` appended pieces: on from the base's lowest score in steps of one (float32 can tell them apart).

    Raises:
      JaLlmError: the base's scores are so low that float32 can't.
    """
    lowest = math.floor(min(p.score for p in base.proto.pieces if p.type == NORMAL))
    if -lowest + count >= 2**24:
        raise JaLlmError(
            f"the lowest score of this vocabulary is {lowest}, so there is no room for {count} ranks below it in float32."
        )
    return [float(lowest - 1 - i) for i in range(count)]


def _append(base: SentencePieceTokenizer, pieces: Sequence[str]) -> SentencePieceTokenizer:
    proto = base.proto
    for piece, score in zip(pieces, expected_scores(base, len(pieces)), strict=True):
        proto.pieces.add(piece=piece, score=score, type=NORMAL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    proto.ClearField("self_test_data")
    return SentencePieceTokenizer(proto.SerializeToString(deterministic=True), base.bos_id, base.eos_id)
