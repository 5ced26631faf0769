"""Tokenizer over a SentencePiece model (BPE or unigram)."""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_write, sha256_json
from ja_llm.vocab.base import SENTENCEPIECE_FILE, Tokenizer, check_text

WORD_START = "▁"

# Values of ModelProto.SentencePiece.Type and TrainerSpec.ModelType (sentencepiece_model.proto).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2


def parse_proto(data: bytes) -> Any:
    """ModelProto of a serialised SentencePiece model.

    Raises:
      JaLlmError: the bytes are no such model.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(data)  # type: ignore[attr-defined]
    except DecodeError as error:
        raise JaLlmError(f"this is no SentencePiece model ({error})") from error
    if not proto.pieces:
        raise JaLlmError("this SentencePiece model has no pieces")
    _refuse_newer(proto)
    return proto


def _refuse_newer(proto: Any) -> None:
    """Raise JaLlmError where the model's type or a piece's is none of those that this library knows: it would take the default."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    type_fields = ((proto.trainer_spec, 3), *((piece, 3) for piece in proto.pieces))  # their numbers in sentencepiece_model.proto
    if any(field.field_number == number for part, number in type_fields for field in UnknownFieldSet(part)):
        raise JaLlmError(
            "this SentencePiece model is of a newer format (a type that is not known here); update the sentencepiece library"
        )


