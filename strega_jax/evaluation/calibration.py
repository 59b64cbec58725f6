"""How quiet a detector is on healthy brains, and thresholds that make it as quiet as wanted."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from strega_jax.postprocess import healthy_threshold

TARGET_RATES = (0.01, 0.05, 0.10)
# False-positive volumes a healthy subject at which Dice is compared.
BURDENS_ML = (1.0, 5.0, 10.0)


def healthy_burden(marked_ml: Sequence[float], flagged_from_ml: float = 0.0) -> dict[str, float]:
    """What healthy scans get marked.

    Args:
        marked_ml: marked volume of each healthy subject; all of it is false.
        flagged_from_ml: a subject counts as flagged when more than this is marked.

    Returns:
        mean, median, 95th percentile and greatest false-positive volume, the share of flagged subjects, and how
        many subjects there were; NaN without subjects.
    """
    volumes = np.asarray(marked_ml, float)
    if volumes.size == 0:
        volumes = np.array([np.nan])
    return {
        "subjects": float(len(marked_ml)),
        "mean_ml": float(volumes.mean()),
        "median_ml": float(np.median(volumes)),
        "p95_ml": float(np.percentile(volumes, 95)),
        "max_ml": float(volumes.max()),
        "flagged": float(np.mean(volumes > flagged_from_ml)) if len(marked_ml) else float("nan"),
    }


def realised_rates(
    calibration: Sequence[Float[np.ndarray, "..."]],
    held_out: Sequence[Float[np.ndarray, "..."]],
    targets: Sequence[float] = TARGET_RATES,
) -> list[dict[str, float]]:
    """Thresholds taken from some healthy scans at target rates, and the rates they give on others.

    Args:
        calibration: scores inside the brain of each healthy scan the thresholds come from.
        held_out: the same of healthy scans not used for that.
        targets: shares of brain voxels that may lie above.
    """
    voxels = sum(scan.size for scan in held_out)
    rows = []
    for target in targets:
        threshold = healthy_threshold(calibration, target)
        above = sum(int(np.count_nonzero(np.asarray(scan, np.float32) > threshold)) for scan in held_out)
        rows.append({"target": target, "threshold": threshold, "realised": above / voxels if voxels else float("nan")})
    return rows


def cross_fitted_rates(
    scans: Sequence[Float[np.ndarray, "..."]], targets: Sequence[float] = TARGET_RATES
) -> list[dict[str, float]]:
    """`realised_rates` where each half of the scans (every other one) is held out in turn; means of the two.

    Empty for a single scan, which cannot be held out from itself.
    """
    if len(scans) < 2:
        return []
    one, other = scans[::2], scans[1::2]
    both = zip(realised_rates(one, other, targets), realised_rates(other, one, targets), strict=True)
    return [{name: (a[name] + b[name]) / 2 for name in a} for a, b in both]


def threshold_at_burden(healthy: Iterable[Float[np.ndarray, "..."]], mean_brain_ml: float, burden_ml: float) -> float:
    """The threshold at which a healthy brain has on average at most `burden_ml` above it.

    Two detectors' Dice compared at thresholds of the same burden is Dice at a matched false-positive burden.

    Args:
        healthy: scores inside the brain of each healthy scan, all of one voxel size.
        mean_brain_ml: mean volume of those brains.
        burden_ml: false-positive volume a subject that is put up with, before any cleaning of the mask.
    """
    return healthy_threshold(healthy, burden_ml / mean_brain_ml)
