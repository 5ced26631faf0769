"""Two mixtures one after the other: exact shares, a source goes on where it was, epochs are known before the run starts."""

import collections
import re

import grain
import numpy as np
import pytest

from ja_llm.data.batches import BatchSource
from ja_llm.data.rates import UniMax
from ja_llm.data.schedule import DataSchedule
from ja_llm.data.stages import Stage, StagedBatches, check_begins
from ja_llm.errors import UsageError

ARGUMENTS = {"length": 32, "batch_size": 10, "seed": 3}
# Batches 0 and 1000 of 70 to 30 before shares were exact, and when they were shares of rows.
GRAIN = "e78 j166 j134 e7 j69 j265 e92 j7 j41 e38 j209 j269 j224 e44 j220 j80 e20 j15 j31 e55"
EXACT = "e78 j166 j134 e7 j69 j265 e92 j7 j41 j50 e76 j80 j15 e94 j31 j23 e9 j137 j63 j270"
# Shares of ja by UniMax(2), rows in whole documents, as such a run's rounds came to them.
UNIMAX = 0.6682931069540853


@pytest.fixture(scope="module")
def cache_of(tmp_path_factory, make_cache, documents):
    """cache_of(share of ja) -> a cache of the same documents."""
    root = tmp_path_factory.mktemp("stages")
    docs = {"ja": documents("ja", 60), "en": documents("en", 50, longest=120)}

    def make(share):
        folder = root / f"{share:g}"
        return (
            folder
            if folder.exists()
            else make_cache(folder, {"ja": (share, docs["ja"]), "en": (round(1 - share, 6), docs["en"])})
        )

    return make


@pytest.fixture(scope="module")
def caches(cache_of):
    return cache_of(0.9), cache_of(0.5)


def staged(caches, at=600, **more):
    return StagedBatches(caches[0], (Stage(str(caches[1]), at),), **{**ARGUMENTS, **more})


def identities(batches, step):
    stage, data_step = batches.schedule.position(step)
    return batches.sources[stage].row_identity(data_step)


