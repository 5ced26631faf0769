"""Small twins: proportions and shape of each recipe are kept, and each twin trains, goes on and is evaluated."""

import contextlib
import io
import json
import math
import re
import shutil

import gin
import numpy as np
import pytest

from ja_llm import manifest
from ja_llm.cli import main
from ja_llm.compile.settings import settings
from ja_llm.data import registry
from ja_llm.documents import read_documents
from ja_llm.errors import UsageError
from ja_llm.gin_utils import parsed
from ja_llm.models.config import DecoderConfig
from ja_llm.recipes import catalogue, shrink, stand_ins, twin
from ja_llm.train import main as training
from ja_llm.vocab.train import train_sentencepiece

SAMPLES = ("swallow_llama2_7b_parallel_first",)  # two stages and few sources, so that it takes seconds
NAMES = catalogue.names()
# Of each family one, of each shape of schedule one; the others with `make test-recipes`.
KINDS = (*SAMPLES, "aurora_m_15b", "olmo2_7b_anneal", "olmo2_7b_stage1", "swallow_gemma2_9b", "swallow_mixtral_8x7b")
EACH = [name if name in KINDS else pytest.param(name, marks=pytest.mark.recipes) for name in NAMES]


@pytest.mark.parametrize("name", EACH)
def test_the_small_model_has_the_proportions_of_the_large_one(name):
    recipe = catalogue.resolve(name)
    large = recipe.step.model
    small = shrink.shrunk_model(large, 5_000_000, 2000, recipe.step.length, 256)
    assert shrink.count_params(small) == pytest.approx(5_000_000, rel=0.06)
    assert shrink.weights(large) == pytest.approx(shrink.count_params(large), rel=1e-3)
    depth, width = (shrink.proportions(model)["depth / width"] for model in (small, large))
    # One layer more or less is what rounding costs; of a pattern of layers, one pattern; and there are two at least.
    assert abs(depth / width - 1) <= len(large.window_pattern) / small.num_layers or small.num_layers == 2
    before, after = shrink.proportions(large), shrink.proportions(small)
    assert after["feed-forward / width"] == pytest.approx(before["feed-forward / width"], rel=0.02)
    assert after["all heads / width"] == pytest.approx(before["all heads / width"], rel=0.1)
    if large.num_kv_heads > 1:
        assert small.num_heads / small.num_kv_heads == large.num_heads / large.num_kv_heads
    same = (
        "family",
        "norm",
        "norm_placement",
        "activation",
        "tie_embeddings",
        "positions",
        "qk_norm",
        "num_experts",
        "experts_per_token",
    )
    assert all(getattr(small, field) == getattr(large, field) for field in (*same, "logits_softcap", "window_pattern"))
    if large.init_std:  # each number of a product's result keeps its spread
        assert small.init_std**2 * small.embed_dim == pytest.approx(large.init_std**2 * large.embed_dim, rel=1e-3)
        assert (small.init_cut, small.init_depth_scaled) == (large.init_cut, large.init_depth_scaled)
    assert (small.query_scalar or small.head_dim) / small.head_dim == pytest.approx(
        (large.query_scalar or large.head_dim) / large.head_dim, rel=0.1
    )


def test_parameters_are_as_many_as_the_models_own():
    """By hand: two tables of 100 x 32; per layer 4 x 32 x 32 of attention, 3 x 32 x 64 of the block, two norms; the last norm."""
    config = DecoderConfig(100, 32, 3, 4, 4, 8, 64, 16)
    assert shrink.count_params(config) == 2 * 100 * 32 + 3 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32


