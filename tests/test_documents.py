"""The Document contract against TensorFlow's own reader and parser, and its refusal of damaged records."""

import io
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ja_llm.documents import FIELDS, Document, document_id, from_example, read_documents, to_example, write_record
from ja_llm.errors import JaLlmError

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=80)
DOCUMENTS = st.builds(Document, **dict.fromkeys(FIELDS, TEXT))


@given(DOCUMENTS)
def test_documents_survive_the_way_there_and_back(document):
    assert from_example(to_example(document)) == document


@given(TEXT, TEXT, TEXT, TEXT)
def test_ids_tell_fields_apart_that_run_together(source, url, date, raw):
    assert len(document_id(source, url, date, raw)) == 32
    assert document_id(source + "x", url, date, raw) != document_id(source, "x" + url, date, raw)
    assert document_id(source, url, date, raw) == document_id(source, url, date, raw.encode())


def test_tensorflow_reads_what_we_write(tmp_path):
    documents = [Document(f"{i:032x}", f"本文 {i}\nsecond line", url=f"https://example.org/{i}", lang="ja") for i in range(5)]
    path = tmp_path / "shard.tfrecord"
    with open(path, "wb") as file:
        for document in documents:
            write_record(file, to_example(document))
    program = f"""
import tensorflow as tf
spec = {{name: tf.io.FixedLenFeature([], tf.string) for name in {FIELDS!r}}}
for record in tf.data.TFRecordDataset({str(path)!r}):
    parsed = tf.io.parse_single_example(record, spec)
    print(parsed["id"].numpy().decode(), repr(parsed["text"].numpy().decode()), parsed["lang"].numpy().decode())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [f"{d.id} {d.text!r} {d.lang}" for d in documents]
    assert list(read_documents(path)) == documents


def test_every_cut_and_every_flipped_byte_is_noticed(tmp_path):
    buffer = io.BytesIO()
    for i in range(2):
        write_record(buffer, to_example(Document(str(i), "text")))
    data, path = buffer.getvalue(), tmp_path / "x.tfrecord"
    half = len(data) // 2
    for cut in range(1, len(data)):
        path.write_bytes(data[:cut])
        if cut == half:  # the end of the first record is a whole file; the manifest's size tells
            assert len(list(read_documents(path))) == 1
            continue
        with pytest.raises(JaLlmError, match="damaged or cut off"):
            list(read_documents(path))
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(JaLlmError, match="damaged or cut off"):
            list(read_documents(path))


def test_bytes_that_are_no_example_are_refused():
    with pytest.raises(JaLlmError, match="not a document"):
        from_example(b"\xff\xff\xff")
    with pytest.raises(JaLlmError, match="not a document"):
        from_example(b"")


def test_a_record_without_id_or_text_is_refused_and_its_file_named(tmp_path):
    whole = to_example(Document("a", "b"))
    path = tmp_path / "shard.tfrecord"
    with open(path, "wb") as file:
        write_record(file, whole)
        write_record(file, b"")
    with pytest.raises(JaLlmError, match="shard.tfrecord: of record 1: a record is not a document"):
        list(read_documents(path))
    assert from_example(whole.replace(b"licence", b"licenxe")).licence == ""
    with pytest.raises(JaLlmError, match="not a document"):
        from_example(whole.replace(b"text", b"texx"))
