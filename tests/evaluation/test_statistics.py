"""Standard errors, intervals and the paired test equal scipy's and sacrebleu's; equal runs do not differ."""

import numpy as np
import pytest

from ja_llm.errors import JaLlmError
from ja_llm.evaluation import metrics
from ja_llm.evaluation.statistics import Statistic, described, paired, paired_suite, replicates, suite_mean

stats = pytest.importorskip("scipy.stats")


def answers(seed, size=200, share=0.6):
    return Statistic((np.random.default_rng(seed).random(size) < share).astype(float))


def translated(seed, wrong):
    """BLEU's rows of 60 texts of which a share of the words is wrong."""
    draw = np.random.default_rng(seed)
    references = [" ".join(draw.choice(["ichi", "ni", "san", "shi", "go", "roku"], 9)) for _ in range(60)]
    rng = np.random.default_rng(seed + wrong)
    texts = [" ".join("x" if rng.random() < wrong / 100 else w for w in r.split()) for r in references]
    return metrics.bleu().statistic([{"reference": r} for r in references], texts), texts, references


def test_mean_with_error_and_interval_equals_scipys():
    for seed in range(5):
        statistic = answers(seed)
        values, result = statistic.rows[:, 0], described(statistic, resamples=20_000)
        assert result["value"] == values.mean()
        assert result["standard_error"] == pytest.approx(stats.sem(values))
        expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
        assert result["interval"] == pytest.approx(list(expected), abs=0.006)


def test_error_and_interval_of_bleu_equal_scipys_bootstrap_of_sacrebleu():
    from sacrebleu.metrics.bleu import BLEU

    statistic, texts, references = translated(0, 20)
    result = described(statistic, resamples=2000)
    assert result["value"] == pytest.approx(BLEU().corpus_score(texts, [references]).score / 100)

    def score(places):
        return BLEU().corpus_score([texts[n] for n in places], [[references[n] for n in places]]).score / 100

    expected = stats.bootstrap((np.arange(60),), score, method="percentile", n_resamples=500, rng=1, vectorized=False)
    assert result["standard_error"] == pytest.approx(expected.standard_error, rel=0.15)
    assert result["interval"] == pytest.approx(list(expected.confidence_interval), abs=0.015)


def test_seeds_decide():
    statistic = answers(0)
    assert described(statistic, seed=3) == described(statistic, seed=3) != described(statistic, seed=4)
    assert replicates(statistic).tolist() == replicates(statistic).tolist()


def test_the_interval_holds_the_truth_as_often_as_it_says():
    held = [low <= 0.6 <= high for seed in range(300) for low, high in [described(answers(seed), resamples=400)["interval"]]]
    assert 0.90 <= np.mean(held) <= 0.98


def test_suite_mean():
    tasks = {"many": answers(0, 500), "few": answers(1, 50), "bleu": translated(0, 20)[0]}
    result = suite_mean(tasks)
    parts = {name: described(s) for name, s in tasks.items()}
    assert result["value"] == pytest.approx(np.mean([p["value"] for p in parts.values()]))
    errors = [p["standard_error"] for p in parts.values()]
    assert result["standard_error"] == pytest.approx(np.sqrt(np.sum(np.square(errors))) / 3, rel=0.05)
    low, high = result["interval"]
    assert (high - low) / (2 * 1.96) == pytest.approx(result["standard_error"], rel=0.1)
    # Tasks are drawn apart from each other: two equal ones are surer together than one alone.
    twice = suite_mean({"a": answers(0), "b": answers(0)})
    ratio = np.diff(twice["interval"]) / np.diff(described(answers(0))["interval"])
    assert ratio == pytest.approx(1 / np.sqrt(2), rel=0.1)
    with pytest.raises(JaLlmError, match="no task"):
        suite_mean({})


def test_paired_test_equals_scipys_permutation_test():
    for seed in range(6):
        draw = np.random.default_rng(seed)
        base = (draw.random(120) < 0.5).astype(float)
        ours = np.where(draw.random(120) < 0.15, 1.0, base)
        ours[:8] = 1 - base[:8]
        result = paired(Statistic(ours), Statistic(base), resamples=5000)
        expected = stats.permutation_test(
            (ours, base), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=5000, rng=1, vectorized=False
        )
        assert result["difference"] == pytest.approx(expected.statistic)
        assert result["p_value"] == pytest.approx(expected.pvalue, abs=0.03)
        assert result["standard_error"] == pytest.approx(stats.sem(ours - base), rel=0.06)


def test_paired_test_of_bleu_equals_sacrebleus():
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.significance import PairedTest

    for wrong in (21, 24, 30):
        (a, ours, references), (b, base, _) = translated(0, 20), translated(0, wrong)
        test = PairedTest([("base", base), ("ours", ours)], {"BLEU": BLEU()}, [references], test_type="ar", n_samples=2000)
        expected = test()[1]["BLEU"][1]
        result = paired(a, b, resamples=2000)
        assert result["difference"] == pytest.approx((expected.score - test()[1]["BLEU"][0].score) / 100)
        assert result["p_value"] == pytest.approx(expected.p_value, abs=0.04)


def test_equal_runs_do_not_differ():
    for statistic in (answers(0), translated(0, 20)[0]):
        result = paired(statistic, statistic)
        assert result == {"difference": 0.0, "standard_error": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    # Chance alone is found "significant at 5 %" in about 5 % of the runs.
    found = [paired(answers(n), answers(n + 1000), resamples=300)["p_value"] < 0.05 for n in range(300)]
    assert np.mean(found) < 0.09


def test_paired_suites():
    base = {"a": answers(0), "b": answers(1)}
    ours = {name: Statistic(np.maximum(s.rows, answers(9).rows)) for name, s in base.items()}
    result = paired_suite(ours, base)
    assert result["difference"] == pytest.approx(suite_mean(ours)["value"] - suite_mean(base)["value"])
    assert result["p_value"] < 0.01 and result["interval"][0] > 0
    with pytest.raises(JaLlmError, match="not the same tasks"):
        paired_suite(ours, {"a": base["a"]})
    with pytest.raises(JaLlmError, match="a: the two runs were not measured on the same items"):
        paired_suite(ours, {**base, "a": answers(0, size=199)})


def test_missing_values_are_never_averaged():
    for rows in ([], [1.0, float("nan")]):
        with pytest.raises(JaLlmError, match="never counted"):
            Statistic(np.array(rows))
