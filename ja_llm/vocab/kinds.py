"""What differs between kinds of tokenizers when a vocabulary is expanded and certified, behind one interface."""

import abc
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.vocab import expand, expand_byte_level, unigram
from ja_llm.vocab.base import Tokenizer
from ja_llm.vocab.byte_level import TOUCHED, ByteLevelModel, merge_pairs, only_japanese, parts, to_bytes
from ja_llm.vocab.expansion import Expansion
from ja_llm.vocab.hf_tokenizer import HFTokenizer
from ja_llm.vocab.japanese import JAPANESE, is_japanese
from ja_llm.vocab.sentencepiece_tokenizer import BPE, BYTE, NORMAL, UNIGRAM, WORD_START, SentencePieceTokenizer

LISTED = 20  # how many offenders a sentence names


class Kind(abc.ABC):
    """One kind of tokenizer, for a given base."""

    @abc.abstractmethod
    def expand(self, texts: Iterable[str], new_pieces: int, **values: Any) -> Expansion:
        """Add Japanese pieces.

        Args:
          texts: Japanese training texts.
          new_pieces: how many, at most.
          **values: further arguments of the function for this kind; what is not given is its own value, or bound by gin.
        """

    @abc.abstractmethod
    def sources(self, new: Any) -> list[list[int]]:
        """Ids that the base gives for the surface of each piece of `new` behind its own, inside a running text."""

    @abc.abstractmethod
    def dead(self, new: Any) -> list[str]:
        """Pieces of `new` behind the base's that no text is spelt with."""

    @abc.abstractmethod
    def changes(self, new: Any) -> list[str]:
        """What in `new` is not "the base, and Japanese pieces behind it", one clause each."""

    @abc.abstractmethod
    def surfaces(self) -> list[str]:
        """Texts of the base's pieces, those that are texts."""

    @abc.abstractmethod
    def losses(self) -> list[str]:
        """What the base itself does not give back of a text, one clause each."""

    @abc.abstractmethod
    def touched(self, text: str) -> bool:
        """Whether the text holds a character that new pieces may hold."""


def kind_of(base: Tokenizer) -> Kind:
    """The kind of a tokenizer.

    Raises:
      JaLlmError: a tokenizer that can't be expanded with old ids kept; the sentence says why.
    """
    if isinstance(base, HFTokenizer):
        return ByteLevelBPE(base)
    if isinstance(base, SentencePieceTokenizer):
        kinds = {BPE: SentencePieceBPE, UNIGRAM: SentencePieceUnigram}
        if base.proto.trainer_spec.model_type in kinds:
            return kinds[base.proto.trainer_spec.model_type](base)
    raise JaLlmError(
        "this vocabulary is neither BPE nor unigram of SentencePiece, nor byte-level BPE, and only these can be expanded; choose "
        "another base model."
    )


class SentencePieceKind(Kind):
    """What SentencePiece's models have in common."""

    def __init__(self, base: SentencePieceTokenizer):
        self.base = base

    def sources(self, new: SentencePieceTokenizer) -> list[list[int]]:
        return expand.added_sources(self.base, new)

    def dead(self, new: SentencePieceTokenizer) -> list[str]:
        return expand.dead_pieces(new, self.base.vocab_size)

    def surfaces(self) -> list[str]:
        return [p.piece.replace(WORD_START, " ") for p in self.base.proto.pieces if p.type in (NORMAL, BYTE)]

    def losses(self) -> list[str]:
        clauses = ["U+2581 comes back as a space"]
        if not self.base.proto.trainer_spec.byte_fallback:
            clauses.append("it has no byte pieces, so characters that are no piece become the unknown one")
        if self.base.proto.normalizer_spec.remove_extra_whitespaces:
            clauses.append("its normaliser removes spaces")
        return clauses

    def touched(self, text: str) -> bool:
        return bool(JAPANESE.search(text))

    def changes(self, new: SentencePieceTokenizer) -> list[str]:
        """Old pieces, scores, types and rules as they were; new ones appended, Japanese, scored as this kind scores; BOS, EOS kept."""
        before, after = self.base.proto, new.proto
        wrong = []
        changed = [p.piece for p, q in zip(before.pieces, after.pieces, strict=False) if p != q]
        if changed:
            wrong.append(f"old pieces changed: {changed[:LISTED]}")
        if before.normalizer_spec != after.normalizer_spec or before.denormalizer_spec != after.denormalizer_spec:
            wrong.append("the normaliser changed")
        specs = [type(p.trainer_spec).FromString(p.trainer_spec.SerializeToString()) for p in (before, after)]
        for spec in specs:
            spec.ClearField("vocab_size")
        if specs[0] != specs[1] or (self.base.bos_id, self.base.eos_id) != (new.bos_id, new.eos_id):
            wrong.append("the special pieces or the model type changed")
        added = list(after.pieces)[len(before.pieces) :]
        foreign = [p.piece for p in added if not is_japanese(p.piece) or p.type != NORMAL]
        if foreign:
            wrong.append(f"new pieces with other than Japanese characters: {foreign[:LISTED]}")
        return [*wrong, *self._wrong_scores(added)]

    @abc.abstractmethod
    def _wrong_scores(self, added: Sequence[Any]) -> list[str]: ...


