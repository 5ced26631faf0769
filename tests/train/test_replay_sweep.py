"""The sweep over the replayed share: intervals by known numbers, runs that are paired, and a second call that runs nothing again."""

import ast
import collections
import json
import math
from pathlib import Path

import pytest

from ja_llm.cli import main
from ja_llm.data.stages import StagedBatches
from ja_llm.recipes import replay_sweep


def test_intervals_of_known_numbers():
    """t of 2 degrees of freedom at 97.5 % is 4.302653 (any table): 1, 2, 3 have the mean 2 -+ 4.302653 / sqrt(3)."""
    assert replay_sweep.interval([1, 2, 3]) == pytest.approx([2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)])
    assert replay_sweep.interval([5.0]) is None


def test_differences_are_paired_by_seed():
    """Seeds that differ by whole bits, and a share that is worth 0.1 in each: the pairs leave no noise."""
    runs = [
        {
            "share": share,
            "seed": seed,
            "read": share,
            "before": {"en": 9.0},
            "after": {"en": seed + (0.1 if share else 0.0)},
            "error": {"en": 0.2},
            "documents": {"en": 12},
        }
        for share in (0.0, 0.5)
        for seed in (1, 2, 3)
    ]
    first, second = replay_sweep.summary(runs, [0.0, 0.5])["en"]
    assert second["difference"] == pytest.approx(0.1) and second["difference_interval"] == pytest.approx([0.1, 0.1])
    assert first["mean"] == 2 and first["change"] == -7 and first["difference_interval"] is None
    assert second["interval"][1] - second["interval"][0] > 4
    # Of the change over seeds, too; the documents are the same, so their error does not shrink with the seeds.
    assert first["change_interval"] == pytest.approx([-7 - 4.302653 / math.sqrt(3), -7 + 4.302653 / math.sqrt(3)])
    assert first["document_error"] == pytest.approx(0.2)


def test_a_single_seed_has_the_interval_over_documents():
    """Of 12 documents: Student's t of 11 degrees of freedom at 97.5 % is 2.200985 (any table), not the normal's 1.96."""
    measured = {"before": {"en": 2.0, "ja": 3.0}, "after": {"en": 2.5, "ja": 2.0}}
    runs = [{"share": 0.0, "seed": 0, "read": 0.0, **measured, "error": {"en": 0.1}, "documents": {"en": 12}}]
    found = replay_sweep.summary(runs, [0.0])
    assert found["en"][0]["interval"] is None
    assert found["en"][0]["change_interval"] == pytest.approx([0.5 - 0.2200985, 0.5 + 0.2200985])
    assert found["ja"][0]["change_interval"] is None and found["ja"][0]["document_error"] is None
    told = replay_sweep.format_sweep({"seeds": [0], "domains": found})
    assert "+0.5000 [+0.2799, +0.7201]" in told and "± 0.2201" in told and "One seed" in told


@pytest.fixture(scope="module")
def swept(tmp_path_factory, cache_dir, model_gin):
    out = tmp_path_factory.mktemp("sweep")
    values = {
        "MIXTURE_OR_TASK_NAME": "mixed",
        "CACHE_DIR": str(cache_dir),
        "TASK_FEATURE_LENGTHS": {"targets": 32},
        "TRAIN_STEPS": 6,
        "BATCH_SIZE": 4,
        "WARMUP_STEPS": 2,
    }
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    files = [f"--gin_file={model_gin}", "--gin_file=runs/pretrain.gin", "--gin_bindings=main.train.eval_documents = 2"]
    command = ["mixture", "sweep", *files, *flags, "--source", "web_en", "--share", "0", "0.5", "--seeds", "1", "--out", str(out)]
    assert main(command) == 0
    return command, out


def test_a_sweep_reads_the_shares_that_it_says_and_measures_every_domain(swept):
    _, out = swept
    value = json.loads((out / "sweep.json").read_text())
    assert set(value["domains"]) == {"web_ja", "web_en"}
    for share in (0.0, 0.5):
        ledger = json.loads((out / f"runs/{share:g}_0/run.json").read_text())
        assert ledger["contents"][0]["shares"].get("web_en", 0.0) == share
    first, second = value["domains"]["web_en"]
    assert second["mean"] < first["mean"]  # who reads English is better at it
    assert first["change"] < 0 and first["interval"] is None
    # With one seed over documents, and as the run's own monitor has it.
    lines = [json.loads(line) for line in (out / "runs/0_0/metrics.jsonl").read_text().splitlines()]
    error = next(line["forgetting/web_en/rise_error"] for line in lines if "forgetting/web_en/rise_error" in line)
    assert first["document_error"] == pytest.approx(error) and error > 0
    low, high = first["change_interval"]
    assert (low + high) / 2 == pytest.approx(first["change"]) and (high - low) / 2 == pytest.approx(
        12.706205 * error, rel=1e-6
    )  # of two documents: t(1)
    page = (out / "sweep.html").read_text()
    assert "since the beginning" in page and "over documents" in page
    assert "How much to replay" in page and page.count("<figure") == 2