def load_processor(proto: Any) -> sentencepiece.SentencePieceProcessor:
    """A SentencePieceProcessor for a ModelProto.

    Raises:
      JaLlmError: SentencePiece refuses the model (duplicate pieces, no unknown piece, ...).
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(proto.SerializeToString())
    except (RuntimeError, ValueError, OSError) as error:
        raise JaLlmError(f"SentencePiece refuses this model ({error})") from error
    return processor


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model.

    It writes a space as "▁" (U+2581), so that character itself comes back from `decode` as a space.

    Args:
      model: serialised ModelProto.
      bos_id, eos_id: override what the model says.
      unk_id: ignored (the model always says it); here so that every tokenizer takes the same special ids.

    Raises:
      JaLlmError: the model is damaged or has neither BOS nor EOS.
    """

    def __init__(self, model: bytes, bos_id: int | None = None, eos_id: int | None = None, unk_id: int | None = None):
        self._model = bytes(model)
        self._proto = parse_proto(self._model)
        self._processor = load_processor(self._proto)
        eos = self._processor.eos_id() if eos_id is None else eos_id
        bos = self._processor.bos_id() if bos_id is None else bos_id
        self._eos_id = eos if eos >= 0 else bos
        self._bos_id = bos if bos >= 0 else eos
        if not (0 <= self._eos_id < self.vocab_size and 0 <= self._bos_id < self.vocab_size):
            raise JaLlmError("this SentencePiece model has neither BOS nor EOS; say their ids in special_ids.json")

    @classmethod
    def from_file(cls, path: str | os.PathLike, **special_ids: int) -> "SentencePieceTokenizer":
        """Load a `.model` file; errors name it."""
        try:
            return cls(Path(path).read_bytes(), **special_ids)
        except OSError as error:
            raise JaLlmError(f"{path}: this SentencePiece model can't be read ({error.strerror}).") from error
        except JaLlmError as error:
            raise JaLlmError(f"{path}: {str(error).rstrip('.')}; put the model's own tokenizer file here.") from error

    def with_added_tokens(self, tokens: Sequence[Mapping[str, Any]]) -> "SentencePieceTokenizer":
        """The model with the tokens of a tokenizer.json whose ids follow its last piece.

        Special ones become control pieces, which no text is spelt with; others are spelt wherever they stand in a text.

        Args:
          tokens: objects with `content`, `id` and `special`; ids that the model has are passed over.

        Raises:
          JaLlmError: their ids leave a gap, or one is a piece already.
        """
        proto = self.proto
        for token in sorted(tokens, key=lambda token: token["id"]):
            if token["id"] < self.vocab_size:
                continue
            if token["id"] != len(proto.pieces):
                raise JaLlmError(f"no piece has the id {len(proto.pieces)}, but {token['content']!r} has {token['id']}")
            proto.pieces.add(piece=token["content"], score=0.0, type=CONTROL if token.get("special") else USER_DEFINED)
        if len(proto.pieces) == self.vocab_size:
            return self
        return SentencePieceTokenizer(proto.SerializeToString(), self._bos_id, self._eos_id)

    def __reduce__(self) -> tuple:
        return SentencePieceTokenizer, (self._model, self._bos_id, self._eos_id), {"chat_template": self.chat_template}

    @property
    def proto(self) -> Any:
        """A copy of the ModelProto."""
        return parse_proto(self._model)

    @property
    def model_bytes(self) -> bytes:
        """The serialised ModelProto."""
        return self._model

    @property
    def vocab_size(self) -> int:
        return len(self._proto.pieces)

    @property
    def bos_id(self) -> int:
        return self._bos_id

    @property
    def eos_id(self) -> int:
        return self._eos_id

    @property
    def unk_id(self) -> int | None:
        return self._processor.unk_id()

    @property
    def zero_is_real(self) -> bool:
        if 0 in (self._bos_id, self._eos_id):
            return True
        kind = self._proto.pieces[0].type
        return kind != CONTROL and not (kind == UNKNOWN and self._proto.trainer_spec.byte_fallback)

    @functools.cached_property
    def fingerprint(self) -> str:
        spec, rules = self._proto.trainer_spec, self._proto.normalizer_spec
        pieces = hashlib.sha256()
        for piece in self._proto.pieces:
            # float.hex of the float32 score: exact, and the same on every machine.
            pieces.update(f"{piece.type}\t{piece.score.hex()}\t{len(piece.piece)}\t{piece.piece}\n".encode())
        return sha256_json(
            {
                "kind": "sentencepiece",
                "model_type": spec.model_type,
                "pieces": pieces.hexdigest(),
                "count": self.vocab_size,
                "treat_whitespace_as_suffix": spec.treat_whitespace_as_suffix,
                "byte_fallback": spec.byte_fallback,
                "unk_surface": spec.unk_surface,
                "charsmap": hashlib.sha256(rules.precompiled_charsmap).hexdigest(),
                "add_dummy_prefix": rules.add_dummy_prefix,
                "remove_extra_whitespaces": rules.remove_extra_whitespaces,
                "escape_whitespaces": rules.escape_whitespaces,
                "denormalizer": hashlib.sha256(self._proto.denormalizer_spec.precompiled_charsmap).hexdigest(),
                "special": [self._bos_id, self._eos_id],
            }
        )

    def encode(self, text: str) -> list[int]:
        check_text(text)
        return self._processor.encode(text, out_type=int)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            check_text(text)
        return self._processor.encode(list(texts), out_type=int)

    def decode(self, ids: Sequence[int]) -> str:
        ids = [int(i) for i in ids]
        self._check_ids(ids)
        return self._processor.decode(ids)

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        rows = [[int(i) for i in ids] for ids in batch]
        for ids in rows:
            self._check_ids(ids)
        return self._processor.decode(rows) if rows else []

    def _check_ids(self, ids: Sequence[int]) -> None:
        wrong = [i for i in ids if not 0 <= i < self.vocab_size]
        if wrong:
            raise JaLlmError(
                f"id {wrong[0]} is outside this vocabulary of {self.vocab_size} pieces; the ids belong to another one."
            )

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        from sentencepiece import sentencepiece_pb2

        check_text(text)
        data = self._processor.encode(text, out_type="serialized_proto")
        parsed = sentencepiece_pb2.SentencePieceText.FromString(data)  # type: ignore[attr-defined]
        # SentencePiece counts UTF-8 bytes. Byte pieces of one character: it gives the character to the last, an empty
        # span just before it to the others; all of them get the whole character here.
        ids, spans, open_bytes = [], [], 0
        for piece in parsed.pieces:
            ids.append(piece.id)
            spans.append((piece.begin, piece.end))
            if self._proto.pieces[piece.id].type != BYTE:
                open_bytes = 0
            elif piece.begin == piece.end:
                open_bytes += 1
            else:
                spans[len(spans) - 1 - open_bytes :] = [spans[-1]] * (open_bytes + 1)
                open_bytes = 0
        to_character = _character_of_byte(text)
        return ids, [(to_character[begin], to_character[end]) for begin, end in spans]

    def id_to_piece(self, index: int) -> str:
        if not 0 <= index < self.vocab_size:
            raise JaLlmError(f"id {index} is outside this vocabulary of {self.vocab_size} pieces.")
        return self._proto.pieces[index].piece

    def _save_model(self, directory: Path) -> None:
        with atomic_write(directory / SENTENCEPIECE_FILE) as file:
            file.write(self._model)

    def export_hf(self, directory: str | os.PathLike) -> None:
        from ja_llm.vocab.export import export_sentencepiece

        export_sentencepiece(self, Path(directory))


def _character_of_byte(text: str) -> Sequence[int]:
    """For each byte position of the UTF-8 of `text`, and its end, the number of characters that start before it."""
    if text.isascii():
        return range(len(text) + 1)
    positions = []
    for index, character in enumerate(text):
        positions.extend([index] * len(character.encode("utf-8")))
    positions.append(len(text))
    return positions
