"""A run with REPEAT_FILTER: what it leaves out is counted, also when it goes on, and it does not go on without."""

import json

import numpy as np
import pytest

from ja_llm import manifest
from ja_llm.cli import main
from ja_llm.data import cache as cache_module
from ja_llm.data.stages import StagedBatches
from ja_llm.documents import document_id

LENGTH, BATCH, STEPS = 64, 8, 6


@pytest.fixture(scope="module")
def repeating(tmp_path_factory, make_cache):
    """A cache of one task, of whose documents every fourth is one token over and over."""
    folder = tmp_path_factory.mktemp("repeating") / "tokens"
    other = make_cache(folder.parent / "other")
    config = manifest.read(other, manifest.MIXTURE)["config"]
    (other / "vocab").rename(folder.parent / "vocab")
    folder.mkdir()
    (folder.parent / "vocab").rename(folder / "vocab")
    rng = np.random.default_rng(0)
    ids = [np.concatenate([[1], rng.integers(3, 300, 60) if i % 4 else np.full(60, 9 + i % 5), [2]]) for i in range(60)]
    rows = ((document_id("test", "", "", str(i)), tokens.astype(np.int32), str(i)) for i, tokens in enumerate(ids))
    asked = {"task": "web_en", "split": "train", "seed": 0, "vocabulary": config["vocabulary"]}
    value = cache_module._write_documents(folder / "web_en" / "train", rows, asked, ["0" * 64])
    part = {"path": "web_en/train", "fingerprint": manifest.fingerprint(value), **value["totals"]}
    request = {**config, "rates": {"web_en": 1.0}, "splits": ["train"]}
    cache_module._write_mixture(folder, request, [{"task": "web_en", "rate": 1.0, "splits": {"train": part}}], ["0" * 64])
    return folder


def test_the_share_that_is_left_out_is_logged_by_a_run_that_resumes_too(training, repeating, tmp_path, capsys):
    def command(name, steps, **more):
        macros = {"CACHE_DIR": str(repeating), "TASK_FEATURE_LENGTHS": {"targets": LENGTH}, "CHECKPOINT_PERIOD": 3, **more}
        words = training.command(tmp_path / name, steps, **macros)[3:]
        return [*words, "--gin.SCHEDULE=@learning_rates.WarmupConstant()", "--gin_bindings=main.train.eval_documents = 0"]

    for steps in (3, STEPS):
        assert main(command("run", steps, REPEAT_FILTER=True)) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    batches = StagedBatches(repeating, length=LENGTH, batch_size=BATCH, seed=0, repeat_filter=True)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for step, line in enumerate(lines):
        batch = batches.local((0, step), 0, 1)
        pairs, weight = (batch["decoder_segment_ids"] > 0).sum(), batch["decoder_loss_weights"].sum()
        assert line["target_tokens"] == weight and line["repeat_masked"] == pytest.approx(1 - weight / pairs, abs=1e-12)
        assert 0 < line["repeat_masked"] < 0.8 and "pairs" not in line
    capsys.readouterr()
    assert main(command("run", STEPS + 1)) == 2
    said = capsys.readouterr().err
    assert "other data" in said and "REPEAT_FILTER" in said
