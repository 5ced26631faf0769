"""Byte-level BPE of a tokenizer.json (GPT-2, Llama 3, Qwen, SmolLM2), seen as bytes.

Such a model merges the bytes of UTF-8, and its file writes each byte as one printable character (Radford et al. 2019, the
table of GPT-2's encoder): what is printable in Latin-1 stands for itself, the other 68 bytes for U+0100 on. A piece may
begin or end inside a character: that is told by `parts` and never hidden.
"""

import copy
import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ja_llm.errors import JaLlmError
from ja_llm.vocab.hf_tokenizer import HFTokenizer
from ja_llm.vocab.japanese import JAPANESE

# Code points without a character that stand inside the Japanese blocks: no text has them, so a piece that begins one of
# these blocks touches no other text.
_RESERVED = "\u3040\u3097\u3098\uff00"
TOUCHED = re.compile(f"{JAPANESE.pattern[:-1]}{_RESERVED}]")
# Bytes that UTF-8 spells Japanese with. Of the others a real vocabulary may lack some: SmolLM2's has no piece for 21, six of them
# control characters, and drops these from a text without a word.
_NEEDED = {*range(0x80, 0xC0), *range(0xE3, 0xEA), 0xEF, 0xF0}
_NORMALIZERS = ("NFC",)  # those that leave a text in which is no Japanese without Japanese, and lose nothing but spelling

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)
_CHARACTER = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(0x100 + n) for n, byte in enumerate(_OTHERS)}
_BYTE = {character: byte for byte, character in _CHARACTER.items()}


def to_characters(data: bytes) -> str:
    """Bytes as tokenizer.json writes them."""
    return "".join(_CHARACTER[byte] for byte in data)


def to_bytes(piece: str) -> bytes | None:
    """Inverse of `to_characters`; None where the piece is not written in bytes (an added token with a space in it)."""
    try:
        return bytes(_BYTE[character] for character in piece)
    except KeyError:
        return None


class Parts(NamedTuple):
    """A byte string cut where characters begin.

    Attributes:
      head: the end of a character that began before, b"" at a boundary.
      text: whole characters.
      tail: the beginning of a character that ends later, b"" at a boundary.
    """

    head: bytes
    text: str
    tail: bytes

    @property
    def whole(self) -> bool:
        """Whether it begins and ends at boundaries of characters."""
        return not self.head and not self.tail


def parts(data: bytes) -> Parts | None:
    """Cut a stretch of UTF-8; None where no UTF-8 text can hold these bytes."""
    start = 0
    while start < len(data) and data[start] & 0xC0 == 0x80:
        start += 1
    end = len(data)
    for back in range(1, min(4, len(data) - start) + 1):
        lead = data[len(data) - back]
        if lead & 0xC0 != 0x80:
            end = len(data) - back if _length(lead) > back else len(data)
            break
    try:
        text = data[start:end].decode("utf-8")
    except UnicodeDecodeError:
        return None
    tail = data[end:]
    fits = start <= 3 and (not tail or _span(tail) is not None)
    return Parts(data[:start], text, tail) if fits else None


def _length(lead: int) -> int:
    """Bytes of the character that begins with this byte."""
    return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def _span(tail: bytes) -> tuple[int, int] | None:
    """First and last code point whose UTF-8 begins with `tail`; None where there is none."""
    length = _length(tail[0])
    if length == 1 or tail[0] > 0xF4 or tail[0] < 0xC2:
        return None
    value = tail[0] & (0x7F >> length)
    for byte in tail[1:]:
        value = value << 6 | byte & 0x3F
    missing = 6 * (length - len(tail))
    least = {2: 0x80, 3: 0x800, 4: 0x10000}[length]
    low, high = max(value << missing, least), min((value + 1 << missing) - 1, 0x10FFFF)
    return (low, high) if low <= high else None


@functools.cache
def completions(tail: bytes) -> tuple[str, ...]:
    """The characters that begin with these bytes, surrogates left out."""
    span = _span(tail)
    return tuple(chr(c) for c in range(span[0], span[1] + 1) if not 0xD800 <= c < 0xE000) if span else ()


@functools.cache
def _tail_is_japanese(tail: bytes) -> tuple[bool, bool]:
    """(any, all) of the characters that begin with these bytes are Japanese."""
    found = [bool(TOUCHED.match(c)) for c in completions(tail)]
    return any(found), bool(found) and all(found)


def only_japanese(data: bytes) -> bool:
    """Whether these bytes can stand in a text only where Japanese stands.

    They begin at a boundary (one space in front is let through, which the pre-tokenizer glues to a word) and hold whole
    Japanese characters and at most the beginning of one more. A beginning alone counts where every character that begins
    so is Japanese, as all of E6 97 .. are kanji.
    """
    cut = parts(data)
    if cut is None or cut.head:
        return False
    text = cut.text.removeprefix(" ")
    some, every = _tail_is_japanese(cut.tail) if cut.tail else (True, True)
    return all(TOUCHED.match(c) for c in text) and (some if text else every and bool(cut.tail))