def test_a_second_call_goes_on_where_the_first_was(swept, monkeypatch, capsys):
    command, out = swept
    ran = []
    monkeypatch.setattr("ja_llm.train.main.main", lambda files, bindings, paths: ran.append(bindings))
    assert main(command) == 0 and not ran
    assert "web_en" in capsys.readouterr().out
    metrics = out / "runs/0.5_0/metrics.jsonl"
    text = metrics.read_text()
    metrics.write_text("".join(line for line in text.splitlines(keepends=True) if '"eval/' not in line))
    assert main(command) == 1  # this run goes on, and here it leaves no figures
    assert len(ran) == 1 and "rates.Replay.share = 0.5" in ran[0]
    metrics.write_text(text)
    capsys.readouterr()
    assert main([*command, "--gin_bindings=optimizers.AdamW.eps = 1e-6"]) == 2
    said = capsys.readouterr().err
    assert "begun with other settings: optimizers.AdamW.eps was " in said and "now it is 1e-06" in said
    other = [*command, "--source", "web_ja_more"]
    assert main(other) == 2 and "have 'web_ja_more'" in capsys.readouterr().err


def test_a_refused_sweep_leaves_nothing_that_the_next_is_held_to(swept, monkeypatch, tmp_path, capsys):
    command, _ = swept
    out = tmp_path / "sweep"
    command = [*command[:-1], str(out)]
    misspelt = ["web_eng" if word == "web_en" else word for word in command]
    assert main(misspelt) == 2
    assert "have 'web_eng'; the mixture has web_en, web_ja." in capsys.readouterr().err
    assert not out.exists()
    # What only the run itself refuses leaves the settings, and no run: others may follow.
    assert main([*command, "--gin_bindings=main.train.max_epochs = 0.0001"]) == 2 and (out / "sweep.gin").exists()
    capsys.readouterr()
    monkeypatch.setattr("ja_llm.train.main.main", lambda files, bindings, paths: None)
    assert main(command) == 1  # these runs leave no figures
    said = capsys.readouterr()
    assert "measured no held-out text" in said.err
    assert said.out.splitlines() == ["run 1 of 2: web_en 0 %, seed 0"]


@pytest.fixture
def staged(cache_dir, make_cache, model_gin, tmp_path):
    """(command without --out, places of STAGES): a run of 12 steps whose second stage has web_en at half, and whose third has none."""
    more = [
        make_cache(tmp_path / "half", seed=1, vocab=cache_dir / "vocab", rates={"web_ja": 0.5, "web_en": 0.5}),
        make_cache(tmp_path / "none", seed=2, vocab=cache_dir / "vocab", rates={"web_ja": 1.0}),
    ]
    values = {
        "MIXTURE_OR_TASK_NAME": "mixed",
        "CACHE_DIR": str(cache_dir),
        "TASK_FEATURE_LENGTHS": {"targets": 32},
        "TRAIN_STEPS": 12,
        "BATCH_SIZE": 16,
        "WARMUP_STEPS": 2,
    }
    lines = ["main.train.eval_documents = 1", "STAGES = (@half/stages.Stage(), @none/stages.Stage())"]
    for cache, step in zip(more, (4, 8), strict=True):
        lines += [f"{cache.name}/stages.Stage.cache_dir = '{cache}'", f"{cache.name}/stages.Stage.from_step = {step}"]
    (tmp_path / "staged.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom ja_llm.data import stages\nfrom ja_llm.train import main\n"
        + "\n".join(lines)
    )
    files = [f"--gin_file={file}" for file in (model_gin, "runs/pretrain.gin", tmp_path / "staged.gin")]
    return ["mixture", "sweep", *files, *(f"--gin.{name}={value!r}" for name, value in values.items()), "--seeds", "1"]


