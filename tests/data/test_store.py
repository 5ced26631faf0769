import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from ja_llm import manifest
from ja_llm.data import store as store_module
from ja_llm.data.store import TokenStore, TokenStoreWriter
from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_directory


def write(path, streams, **kwargs):
    path.mkdir()
    writer = TokenStoreWriter(path, len(streams), sum(map(len, streams)))
    for i, stream in enumerate(streams):
        writer.append(f"{i:032x}", np.array(stream, np.int32), 7 * i)
    return writer.close(config={"task": "t"}, parents=["p"], totals={}, **kwargs)


@pytest.fixture
def streams(monkeypatch):
    """Documents that fill several shards and chunks (both made small), with the greatest and least ids."""
    monkeypatch.setattr(store_module, "_CHUNK", 64)
    monkeypatch.setattr(store_module, "_SHARD_BYTES", 4 * 256)
    rng = np.random.default_rng(0)
    return [[0, *rng.integers(0, 2**31 - 1, size=int(n)).tolist(), 2**31 - 1] for n in rng.integers(1, 300, size=40)]


@pytest.mark.parametrize("in_memory", [True, False])
def test_reads_back_what_was_written(tmp_path, streams, in_memory):
    write(tmp_path / "s", streams)
    assert len(list((tmp_path / "s" / "tokens").rglob("c/*"))) > 10
    store = TokenStore.open(tmp_path / "s", in_memory=in_memory)
    assert (store.num_documents, store.num_tokens) == (40, sum(map(len, streams)))
    assert all(store.document(i).tolist() == stream for i, stream in enumerate(streams))
    assert [store.document_id(i) for i in (0, 39)] == [f"{i:032x}" for i in (0, 39)]
    assert store.byte_counts.tolist() == [store.document_bytes(i) for i in range(40)] == [7 * i for i in range(40)]
    assert store.byte_counts.dtype == np.int32
    flat = [t for stream in streams for t in stream]
    ranges = [(0, 1), (63, 65), (250, 1030), (len(flat) - 1, len(flat)), (5, 5)]
    assert [r.tolist() for r in store.read_many(ranges)] == [flat[a:b] for a, b in ranges]
    with pytest.raises(IndexError):
        store.read(0, len(flat) + 1)


