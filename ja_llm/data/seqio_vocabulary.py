"""A seqio vocabulary over any of our tokenizers: the same ids in tf.data as in plain Python.

seqio takes id 0 for padding nearly everywhere. Here id 0 is what the tokenizer says (in Llama 3's or SmolLM2's vocabulary a
real token): nothing is clipped at it or filled up with it. seqio's own feature converters would give it no weight and their
packing would cut a token off for each, so they are never used, and a task whose vocabulary has a real id 0 refuses to serve them.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from ja_llm.errors import JaLlmError
from ja_llm.vocab.base import Tokenizer


class SeqioVocabulary(seqio.Vocabulary):
    """Wraps a `Tokenizer`. Two are equal when their tokenizers' fingerprints are."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(extra_ids=0)
        self.tokenizer = tokenizer

    @property
    def bos_id(self) -> int:
        return self.tokenizer.bos_id

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def pad_id(self) -> int:
        # seqio's decode_tf puts this behind EOS; its default of 0 would be a real token.
        return self.tokenizer.eos_id

    @property
    def unk_id(self) -> int | None:
        return self.tokenizer.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def _encode(self, s: str) -> list[int]:
        return self.tokenizer.encode(s)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids up to the first EOS; where BOS is EOS (GPT-2), one that opens the document does not end it."""
        ids = ids.numpy().tolist() if isinstance(ids, tf.Tensor) else list(ids)
        return super().decode(ids[1:] if self.bos_id == self.eos_id and ids[:1] == [self.bos_id] else ids)

    def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """`decode` of int [n] as a string scalar, of [batch, n] as string [batch]."""
        if self.bos_id == self.eos_id:
            first, rest = ids[..., :1], ids[..., 1:]
            ids = tf.where(
                first == self.bos_id, tf.concat([rest, tf.fill(tf.shape(first), tf.cast(self.pad_id, ids.dtype))], -1), ids
            )
        return super().decode_tf(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode([int(i) for i in ids])

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """String scalar -> int32 [n]; string tensor [...] -> ragged int32 [..., None]; a vector is encoded as one batch."""
        if not s.shape.rank:
            ids = tf.numpy_function(
                lambda text: np.asarray(self.tokenizer.encode(_bytes(text).decode("utf-8")), np.int32), [s], tf.int32
            )
            return tf.ensure_shape(ids, [None])
        if s.shape.rank == 1:
            values, lengths = tf.numpy_function(self._encode_rows, [s], [tf.int32, tf.int64])
            lengths = tf.ensure_shape(lengths, s.shape)
            return tf.RaggedTensor.from_row_lengths(tf.ensure_shape(values, [None]), lengths, validate=False)
        return tf.map_fn(
            self._encode_tf, s, fn_output_signature=tf.RaggedTensorSpec([None] * s.shape.rank, tf.int32, s.shape.rank - 1)
        )

    def _encode_rows(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self.tokenizer.encode_batch([text.decode("utf-8") for text in texts])
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """int [n] -> string scalar; [batch, n] -> string [batch]."""
        if ids.shape.rank != 1:
            return tf.map_fn(self._decode_tf, ids, fn_output_signature=tf.string)
        # dtype object: NumPy's own strings lose NUL characters at their end.
        text = tf.numpy_function(lambda row: np.array(self.decode(row.tolist()).encode("utf-8"), object), [ids], tf.string)
        return tf.ensure_shape(text, [])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeqioVocabulary) and self.tokenizer.fingerprint == other.tokenizer.fingerprint

    def __hash__(self) -> int:
        return hash(self.tokenizer.fingerprint)


class DocumentTask(seqio.Task):
    """A seqio task that does not let seqio's padding id meet a vocabulary whose id 0 is real.

    Whole documents (no lengths asked for) are served always: the token store is written from them. Lengths are asked for where a
    feature converter pads, packs and weighs the examples by id 0.
    """

    def get_dataset(self, sequence_length: Mapping[str, int] | None = None, *args: Any, **options: Any) -> tf.data.Dataset:
        """See `seqio.Task.get_dataset`.

        Raises:
          JaLlmError: `sequence_length` is given and id 0 can stand in a document.
        """
        vocabulary = self.output_features["targets"].vocabulary
        if sequence_length is not None and vocabulary.tokenizer.zero_is_real:
            raise JaLlmError(
                f"{self.name}: seqio's feature converters take id 0 for padding, but in this vocabulary it is the token "
                f"{vocabulary.tokenizer.id_to_piece(0)!r}, which they would lose; train from the token store of `ja-llm cache`."
            )
        return super().get_dataset(sequence_length, *args, **options)


def _bytes(value: bytes | np.ndarray) -> bytes:
    """A string tensor's value: bytes inside a graph, an array of one object outside."""
    return value if isinstance(value, bytes) else value.item()
