"""Evaluation of a real (tiny) model: right numbers, the same after a kill, and clear refusals."""

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm import manifest
from ja_llm.documents import Document, document_id, to_example, write_record
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import run as run_module
from ja_llm.evaluation.generation import Generator, generate
from ja_llm.evaluation.run import evaluate, format_results
from ja_llm.evaluation.samples import TaskFiles, read_samples
from ja_llm.files import atomic_write
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.train.checkpoints import load_model, save_model
from ja_llm.vocab.base import load_tokenizer

WORDS = {
    "ja": ("青い空", "古い駅", "静かな海", "白い犬", "長い道"),
    "en": ("a blue sky", "an old station", "a calm sea", "a white dog"),
}


def page(lang, number):
    draw = np.random.default_rng(number)
    form = "ここには{}と{}があります。" if lang == "ja" else "Here you can see {} and also {}. "
    return f"{number} " + "".join(form.format(*draw.choice(WORDS[lang], 2)) for _ in range(10 + number % 7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`documents` (150 held-out Japanese, 12 English), `pairs.jsonl` and `model`, random weights."""
    folder = tmp_path_factory.mktemp("evaluate")
    shards = []
    for lang, count in (("ja", 150), ("en", 12)):
        texts = [page(lang, n) for n in range(count)]
        path = folder / "documents" / lang / "heldout-00000-of-00001.tfrecord"
        with atomic_write(path) as file:
            for text in texts:
                write_record(file, to_example(Document(id=document_id("t", lang, "", text), text=text, lang=lang)))
        shards.append(manifest.file_entry(path, folder / "documents", documents=count, lang=lang, split="heldout"))
    manifest.write(folder / "documents", schema=manifest.DOCUMENTS, job="test", config={}, inputs=[], shards=shards)
    pairs = [{"en": f"Look at the station {n}", "ja": f"駅{n}を見る"} for n in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    import sentencepiece

    (folder / "vocab").mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([page(lang, n) for n in range(60) for lang in WORDS]),
        model_prefix=str(folder / "vocab/tokenizer"),
        vocab_size=330,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        num_threads=1,
    )
    tokenizer = load_tokenizer(folder / "vocab")
    config = DecoderConfig(
        tokenizer.vocab_size + 6, embed_dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48, max_length=256
    )
    params = jax.tree.map(lambda a: a * 2, init_params(config, jax.random.key(3)))
    save_model(folder / "model", config=config, params=params, tokenizer=tokenizer, ledger={"job": "test"})
    return folder


def run(folder, out, tasks="first", **kw):
    return evaluate(
        folder / "model", tasks, root=folder / "documents", pairs=folder / "pairs.jsonl", out_dir=out, limit=10, length=192, **kw
    )


@pytest.fixture(scope="module")
def whole(folder):
    """The results of an undisturbed evaluation."""
    return run(folder, folder / "whole")


def test_bits_per_byte_of_a_document_equals_one_plain_forward_pass(folder, whole):
    loaded = load_model(folder / "model")
    text = page("ja", 0)
    ids = loaded.tokenizer.document_ids(text)
    logits = np.asarray(Decoder(loaded.config).apply({"params": loaded.params}, *[jnp.array([ids[:-1]])] * 2)[0], np.float64)
    assert len(ids) - 1 <= 192  # one window
    expected = sum(row[target] - np.log(np.exp(row).sum()) for row, target in zip(logits, ids[1:], strict=True))
    samples = {s["id"]: s["score"] for s in read_samples(folder / "whole/bits_per_byte_ja.samples.jsonl")}
    assert samples[document_id("t", "ja", "", text)] == pytest.approx(expected, rel=1e-5)
    task = whole["tasks"]["bits_per_byte_ja"]
    assert task["documents"] == 150  # the limit is not for whole sets
    assert task["bits"] == pytest.approx(-sum(samples.values()) / np.log(2))
    assert task["bits_per_byte"] == task["bits"] / sum(len(page("ja", n).encode()) for n in range(150))


def test_cached_generation_equals_whole_forward_passes(folder):
    loaded = load_model(folder / "model")
    room = Generator(loaded).room(20)
    longest = next(text for n in range(999) if len(loaded.tokenizer.encode(text := "ここには" + "あ" * n)) == room - 1)
    prompts = ["ここには", "Here you can see a blue sky", "a", longest]  # the last ends at the model's last position
    forward = jax.jit(lambda tokens: Decoder(loaded.config).apply({"params": loaded.params}, tokens, tokens))
    decode, size = loaded.tokenizer.decode, loaded.tokenizer.vocab_size
    for prompt, text in zip(prompts, generate(loaded, prompts, 20, batch_size=3), strict=True):
        ids = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode(prompt)]
        length = len(ids)
        while len(ids) < length + 20 and ids[-1] != loaded.tokenizer.eos_id:
            logits = forward(np.array([ids + [0] * (256 - len(ids))]))[0, len(ids) - 1]
            ids.append(int(logits[:size].argmax()))  # rows that pad the table are never written
        whole_text = decode(ids[1:])[len(decode(ids[1:length])) :]
        # The limit may fall between the bytes of a character: those are not shown.
        assert text == (whole_text if ids[-1] == loaded.tokenizer.eos_id else whole_text.rstrip("\ufffd"))


def test_results_are_told(folder, whole):
    stored = json.loads((folder / "whole/results.json").read_text())
    assert stored == json.loads(json.dumps(whole))
    told = format_results(whole)
    assert all(name in told for name in whole["tasks"]) and len(told.splitlines()) == 6
    assert whole["tasks"]["continuation_choice_ja"]["questions"] == 10


def test_an_interrupted_evaluation_ends_in_the_same_numbers(folder, whole, monkeypatch):
    """Stopped inside a task after its first chunk, with a half-written line; then the same command."""
    out = folder / "stopped"
    append, calls = TaskFiles.append, []

    def stopping(self, chunk):
        if len(calls) == 2:
            with open(self._partial, "ab") as file:
                file.write(b'[{"id": "cut')
            raise KeyboardInterrupt
        calls.append(len(chunk))
        append(self, chunk)

    monkeypatch.setattr(TaskFiles, "append", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(folder, out)
    assert not (out / "results.json").exists()
    monkeypatch.setattr(TaskFiles, "append", lambda self, chunk: (calls.append(len(chunk)), append(self, chunk)))
    assert run(folder, out) == whole
    assert sum(calls) == 150 + 12 + 40 + 40 + 8  # each example once
    for path in sorted((folder / "whole").iterdir()):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (folder / "whole").iterdir())


def test_finished_tasks_are_not_run_again_and_other_settings_are(folder, whole, monkeypatch):
    monkeypatch.setattr(run_module.Runners, "run", lambda *unused: pytest.fail("nothing is left to do"))
    assert run(folder, folder / "whole") == whole
    with pytest.raises(pytest.fail.Exception):
        run(folder, folder / "whole", documents=20)
    assert run(folder, folder / "whole") == whole


def test_one_more_task_joins_the_results_of_the_same_model_data_and_settings(folder, whole, monkeypatch):
    out = shutil.copytree(folder / "whole", folder / "joined")
    runs = []
    plain = run_module.Runners.run
    monkeypatch.setattr(run_module.Runners, "run", lambda self, task, *rest: runs.append(task.name) or plain(self, task, *rest))
    assert run(folder, out, "bits_per_byte_en") == whole and not runs
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(whole))
    # A call without pairs measures its own task again; those that were measured with them are still of this model and set.
    both = evaluate(folder / "model", "bits_per_byte_en", root=folder / "documents", out_dir=out, limit=10, length=192)
    assert both["tasks"] == whole["tasks"] and both["data"] == whole["data"] and set(runs) == {"bits_per_byte_en"}


def test_results_of_other_settings_weights_data_or_versions_do_not_join(folder, whole, tmp_path, monkeypatch):
    def joined(change=lambda out: None, **kw):
        out = shutil.copytree(folder / "whole", tmp_path / f"out{len(list(tmp_path.iterdir()))}")
        change(out)
        return set(run(folder, out, "bits_per_byte_en", **kw)["tasks"])

    whole_sets = {"bits_per_byte_ja", "bits_per_byte_en"}
    assert joined(batch_size=8) == {"bits_per_byte_en"}
    assert joined(documents=5) == set(whole["tasks"]) - {"bits_per_byte_ja"}  # only whole sets read this setting

    def edit(out, name, change):
        value = json.loads((out / f"{name}.json").read_text())
        change(value["request"])
        (out / f"{name}.json").write_text(json.dumps(value))

    others = {
        "weights": lambda request: request["model"].update(weights="other"),
        "vocabulary": lambda request: request["model"].update(vocabulary="other"),
        "step": lambda request: request["model"].update(step=7),
        "documents": lambda request: request["data"].update(documents="other"),
        "pairs": lambda request: request["data"].update(pairs="other"),
        "version": lambda request: request.update(version=0),
        "code": lambda request: request.update(code="other"),
        "damage": lambda request: request.clear(),
    }
    for name, change in others.items():
        assert "bits_per_byte_ja" not in joined(lambda out, c=change: edit(out, "bits_per_byte_ja", c)), name
    assert whole_sets <= joined()
    assert "bits_per_byte_ja" not in joined(lambda out: (out / "bits_per_byte_ja.samples.jsonl").unlink())


def test_what_a_suite_left_out_stays_said_until_it_is_measured(folder):
    out = folder / "later_pairs"
    sizes = {"limit": 2, "documents": 2, "length": 64, "out_dir": out, "root": folder / "documents"}
    assert list(evaluate(folder / "model", **sizes)["left_out"]) == ["translate_ui_en_ja"]
    assert list(evaluate(folder / "model", "bits_per_byte_en", **sizes)["left_out"]) == ["translate_ui_en_ja"]
    results = evaluate(folder / "model", "translate_ui_en_ja", pairs=folder / "pairs.jsonl", **sizes)
    assert not results["left_out"] and len(results["tasks"]) == 5 and set(results["data"]) == {"documents", "pairs"}


def test_a_full_disk_ends_in_a_sentence_and_the_same_command_goes_on(folder, tmp_path, monkeypatch):
    """Full at each write in turn, with half of the data written: request, chunk, samples, task, results."""

    def measure(out):
        return evaluate(folder / "model", "bits_per_byte_en", root=folder / "documents", out_dir=out, documents=3, length=64)

    expected, fsync = measure(tmp_path / "whole"), os.fsync
    for number in range(1, 6):
        out, calls = tmp_path / f"full{number}", itertools.count(1)

        def full(fd, number=number, calls=calls):
            if next(calls) == number:
                os.ftruncate(fd, os.fstat(fd).st_size // 2)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(fd)

        with monkeypatch.context() as patch, pytest.raises(JaLlmError, match="the disk is full; free some space"):
            patch.setattr(os, "fsync", full)
            measure(out)
        there = {path.name.removeprefix("bits_per_byte_en.") for path in out.iterdir()}
        steps = [set(), {"partial.jsonl"}, {"partial.jsonl"}, {"partial.jsonl", "samples.jsonl"}, {"samples.jsonl", "json"}]
        assert there == steps[number - 1]
        assert measure(out) == expected
        assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}


def test_sigkill_then_the_same_command(folder, whole):
    """A real kill while bits per byte is being measured."""
    out = folder / "killed"
    code = (
        "import sys, time; from ja_llm.evaluation import run; from ja_llm.evaluation.samples import TaskFiles as F;"
        "append = F.append; F.append = lambda s, c: (append(s, c), time.sleep(60));"
        "run.evaluate(sys.argv[1] + '/model', 'bits_per_byte_ja', root=sys.argv[1] + '/documents', out_dir=sys.argv[2], length=192)"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen([sys.executable, "-c", code, str(folder), str(out)], env=environment, stderr=subprocess.PIPE)
    partial = out / "bits_per_byte_ja.partial.jsonl"
    end = time.monotonic() + 120
    while not (partial.exists() and partial.read_bytes().count(b"\n") == 2):
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    results = evaluate(folder / "model", "bits_per_byte_ja", root=folder / "documents", out_dir=out, length=192)
    assert results["tasks"]["bits_per_byte_ja"] == whole["tasks"]["bits_per_byte_ja"]


def test_a_suite_leaves_out_what_has_no_source_and_a_named_task_does_not(folder):
    results = evaluate(folder / "model", root=folder / "documents", out_dir=folder / "nopairs", limit=4, documents=4, length=64)
    assert list(results["left_out"]) == ["translate_ui_en_ja"] and len(results["tasks"]) == 4
    assert "not measured" in format_results(results)
    with pytest.raises(UsageError, match="translate_ui_en_ja: this task needs aligned pairs"):
        evaluate(folder / "model", ["translate_ui_en_ja"], root=folder / "documents")
    with pytest.raises(UsageError, match="no task can run"):
        evaluate(folder / "model", "first")
    with pytest.raises(UsageError, match="at least 1"):
        evaluate(folder / "model", root=folder / "documents", limit=0)


def test_a_vocabulary_that_does_not_fit_is_refused(folder, tmp_path):
    other = shutil.copytree(folder / "model", tmp_path / "model")
    special = other / "vocab/special_ids.json"
    special.write_text(json.dumps({"bos": 5, "eos": 6, "unk": 0}))
    with pytest.raises(JaLlmError, match="does not fit"):
        evaluate(other, "bits_per_byte_ja", root=folder / "documents")
    loaded = load_model(folder / "model")

    class Small:
        tokenizer, directory, config = loaded.tokenizer, other, DecoderConfig(300, 32, 2, 4, 2, 8, 48, 256)

    with pytest.raises(JaLlmError, match=r"ids, but the model has 300 rows"):
        run_module.check_vocabulary(Small())
