"""Trimming: a vocabulary with fewer pieces that spells what is kept as before (idT5, Fuadi et al. 2023, arXiv:2302.00856).

Which pieces a text needs is not only those that it ends in: BPE reaches a piece through others. With these kept too, a text
whose old ids are all kept gets the same pieces: each merge that was made is still there, and what is gone was never chosen.
For unigram the best path is still there and has fewer rivals.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.vocab.base import Tokenizer
from ja_llm.vocab.byte_level import ByteLevelModel
from ja_llm.vocab.expand import derivation
from ja_llm.vocab.hf_tokenizer import HFTokenizer
from ja_llm.vocab.sentencepiece_tokenizer import BPE, NORMAL, SentencePieceTokenizer


@dataclasses.dataclass(frozen=True)
class Trimmed:
    """A trimmed tokenizer.

    Attributes:
      tokenizer: its id n is the old id kept[n].
      kept: old ids, ascending.
      steps: how many of them were not asked for: special and byte pieces, and pieces that merges need on their way.
    """

    tokenizer: Tokenizer
    kept: list[int]
    steps: int


def trim_tokenizer(tokenizer: Tokenizer, keep: Iterable[int]) -> Trimmed:
    """Keep a subset of the pieces, and what they need.

    Args:
      tokenizer: SentencePiece, or byte-level BPE.
      keep: ids to keep.

    Raises:
      UsageError: an id is outside the vocabulary, or nothing would go.
      JaLlmError: this kind of tokenizer can't be trimmed.
    """
    asked = set(keep)
    if wrong := sorted(i for i in asked if not 0 <= i < tokenizer.vocab_size):
        raise UsageError(
            f"id {wrong[0]} is to be kept, but this vocabulary has {tokenizer.vocab_size} ids; list ids of this one."
        )
    if isinstance(tokenizer, SentencePieceTokenizer):
        make, needed = _trim_sentencepiece, _needed_by_sentencepiece(tokenizer, asked)
    elif isinstance(tokenizer, HFTokenizer):
        make, needed = _trim_byte_level, _needed_by_byte_level(tokenizer, asked)  # type: ignore[assignment]
    else:
        raise JaLlmError("this kind of vocabulary can't be trimmed; give a SentencePiece or byte-level BPE model.")
    kept = sorted(asked | needed)
    if len(kept) == tokenizer.vocab_size:
        raise UsageError(f"all {len(kept)} ids are to be kept or are needed by those, so nothing can be trimmed; keep fewer.")
    return Trimmed(make(tokenizer, kept), kept, len(kept) - len(asked))  # type: ignore[arg-type]


def _needed_by_sentencepiece(tokenizer: SentencePieceTokenizer, asked: set[int]) -> set[int]:
    pieces = tokenizer.proto.pieces
    needed = {i for i, p in enumerate(pieces) if p.type != NORMAL} | {tokenizer.bos_id, tokenizer.eos_id}
    if tokenizer.proto.trainer_spec.model_type == BPE:
        ids = {p.piece: i for i, p in enumerate(pieces)}
        scores = {p.piece: p.score for p in pieces if p.type == NORMAL}
        for i in asked:
            piece = pieces[i].piece
            if pieces[i].type == NORMAL:
                needed |= {ids[part] for part in (*piece, *derivation(piece, scores)) if part in ids}
    return needed


def _trim_sentencepiece(tokenizer: SentencePieceTokenizer, kept: Sequence[int]) -> SentencePieceTokenizer:
    proto = tokenizer.proto
    pieces = [proto.pieces[i] for i in kept]
    small = type(proto).FromString(proto.SerializeToString())
    small.ClearField("pieces")
    small.ClearField("self_test_data")
    small.pieces.extend(pieces)
    new = {old: n for n, old in enumerate(kept)}
    spec = small.trainer_spec
    spec.vocab_size = len(kept)
    for name in ("unk_id", "bos_id", "eos_id", "pad_id"):
        if getattr(spec, name) >= 0:
            setattr(spec, name, new.get(getattr(spec, name), -1))
    return SentencePieceTokenizer(small.SerializeToString(deterministic=True), new[tokenizer.bos_id], new[tokenizer.eos_id])


def _needed_by_byte_level(tokenizer: HFTokenizer, asked: set[int]) -> set[int]:
    model = ByteLevelModel(tokenizer)
    vocab = model.value["model"]["vocab"]
    needed = {i for i, data in enumerate(model.bytes_of) if data is not None and len(data) == 1}
    needed |= {token["id"] for token in model.value.get("added_tokens") or []} | {tokenizer.bos_id, tokenizer.eos_id}
    needed |= set() if tokenizer.unk_id is None else {tokenizer.unk_id}
    ranks = {merge: n for n, merge in enumerate(model.merges)}
    for i in asked - needed:
        if model.bytes_of[i] is not None:
            needed |= {vocab[part] for part in _formed(tokenizer.id_to_piece(i), ranks)}
    return needed


def _formed(piece: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Pieces that the merges make on the way from the bytes of `piece`."""
    parts, formed = list(piece), []
    while len(parts) > 1:
        pairs = list(zip(parts, parts[1:], strict=False))
        rank, i = min((ranks.get(pair, math.inf), i) for i, pair in enumerate(pairs))
        if rank == math.inf:
            break
        parts[i : i + 2] = ["".join(pairs[i])]
        formed.append(parts[i])
    return formed


def _trim_byte_level(tokenizer: HFTokenizer, kept: Sequence[int]) -> HFTokenizer:
    value = copy.deepcopy(tokenizer.model_json)
    model, new = value["model"], {old: n for n, old in enumerate(kept)}
    for token in value.get("added_tokens") or []:
        model["vocab"].setdefault(token["content"], token["id"])  # where the library would number them anew
        token["id"] = new[token["id"]]
    model["vocab"] = {piece: new[i] for piece, i in sorted(model["vocab"].items(), key=lambda item: item[1]) if i in new}

    def stays(merge: Any) -> bool:
        a, b = merge.split(" ", 1) if isinstance(merge, str) else merge
        return {a, b, a + b} <= model["vocab"].keys()

    model["merges"] = [merge for merge in model["merges"] if stays(merge)]
    _renumber(value.get("post_processor"), lambda i: new[i])
    unk = None if tokenizer.unk_id is None else new[tokenizer.unk_id]
    return tokenizer.with_model(value, new[tokenizer.bos_id], new[tokenizer.eos_id], unk)


def _renumber(processor: Any, new: Callable[[int], int]) -> None:
    """Give the special tokens of a post-processor their new ids."""
    if not isinstance(processor, dict):
        return
    for special in (processor.get("special_tokens") or {}).values():
        special["ids"] = [new(i) for i in special["ids"]]
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            processor[name][1] = new(processor[name][1])
    for part in processor.get("processors") or []:
        _renumber(part, new)
