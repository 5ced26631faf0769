"""A disk that fills up at any write ends an export or a cache with one sentence, and leaves nothing that looks finished."""

import errno
import os

import numpy as np
import pytest

from ja_llm import manifest
from ja_llm.data import cache as cache_module
from ja_llm.data import store
from ja_llm.errors import JaLlmError


def no_space(*unused, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fails_at(number, function):
    """`function`, but its call with this number ends on a full disk (what it began is over by then); `.calls` counts them."""

    def call(*args, **named):
        call.calls += 1
        result = function(*args, **named)
        if call.calls == number:
            no_space()
        return result

    call.calls = 0
    return call


def check_sentence(caught):
    text = str(caught.value)
    assert "the disk is full; free some space" in text and "\n" not in text and text.count(". ") == 0


@pytest.mark.parametrize(("module", "name"), [(store, "_finish"), (os, "fsync")])
def test_a_token_store_is_whole_or_not_there(tmp_path, monkeypatch, module, name):
    rows = [(f"{n:032x}", np.array([1, *range(3, n + 4), 2], np.int32), "a" * (n + 1)) for n in range(40)]
    config, whole = {"task": "t", "seed": 0}, getattr(module, name)

    def write(folder):
        return cache_module._write_documents(folder / "t" / "train", iter(rows), config, [])

    counted = fails_at(0, whole)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, counted)
        expected = write(tmp_path / "whole")
    assert counted.calls
    for number in range(1, counted.calls + 1):
        with monkeypatch.context() as patch, pytest.raises(JaLlmError) as caught:
            patch.setattr(module, name, fails_at(number, whole))
            write(tmp_path / "full")
        check_sentence(caught)
        assert not any((tmp_path / "full" / "t").iterdir()), number
    assert write(tmp_path / "full")["shards"] == expected["shards"]


def test_a_cache_without_room_for_its_manifest_is_not_finished(tmp_path, monkeypatch):
    request = {"name": "t", "rates": {}, "seed": 0, "splits": [], "vocabulary": "v"}
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(JaLlmError) as caught:
        cache_module._write_mixture(tmp_path, request, [], [])
    check_sentence(caught)
    assert not any(tmp_path.iterdir())
    with pytest.raises(JaLlmError):
        manifest.read(tmp_path, manifest.MIXTURE)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import jax

    from ja_llm.models.config import DecoderConfig
    from ja_llm.models.decoder import init_params
    from ja_llm.train.checkpoints import save_model
    from ja_llm.vocab.train import train_sentencepiece

    folder = tmp_path_factory.mktemp("full")
    tokenizer = train_sentencepiece(["a small harbour, an old map\n" * 9], folder / "vocab", vocab_size=300)
    config = DecoderConfig(tokenizer.vocab_size, 8, 1, 2, 1, 4, 12, 16)
    params = init_params(config, jax.random.key(0))
    return save_model(folder / "model", config=config, params=params, tokenizer=tokenizer, ledger={"job": "test"})


def test_an_export_is_whole_or_not_there(model, tmp_path, monkeypatch):
    from ja_llm.interop import safetensors_files
    from ja_llm.interop.hf import export_hf

    out = tmp_path / "export"
    written, write_text = safetensors_files._Written, type(out).write_text
    write = written.write
    counted = fails_at(0, os.fsync)
    for earlier in (False, True):  # an export that stands there already stays as it was
        before = {p.name: p.read_bytes() for p in out.iterdir()} if earlier else None
        for target, name, broken in [
            (written, "write", no_space),
            (written, "write", fails_at(1, write)),
            (
                type(out),
                "write_text",
                lambda path, *a, **k: no_space() if path.name == "README.md" else write_text(path, *a, **k),
            ),
            # every second one, for time, and the last: of the folder in which the new name stands by then
            *((os, "fsync", fails_at(number, os.fsync)) for number in range(counted.calls, 0, -2)),
        ]:
            with monkeypatch.context() as patch, pytest.raises(JaLlmError) as caught:
                patch.setattr(target, name, broken)
                export_hf(model, out)
            check_sentence(caught)
            assert [p.name for p in tmp_path.iterdir()] == (["export"] if earlier else [])
            assert before is None or {p.name: p.read_bytes() for p in out.iterdir()} == before
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", counted)
            export_hf(model, out)
