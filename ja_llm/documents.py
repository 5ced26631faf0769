"""The Document contract: one page of text with its provenance, in TFRecords of tf.train.Example.

Every corpus job writes it and every seqio task reads it. This module needs protobuf and google-crc32c only: Beam
workers read and write documents without TensorFlow, and what they write `tf.data.TFRecordDataset` reads.
"""

import dataclasses
import functools
import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ja_llm.errors import JaLlmError
from ja_llm.files import canonical_json

FIELDS = ("id", "text", "source", "url", "lang", "date", "licence", "meta")


@dataclasses.dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
      id: 32 hex digits, `document_id(source, url, date, raw)`.
      text: the document's text, NFC-agnostic Unicode without surrogates.
      source: the name of the collection it came from, e.g. "debian-docs".
      url: where it was found.
      lang: BCP 47 primary language by content, e.g. "ja".
      date: when it was fetched or crawled, ISO 8601.
      licence: SPDX expression or the source's own words; "" when not known.
      meta: JSON object with whatever else the stages noted.
    """

    id: str
    text: str
    source: str = ""
    url: str = ""
    lang: str = ""
    date: str = ""
    licence: str = ""
    meta: str = "{}"


def document_id(source: str, url: str, date: str, raw: str | bytes) -> str:
    """128-bit hash (hex) of source, url, date and the raw text or bytes, each with its length so that fields can't run together."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (source, url, date, raw):
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.hexdigest()


@functools.cache
def _example_class() -> Any:
    """tf.train.Example from its published wire format, in a descriptor pool of our own.

    A pool of our own, because TensorFlow registers the same names in the default pool when it is imported too.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        proto = file.message_type.add(name=name)
        for field_name, number, field_type, label, type_name in fields:
            proto.field.add(name=field_name, number=number, type=field_type, label=label, type_name=type_name or None)
        return proto

    one, many, msg = kind.LABEL_OPTIONAL, kind.LABEL_REPEATED, kind.TYPE_MESSAGE
    message("BytesList", ("value", 1, kind.TYPE_BYTES, many, ""))
    message("FloatList", ("value", 1, kind.TYPE_FLOAT, many, ""))
    message("Int64List", ("value", 1, kind.TYPE_INT64, many, ""))
    message(
        "Feature",
        ("bytes_list", 1, msg, one, ".tensorflow.BytesList"),
        ("float_list", 2, msg, one, ".tensorflow.FloatList"),
        ("int64_list", 3, msg, one, ".tensorflow.Int64List"),
    )
    features = message("Features", ("feature", 1, msg, many, ".tensorflow.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kind.TYPE_STRING, label=one)
    entry.field.add(name="value", number=2, type=msg, label=one, type_name=".tensorflow.Feature")
    message("Example", ("features", 1, msg, one, ".tensorflow.Features"))

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def to_example(document: Document) -> bytes:
    """Serialise as tf.train.Example; equal documents give equal bytes."""
    example = _example_class()()
    for name in FIELDS:
        example.features.feature[name].bytes_list.value.append(getattr(document, name).encode("utf-8"))
    return example.SerializeToString(deterministic=True)


def from_example(data: bytes) -> Document:
    """Inverse of `to_example`; a field other than `id` and `text` that is missing has its default.

    Raises:
      JaLlmError: the bytes are no Example, or `id` or `text` is missing.
    """
    from google.protobuf.message import DecodeError

    example = _example_class()()
    try:
        example.ParseFromString(data)
        feature = example.features.feature
        return Document(**{name: feature[name].bytes_list.value[0].decode("utf-8") for name in FIELDS if name in feature})
    except (DecodeError, UnicodeDecodeError, IndexError, TypeError) as error:
        raise JaLlmError(f"a record is not a document ({error}).") from error


def order_key(seed: int, identity: str) -> bytes:
    """16 bytes to sort documents by, where they shall come in a shuffled order that depends on the seed and their ids alone."""
    return hashlib.blake2b(f"{seed}/{identity}".encode(), digest_size=16).digest()


def _masked_crc(data: bytes) -> int:
    import google_crc32c

    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(file: BinaryIO, data: bytes) -> None:
    """Append one TFRecord: length, masked CRC-32C of the length, data, masked CRC-32C of the data."""
    header = struct.pack("<Q", len(data))
    file.write(header + struct.pack("<I", _masked_crc(header)) + data + struct.pack("<I", _masked_crc(data)))


def read_records(path: str | Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file.

    Raises:
      JaLlmError: a record is cut off or its checksum does not fit.
    """
    with open(path, "rb") as file:
        number = 0
        while header := file.read(12):
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
            if len(header) < 12 or struct.unpack("<I", header[8:])[0] != _masked_crc(header[:8]):
                raise JaLlmError(f"{path}: record {number} is damaged or cut off; make this file again.")
            data, crc = file.read(length), file.read(4)
            if len(data) < length or len(crc) < 4 or struct.unpack("<I", crc)[0] != _masked_crc(data):
                raise JaLlmError(f"{path}: record {number} is damaged or cut off; make this file again.")
            yield data
            number += 1


def read_documents(path: str | Path) -> Iterator[Document]:
    """Yield the documents of one shard.

    Raises:
      JaLlmError: as `read_records` and `from_example`; it names the file.
    """
    for number, data in enumerate(read_records(path)):
        try:
            document = from_example(data)
        except JaLlmError as error:
            raise JaLlmError(f"{path}: of record {number}: {error} Make this file again.") from error
        yield document


def meta_json(**values: Any) -> str:
    """The `meta` field: canonical JSON of the given values."""
    return canonical_json(values)