class SentencePieceBPE(SentencePieceKind):
    """SentencePiece BPE: `ja_llm.vocab.expand`."""

    def expand(self, texts: Iterable[str], new_pieces: int, **values: Any) -> Expansion:
        return expand.expand_sentencepiece(self.base, texts, new_pieces=new_pieces, **values)

    def _wrong_scores(self, added: Sequence[Any]) -> list[str]:
        scores = expand.expected_scores(self.base, len(added))
        wrong = [p.piece for p, score in zip(added, scores, strict=True) if p.score != score]
        return [f"scores or types of new pieces are not the ranks below the base: {wrong[:LISTED]}"] if wrong else []


class SentencePieceUnigram(SentencePieceKind):
    """SentencePiece unigram: `ja_llm.vocab.unigram`."""

    def expand(self, texts: Iterable[str], new_pieces: int, **values: Any) -> Expansion:
        return unigram.expand_unigram(self.base, texts, new_pieces=new_pieces, **values)

    def _wrong_scores(self, added: Sequence[Any]) -> list[str]:
        return unigram.wrong_scores(self.base, added)


class ByteLevelBPE(Kind):
    """Byte-level BPE in a tokenizer.json: `ja_llm.vocab.expand_byte_level`."""

    def __init__(self, base: HFTokenizer):
        self.base, self._model = base, ByteLevelModel(base)

    def expand(self, texts: Iterable[str], new_pieces: int, **values: Any) -> Expansion:
        return expand_byte_level.expand_byte_level(self.base, texts, new_pieces=new_pieces, **values)

    def sources(self, new: HFTokenizer) -> list[list[int]]:
        added = (new.id_to_piece(i) for i in range(self.base.vocab_size, new.vocab_size))
        return [self._model.spell(to_bytes(piece) or b"") for piece in added]

    def dead(self, new: HFTokenizer) -> list[str]:
        return expand_byte_level.dead_byte_pieces(new, self.base.vocab_size)

    def surfaces(self) -> list[str]:
        cuts = [parts(data) for data in self._model.bytes_of if data]
        added = [token["content"] for token in self._model.value.get("added_tokens") or []]
        return [cut.text for cut in cuts if cut and cut.whole] + added

    def losses(self) -> list[str]:
        lost = [f"0x{byte:02X}" for byte in self._model.lost_bytes]
        clauses = [f"it has no piece for the bytes {', '.join(lost)} and drops them"] if lost else []
        if self._model.value.get("normalizer"):
            clauses.append("its normaliser NFC composes characters")
        return clauses

    def touched(self, text: str) -> bool:
        # What the base's normaliser makes of the text counts: NFC turns U+2329 and U+232A into Japanese brackets.
        return bool(TOUCHED.search(text) or TOUCHED.search(self._model.normalised(text)))

    def changes(self, new: HFTokenizer) -> list[str]:
        """Old ids, merges, added tokens and rules as they were; new pieces and merges behind them, in Japanese only."""
        before, after, size = self._model.value, new.model_json, self.base.vocab_size
        vocab, grown = before["model"]["vocab"], after["model"]["vocab"]
        own = {token["content"]: token["id"] for token in before.get("added_tokens") or []}
        wrong = []
        changed = [piece for piece, i in (own | vocab).items() if grown.get(piece) != i]
        if changed:
            wrong.append(f"old pieces changed: {changed[:LISTED]}")
        for key in sorted((before.keys() | after.keys()) - {"model"}):
            if before.get(key) != after.get(key):
                wrong.append(f"{key} changed")
        rules = [{k: v for k, v in x["model"].items() if k not in ("vocab", "merges")} for x in (before, after)]
        if rules[0] != rules[1] or (self.base.bos_id, self.base.eos_id) != (new.bos_id, new.eos_id):
            wrong.append("the special tokens or the model's rules changed")
        added = {piece: i for piece, i in grown.items() if piece not in vocab and piece not in own}
        if sorted(added.values()) != list(range(size, new.vocab_size)):
            wrong.append(f"ids of new pieces are not {size} to {new.vocab_size - 1}, each once")
        foreign = [piece for piece in added if not only_japanese(to_bytes(piece) or b"")]
        if foreign:
            wrong.append(f"new pieces with other than Japanese characters: {foreign[:LISTED]}")
        return [*wrong, *self._wrong_merges(after, grown)]

    def _wrong_merges(self, after: dict[str, Any], vocab: dict[str, int]) -> list[str]:
        merges = merge_pairs(after)
        old = len(self._model.merges)
        wrong = ["old merges changed"] if merges[:old] != self._model.merges else []
        bad = [m for m in merges[old:] if not only_japanese(to_bytes("".join(m)) or b"") or not {*m, "".join(m)} <= vocab.keys()]
        if bad:
            wrong.append(f"new merges that make no new or Japanese piece: {bad[:LISTED]}")
        if len(set(merges)) < len(merges):
            wrong.append("a merge stands twice")
        # A piece has its id from the first merge that makes it, so ids tell the order of these merges.
        made = dict.fromkeys("".join(m) for m in merges[old:])
        order = [piece for piece in made if vocab.get(piece, -1) >= self.base.vocab_size]
        if late := [a for a, b in itertools.pairwise(order) if vocab[a] > vocab[b]]:
            wrong.append(f"new merges stand in another order than the pieces that they make: {late[:LISTED]}")
        return wrong