@pytest.mark.parametrize("name", EACH)
def test_the_schedule_keeps_its_shape_and_floors_and_the_stages_their_places(name, tmp_path):
    recipe = catalogue.resolve(name)
    small = twin.scaled(name, 5_000_000, 20_000_000, 2000, 256, 16)
    assert small.tokens == pytest.approx(20_000_000, rel=1e-3)
    file = tmp_path / "twin.gin"
    file.write_text(twin._gin(small, tmp_path))
    factor = small.rate_factor
    places = np.linspace(0, 1, 41)
    with settings([catalogue.file_of(name)], ()) as step:
        large = np.asarray(step.schedule(places * recipe.steps), np.float64)
    with parsed([str(file)], []):
        given = gin.get_bindings(training.train)
        rates = np.asarray(given["schedule"](places * small.steps), np.float64)
        stages = [0, *(stage.from_step for stage in given["stages"])]
        mixtures = [given["mixture_or_task_name"], *(stage.mixture_or_task_name for stage in given["stages"])]
        optimizer, options = given["optimizer"], given["z_loss"]
        model = given["model"] and given["model"](vocab_size=2000)
        assert given["repeat_filter"] == name.startswith("olmo2")
    # The warm-up's length is a whole number of steps, and its first step is at a peak's share of that.
    np.testing.assert_allclose((rates / factor / recipe.peak)[1:], (large / recipe.peak)[1:], atol=0.02)
    if recipe.warmup_steps:
        assert abs(small.bindings["WARMUP_STEPS"] / small.steps - recipe.warmup_steps / recipe.steps) < 1 / small.steps
    assert rates[-1] / rates.max() == pytest.approx(recipe.final / recipe.peak, abs=2e-3)
    assert mixtures == [stage.mixture for stage in recipe.stages]
    for begin, stage in zip(stages, recipe.stages, strict=True):
        assert abs(begin / small.steps - stage.from_step / recipe.steps) < 1 / small.steps
    assert optimizer == recipe.step.optimizer and options == recipe.step.options.z_loss
    assert recipe.published.base or model == small.model


def test_what_can_not_be_shrunk_is_refused(tmp_path):
    for words, says in (
        (["swallow_lama31", "--out", "x"], "near names are swallow_llama31"),
        (["olmo2_7b_anneal", "--tokens", "1k"], "--tokens 1,000: that is 0 steps"),
        (["olmo2_7b_anneal", "--params", "2k"], "--params 2,000"),
        (["olmo2_7b_anneal", "--params", "90B"], "no smaller than the recipe's own"),
        (["olmo2_7b_anneal", "--length", "0"], "--length 0: give 16 or more"),
        (["olmo2_7b_anneal", "--length", "3"], "--length 3: give 16 or more"),
        (["olmo2_7b_anneal", "--batch_size", "0"], "--batch_size 0: give 1 or more"),
        (["olmo2_7b_anneal", "--vocab_size", "10", "--out", str(tmp_path / "x")], "--vocab_size 10: bytes and"),
        (["olmo2_7b_anneal", "--out", str(tmp_path)], "is there already"),
        (
            ["olmo2_7b_anneal", "--out", str(tmp_path / "x"), "--documents", f"weeb={tmp_path}"],
            "the document set 'dclm', whose folder is not given",
        ),
        (
            ["olmo2_7b_anneal", "--out", str(tmp_path / "x"), "--documents", str(tmp_path / "nope")],
            f"{tmp_path}/nope: this folder does not exist",
        ),
    ):
        code, said = call("recipes", "shrink", *words)
        assert code == 2 and says in said, said
    assert not list(tmp_path.iterdir())


def test_the_same_command_once_more_keeps_the_folder_and_another_names_what_differs(tmp_path, vocab, capsys):
    words = ["recipes", "shrink", SAMPLES[0], "--params", "200k", "--tokens", "10k", "--length", "48", "--batch_size", "4"]
    words += ["--vocab", str(vocab), "--out", str(tmp_path / "small")]
    assert main(words) == 0
    first = capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "small").rglob("*")}
    assert main(words) == 0
    again = capsys.readouterr().out
    assert "made before, whole" in again and again.replace(" (made before, whole)", "") == first
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "small").rglob("*")}
    code, said = call(*words, "--tokens", "20k")
    assert code == 2 and "--tokens was 10000, now it is 20000" in said
    (tmp_path / "small").rename(tmp_path / "moved")  # its files name the folder
    code, said = call(*words[:-1], str(tmp_path / "moved"))
    assert code == 2 and "in another place" in said


