"""Sanity of a healthy cohort: share of CSF, GM and WM in every brain of a slice store, as a table and a plot.

    python -m strega_jax.prepare --input=ixi/ --output=stores/ixi
    python benchmarks/healthy_fractions.py --store=stores/ixi --plot=fractions.png

Shares are of the brain mask, from the partial volumes; how much of the sulcal fluid the mask holds depends on the
brain extraction. The ratio of GM to WM does not, which is why it is told too. Brains beyond three standard deviations
of their cohort are named: look at their segmentation.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags
from jaxtyping import Float

from strega_jax.scans.files import replacing
from strega_jax.slices.store import SliceStore

_STORE = flags.DEFINE_string("store", None, "A slice store.", required=True)
_PLOT = flags.DEFINE_string("plot", None, "Write the plot to this PNG file.")

TISSUES = ("CSF", "GM", "WM")
OUTLIER_DEVIATIONS = 3.0


def table(names: list[str], volumes_ml: Float[np.ndarray, "n 3"]) -> str:
    """Mean, spread and extremes of each tissue's share, of GM/WM and of the brain's volume, and who lies beyond."""
    shares = volumes_ml / volumes_ml.sum(axis=1, keepdims=True)
    columns = {name: 100 * shares[:, i] for i, name in enumerate(TISSUES)}
    columns = {f"{name} %": values for name, values in columns.items()}
    columns |= {"GM/WM": volumes_ml[:, 1] / volumes_ml[:, 2], "brain ml": volumes_ml.sum(axis=1)}
    lines = [
        f"{len(names)} brains",
        "",
        "| | mean | SD | lowest | highest | beyond 3 SD |",
        "|---|---|---|---|---|---|",
    ]
    for column, values in columns.items():
        far = np.abs(values - values.mean()) > OUTLIER_DEVIATIONS * values.std(ddof=1)
        who = ", ".join(name for name, outlier in zip(names, far, strict=True) if outlier) or "none"
        numbers = (values.mean(), values.std(ddof=1), values.min(), values.max())
        lines.append(f"| {column} | " + " | ".join(f"{number:.2f}" for number in numbers) + f" | {who} |")
    return "\n".join(lines)


def plot(volumes_ml: Float[np.ndarray, "n 3"], path: Path) -> None:
    """Every brain a dot, over a violin for each tissue."""
    shares = 100 * volumes_ml / volumes_ml.sum(axis=1, keepdims=True)
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    axes.violinplot(list(shares.T), showextrema=False)
    aside = np.random.default_rng(0).uniform(-0.08, 0.08, len(shares))
    for i in range(len(TISSUES)):
        axes.plot(1 + i + aside, shares[:, i], "k.", markersize=2)
    axes.set_xticks([1, 2, 3], TISSUES)
    axes.set_ylabel("share of the brain mask, %")
    axes.set_title(f"{len(shares)} healthy brains")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def main(_: list[str]) -> None:
    """Print the table; draw if asked."""
    entries = SliceStore.open(_STORE.value).entries
    volumes_ml = np.array([entry.tissue_ml for entry in entries])
    print(table([entry.name for entry in entries], volumes_ml))
    if _PLOT.value:
        plot(volumes_ml, Path(_PLOT.value))


if __name__ == "__main__":
    app.run(main)
