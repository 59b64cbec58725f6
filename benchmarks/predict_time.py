"""What the stages of `predict` take for one scan of 240×240×155 voxels of 1 mm, in a process that has done one before.

    python benchmarks/predict_time.py

The scan is the MNI152 template with noise and a planted lesion; the model is the package's own. The stages of several
scans overlap in `predict`; here they follow one another. startup.py times the command as a whole.
"""

import collections
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel
import numpy as np
from absl import app
from nilearn import datasets

from strega_jax.inference.batch import Settings, detect_all
from strega_jax.inference.jobs import make_jobs
from strega_jax.models.opening import open_model
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.lesions import plant_lesion

SHAPE = (240, 240, 155)
# What is timed: name in the table → where the function is looked up by its caller.
STAGES = {
    "read": "strega_jax.inference.jobs.open_scan",
    "tissue segmentation": "strega_jax.slices.preprocess.segment",
    "alignment to MNI152": "strega_jax.slices.preprocess.align_to_template",
    "slices, with the alignment": "strega_jax.inference.batch.cut_slices",
    "quality control of image and mask": "strega_jax.inference.batch.image_warnings",
    "quality control of contrast and pose": "strega_jax.inference.batch.pose_warnings",
    "detection": "strega_jax.inference.batch.detect_slices",
    "page": "strega_jax.inference.batch.write_page",
    "all files, with the page": "strega_jax.inference.batch.write_result",
}


def make_scan(path: Path, every: int = 1) -> None:
    """MNI152 on a grid of 240×240×155, with noise and a lesion of 30 ml; every `every`-th voxel of each axis."""
    template = datasets.load_mni152_template(resolution=1)
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0
    rng = np.random.default_rng(0)
    noisy = np.maximum(np.asarray(template.dataobj) + rng.normal(scale=0.03, size=mask.shape), 0.02)
    brain = np.where(mask, noisy, 0).astype(np.float32) * 1000
    brain, _ = plant_lesion(brain, mask, (1.0, 1.0, 1.0), rng, volume_ml=30.0, contrast=-0.6)
    brain = brain[:, :, : SHAPE[2]]  # it lies in the lowest 155 slices
    room = [((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(SHAPE, brain.shape, strict=True)]
    thinned = np.pad(brain, room).astype(np.int16)[::every, ::every, ::every]
    nibabel.save(nibabel.Nifti1Image(thinned, template.affine @ np.diag([every] * 3 + [1])), path)


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Add up what each of `STAGES` takes."""

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **named)
            spent[name] += time.perf_counter() - start
            return result

        return run

    patches = []
    for name, place in STAGES.items():
        module, attribute = place.rsplit(".", 1)
        function = getattr(sys.modules[module], attribute)
        patches.append(mock.patch(place, wrapped(name, function)))
    for patch in patches:
        patch.start()
    yield
    for patch in patches:
        patch.stop()


def stages_s(scan: Path, folder: Path) -> dict[str, float]:
    """What the stages of a second scan take in one process, and the whole."""
    opened = open_model()
    settings = Settings(opened.model.about.run.postprocess)
    for number in range(2):
        spent: dict[str, float] = collections.defaultdict(float)
        with timed(spent):
            start = time.perf_counter()
            done = next(detect_all(make_jobs(find_cases(scan), folder / str(number)), opened, settings))
            spent["in all"] = time.perf_counter() - start
        if done.error is not None:
            raise done.error
        assert done.anomaly_ml > 0
    return spent


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder, scan = Path(root), Path(root, "scan_T1w.nii.gz")
        make_scan(scan)
        print("| stage | s |\n|---|---|")
        for name, seconds in stages_s(scan, folder).items():
            print(f"| {name} | {seconds:.2f} |")


if __name__ == "__main__":
    app.run(main)