def call(*words):
    """(exit code, what was said on stderr) of `ja-llm`."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(list(words))
    return code, said.getvalue()


# --- the runs


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    """One vocabulary for all twins: of what stands in for one recipe's sources."""
    folder = tmp_path_factory.mktemp("vocab")
    tasks = registry.resolve("swallow_llama2")
    folders = stand_ins.write_stand_ins(folder / "documents", tasks).values()
    train_sentencepiece(stand_ins.texts(folders), folder / "vocab", vocab_size=1200, character_coverage=0.98)
    return folder / "vocab"


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}, [
        line for line in lines if any("bits_per_byte" in key for key in line)
    ]


def trains_saves_resumes_and_evaluates(name, out, vocab):
    steps, rows, length = 50, 4, 48
    small = twin.write_twin(name, out, params=200_000, tokens=steps * rows * length, vocab=vocab, batch_size=rows, length=length)
    assert small.steps == steps
    train: list[str] = []
    for line in (out / "run.sh").read_text().splitlines():
        command = line.rpartition("|| ")[2]
        if command.startswith("ja-llm"):
            words = [word for word in command.split()[1:] if word != '"$@"']
            if words[-1].endswith("twin.gin"):
                train = words
            elif words[-1].endswith("base.gin"):
                words += ["--gin.TRAIN_STEPS=5", "--gin.EVAL_PERIOD=0", "--gin.CHECKPOINT_PERIOD=5", "--gin.WARMUP_STEPS=1"]
            assert main(words) == 0, line
    run = out / "runs/twin"
    losses, evaluated = metrics(run)
    tasks = {task for stage in small.recipe.stages[:1] for task in stage.shares}
    assert sorted(losses) == list(range(1, steps + 1)) and all(math.isfinite(line["loss"]) for line in losses.values())
    assert [line["step"] for line in evaluated] == [0, 10, 20, 30, 40, 50]
    told = {key.split("/")[1] for line in evaluated for key in line if "bits_per_byte" in key}
    assert tasks <= told, (tasks, told)
    # Back to the checkpoint before the last one, as after a kill: it is made again with the same losses and figures.
    last = run / "checkpoints" / str(steps)
    shutil.rmtree(last)
    assert main(train) == 0 and last.is_dir()
    again, measured = metrics(run)
    assert {step: line["loss"] for step, line in again.items()} == {step: line["loss"] for step, line in losses.items()}
    assert measured == evaluated


@pytest.mark.parametrize("params", [200_000, 5_000_000])
@pytest.mark.parametrize("name", ["swallow_llama31_8b_v02", "olmo2_7b_anneal", "llmjp_v3_13b_midtraining"])
def test_a_twin_stands_to_its_base_as_the_recipe_to_a_model_trained_at_3e_4(name, params, tmp_path):
    recipe, small = catalogue.resolve(name), twin.scaled(name, params, 400_000, 1200, 256, 16)
    rates = {}
    for file, text in twin._files(small, tmp_path).items():
        found = re.findall(r"^(PEAK|FINAL)_LEARNING_RATE = (\S+)$", text, re.MULTILINE)
        rates[file] = {key: float(value) for key, value in found}  # the last one wins, as in gin
    base, own = rates["base.gin"], rates["twin.gin"]
    assert own["PEAK"] / base["PEAK"] == pytest.approx(recipe.peak / 3e-4, rel=1e-3)
    assert own["PEAK"] <= base["PEAK"] <= shrink.HIGHEST_RATE
    # What begins with no warm-up, as an anneal does, begins at the rate that its base ended with.
    assert base["FINAL"] == (base["PEAK"] / 10 if recipe.warmup_steps else own["PEAK"])


