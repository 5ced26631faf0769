"""What an import wrote is read back, compared and reported: what the disk turned or lost leaves no model."""

import errno
import os

import jax
import ml_dtypes
import numpy as np
import pytest

from ja_llm.errors import JaLlmError
from ja_llm.interop import hf, hf_config, self_check
from ja_llm.interop.hf import export_hf, format_summary, import_hf
from ja_llm.interop.importing import import_checkpoint
from ja_llm.interop.self_check import TEXTS
from ja_llm.models.decoder import Decoder
from ja_llm.models.families import base
from ja_llm.train import array_files
from ja_llm.train.checkpoints import load_model
from tests.interop.hf_folders import change_tensors, contents


def spoiling(real, file, place):
    """`real`, a writer into a folder, after which one bit of a file is another, or the file is lost."""

    def write(folder, *args, **more):
        real(folder, *args, **more)
        path = folder / "checkpoints" / "0" / "params" / file
        content = bytearray(path.read_bytes())
        path.unlink()
        if place is not None:
            content[place] ^= 1
            path.write_bytes(content)

    return write


def test_numbers_that_read_back_differently_leave_no_model(copy, tmp_path, monkeypatch):
    """One bit that the disk turned, in the second layer's part of a file that is compared when it is whole, and as it is written."""
    with monkeypatch.context() as patch:
        real = hf.write_params
        patch.setattr(array_files, "is_raw", lambda params: True)
        patch.setattr(hf, "write_params", spoiling(real, "layers.mlp.wo.kernel/0.0.0", 4 * 77 * 60 + 2))
        with pytest.raises(
            JaLlmError, match="model.layers.1.mlp.down_proj.weight reads back from the model directory with other"
        ):
            import_hf(copy, tmp_path / "model")
    real = array_files.write_at

    def failing(number, data, offset):
        real(number, data, offset)
        if len(data) == 2 * 77 * 60 and offset == len(data):  # gate, up or down of layer 1
            real(number, bytes([data[9] ^ 1]), offset + 9)

    with monkeypatch.context() as patch:
        patch.setattr(array_files, "write_at", failing)
        with pytest.raises(
            JaLlmError, match=r"model.layers.1.mlp.(gate|up|down)_proj.weight reads back from the model directory"
        ):
            import_hf(copy, tmp_path / "model", "bfloat16")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_file_that_the_disk_lost_leaves_no_model(copy, tmp_path, monkeypatch, dtype):
    lost = "layers.mlp.wo.kernel/0.0.0"
    if dtype == "float32":
        monkeypatch.setattr(hf, "write_params", spoiling(hf.write_params, lost, None))
    else:
        real = hf.NewArrays.close

        def close(self):
            next(file for file in self._files if str(file).endswith(lost)).unlink()
            real(self)

        monkeypatch.setattr(hf.NewArrays, "close", close)
    with pytest.raises(JaLlmError, match="this checkpoint is damaged"):
        import_hf(copy, tmp_path / "model", dtype)
    assert not (tmp_path / "model").exists()


def test_a_disk_that_fills_up_while_the_source_is_read_ends_the_import(copy, tmp_path, monkeypatch):
    def full(number, data, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(array_files, "write_at", full)
    with pytest.raises(JaLlmError, match="model: the disk is full; free some space"):
        import_hf(copy, tmp_path / "model", "bfloat16")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_numbers_in_blocks_are_those_of_the_whole(copy, tmp_path, monkeypatch):
    """Out of a bfloat16 source into files and back, with blocks of a few rows: the very bytes, and those that float32 gives."""
    change_tensors(copy, lambda t: t.update({name: value.astype(ml_dtypes.bfloat16) for name, value in t.items()}))
    monkeypatch.setattr(base, "_BLOCK", 500)
    monkeypatch.setattr(base, "_LINES", 32)
    import_hf(copy, tmp_path / "half", "bfloat16")
    import_hf(copy, tmp_path / "whole")
    half, whole = load_model(tmp_path / "half").params, load_model(tmp_path / "whole").params
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a, np.float32), b), half, whole)
    for name in ("half", "whole"):
        export_hf(tmp_path / name, tmp_path / f"{name}.export")
        assert contents(tmp_path / f"{name}.export") == contents(copy)


def test_a_model_that_lost_a_file_is_damaged_and_not_full_of_zeros(copy, tmp_path):
    import_hf(copy, tmp_path / "model")
    (tmp_path / "model" / "checkpoints" / "0" / "params" / "token_embedder.embedding" / "0.0").unlink()
    with pytest.raises(JaLlmError, match="this checkpoint is damaged"):
        load_model(tmp_path / "model")


def test_an_export_whose_configuration_reads_back_differently_does_not_appear(copy, tmp_path, monkeypatch):
    import_hf(copy, tmp_path / "model")
    real = hf_config.to_hf
    monkeypatch.setattr(hf_config, "to_hf", lambda *args: {**real(*args), "rms_norm_eps": 0.5})
    with pytest.raises(JaLlmError, match="config.json reads back with another norm_eps"):
        export_hf(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_self_check_tells_what_it_saw(copy, tmp_path):
    summary = import_checkpoint(copy, tmp_path / "model", try_texts=True)
    loaded, told = load_model(tmp_path / "model"), format_summary(summary)
    assert "all 30 tensors read back" in told and "340 ids for 351 rows, 11 rows without an id" in told
    for name, text in TEXTS.items():
        ids = np.array([[loaded.tokenizer.bos_id, *loaded.tokenizer.encode(text)]])[:, :65]
        logits = np.asarray(Decoder(loaded.config).apply({"params": loaded.params}, ids, ids)[0], np.float64)
        if ids.shape[1] <= 64:  # the model's positions: one window
            picked = logits[np.arange(ids.size - 1), ids[0, 1:]] - np.log(np.exp(logits[:-1]).sum(-1))
            bits = -picked.sum() / np.log(2) / len(text.encode())
            assert summary["check"]["texts"][name]["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
        assert f"{summary['check']['texts'][name]['bits_per_byte']:.3f} bits/byte" in told


def test_a_model_at_chance_is_warned_of_and_one_that_reads_is_not():
    def told(*bits):
        texts = {
            name: {"bits_per_byte": b, "uniform": 8.0, "tokens_per_character": 1.0}
            for name, b in zip(("English", "Japanese"), bits, strict=True)
        }
        return "\n".join(self_check.report(9, {"rows": 5, "ids": 5, "texts": texts}))

    assert "WARNING: the model reads no better than chance" in told(8.0, 9.0) and "WARNING" in told(float("nan"), 8.5)
    assert "it reads Japanese no better than chance" in told(1.0, 8.0)
    assert "chance)" in told(1.0, 2.0) and "no better" not in told(1.0, 2.0)
