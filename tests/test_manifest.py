"""A reader refuses a set whose manifest is missing, incomplete or contradicted by its files, and says which."""

import json

import pytest

from ja_llm import manifest
from ja_llm.errors import JaLlmError, UsageError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a").write_bytes(b"aaaa")
    (tmp_path / "b").write_bytes(b"bb")
    shards = [manifest.file_entry(tmp_path / name, tmp_path, documents=1) for name in "ab"]
    manifest.write(
        tmp_path, schema=manifest.DOCUMENTS, job="test", config={"x": 1}, inputs=[], shards=shards, totals={"documents": 2}
    )
    return tmp_path


def test_a_whole_set_is_read_and_its_fingerprint_is_of_its_content(root):
    value = manifest.read(root, manifest.DOCUMENTS, verify=True)
    assert [s["name"] for s in value["shards"]] == ["a", "b"]
    same = {**value, "software": {"other": "9"}, "inputs": [{"name": "elsewhere"}]}
    assert manifest.fingerprint(same) == manifest.fingerprint(value)
    other = {**value, "shards": [{**value["shards"][0], "sha256": "0" * 64}, value["shards"][1]]}
    assert manifest.fingerprint(other) != manifest.fingerprint(value)


def test_each_kind_of_set_is_known_by_what_decides_its_content(root):
    shards = manifest.read(root, manifest.DOCUMENTS)["shards"]
    common = {"config_hash": "c", "parents": ["p"], "totals": {}, "shards": shards, "content": {"tokens": "t"}}
    changes = {"shards": shards[:1], "parents": ["q"], "content": {"tokens": "u"}, "config_hash": "d"}
    decide = {
        manifest.DOCUMENTS: {"shards", "parents", "config_hash"},
        manifest.TOKENS: {"content", "parents", "config_hash"},
        manifest.MIXTURE: {"config_hash"},
    }
    for schema, expected in decide.items():
        value = {"schema": schema, **common}
        same = manifest.fingerprint(value)
        assert {key for key, other in changes.items() if manifest.fingerprint({**value, key: other}) != same} == expected
    assert len({manifest.fingerprint({"schema": schema, **common}) for schema in decide}) == 3
    with pytest.raises(JaLlmError, match="a manifest of schema 'ja_llm.fetch/1' has no fingerprint"):
        manifest.fingerprint({"schema": "ja_llm.fetch/1", **common})


@pytest.mark.parametrize("schema", [manifest.TOKENS, manifest.MIXTURE])
def test_a_set_of_an_earlier_version_is_refused_by_its_schema(root, schema):
    assert schema.endswith("/2")
    value = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**value, "schema": schema.replace("/2", "/1")}))
    with pytest.raises(JaLlmError, match=f"/1', but '{schema}' is needed here; .* make the cache again .* into a new folder"):
        manifest.read(root, schema)


def test_missing(root):
    (root / "manifest.json").unlink()
    with pytest.raises(JaLlmError, match="unfinished or not one of ours"):
        manifest.read(root, manifest.DOCUMENTS)


def test_a_folder_that_does_not_exist_is_a_wrong_call_and_no_unfinished_set(root):
    with pytest.raises(UsageError, match="tokn: this folder does not exist"):
        manifest.read(root / "tokn", manifest.DOCUMENTS)
    (root / "token").mkdir()
    with pytest.raises(JaLlmError, match="unfinished or not one of ours") as said:
        manifest.read(root / "token", manifest.DOCUMENTS)
    assert said.value.exit_code == 1


@pytest.mark.parametrize("key", ["schema", "config_hash", "shards", "parents"])
def test_incomplete(root, key):
    value = json.loads((root / "manifest.json").read_text())
    del value[key]
    (root / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(JaLlmError, match=f"lacks {key}"):
        manifest.read(root, manifest.DOCUMENTS)


def test_contradicted(root):
    with pytest.raises(JaLlmError, match="but 'ja_llm.tokens/2' is needed here; give the folder of such a set"):
        manifest.read(root, manifest.TOKENS)
    (root / "a").write_bytes(b"aaab")
    manifest.read(root, manifest.DOCUMENTS)
    with pytest.raises(JaLlmError, match="a: the checksum differs"):
        manifest.read(root, manifest.DOCUMENTS, verify=True)
    (root / "a").write_bytes(b"aaa")
    with pytest.raises(JaLlmError, match="3 bytes, but the manifest says 4"):
        manifest.read(root, manifest.DOCUMENTS)
    (root / "a").unlink()
    with pytest.raises(JaLlmError, match="names this file, but it is missing"):
        manifest.read(root, manifest.DOCUMENTS)


def test_a_configuration_that_was_changed_afterwards_is_noticed(root):
    value = json.loads((root / "manifest.json").read_text())
    value["config"]["x"] = 2
    (root / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(JaLlmError, match="configuration was changed"):
        manifest.read(root, manifest.DOCUMENTS)