def test_a_recipe_of_several_runs_is_averaged(tmp_path, vocab):
    out = tmp_path / "small"
    twin.write_twin("olmo2_7b_anneal", out, params=200_000, tokens=10_000, vocab=vocab, batch_size=4, length=48)
    script = (out / "run.sh").read_text()
    assert [script.count(f"--gin.RANDOM_SEED={seed} --gin.MODEL_DIR={out}/runs/twin{seed}") for seed in (1, 2, 3)] == [1, 1, 0]
    assert script.endswith(f"ja-llm average {out}/runs/twin {out}/runs/twin1 {out}/runs/twin2 --out {out}/averaged\n")


@pytest.fixture
def plainly_cached(monkeypatch):
    """`ja-llm cache` without TensorFlow, which takes longer to load than these stores to write; tests/data has it with."""

    def tokenized(task, split, tokenizer, root):
        value = manifest.read(root, manifest.DOCUMENTS)
        for shard in registry.shards(registry.task(task), value, split):
            for document in read_documents(root / shard["name"]):
                yield document.id, np.array(tokenizer.document_ids(document.text), np.int32), document.text

    monkeypatch.setattr("ja_llm.data.cache._tokenized", tokenized)


# Half a minute of processor time each; the limits are for machines that do much else.
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("plainly_cached")
@pytest.mark.parametrize("name", SAMPLES)
def test_a_twin_trains_saves_resumes_and_evaluates(name, tmp_path, vocab):
    trains_saves_resumes_and_evaluates(name, tmp_path / "small", vocab)


@pytest.mark.recipes
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("plainly_cached")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in SAMPLES])
def test_every_twin_trains_saves_resumes_and_evaluates(name, tmp_path, vocab):
    trains_saves_resumes_and_evaluates(name, tmp_path / "small", vocab)


def test_the_verb_writes_a_folder_that_says_what_it_is(tmp_path, capsys):
    out = tmp_path / "small"
    assert (
        main(["recipes", "shrink", "swallow_llama2_7b_parallel_first", "--params", "1M", "--tokens", "1M", "--out", str(out)])
        == 0
    )
    said = capsys.readouterr().out
    assert "from step 2 on" in said and "stand-ins" in said and f"next: sh {out}/run.sh" in said
    assert sorted(path.name for path in out.iterdir()) == ["base.gin", "documents", "run.sh", "shrink.json", "twin.gin", "vocab"]
    assert "RATES = {'refinedweb': 0.5, 'arxiv': 0.5}" in (out / "base.gin").read_text()
    assert call("recipes", "shrink", "swallow_llama2_7b", "--out", str(out))[0] == 2


def test_stand_ins_are_of_the_sources_languages_and_no_document_stands_twice(tmp_path):
    tasks = {task for mixture in ("swallow_llama31_8b_v02", "aurora_m_cap") for task in registry.resolve(mixture)}
    folders = stand_ins.write_stand_ins(tmp_path, tasks)
    seen = {}
    for name, folder in folders.items():
        for shard in folder.glob("*/*.tfrecord"):
            for document in read_documents(shard):
                assert document.lang == shard.parent.name and document.id not in seen, name
                seen[document.id] = document
    kana = [any("ぁ" <= c <= "ん" for c in document.text) for document in seen.values() if document.lang == "ja"]
    assert kana and all(kana)
    with pytest.raises(UsageError):
        registry.task("no_such_task")


def test_each_source_holds_out_enough_for_an_alarm_and_no_text_is_lost(tmp_path):
    tasks = ["dclm", "web_ja"]
    whole = {registry.task(name).documents: "".join(d.text for d in found) for name, found in stand_ins._dealt(tasks).items()}
    for name, folder in stand_ins.write_stand_ins(tmp_path, tasks).items():
        split = {part: [d for file in folder.glob(f"*/{part}-*") for d in read_documents(file)] for part in ("heldout", "train")}
        assert 10 <= len(split["heldout"]) <= 30
        everything = "".join(d.text for part in split.values() for d in part)
        assert sorted("".join(everything.split())) == sorted("".join(whole[name].split()))
        assert not {d.text for d in split["heldout"]} & {d.text for d in split["train"]}