class ByteLevelModel:
    """What expansion and certificate need of a byte-level BPE.

    Args:
      tokenizer: the tokenizer.

    Raises:
      JaLlmError: it is no byte-level BPE, or has what can't be expanded with old ids kept (said in the sentence).

    Attributes:
      tokenizer: as given.
      value: content of tokenizer.json, not to be changed.
      bytes_of: bytes of each id; None for added tokens and holes.
      merges: pairs of pieces in order of rank.
    """

    def __init__(self, tokenizer: HFTokenizer):
        import tokenizers

        self.tokenizer = tokenizer
        self.value = tokenizer.model_json
        _check(self.value)
        model = self.value["model"]
        added = {token["content"] for token in self.value.get("added_tokens") or []}
        self.bytes_of: list[bytes | None] = [None] * tokenizer.vocab_size
        for piece, i in model["vocab"].items():
            if piece not in added:
                self.bytes_of[i] = to_bytes(piece)
        self.merges = merge_pairs(self.value)
        # Without `ignore_merges`, which looks a whole word up: inside a longer word a piece is made by merges alone.
        self._bpe = tokenizers.models.BPE(vocab=model["vocab"], merges=self.merges)
        self._whole = tokenizers.Tokenizer.from_str(tokenizer.model_text)

    @property
    def lost_bytes(self) -> list[int]:
        """Bytes without a piece: a text loses them when it is encoded."""
        return [byte for byte in range(256) if _CHARACTER[byte] not in self.value["model"]["vocab"]]

    def spell(self, data: bytes) -> list[int]:
        """Ids of a stretch of bytes inside one word, whatever characters it begins or ends in."""
        return [token.id for token in self._bpe.tokenize(to_characters(data))]

    def words(self, text: str) -> list[str]:
        """What the pre-tokenizer makes of a text, each word as characters for bytes; no merge crosses a word's end."""
        return [word for word, _ in self._whole.pre_tokenizer.pre_tokenize_str(self.normalised(text))]

    def normalised(self, text: str) -> str:
        """The text as the model's normaliser rewrites it."""
        return text if self._whole.normalizer is None else self._whole.normalizer.normalize_str(text)

    def append(self, pieces: Sequence[bytes], merges: Sequence[tuple[bytes, bytes]]) -> HFTokenizer:
        """The tokenizer with further pieces, whose ids follow its last one, and further merges, which rank below its own.

        Added tokens keep their ids: the library numbers those that the vocabulary lacks from the vocabulary's size on, so
        they are entered into it, as SmolLM2's are.
        """
        value = copy.deepcopy(self.value)
        vocab = value["model"]["vocab"]
        for token in value.get("added_tokens") or []:
            vocab.setdefault(token["content"], token["id"])
        for n, piece in enumerate(pieces):
            name = to_characters(piece)
            if name in vocab:
                raise JaLlmError(
                    f"the new piece {piece.decode('utf-8', 'replace')!r} is in this vocabulary already; leave it out."
                )
            vocab[name] = self.tokenizer.vocab_size + n
        written = [(to_characters(a), to_characters(b)) for a, b in merges]
        as_text = bool(self.merges) and isinstance(self.value["model"]["merges"][0], str)
        value["model"]["merges"] += [f"{a} {b}" if as_text else [a, b] for a, b in written]
        return self.tokenizer.with_model(value)


def merge_pairs(value: dict[str, Any]) -> list[tuple[str, str]]:
    """Merges of a tokenizer.json: written as "a b" by older versions of the library, as ["a", "b"] by newer ones."""
    pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in value["model"]["merges"])
    return [(left, right) for left, right in pairs]


def _check(value: dict[str, Any]) -> None:
    def refuse(reason: str) -> None:
        raise JaLlmError(f"this tokenizer.json can't be expanded, {reason}; choose a base model with plain byte-level BPE.")

    model = value.get("model") or {}
    if model.get("type") != "BPE":
        refuse(f"its model is {model.get('type')!r}")
    named = _types(value.get("pre_tokenizer"))
    if "ByteLevel" not in named or "ByteLevel" not in _types(value.get("decoder")):
        refuse("its BPE is not over bytes")
    if absent := sorted(byte for byte in _NEEDED if _CHARACTER[byte] not in model["vocab"]):
        refuse(f"it has no piece for the byte 0x{absent[0]:02X}, which Japanese is spelt with")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            refuse(f"it has {key} = {model[key]!r}")
    if other := sorted(_types(value.get("normalizer")) - set(_NORMALIZERS) - {"Sequence"}):
        refuse(f"its normaliser {other[0]} loses text")
    if "" in model["vocab"]:
        refuse("it has an empty piece")
    ids: dict[int, str] = {}
    entries = [*model["vocab"].items(), *((token["content"], token["id"]) for token in value.get("added_tokens") or [])]
    for piece, i in entries:
        if ids.setdefault(i, piece) != piece:
            refuse(f"the pieces {ids[i]!r} and {piece!r} both have the id {i}")


def _types(part: Any) -> set[str]:
    """Names of a component and of those inside it."""
    if not isinstance(part, dict):
        return set()
    inner = [x for key in ("pretokenizers", "decoders", "normalizers") for x in part.get(key) or []]
    return {str(part.get("type"))}.union(*map(_types, inner))
