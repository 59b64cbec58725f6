"""Paired statistics over subjects: bootstrap intervals, Wilcoxon signed-rank with Holm, effect sizes, sentences."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

RESAMPLES = 10_000
# With fewer subjects no signed-rank test can reach p < 0.1 and a bootstrap interval says little.
MIN_SUBJECTS = 5


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two methods on the same subjects; differences are `method` − `reference`."""

    method: str
    reference: str
    metric: str
    subjects: int
    mean_difference: float
    interval: tuple[float, float]  # 95 %, paired percentile bootstrap over subjects
    p: float  # Wilcoxon signed-rank, two-sided; NaN when all differences are 0 or there are no subjects
    p_holm: float  # the same, adjusted over all comparisons made together
    cohens_dz: float  # mean of the differences over their standard deviation
    rank_biserial: float  # (favourable − unfavourable) rank sum over all ranks, −1 to 1
    cohort: str = ""


def bootstrap_interval(
    values: Float[np.ndarray, "subjects"], *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over subjects; NaN below two subjects."""
    values = np.asarray(values, float)
    if values.size < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, values.size, (RESAMPLES, values.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def by_subject(subjects: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Mean over the volumes (dates, seeds) of each subject, so that a subject counts once; NaN values are left out."""
    gathered: dict[str, list[float]] = {}
    for subject, value in zip(subjects, values, strict=True):
        if np.isfinite(value):
            gathered.setdefault(subject, []).append(value)
    return {subject: float(np.mean(of)) for subject, of in gathered.items()}


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Several trainings of one method: the mean over subjects of each run, then mean and SD over runs.

    Args:
        runs: for each seed, subject → value.

    Returns:
        `mean`, `std` (between seeds, n − 1; NaN for one seed) and `seeds`.
    """
    means = np.array([np.mean(list(run.values())) for run in runs])
    return {
        "mean": float(means.mean()),
        "std": float(means.std(ddof=1)) if means.size > 1 else float("nan"),
        "seeds": float(means.size),
    }


def compare(
    methods: Mapping[str, Mapping[str, float]], reference: str, metric: str, *, seed: int = 0
) -> list[Comparison]:
    """Compare every other method with `reference`, subject by subject; Holm over all these comparisons.

    Args:
        methods: method → subject → value; only subjects that both have are paired.
        reference: a key of `methods`.
        metric: name of the value, for sentences.
        seed: of the bootstrap.
    """
    others = [name for name in methods if name != reference]
    pairs = {}
    for name in others:
        shared = sorted(set(methods[name]) & set(methods[reference]))
        pairs[name] = np.array([methods[name][s] - methods[reference][s] for s in shared], float)
    p = [wilcoxon_p(pairs[name]) for name in others]
    return [
        Comparison(
            method=name,
            reference=reference,
            metric=metric,
            subjects=pairs[name].size,
            mean_difference=float(pairs[name].mean()) if pairs[name].size else float("nan"),
            interval=bootstrap_interval(pairs[name], seed=seed),
            p=p[i],
            p_holm=adjusted,
            cohens_dz=cohens_dz(pairs[name]),
            rank_biserial=rank_biserial(pairs[name]),
        )
        for i, (name, adjusted) in enumerate(zip(others, holm(p), strict=True))
    ]


def compare_cohorts(
    cohorts: Mapping[str, Mapping[str, Mapping[str, float]]], reference: str, metric: str, *, seed: int = 0
) -> list[Comparison]:
    """`compare` within each cohort that has the reference in at least `MIN_SUBJECTS` subjects; Holm over all of them.

    Args:
        cohorts: cohort → method → subject → value.
        reference: a method.
        metric: name of the value, for sentences.
        seed: of the bootstrap.
    """
    found = []
    for cohort, methods in cohorts.items():
        if len(methods.get(reference, ())) >= MIN_SUBJECTS:
            found += [
                dataclasses.replace(comparison, cohort=cohort)
                for comparison in compare(methods, reference, metric, seed=seed)
                if comparison.subjects >= MIN_SUBJECTS
            ]
    adjusted = holm([comparison.p for comparison in found])
    return [dataclasses.replace(c, p_holm=p) for c, p in zip(found, adjusted, strict=True)]


def wilcoxon_p(differences: Float[np.ndarray, "subjects"]) -> float:
    """Two-sided Wilcoxon signed-rank p; zero differences are dropped; NaN when nothing is left."""
    differences = differences[differences != 0]
    if differences.size == 0:
        return float("nan")
    return float(stats.wilcoxon(differences).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment; NaN stays NaN and does not count as a comparison."""
    p_values = np.asarray(p, float)
    adjusted = np.full(p_values.size, np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return [float(value) for value in adjusted]


def cohens_dz(differences: Float[np.ndarray, "subjects"]) -> float:
    """Mean of paired differences over their standard deviation; NaN when they do not vary."""
    if differences.size < 2 or np.ptp(differences) == 0:
        return float("nan")
    return float(differences.mean() / differences.std(ddof=1))


def rank_biserial(differences: Float[np.ndarray, "subjects"]) -> float:
    """Matched-pairs rank-biserial correlation (Kerby, 2014); zeros dropped, NaN when nothing is left."""
    differences = differences[differences != 0]
    if differences.size == 0:
        return float("nan")
    ranks = stats.rankdata(np.abs(differences))
    return float(np.sum(np.sign(differences) * ranks) / ranks.sum())


def sentence(c: Comparison) -> str:
    """The comparison in words that a paper can use, the better of the two first."""
    better, worse, sign = (c.method, c.reference, 1) if c.mean_difference >= 0 else (c.reference, c.method, -1)
    low, high = sorted(sign * end for end in c.interval)
    verdict = (
        "no subject differed"
        if np.isnan(c.p)
        else f"two-sided Wilcoxon signed-rank test, Holm-adjusted {_p_text(c.p_holm)}"
    )
    where = f"On {c.cohort}, " if c.cohort else ""
    return (
        f"{where}{better} reached a {c.metric} {abs(c.mean_difference):.3f} higher than {worse} on average over "
        f"{c.subjects} subjects (95 % bootstrap interval of the paired difference {low:.3f} to {high:.3f}; {verdict}; "
        f"Cohen's dz {sign * c.cohens_dz:.2f}, rank-biserial correlation {sign * c.rank_biserial:.2f})."
    )


def result_sentence(
    method: str, cohort: str, metric: str, volumes: Sequence[float], seeds: Sequence[Mapping[str, float]]
) -> str:
    """What one method reached on one cohort, in words that a paper can use.

    Args:
        method: its name.
        cohort: its name.
        metric: name of the value.
        volumes: one value a volume (the mean over seeds where there are several).
        seeds: for each training of the method, subject → value.
    """
    values = np.asarray(volumes, float)
    subjects = by_subject(*_flat(seeds))
    low, high = bootstrap_interval(np.array(list(subjects.values())))
    text = f"On {cohort}, {method} reached a mean {metric} of {values.mean():.3f}"
    if values.size > 1:
        q25, median, q75 = np.percentile(values, [25, 50, 75])
        text += f" ± {values.std(ddof=1):.3f} (median {median:.3f}, quartiles {q25:.3f} to {q75:.3f})"
    text += f" over {_count(values.size, 'volume')} of {_count(len(subjects), 'subject')}"
    if len(subjects) >= MIN_SUBJECTS:
        text += f"; 95 % bootstrap interval of the mean over subjects {low:.3f} to {high:.3f}"
    if len(seeds) > 1:
        text += f"; mean of {len(seeds)} trainings, standard deviation between them {over_seeds(seeds)['std']:.3f}"
    return text + "."


def _flat(seeds: Sequence[Mapping[str, float]]) -> tuple[list[str], list[float]]:
    pairs = [pair for of in seeds for pair in of.items()]
    return [subject for subject, _ in pairs], [value for _, value in pairs]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
