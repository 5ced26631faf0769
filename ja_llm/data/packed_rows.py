"""Rows of a cached mixture as a seqio task, for trainers that read through seqio (t5x).

A row is what `BatchSource` makes: fixed length, packed from the token store, with weights and segment ids, so that nothing downstream
packs again, shifts, or takes id 0 for padding. Row r of the task is row r of the mixture's one order, so a reader whose
batches hold rows [k * B, (k + 1) * B) reads the batches that ours reads; hosts take every n-th row and so share each of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from ja_llm.data.batches import BatchSource
from ja_llm.data.mixing import MIXING
from ja_llm.data.seqio_vocabulary import SeqioVocabulary
from ja_llm.errors import JaLlmError, UsageError

INTEGERS = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids", "decoder_positions")
WEIGHTS = "decoder_loss_weights"
SPLITS = {"train": "train", "validation": "heldout"}  # seqio's name -> ours


class PackedRows(seqio.DataSource):
    """The endless rows of a cached mixture, in the order that its seed decides.

    Args:
      cache_dir: folder that `ja-llm cache` wrote.
      length: tokens in a row.
      seed: of the order.
      packing: as of `BatchSource`.
      first_row: of the training split, where to begin: steps that an earlier run did times its batch size.
      mixing: as of `BatchSource`; that of the earlier run.
    """

    def __init__(self, cache_dir: str | Path, length: int, seed: int, packing: str, first_row: int = 0, mixing: str = MIXING):
        self._arguments = (Path(cache_dir), length, seed, packing, mixing)
        self._first = first_row
        self._open: dict[str, BatchSource] = {}
        super().__init__(splits=SPLITS, caching_permitted=False)
        self.rows("train")

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Each host computes its own rows alone."""
        return True

    @property
    def performs_internal_shuffling(self) -> bool:
        """The order is shuffled already; a reader that asks for shuffling gets it as it is."""
        return True

    def rows(self, split: str) -> BatchSource:
        """The split's rows, as batches of one."""
        if split not in self._open:
            directory, length, seed, packing, mixing = self._arguments
            self._open[split] = BatchSource(directory, length, 1, seed, split=SPLITS[split], packing=packing, mixing=mixing)
        return self._open[split]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """Rows `index`, `index + num_shards`, ...; `shuffle` and `seed` change nothing: the order is part of the data."""
        del shuffle, seed
        rows = self.rows(split)
        first = self._first if split == "train" else 0
        index, step = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)

        def read(number: np.int64) -> list[np.ndarray]:
            batch = rows[int(number)]
            return [batch[name][0] for name in (*INTEGERS, WEIGHTS)]

        def one(number: tf.Tensor) -> dict[str, tf.Tensor]:
            values = tf.numpy_function(read, [number], [tf.int32] * len(INTEGERS) + [tf.float32])
            return {name: tf.ensure_shape(x, [rows.length]) for name, x in zip((*INTEGERS, WEIGHTS), values, strict=True)}

        return tf.data.Dataset.range(first + index, np.iinfo(np.int64).max, step).map(one, deterministic=True)

    def list_shards(self, split: str) -> list[str]:
        """One; see `supports_arbitrary_sharding`."""
        return [split]


def add_rows_task(
    cache_dir: str | Path,
    vocabulary: SeqioVocabulary,
    length: int,
    seed: int = 0,
    packing: str = "concatenate",
    first_row: int = 0,
    mixing: str = MIXING,
) -> seqio.Task:
    """Register the rows of a cached mixture with seqio, under a name of their own.

    Args:
      cache_dir: folder that `ja-llm cache` wrote.
      vocabulary: of the model.
      length: tokens in a row.
      seed: of the order.
      packing: as of `BatchSource`.
      first_row: where the training split begins.
      mixing: as of `BatchSource`.

    Raises:
      UsageError: an argument is out of range.
      JaLlmError: the cache is unfinished or damaged, or of another vocabulary.
    """
    if first_row < 0:
        raise UsageError(f"first_row is {first_row}; it counts rows from 0.")
    source = PackedRows(cache_dir, length, seed, packing, first_row, mixing)
    if source.rows("train").vocabulary != vocabulary.tokenizer.fingerprint:
        raise JaLlmError(
            f"{cache_dir}: this cache was made with another vocabulary than the model's; make it again with the model's."
        )
    name = f"rows.{source.rows('train').fingerprint[:16]}.{packing}.{seed}.{first_row}"
    seqio.TaskRegistry.remove(name)
    return seqio.TaskRegistry.add(
        name,
        source=source,
        output_features={"targets": seqio.Feature(vocabulary, add_eos=False, required=False)},
        preprocessors=[],
        shuffle_buffer_size=None,
    )


class ModelFeatures(seqio.PassThroughFeatureConverter):
    """Packed rows as they are; examples of `inputs` and `targets` as one row each.

    seqio's own converter for decoders puts id 0 in front and gives no weight to a token 0; here the weights and the prompt's
    length are kept beside the tokens, and what fills a row up has segment 0.
    """

    TASK_FEATURES = {name: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32) for name in ("inputs", "targets")}
    MODEL_FEATURES = {name: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32) for name in INTEGERS} | {
        WEIGHTS: seqio.FeatureConverter.FeatureSpec(dtype=tf.float32)
    }
    pack = False

    def __call__(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        """See `seqio.FeatureConverter`.

        Raises:
          UsageError: rows are of another length than `task_feature_lengths` asks for.
        """
        if "decoder_input_tokens" not in ds.element_spec:
            length = self.get_model_feature_lengths(task_feature_lengths)["decoder_input_tokens"]
            return ds.map(lambda example: example_row(example["inputs"], example["targets"], length), deterministic=True)
        (length,) = ds.element_spec["decoder_input_tokens"].shape
        if task_feature_lengths and task_feature_lengths.get("targets", length) != length:
            raise UsageError(
                f"TASK_FEATURE_LENGTHS asks for rows of {task_feature_lengths['targets']} tokens, but the rows were made of {length}; "
                "make the two equal."
            )
        return ds.map(lambda row: {name: row[name] for name in (*INTEGERS, WEIGHTS)}, deterministic=True)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        """Prompt and answer stand in one row, whose first token has no target."""
        length = task_feature_lengths.get("inputs", 0) + task_feature_lengths["targets"]
        return dict.fromkeys((*INTEGERS, WEIGHTS, "decoder_causal_attention"), length)


def example_row(inputs: tf.Tensor, targets: tf.Tensor, length: int) -> dict[str, tf.Tensor]:
    """One example as a row of `length`: inputs then targets, shifted by one; the targets alone have weight.

    `decoder_causal_attention` is 1 over the prompt, by t5x's name for it; here it says where generation begins, and
    attention is causal all the same.
    """
    tokens = tf.concat([inputs, targets], axis=0)[: length + 1]
    pairs = tf.size(tokens) - 1
    prompt = tf.size(inputs)

    def row(values: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.pad(values, [[0, length - tf.size(values)]]), [length])

    place = tf.range(length)
    real = place < pairs
    return {
        "decoder_input_tokens": row(tokens[:-1]),
        "decoder_target_tokens": row(tokens[1:]),
        "decoder_segment_ids": tf.cast(real, tf.int32),
        "decoder_positions": tf.where(real, place, 0),
        WEIGHTS: tf.cast(real & (place >= prompt - 1), tf.float32),
        "decoder_causal_attention": tf.cast(place < prompt, tf.int32),
    }
