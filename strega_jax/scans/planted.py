"""Held-out healthy scans with a planted lesion: test cases whose truth is exact."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from strega_jax.scans.cohorts import Case, find_cases
from strega_jax.scans.lesions import plant_lesion
from strega_jax.scans.scan import read_scan, write_volume

VOLUMES_ML = (8.0, 40.0)  # uniform on a log scale: from a clearly visible lesion to a large tumour
# Dark on T1 as oedema and necrosis are, bright on the others; in units of the brain's intensity range.
CONTRAST = {"T1w": -0.6, "T1ce": -0.6}
CONTRAST_ELSEWHERE = 0.6


def plant_in_cohort(cases: Sequence[Case], folder: Path, count: int, seed: int) -> list[Case]:
    """Write copies of the first `count` scans, each with one lesion and its mask; what is there is kept.

    Raises:
        ScanError: a scan that cannot be read.
    """
    for number, case in enumerate(list(cases)[:count]):
        anat = folder / case.subject / "anat"
        stem = f"{case.subject}_desc-brain_{case.contrast or 'T1w'}"
        image, mask = anat / f"{stem}.nii.gz", anat / f"{case.subject}_desc-lesion_mask.nii.gz"
        if image.exists() and mask.exists():
            continue
        anat.mkdir(parents=True, exist_ok=True)
        scan = read_scan(case.image)
        rng = np.random.default_rng([seed, number])
        volume_ml = float(np.exp(rng.uniform(*np.log(VOLUMES_ML))))
        contrast = CONTRAST.get(case.contrast, CONTRAST_ELSEWHERE)
        planted, truth = plant_lesion(
            scan.data, scan.data > 0, scan.spacing_mm, rng, volume_ml=volume_ml, contrast=contrast
        )
        write_volume(image, planted, scan)
        write_volume(mask, truth, scan)
    return find_cases(folder)
