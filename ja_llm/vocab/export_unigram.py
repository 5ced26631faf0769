"""SentencePiece unigram model -> the Unigram model of a tokenizer.json, with equal ids.

Both libraries look for the segmentation with the largest sum of scores (Viterbi), and let a character that is no piece cost ten more
than the rarest piece. Where they differ, and what is done:

- The `tokenizers` library looks every entry of the vocabulary up in the text, special and byte pieces too, which SentencePiece
  never does. So the text is cut inside each such name, between two characters that no ordinary piece has side by side.
- A name without such a place gets a score that any spelling in ordinary pieces exceeds. That lowers the cost of unknown characters,
  which follows the lowest score: only where each character of each piece is a piece itself does an unknown one stand in no
  piece, each segmentation pay for it alike, and its cost decide nothing. Other models are refused then.
- SentencePiece adds scores in float32, `tokenizers` in float64. Of two segmentations that are equally likely but for that
  rounding each may take another; a self-check that meets such a text refuses nothing else.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ja_llm.vocab.sentencepiece_tokenizer import NORMAL, USER_DEFINED


def unigram_model(proto: Any, unk_id: int | None, refuse: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """("model", "pre_tokenizer") of a tokenizer.json.

    Args:
      proto: ModelProto of a unigram model.
      unk_id: of the unknown piece.
      refuse: raises with the clause that says what can't be written with equal ids.
    """
    normal = {p.piece: p.score for p in proto.pieces if p.type == NORMAL}
    own = {p.piece for p in proto.pieces if p.type == USER_DEFINED}
    for piece in own:
        if len(piece) > 1 or any(piece in other for other in normal):
            refuse(f"it has the user-defined piece {piece!r}, which is not a character of its own")
    names = [p.piece for p in proto.pieces if p.type not in (NORMAL, USER_DEFINED)]
    if single := [name for name in names if len(name) == 1]:
        refuse(f"the special piece {single[0]!r} is a single character, which the text may have")
    cuts, whole = _cuts(names, normal)
    if whole and (missing := {c for piece in normal for c in piece} - normal.keys()):
        refuse(f"ordinary pieces run through {whole[0]!r}, and the character {min(missing)!r} of a piece is no piece itself")
    if not proto.trainer_spec.byte_fallback and any(not set(cut) & {c for piece in normal for c in piece} for cut in cuts):
        refuse("two unknown characters side by side in a special piece would become two unknown pieces")
    least = min(-1.0, *normal.values())
    scores = {name: (len(name) + 1) * least for name in whole}
    vocab = [[p.piece, p.score if p.type == NORMAL else scores.get(p.piece, 0.0)] for p in proto.pieces]
    model = {"type": "Unigram", "unk_id": unk_id, "vocab": vocab, "byte_fallback": proto.trainer_spec.byte_fallback}
    split = [
        {
            "type": "Split",
            "pattern": {"Regex": f"{re.escape(a)}(?={re.escape(b)})"},
            "behavior": "MergedWithPrevious",
            "invert": False,
        }
        for a, b in (tuple(cut) for cut in cuts)
    ]
    return model, {"type": "Sequence", "pretokenizers": split} if split else None


def _cuts(names: Sequence[str], normal: Iterable[str]) -> tuple[list[str], list[str]]:
    """(pairs of characters that no ordinary piece holds, one inside each name; names that have none)."""
    joined = {piece[i : i + 2] for piece in normal for i in range(len(piece) - 1)}
    cuts: dict[str, None] = {}
    whole = []
    for name in names:
        pairs = [name[i : i + 2] for i in range(len(name) - 1)]
        free = [pair for pair in pairs if pair not in joined]
        if not cuts.keys() & set(pairs) and free:
            cuts[free[0]] = None
        if not free:
            whole.append(name)
    return list(cuts), whole


def equally_likely(proto: Any, one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two segmentations of a text have the same score but for what adding in float32 rounds."""
    if any(proto.pieces[i].type != NORMAL for i in set(one) ^ set(other)):
        return False
    totals = [math.fsum(proto.pieces[i].score for i in ids) for ids in (one, other)]
    # Each of the sums is at most the total and is rounded once.
    noise = (len(one) + len(other)) * max(map(abs, totals)) * 2.0**-24
    return abs(totals[0] - totals[1]) <= noise
