"""Tissue segmentation against dipy's HMRF and ANTs Atropos, alone and after N4, on the same volumes.

    pip install strega-jax[benchmark]
    python benchmarks/tissue.py --image=t1.nii.gz --reference=labels.nii.gz --contrast=T1w

Each method runs in a process of its own, one after another, on the same brain-extracted image: the first call
with an empty compile cache (cold), then again (warm); peak resident memory includes Python and the libraries.
Truth labels are 1 CSF, 2 GM, 3 WM; without them only times are told. Write the table with --markdown=FILE.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from absl import app, flags

_IMAGE = flags.DEFINE_string("image", None, "Brain-extracted NIfTI volume.", required=True)
_TRUTH = flags.DEFINE_string("reference", None, "Its labels: 1 CSF, 2 GM, 3 WM.")
_CONTRAST = flags.DEFINE_enum("contrast", "T1w", ["T1w", "T2w"], "MR contrast.")
_METHODS = flags.DEFINE_list("methods", ["fsl", "robust", "atropos", "n4+atropos", "dipy"], "What to run.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Warm runs; the fastest counts.", lower_bound=1)
_MARKDOWN = flags.DEFINE_string("markdown", None, "Write the table here too.")
_ONLY = flags.DEFINE_string("only", None, "Run this method in this process and print its result as JSON.")

Segment = Callable[[np.ndarray, tuple[float, float, float]], dict[str, np.ndarray]]


def ours(preset: str) -> Segment:
    """This project; labels of the posteriors and of the partial volumes."""
    from strega_jax.tissue import segment

    def run(image: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, np.ndarray]:
        tissue = segment(image, spacing, contrast=_CONTRAST.value, preset=preset)  # pyright: ignore
        return {"seg": tissue.seg, "pveseg": tissue.pveseg}

    return run


def atropos(first_n4: bool) -> Segment:
    """ANTs: k-means start, MRF 0.1 over one voxel, five iterations, as its documentation proposes."""
    import ants  # pyright: ignore[reportMissingImports]

    def run(image: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, np.ndarray]:
        volume = ants.from_numpy(image, spacing=list(spacing))
        mask = ants.from_numpy((image > 0).astype(np.float32), spacing=list(spacing))
        if first_n4:
            volume = ants.n4_bias_field_correction(volume, mask=mask)
        found = ants.atropos(a=volume, x=mask, i="kmeans[3]", m="[0.1,1x1x1]", c="[5,0]")
        return {"seg": found["segmentation"].numpy()}

    return run


def dipy() -> Segment:
    """dipy's HMRF with its documented settings."""
    from dipy.segment.tissue import TissueClassifierHMRF  # pyright: ignore[reportMissingImports]

    def run(image: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, np.ndarray]:
        # A background of exactly 0 has no variance, and the labels then come out wrong without a word.
        noise = np.abs(np.random.default_rng(0).normal(size=image.shape)) * image.max() * 1e-3
        filled = np.where(image > 0, image, noise).astype(np.float64)
        _, labels, _ = TissueClassifierHMRF(verbose=False).classify(filled, 3, 0.1)
        return {"seg": np.where(image > 0, labels, 0)}

    return run


METHODS: dict[str, Callable[[], Segment]] = {
    "fsl": lambda: ours("fsl"),
    "robust": lambda: ours("robust"),
    "atropos": lambda: atropos(False),
    "n4+atropos": lambda: atropos(True),
    "dipy": dipy,
}


def measure(method: str) -> dict[str, float]:
    """Times, memory and Dice of one method, in this process."""
    file = nib.load(_IMAGE.value)
    image = np.asarray(file.dataobj, np.float32)  # pyright: ignore
    x, y, z = nib.affines.voxel_sizes(file.affine)  # pyright: ignore
    spacing = float(x), float(y), float(z)
    start = time.perf_counter()
    run = METHODS[method]()
    labels = run(image, spacing)
    cold = time.perf_counter() - start
    warm = []
    for _ in range(_REPEATS.value):
        start = time.perf_counter()
        run(image, spacing)
        warm.append(time.perf_counter() - start)
    found = {"cold": cold, "warm": min(warm), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if _TRUTH.value:
        truth = np.asarray(nib.load(_TRUTH.value).dataobj)  # pyright: ignore
        found |= {name: mean_dice(_by_brightness(volume, image), truth) for name, volume in labels.items()}
    return found


def mean_dice(labels: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the three tissues."""
    tissues = [(labels == c, truth == c) for c in (1, 2, 3)]
    return float(np.mean([2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in tissues]))


def _by_brightness(labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Labels renumbered so that fluid is 1 and white matter 3, whatever order the method has."""
    means = np.array([image[labels == c].mean() if (labels == c).any() else np.inf for c in (1, 2, 3)])
    rank = means.argsort().argsort() if _CONTRAST.value == "T1w" else (-means).argsort().argsort()
    return np.concatenate([[0], rank + 1])[np.round(labels).astype(int)]


def main(argv: list[str]) -> None:
    """Run every method and print the table."""
    if _ONLY.value:
        print(json.dumps(measure(_ONLY.value)))
        return
    lines = [
        f"{Path(_IMAGE.value).name}, {os.cpu_count()} CPUs",
        "",
        "| method | cold s | warm s | peak MB | Dice seg | Dice pveseg |",
        "|---|---|---|---|---|---|",
    ]
    for method in _METHODS.value:
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run(
                [sys.executable, *argv, *sys.argv[1:], f"--only={method}"],
                stdout=subprocess.PIPE,
                text=True,
                env=dict(os.environ, JAX_COMPILATION_CACHE_DIR=cache),
            )
        if done.returncode:
            lines.append(f"| {method} | failed | | | | |")
            continue
        r = json.loads(done.stdout.splitlines()[-1])
        dice = " | ".join(f"{r[name]:.4f}" if name in r else "–" for name in ("seg", "pveseg"))
        lines.append(f"| {method} | {r['cold']:.2f} | {r['warm']:.2f} | {r['peak_mb']:.0f} | {dice} |")
    print("\n".join(lines))
    if _MARKDOWN.value:
        Path(_MARKDOWN.value).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
