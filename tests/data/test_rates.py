"""Rules of rates: sums, caps and published numbers; a run at other rates is the run of a cache that was made with them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.cli import main
from ja_llm.data.batches import BatchSource, _settled
from ja_llm.data.rates import Replay, Temperature, UniMax, resolved
from ja_llm.data.stages import Stage, StagedBatches
from ja_llm.errors import UsageError

sizes_of = st.lists(st.floats(1, 1e9), min_size=1, max_size=7).map(lambda sizes: {f"s{i}": size for i, size in enumerate(sizes)})
ARGUMENTS = {"length": 32, "batch_size": 10, "seed": 3}


def test_temperature_on_known_numbers():
    """p (.9, .09, .01) at T = 2 and 5, by a calculator."""
    sizes = {"a": 900, "b": 90, "c": 10}
    for temperature, expected in ((1, (0.9, 0.09, 0.01)), (2, (0.7034, 0.2224, 0.0741)), (5, (0.4908, 0.3097, 0.1995))):
        got = Temperature(temperature)(sizes, {}, 0)
        assert tuple(got.values()) == pytest.approx(expected, abs=5e-5)
    assert Temperature(1e-3)({"a": 1e300, "b": 1.0}, {}, 0)["a"] == 1.0  # no overflow


@settings(deadline=None, max_examples=150)
@given(sizes_of, st.floats(0.1, 8), st.floats(0.001, 1))
def test_unimax_is_the_water_level_under_the_caps(sizes, max_epochs, part):
    """Found another way: the one level at which all caps cut off there hold just the budget, by bisection."""
    budget = part * max_epochs * sum(sizes.values())
    got = UniMax(max_epochs)(sizes, {}, budget)
    assert math.isclose(sum(got.values()), 1)
    assert list(got) == list(sizes)
    low, high = 0.0, max_epochs * max(sizes.values())
    for _ in range(200):
        level = (low + high) / 2
        held = sum(min(level, max_epochs * size) for size in sizes.values())
        low, high = (level, high) if held < budget else (low, level)
    for name, size in sizes.items():
        assert got[name] * budget <= max_epochs * size * (1 + 1e-9)
        assert got[name] * budget == pytest.approx(min(high, max_epochs * size), rel=1e-6)


def test_unimax_by_hand():
    """Budget 100 of 10, 30 and 500 at two epochs: 20, then half of 80 (60 would be the cap), then the other half."""
    assert UniMax(2)({"c": 500, "a": 10, "b": 30}, {}, 100) == {"c": 0.4, "a": 0.2, "b": 0.4}
    assert UniMax(4)({"a": 7, "b": 7}, {}, 1) == {"a": 0.5, "b": 0.5}
    with pytest.raises(UsageError, match="1,081 tokens are to be read, but 2 epochs of all sources are only 1,080"):
        UniMax(2)({"a": 10, "b": 30, "c": 500}, {}, 1081)


@settings(deadline=None, max_examples=60)
@given(sizes_of.filter(lambda sizes: len(sizes) > 2), st.floats(0, 1))
def test_replay_keeps_the_proportions_on_both_sides(sizes, share):
    total = sum(sizes.values())
    shares = {name: size / total for name, size in sizes.items()}
    got = Replay(("s0", "s2"), share)(sizes, shares, 0)
    assert math.isclose(sum(got.values()), 1) and all(rate > 0 for rate in got.values())
    assert got.get("s0", 0) + got.get("s2", 0) == pytest.approx(share, abs=1e-12)
    for side in (("s0", "s2"), [name for name in sizes if name not in ("s0", "s2")]):
        mine = sum(shares[name] for name in side)
        for name in side:
            expected = (share if "s0" in side else 1 - share) * shares[name] / mine
            assert got.get(name, 0) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_temperature_with_a_cap_gives_the_excess_to_the_others_by_their_weights():
    """Weights 1, 2, 4. Of 14 tokens they are 2, 4, 8; one epoch of the first is 1; the 13 left make 13/3 of the second, which has 4; 9 are left."""
    sizes = {"c": 16.0, "a": 1.0, "b": 4.0}
    assert Temperature(2)(sizes, {}, 14) == pytest.approx({"a": 1 / 7, "b": 2 / 7, "c": 4 / 7})
    assert Temperature(2, 1)(sizes, {}, 14) == pytest.approx({"a": 1 / 14, "b": 4 / 14, "c": 9 / 14})
    # 11 tokens: the first is full, the second (10/3) is not, and the others keep 2 to 4.
    assert Temperature(2, 1)(sizes, {}, 11) == pytest.approx({"a": 3 / 33, "b": 10 / 33, "c": 20 / 33})
    assert Temperature(2, 9)(sizes, {}, 14) == pytest.approx(Temperature(2)(sizes, {}, 14))  # nobody is over
    assert Temperature(2, 1)(sizes, {}, 21) == pytest.approx({name: size / 21 for name, size in sizes.items()})  # all are full
    with pytest.raises(UsageError, match="Temperature: 22 tokens are to be read, but 1 epochs of all sources are only 21"):
        Temperature(2, 1)(sizes, {}, 22)
    with pytest.raises(UsageError, match="Temperature.max_epochs is 0; give a number above 0"):
        Temperature(2, 0)


@given(
    st.lists(st.floats(1, 1e12), min_size=1, max_size=8),
    st.floats(0.05, 50),
    st.floats(0.1, 20),
    st.floats(0.01, 1),
)
def test_a_cap_is_kept_and_whoever_is_below_it_keeps_the_proportion(values, temperature, epochs, part):
    sizes = {f"s{number}": value for number, value in enumerate(values)}
    budget = part * epochs * math.fsum(values)
    got = Temperature(temperature, epochs)(sizes, {}, budget)
    read = {name: budget * share / sizes[name] for name, share in got.items()}
    assert math.isclose(math.fsum(got.values()), 1) and max(read.values()) <= epochs * (1 + 1e-9)
    largest = max(values)
    weights = {name: (size / largest) ** (1 / temperature) for name, size in sizes.items()}
    open_ = [name for name in sizes if read[name] < epochs * (1 - 1e-6) and weights[name] > 1e-12]
    for name in open_:
        assert got[name] * weights[open_[0]] == pytest.approx(got[open_[0]] * weights[name], rel=1e-5)
    # Nobody that is full would have got less than the cap beside them.
    for name in set(sizes) - set(open_):
        for other in open_[:1]:
            if weights[name] > 1e-12:
                assert got[other] / weights[other] * weights[name] >= got[name] * (1 - 1e-5)


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=6), st.floats(0.1, 8), st.floats(0.01, 1))
def test_at_a_high_temperature_the_cap_is_unimax(values, epochs, part):
    sizes = {f"s{number}": value for number, value in enumerate(values)}
    budget = part * epochs * math.fsum(values)
    assert Temperature(1e12, epochs)(sizes, {}, budget) == pytest.approx(UniMax(epochs)(sizes, {}, budget), rel=1e-6)


def test_rates_that_can_not_be_kept_are_refused():
    sizes = {"a": 1.0, "b": 2.0}
    for rates, says in (
        ({"a": 0.5, "c": 0.5}, "names 'c'; the mixture has a, b"),
        ({"a": 0.5, "b": 0.4}, "add up to 0.9"),
        ({"a": 1.5, "b": -0.5}, "'b' is -0.5"),
        ({"a": 0.0}, "add up to 0"),
        (Replay(("c",), 0.5), "have 'c'"),
        (Replay(("a", "b"), 0.5), "are all of the mixture"),
    ):
        with pytest.raises(UsageError, match=says):
            resolved(rates, sizes, sizes, 1)
    for make in (
        lambda: Temperature(0),
        lambda: UniMax(-1),
        lambda: UniMax("4"),
        lambda: Replay("a", 0.1),
        lambda: Replay(("a",), 2),
    ):
        with pytest.raises(UsageError, match="give a"):
            make()
    with pytest.raises(UsageError, match="Stage.rates is the class UniMax itself"):
        Stage("x", 1, rates=UniMax)


@pytest.fixture(scope="module")
def caches(tmp_path_factory, make_cache, documents):
    root = tmp_path_factory.mktemp("rates")
    docs = {"ja": documents("ja", 60), "en": documents("en", 20, longest=120)}

    def make(share):
        return make_cache(root / f"{share:g}", {"ja": (share, docs["ja"]), "en": (1 - share, docs["en"])})

    return make(0.9), make(0.5)


def test_a_run_at_other_rates_is_that_of_a_cache_with_them(caches):
    cached, other = BatchSource(caches[1], **ARGUMENTS), BatchSource(caches[0], rates={"ja": 0.5, "en": 0.5}, **ARGUMENTS)
    assert other.fingerprint == cached.fingerprint and other.mixture != BatchSource(caches[0], **ARGUMENTS).mixture
    assert all(other.row_identity(step) == cached.row_identity(step) for step in range(30))
    alone = BatchSource(caches[0], rates={"ja": 1.0, "en": 0.0}, **ARGUMENTS)
    assert {task for task, _ in alone.row_identity(0)} == {"ja"}


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_unimax_reads_no_source_more_often_than_it_says(caches, packing):
    steps = 60
    batches = StagedBatches(caches[0], rates=UniMax(8), steps=steps, packing=packing, **ARGUMENTS)
    read = batches.statement(steps)
    assert read["en"]["epochs"] == pytest.approx(8, rel=1e-9) and 1 < read["ja"]["epochs"] < 8
    batches.check_epochs(steps, 8)
    assert batches.contents[0]["shares"] == batches.sources[0].rates
    with pytest.raises(UsageError, match="allows 7 epochs of en.*lower TRAIN_STEPS to 52"):
        batches.check_epochs(steps, 7)
    with pytest.raises(UsageError, match="UniMax: .* tokens are to be read"):
        StagedBatches(caches[0], rates=UniMax(8), steps=6000, packing=packing, **ARGUMENTS)


@pytest.mark.parametrize("full", [72, 91])
def test_unimax_keeps_the_cap_to_the_digit_where_rows_are_padded_unequally(tmp_path, make_cache, documents, full):
    """Just what all sources give at the cap is not refused, whether the larger or the smaller one has the padding; nor is less read too often."""
    docs = {size: documents("en", 1, seed=size, shortest=size, longest=size) for size in (full, 74)}
    cache = make_cache(tmp_path / "c", {f"s{size}": (0.5, part) for size, part in docs.items()})
    statistics = BatchSource(cache, 19, 1, 0).statistics()
    rows = sum(part["rows"] for part in statistics.values())
    assert [round(statistics[f"s{size}"]["padding"], 2) for size in (full, 74)] == [0, 0.18]
    for epochs in (8, 7, 1):
        batches = StagedBatches(cache, rates=UniMax(8), steps=epochs, length=19, batch_size=rows, seed=0)
        batches.check_epochs(epochs, 8)
        read = batches.statement(epochs)
        assert epochs < 8 or all(part["epochs"] == pytest.approx(8, rel=1e-9) for part in read.values())
        assert sum(part["epochs"] * part["rows"] for part in read.values()) == pytest.approx(epochs * rows)


def test_stages_have_rates_of_their_own(caches):
    batches = StagedBatches(caches[0], (Stage(str(caches[0]), 40, rates={"ja": 0.25, "en": 0.75}),), steps=80, **ARGUMENTS)
    assert [stage["shares"] for stage in batches.contents] == [{"ja": 0.9, "en": pytest.approx(0.1)}, {"ja": 0.25, "en": 0.75}]
    assert batches.schedule.stages[0][1] != batches.schedule.stages[1][1]
    pairs = {task: (part["pairs"], part["rows"]) for task, part in batches.sources[0].statistics().items()}
    rows = 0.0  # of which 40 steps each have 400
    for shares in ({"ja": 0.9, "en": 0.1}, {"ja": 0.25, "en": 0.75}):
        of = {task: share * pairs[task][1] / pairs[task][0] for task, share in shares.items()}
        rows += 400 * of["en"] / sum(of.values())
    assert rows == pytest.approx(10 * (4 + 30), abs=2)
    assert batches.statement(80)["en"]["epochs"] * pairs["en"][1] == pytest.approx(rows)


def test_the_verb_prints_a_table_and_the_flag(caches, capsys):
    assert (
        main(["mixture", "rates", str(caches[0]), "--method", "replay", "--source", "en", "--share", "0.25", "--tokens", "4k"])
        == 0
    )
    out = capsys.readouterr().out.splitlines()
    assert out[1].split()[0] == "ja" and out[1].split()[2:5] == ["90.0000%", "75.0000%", "3,000"]
    assert out[-1] == "for ja-llm train: --gin.RATES=\"{'ja': 0.75, 'en': 0.25}\""
    words = ["--method", "temperature", "--temperature", "100", "--max_epochs", "1"]
    assert main(["mixture", "rates", str(caches[0]), *words]) == 0  # all once: whatever the temperature, each is
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:3]] == ["1.00", "1.00"]
    for words, says in (
        (
            ["--method", "replay", "--source", "en", "--share", "0.5", "--max_epochs", "4"],
            "--max_epochs says nothing to --method replay",
        ),
        (["--method", "unimax"], "--method unimax needs --max_epochs"),
        (["--method", "unimax", "--max_epochs", "1", "--share", "1"], "--share says nothing to --method unimax"),
        (["--method", "unimax", "--max_epochs", "1", "--tokens", "1G"], "1,000,000,000 tokens are to be read"),
        (["--tokens", "many"], "'many' is no number above 0"),
    ):
        try:
            assert main(["mixture", "rates", str(caches[0]), *words]) == 2
        except SystemExit as error:
            assert error.code == 2
        assert says in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(st.floats(0.005, 1), st.floats(0.5, 1), st.floats(0.1, 3.9))
def test_a_cap_holds_however_little_of_its_rows_a_source_fills(tiny, big, times):
    """One source fills a share `tiny` of its single row; the run reads `times` the rows that there are."""
    filled, rows, length = {"tiny": tiny, "big": big}, {"tiny": 1, "big": 400}, 256
    sizes = {name: rows[name] * length * filled[name] for name in rows}
    there = round(401 * times) * length
    for rule in (UniMax(4), Temperature(5, max_epochs=4)):
        shares = _settled(lambda tokens, rule=rule: resolved(rule, sizes, {"tiny": 0.5, "big": 0.5}, tokens), filled, there)
        tokens = there / sum(share / filled[name] for name, share in shares.items())
        assert sum(shares.values()) == pytest.approx(1) and all(
            shares[name] * tokens <= 4 * sizes[name] * (1 + 1e-9) for name in shares
        )


def test_rows_that_a_source_has_not_enough_of_are_refused_by_the_rule_itself():
    with pytest.raises(UsageError, match="UniMax: 2,560"):
        _settled(lambda tokens: resolved(UniMax(1), {"a": 256}, {"a": 1.0}, tokens), {"a": 1.0}, 2560)