def test_each_stage_that_has_the_source_replays_it_and_the_table_says_what_was_read(staged, tmp_path, monkeypatch, capsys):
    tokens = []  # of each run, as its batches come: {source: sum of its rows' loss weights}
    local = StagedBatches.local

    def counted(self, position, shard, shards):
        batch = local(self, position, shard, shards)
        if not tokens or tokens[-1][0] is not self:
            tokens.append((self, collections.Counter()))
        weights = batch["decoder_loss_weights"].sum(axis=1)
        for (task, _), weight in zip(self.sources[position[0]].row_identity(position[1]), weights, strict=True):
            tokens[-1][1][task] += weight
        return batch

    monkeypatch.setattr(StagedBatches, "local", counted)
    out = tmp_path / "sweep"
    assert main([*staged, "--source", "web_en", "--share", "0", "0.75", "--out", str(out)]) == 0
    value = json.loads((out / "sweep.json").read_text())
    assert len(tokens) == 2
    for run, (_, read), expected in zip(value["runs"], tokens, (0, 0.5), strict=True):
        assert run["read"] == pytest.approx(expected, abs=0.01)  # two of three stages, whose rows are not quite equally full
        # A row of 192 is .005; each stage may be two off, and one more by its padding.
        assert abs(run["read"] - read["web_en"] / read.total()) < 0.02
        contents = json.loads((out / f"runs/{run['share']:g}_0/run.json").read_text())["contents"]
        assert [stage["shares"].get("web_en", 0.0) for stage in contents] == pytest.approx([run["share"], run["share"], 0.0])
    said = capsys.readouterr().out
    assert f"{value['runs'][1]['read']:.1%} (75.0% of its stages)" in said
    assert "replayed: web_en in the stages from step 0, 4\n" in (out / "sweep.gin").read_text()
    assert main([*staged, "--source", "web_en", "--share", "0", "0.75", "--out", str(out)]) == 0 and len(tokens) == 2


@pytest.mark.parametrize(
    ("more", "sources", "says"),
    [
        ([], ["web_fr"], "have 'web_fr'; the mixtures of CACHE_DIR and STAGES have web_en, web_ja."),
        ([], ["web_ja"], "none: the replayed sources (Replay.sources, --source) are all of the mixture"),
        (["half/stages.Stage.rates = {'web_en': 1.0}"], ["web_en"], "half/stages.Stage.rates is set by the sweep itself"),
    ],
)
def test_a_sweep_that_its_stages_do_not_allow_is_one_sentence(staged, tmp_path, capsys, more, sources, says):
    flags = [f"--gin_bindings={line}" for line in more] + [f"--source={source}" for source in sources]
    assert main([*staged, *flags, "--share", "0", "0.5", "--out", str(tmp_path / "sweep")]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (tmp_path / "sweep").exists()


def test_shares_that_differ_late_are_runs_of_their_own(swept, monkeypatch, tmp_path):
    command, _ = swept
    ran = []

    def finished(files, bindings, paths):
        given = dict(line.split(" = ", 1) for line in bindings)
        ran.append(Path(ast.literal_eval(given["MODEL_DIR"])).name)

    monkeypatch.setattr("ja_llm.train.main.main", finished)
    monkeypatch.setattr(replay_sweep, "share_read", lambda run, steps, sources: 0.1)
    at = command.index("--share")
    shares = ["0", "0.1", "0.1000001", "0.3333333333333333"]
    monkeypatch.setattr(replay_sweep, "figures", lambda run, steps: _FIGURES if run.name in ran else None)
    assert main([*command[: at + 1], *shares, *command[at + 3 : -1], str(tmp_path / "sweep")]) == 0
    assert ran == ["0_0", "0.1_0", "0.1000001_0", "0.3333333333333333_0"]


_FIGURES = {"before": {"en": 2.0}, "after": {"en": 2.0}, "error": {}, "documents": {}}


def test_a_sweep_without_a_run_says_so(tmp_path, capsys):
    assert main(["mixture", "sweep", "--source", "a", "--share", "0", "--out", str(tmp_path / "x")]) == 2
    assert "make no run; add --gin_file=runs/continue.gin" in capsys.readouterr().err


def test_what_the_sweep_sets_itself_is_refused(tmp_path, capsys):
    base = ["mixture", "sweep", "--source", "a", "--share", "0", "--out", str(tmp_path / "x")]
    assert main([*base, "--gin.RANDOM_SEED=3"]) == 2
    assert "RANDOM_SEED is set by the sweep itself" in capsys.readouterr().err
    assert main([*base[:4], "--share", "0.1", "0.1", "--out", "x"]) == 2
    assert "not all different" in capsys.readouterr().err
