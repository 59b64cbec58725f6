"""Statistics against SciPy and worked examples."""

import math

import numpy as np
import pytest
from scipy import stats

from strega_jax.evaluation.statistics import (
    bootstrap_interval,
    by_subject,
    cohens_dz,
    compare,
    compare_cohorts,
    holm,
    over_seeds,
    rank_biserial,
    result_sentence,
    sentence,
    wilcoxon_p,
)


def subjects(seed: int, mean: float, n: int = 30) -> dict[str, float]:
    values = np.random.default_rng(seed).normal(mean, 0.1, n)
    return {f"sub-{i:02d}": float(v) for i, v in enumerate(values)}


def test_bootstrap_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, 0.1, 40)
    low, high = bootstrap_interval(values, seed=1)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, random_state=2)
    np.testing.assert_allclose([low, high], list(theirs.confidence_interval), atol=0.004)
    assert (low, high) == bootstrap_interval(values, seed=1)
    assert (low, high) != bootstrap_interval(values, seed=2)
    assert all(math.isnan(v) for v in bootstrap_interval(values[:1]))


def test_holm_on_a_worked_example() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, then never falling: 0.02, 0.03, 0.06, 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    adjusted = holm([0.01, math.nan, 0.02])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])
    assert holm([]) == []


def test_wilcoxon_and_effect_sizes() -> None:
    differences = np.random.default_rng(3).normal(0.05, 0.1, 25)
    assert wilcoxon_p(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert wilcoxon_p(np.append(differences, [0.0, 0.0])) == wilcoxon_p(differences)
    assert math.isnan(wilcoxon_p(np.zeros(5)))
    t = stats.ttest_1samp(differences, 0).statistic
    assert cohens_dz(differences) == pytest.approx(t / math.sqrt(25))
    ranks = stats.rankdata(np.abs(differences))
    plus, minus = ranks[differences > 0].sum(), ranks[differences < 0].sum()
    assert rank_biserial(differences) == pytest.approx((plus - minus) / (plus + minus))
    assert min(plus, minus) == stats.wilcoxon(differences).statistic
    assert rank_biserial(np.array([0.1, 0.2])) == 1
    assert math.isnan(cohens_dz(np.array([0.1, 0.1])))


def test_methods_are_compared_on_shared_subjects_with_holm_over_all() -> None:
    reference, better, same = subjects(0, 0.5), subjects(1, 0.6), subjects(2, 0.5)
    better.pop("sub-00")
    found = compare({"ours": better, "reference": reference, "other": same}, "reference", "Dice")
    assert [c.method for c in found] == ["ours", "other"]
    shared = sorted(better)
    differences = np.array([better[s] - reference[s] for s in shared])
    assert found[0].subjects == 29
    assert found[0].mean_difference == pytest.approx(differences.mean())
    assert found[0].p == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert [c.p_holm for c in found] == pytest.approx(holm([c.p for c in found]))
    low, high = found[0].interval
    assert low < differences.mean() < high


def test_subjects_count_once_and_seeds_are_summarised() -> None:
    assert by_subject(["a", "a", "b", "c"], [0.2, 0.4, 0.5, math.nan]) == {"a": pytest.approx(0.3), "b": 0.5}
    found = over_seeds([{"a": 0.2, "b": 0.4}, {"a": 0.4, "b": 0.6}])
    assert found == {"mean": pytest.approx(0.4), "std": pytest.approx(np.std([0.3, 0.5], ddof=1)), "seeds": 2}
    assert math.isnan(over_seeds([{"a": 0.2}])["std"])


def test_the_sentence_names_the_test_and_its_figures() -> None:
    found = compare({"ours": subjects(1, 0.7), "reference": subjects(0, 0.5)}, "reference", "Dice")[0]
    text = sentence(found)
    assert text.startswith(f"ours reached a Dice {found.mean_difference:.3f} higher than reference on average over 30")
    assert f"{found.interval[0]:.3f} to {found.interval[1]:.3f}" in text
    assert "Wilcoxon signed-rank test, Holm-adjusted p < 0.001" in text
    same = compare({"a": subjects(1, 0.7), "b": subjects(1, 0.7)}, "b", "Dice")[0]
    assert "no subject differed" in sentence(same)
    # The better of the two comes first, whichever is the reference.
    swapped = compare({"ours": subjects(1, 0.7), "reference": subjects(0, 0.5)}, "ours", "Dice")[0]
    assert swapped.mean_difference < 0
    assert sentence(swapped).split("interval")[0] == text.split("interval")[0]
    assert f"{-swapped.interval[1]:.3f} to {-swapped.interval[0]:.3f}" in sentence(swapped)


def test_cohorts_are_compared_apart_and_adjusted_together() -> None:
    big = {"ours": subjects(1, 0.7), "theirs": subjects(0, 0.5), "other": subjects(2, 0.45)}
    small = {name: dict(list(of.items())[:4]) for name, of in big.items()}
    middle = {name: dict(list(of.items())[:8]) for name, of in big.items()}
    found = compare_cohorts({"big": big, "small": small, "middle": middle}, "ours", "Dice")
    assert [(c.cohort, c.method, c.subjects) for c in found] == [
        ("big", "theirs", 30), ("big", "other", 30), ("middle", "theirs", 8), ("middle", "other", 8)
    ]  # fmt: skip
    assert [c.p_holm for c in found] == pytest.approx(holm([c.p for c in found]))
    assert sentence(found[2]).startswith("On middle, ours reached")


def test_the_sentence_of_a_result_has_its_spread_interval_and_seeds() -> None:
    seeds = [subjects(3, 0.5, 12), subjects(4, 0.6, 12)]
    volumes = [(seeds[0][s] + seeds[1][s]) / 2 for s in seeds[0]]
    text = result_sentence("ours", "brats T2w", "Dice", volumes, seeds)
    low, high = bootstrap_interval(np.array(volumes))
    q25, median, q75 = np.percentile(volumes, [25, 50, 75])
    between = np.std([np.mean(list(of.values())) for of in seeds], ddof=1)
    assert text == (
        f"On brats T2w, ours reached a mean Dice of {np.mean(volumes):.3f} ± {np.std(volumes, ddof=1):.3f} "
        f"(median {median:.3f}, quartiles {q25:.3f} to {q75:.3f}) over 12 volumes of 12 subjects; 95 % bootstrap "
        f"interval of the mean over subjects {low:.3f} to {high:.3f}; mean of 2 trainings, standard deviation between "
        f"them {between:.3f}."
    )
    single = result_sentence("ours", "ms", "Dice", [0.4], [{"a": 0.4}])
    assert single == "On ms, ours reached a mean Dice of 0.400 over 1 volume of 1 subject."