@pytest.mark.parametrize("shares", [(0.9, 0.5), (0.7, 0.36)])
def test_over_a_thousand_batches_no_stage_is_three_rows_of_tokens_off_and_nothing_repeats_early(cache_of, shares):
    """Two by the mixing within a block, one by where in its pass a source has its row with padding."""
    batches = staged([cache_of(share) for share in shares])
    rows = {task: part["rows"] for task, part in batches.sources[0].statistics().items()}
    plans = {member.task: member.plan for member in batches.sources[0]._members}
    order = collections.defaultdict(list)
    tokens = [collections.Counter(), collections.Counter()]
    for step in range(1000):
        stage = int(step >= 600)
        for task, row in identities(batches, step):
            order[task].append(row)
            tokens[stage][task] += sum(span.pairs for span in plans[task].spans(row))
        assert abs(tokens[stage]["ja"] - shares[stage] * tokens[stage].total()) < 3 * ARGUMENTS["length"]
    for task, seen in order.items():  # each epoch reads every row once, also across the switch
        for epoch in range(len(seen) // rows[task]):
            assert len(set(seen[epoch * rows[task] : (epoch + 1) * rows[task]])) == rows[task]


@pytest.mark.parametrize(
    "packing, sources",
    [
        ("concatenate", {"ja": 0.9, "en": 0.1}),
        ("best_fit", {"ja": 0.9, "en": 0.1}),
        ("concatenate", {"ja": 0.7, "en": 0.1, "two": 0.2}),
        ("concatenate", {"ja": 0.71828, "en": 0.1, "two": 0.18172}),
    ],
)
def test_the_loss_weighs_each_source_at_its_rate_to_a_row_a_block(tmp_path, make_cache, documents, monkeypatch, packing, sources):
    """Also one whose pass is two rows, of which 41 % are padding; one row more is where in its pass a source has that."""
    # Grain takes 30 ms to shuffle two rows; which of them comes first changes no block.
    monkeypatch.setattr(BatchSource, "_shuffled", lambda self, member: grain.MapDataset.range(member.plan.rows).repeat())
    members = {task: (rate, documents("ja", 60)) for task, rate in sources.items()}
    members["en"] = (0.1, documents("en", 1, shortest=72, longest=72))
    length = 64
    batches = StagedBatches(
        make_cache(tmp_path / "c", members), length=length, batch_size=10, seed=3, packing=packing, steps=1000
    )
    rows, padding = (batches.sources[0].statistics()["en"][name] for name in ("rows", "padding"))
    assert (rows, round(padding, 2)) == (2, 0.41)
    tokens, mixing = collections.Counter(), batches.sources[0].mixing
    for step in range(1000):
        weights = batches.local((0, step), 0, 1)["decoder_loss_weights"].sum(axis=1)
        for at, ((task, _), weight) in enumerate(zip(identities(batches, step), weights, strict=True), start=10 * step + 1):
            tokens[task] += weight
            off = 2 if mixing.even or not at % mixing.block else 3
            assert all(abs(tokens[task] - rate * tokens.total()) < off * length for task, rate in sources.items())
    said = batches.statement(1000)
    for task, rate in sources.items():
        assert said[task]["share"] == pytest.approx(rate, rel=1e-9)  # what is printed
        assert said[task]["tokens"] == pytest.approx(tokens[task], abs=3 * length)


@pytest.mark.parametrize(("at", "fits"), [(599, True), (600, False), (5000, False)])
def test_a_stage_that_no_step_reads_is_refused(at, fits):
    stages = (Stage("cache/b", 1), Stage("cache/c", at, "late"))
    if fits:
        check_begins("early", stages, 600)
        return
    says = f"stage 3 of this run (late in cache/c) begins at step {at}, but the last step of its 600 is 599, so that nothing but what comes before"
    with pytest.raises(UsageError, match=re.escape(says)):
        check_begins("early", stages, 600)


@pytest.mark.parametrize("mixing, order", [("grain", GRAIN), ("exact", EXACT)])
def test_a_run_that_began_before_shares_were_exact_goes_on_in_its_order(cache_of, mixing, order):
    more = {} if mixing == "grain" else {"mixing": mixing}
    stored = {"stages": [{"from_step": 0, "mixture": BatchSource(cache_of(0.7), **ARGUMENTS).mixture}], "skips": [], **more}
    old = StagedBatches(cache_of(0.7), stored=DataSchedule.from_json(stored), **ARGUMENTS)
    assert " ".join(f"{task[0]}{row}" for step in (0, 1000) for task, row in identities(old, step)) == order
    assert old.schedule.to_json() == stored
    new = StagedBatches(cache_of(0.7), **ARGUMENTS)
    assert new.fingerprint != old.fingerprint and identities(new, 1000) != identities(old, 1000)
    assert DataSchedule.from_json(new.schedule.to_json()).mixing == "tokens"
    longer = staged((cache_of(0.7), cache_of(0.5)), 50, stored=old.schedule, from_step=40)
    assert longer.fingerprint == old.fingerprint and longer.schedule.with_skip(60, 2).mixing == mixing


def test_the_rates_of_an_old_runs_rule_are_the_same_to_the_last_digit(cache_of):
    """They are in the fingerprint of its data."""
    old = StagedBatches(cache_of(0.9), rates=UniMax(2), steps=60, packing="best_fit", mixing="exact", **ARGUMENTS)
    assert old.sources[0].rates["ja"] == UNIMAX


def test_the_first_stage_is_that_of_a_run_without_stages(caches):
    batches, alone = staged(caches), BatchSource(caches[0], **ARGUMENTS)
    assert batches.fingerprint == alone.fingerprint
    with batches.open(map(batches.schedule.position, range(598, 602)), 0, 1, prefetch=0) as stream:
        got = [batch for _, batch in stream]
    for step in (598, 599):
        for name, value in alone[step].items():
            np.testing.assert_array_equal(got[step - 598][name], value)
    again = StagedBatches(caches[0], (Stage(str(caches[1]), 600),), **ARGUMENTS)
    for step in (600, 601):
        parts = [again.local(again.schedule.position(step), shard, 2) for shard in range(2)]
        np.testing.assert_array_equal(
            got[step - 598]["decoder_input_tokens"], np.concatenate([p["decoder_input_tokens"] for p in parts])
        )


def test_contents_tell_each_stages_shares(caches):
    contents = staged(caches).contents
    assert [(stage["from_step"], stage["shares"]) for stage in contents] == [
        (0, {"ja": 0.9, "en": 0.1}),
        (600, {"ja": 0.5, "en": 0.5}),
    ]
    assert all(isinstance(stage["documents"], dict) for stage in contents)


def test_what_is_read_is_stated_before_and_is_true(caches):
    batches = staged(caches, 60)
    said = batches.statement(100)
    tokens, rows = collections.Counter(), collections.Counter()
    for step in range(100):
        weights = batches.local(batches.schedule.position(step), 0, 1)["decoder_loss_weights"].sum(axis=1)
        for (task, _), weight in zip(identities(batches, step), weights, strict=True):
            tokens[task] += weight
            rows[task] += 1
    for task, part in said.items():
        assert part["epochs"] == pytest.approx(rows[task] / part["rows"], rel=0.01)
        assert part["tokens"] == pytest.approx(tokens[task], rel=0.02)
        assert part["share"] == pytest.approx(tokens[task] / sum(tokens.values()), abs=0.01)


def test_epoch_caps(caches):
    batches = staged(caches, 60)
    epochs = batches.statement(100)["ja"]["epochs"]
    batches.check_epochs(100, epochs + 0.01)
    batches.check_epochs(100, {"en": 100.0})
    with pytest.raises(
        UsageError, match=rf"allows 1 epochs of ja, the run would read it {epochs:.2f} times.*lower TRAIN_STEPS to \d"
    ):
        batches.check_epochs(100, {"ja": 1})
    # All that are read too often, the worst first; and so few steps that none is.
    with pytest.raises(UsageError) as refused:
        batches.check_epochs(100, 0.5)
    worst, other = sorted(("en", "ja"), key=lambda task: -batches.statement(100)[task]["epochs"])
    found = re.search(rf" of {worst}, .*, and 0.5 epochs of {other}, .*lower TRAIN_STEPS to (\d+)\.$", str(refused.value))
    fewest = int(found[1])
    epochs = [max(part["epochs"] for part in batches.statement(steps).values()) for steps in (fewest, fewest + 1)]
    assert epochs[0] <= 0.5 < epochs[1]
    # Where one step is too many, no number of steps is proposed.
    batches.check_epochs(1, 1.01 * (one := max(part["epochs"] for part in batches.statement(1).values())))
    with pytest.raises(UsageError, match=r"more documents, or raise MAX_EPOCHS \(one step is too many already\)\.$"):
        batches.check_epochs(100, 0.99 * one)
    with pytest.raises(UsageError, match="names 'jp'; the run reads en, ja"):
        batches.check_epochs(100, {"jp": 1})


def test_stages_may_be_added_to_a_run_but_its_past_stays(caches):
    first = StagedBatches(caches[0], **ARGUMENTS).schedule.with_skip(20, 5)
    later = staged(caches, 50, stored=first, from_step=30)
    assert later.schedule.skips == first.skips and later.schedule.stage(50) == 1
    moved = staged(caches, 70, stored=later.schedule, from_step=40)
    assert moved.schedule.stages[1][0] == 70
    with pytest.raises(UsageError, match="differ from what this run has read"):
        staged(caches, 70, stored=later.schedule, from_step=60)
    with pytest.raises(UsageError, match="differ from what this run has read"):
        StagedBatches(caches[1], stored=first, from_step=30, **ARGUMENTS)
    replay = later.schedule.with_skip(55, 2)
    assert staged(caches, 50, stored=replay).schedule == replay


def test_what_a_rollback_passes_over_is_not_read_by_a_later_stage(caches):
    """The rows behind the switch are those that no step has read or passed over, in the run itself and when it goes on."""
    batches = staged(caches, 60, length=8)  # many rows: no epoch ends in here
    rows = batches.sources[0].statistics()["ja"]["rows"]
    passed = [row for step in range(50, 57) for task, row in identities(batches, step) if task == "ja"]
    batches.schedule = batches.schedule.with_skip(50, 7)
    seen = [row for step in range(70) for task, row in identities(batches, step) if task == "ja"]
    assert len(seen) + len(passed) < rows and len(set(seen + passed)) == len(seen) + len(passed)
    again = staged(caches, 60, length=8, stored=batches.schedule, from_step=65)
    assert identities(again, 65) == identities(batches, 65)


def test_stages_out_of_order_and_of_another_vocabulary_are_refused(caches):
    with pytest.raises(UsageError, match="does not come after"):
        StagedBatches(caches[0], (Stage(str(caches[1]), 9), Stage(str(caches[0]), 9)), **ARGUMENTS)
    with pytest.raises(UsageError, match="all: this folder does not exist"):
        StagedBatches(caches[0], (Stage("/nowhere/at/all", 9),), **ARGUMENTS)


def test_best_fit_rows_keep_documents_whole_and_shares_of_tokens(tmp_path, make_cache, documents):
    members = {"ja": (0.75, documents("ja", 200, longest=30)), "en": (0.25, documents("en", 200, shortest=60, longest=120))}
    source = BatchSource(make_cache(tmp_path / "c", members), 128, 100, seed=0, packing="best_fit")
    assert source.fingerprint != BatchSource(tmp_path / "c", 128, 100, seed=0).fingerprint
    tokens = collections.Counter()
    for step in range(10):
        batch = source[step]
        assert (batch["decoder_positions"][:, 0] == 0).mean() > 0.95
        for (task, _), weight in zip(source.row_identity(step), batch["decoder_loss_weights"].sum(axis=1), strict=True):
            tokens[task] += int(weight)
    assert tokens["ja"] / sum(tokens.values()) == pytest.approx(0.75, abs=0.01)
    with pytest.raises(UsageError, match="PACKING is 'best'"):
        BatchSource(tmp_path / "c", 128, 100, seed=0, packing="best")


def test_a_schedule_without_the_run_is_kept_by_the_ledger(caches):
    schedule = staged(caches, 50).schedule.with_skip(52, 3)
    assert DataSchedule.from_json(schedule.to_json()) == schedule


def test_a_later_stage_that_names_its_mixture_takes_no_other_cache(caches):
    name = StagedBatches(caches[1], **ARGUMENTS).manifest["config"]["name"]
    held = StagedBatches(caches[0], (Stage(str(caches[1]), 9, mixture_or_task_name=name),), **ARGUMENTS)
    assert len(held.sources) == 2
    with pytest.raises(UsageError, match=f"this cache holds {name!r}, the stage learns 'swallow_llama2'"):
        StagedBatches(caches[0], (Stage(str(caches[1]), 9, mixture_or_task_name="swallow_llama2"),), **ARGUMENTS)


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_a_part_of_a_source_is_its_first_documents_alone_in_every_stage(caches, packing):
    """A store's order is random, so its first documents are a draw; the other source is read as ever."""
    store = staged(caches).sources[0]._members[1].store
    most = int(store.offsets[7]) + 1  # seven documents, and a token that begins no eighth
    first = {store.document_id(i) for i in range(7)}
    batches = staged(caches, at=20, packing=packing, subset_tokens={"ja": most})
    read = {"ja": set(), "en": set()}
    for step in range(40):
        source, here = batches.sources[batches.schedule.stage(step)], batches.schedule.data_step(step)
        for row, (task, _) in enumerate(source.row_identity(here)):
            read[task] |= {document for document, *_ in source.trace(here, row)}
    assert read["ja"] == first and len(read["en"]) > 7
    whole = staged(caches, at=20, packing=packing)
    assert batches.fingerprint != whole.fingerprint
    assert batches.statement(40)["ja"]["epochs"] > 4 * whole.statement(40)["ja"]["epochs"]
    with pytest.raises(UsageError, match="in which not even its first document fits"):
        staged(caches, subset_tokens={"ja": 1})
    with pytest.raises(UsageError, match="SUBSET_TOKENS names 'jp'; .* has en, ja"):
        staged(caches, subset_tokens={"jp": 1000})