def test_a_store_named_by_way_of_another_folder(tmp_path, streams, monkeypatch):
    """TensorStore takes no ".."."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(Path("../s"), streams)
    assert (
        TokenStore.open(Path("../s")).document(3).tolist() == TokenStore.open(tmp_path / "s").document(3).tolist() == streams[3]
    )


def test_equal_content_gives_equal_bytes_and_fingerprint(tmp_path, streams):
    values = [write(tmp_path / name, streams) for name in "ab"]
    assert values[0] == values[1]
    assert manifest.read(tmp_path / "a", manifest.TOKENS, verify=True)
    changed = write(tmp_path / "c", [*streams[:-1], [*streams[-1][:-1], 7]])
    assert manifest.fingerprint(changed) != manifest.fingerprint(values[0])


def test_the_fingerprint_does_not_depend_on_the_compressor(tmp_path, streams, monkeypatch):
    first = write(tmp_path / "a", streams)
    monkeypatch.setattr(store_module, "_CHUNK", 32)
    second = write(tmp_path / "b", streams)
    assert first["shards"] != second["shards"]
    assert manifest.fingerprint(first) == manifest.fingerprint(second)


def test_a_wrong_announcement_leaves_no_manifest(tmp_path):
    (tmp_path / "s").mkdir()
    writer = TokenStoreWriter(tmp_path / "s", 2, 6)
    writer.append("0" * 32, np.arange(3), 3)
    with pytest.raises(ValueError, match="announced"):
        writer.close(config={}, parents=[], totals={})
    with pytest.raises(JaLlmError, match="unfinished"):
        TokenStore.open(tmp_path / "s")


def test_sizes_go_up_to_what_int32_holds(tmp_path):
    (tmp_path / "s").mkdir()
    writer = TokenStoreWriter(tmp_path / "s", 1, 3)
    with pytest.raises(JaLlmError, match="document 00.*2,147,483,648 bytes.*split it"):
        writer.append("0" * 32, np.arange(3), 2**31)
    writer.append("0" * 32, np.arange(3), 2**31 - 1)
    writer.close(config={}, parents=[], totals={})
    assert TokenStore.open(tmp_path / "s").document_bytes(0) == 2**31 - 1


def test_lost_sizes_are_noticed(tmp_path, streams):
    write(tmp_path / "s", streams)
    shutil.rmtree(tmp_path / "s" / "bytes" / "c")
    path = tmp_path / "s" / "manifest.json"
    value = json.loads(path.read_text())
    value["shards"] = [shard for shard in value["shards"] if not shard["name"].startswith("bytes/c")]
    path.write_text(json.dumps(value))
    store = TokenStore.open(tmp_path / "s")
    with pytest.raises(JaLlmError, match="a chunk of this token store is missing"):
        store.document_bytes(0)


def damage(folder, kind):
    shard = sorted((folder / "tokens" / "c").iterdir())[1]
    if kind == "flipped":
        data = bytearray(shard.read_bytes())
        data[40] ^= 1
        shard.write_bytes(data)
    elif kind == "cut":
        shard.write_bytes(shard.read_bytes()[:-5])
    elif kind == "missing":
        shard.unlink()
    elif kind == "unfinished":
        (folder / "manifest.json").unlink()
    elif kind == "metadata":
        (folder / "tokens" / "zarr.json").write_text("{}")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("flipped", "checksum differs"),
        ("cut", "bytes, but the manifest says"),
        ("missing", "is missing"),
        ("unfinished", "no manifest.json"),
        ("metadata", "bytes, but the manifest says"),
    ],
)
def test_a_damaged_store_is_refused(tmp_path, streams, kind, sentence):
    write(tmp_path / "s", streams)
    damage(tmp_path / "s", kind)
    with pytest.raises(JaLlmError, match=sentence):
        TokenStore.open(tmp_path / "s")


def test_a_chunk_damaged_in_a_store_too_large_to_checksum_is_noticed_when_read(tmp_path, streams):
    write(tmp_path / "s", streams)
    damage(tmp_path / "s", "flipped")
    store = TokenStore.open(tmp_path / "s", verify=False, in_memory=False)
    with pytest.raises(JaLlmError, match="is damaged"):
        store.read(0, store.num_tokens)
    shutil.rmtree(tmp_path / "s" / "tokens" / "c")
    with pytest.raises(JaLlmError, match="is missing"):
        store.read(0, 10)


def test_a_file_system_that_refuses_is_a_sentence_and_leaves_nothing(tmp_path):
    # A limit on the size of files stands for a full disk: both come back from the write itself.
    tokens = np.random.default_rng(0).integers(0, 2**31 - 1, size=500_000).astype(np.int32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(JaLlmError, match="File too large"), atomic_directory(tmp_path / "s") as folder:
            writer = TokenStoreWriter(folder, 1, len(tokens))
            writer.append("0" * 32, tokens, len(tokens))
            writer.close(config={}, parents=[], totals={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_written_again_while_it_is_read_is_noticed(tmp_path):
    """Each chunk of the new store is whole, but the offsets in memory are those of the old one."""

    def write(first):
        with atomic_directory(tmp_path / "s") as folder:
            writer = TokenStoreWriter(folder, 2, 9)
            for number, size in enumerate((4, 5)):
                writer.append(f"{number:032x}", np.arange(first, first + size, dtype=np.int32), 1)
            writer.close(config={"first": first}, parents=[], totals={})

    write(3)
    store = TokenStore.open(tmp_path / "s", in_memory=False)
    assert store.document(0).tolist() == [3, 4, 5, 6]
    write(40)
    with pytest.raises(JaLlmError, match="this token store was written again or taken away since it was opened"):
        store.document(1)
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(JaLlmError, match="written again or taken away"):
        store.document(0)
