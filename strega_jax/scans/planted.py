"""Held-out healthy scans with a planted lesion: test cases whose reference segmentation is exact."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strega_jax.scans.case import Case
from strega_jax.scans.contrast import CONTRASTS, contrast_named
from strega_jax.scans.files import write_json
from strega_jax.scans.lesions import plant_lesion
from strega_jax.scans.scan import write_volume
from strega_jax.scans.source import open_scan, scan_digest

VOLUMES_ML = (8.0, 40.0)  # uniform on a log scale: from a clearly visible lesion to a large tumour
UNTOLD = "T1w"  # contrast of scans of which nothing tells it


def plant_in_cohort(cases: Sequence[Case], folder: Path, count: int, seed: int) -> list[Case]:
    """Write copies of the first `count` scans, each with one lesion and its mask.

    What is there already, made from the same scan with the same seed, is kept; other files of the same names are
    made again.

    Returns:
        The copies, `count` at most.

    Raises:
        ScanError: a scan that cannot be read.
    """
    return [_plant(case, folder, [seed, number]) for number, case in enumerate(list(cases)[:count])]


def _plant(case: Case, folder: Path, seed: list[int]) -> Case:
    contrast = contrast_named(case.contrast) or UNTOLD
    anat = folder / case.subject / case.session / "anat"
    # Runs of one session are scans of their own.
    own = re.sub(r"[^A-Za-z0-9]", "", case.name)
    entities = "_".join(part for part in (case.subject, case.session, f"acq-{own}") if part)
    image = anat / f"{entities}_desc-brain_{contrast}.nii.gz"
    mask = anat / f"{entities}_desc-lesion_mask.nii.gz"
    sidecar = anat / f"{entities}_desc-brain_{contrast}.json"
    digest = scan_digest(case)
    record = {"SkullStripped": True, "SourcesSha256": digest, "Seed": seed}
    planted = dataclasses.replace(
        case, image=image, mask=mask, cohort=folder.name, contrast=contrast, healthy=False, brain=None
    )
    if not (image.exists() and mask.exists() and _read(sidecar) == record):
        anat.mkdir(parents=True, exist_ok=True)
        sidecar.unlink(missing_ok=True)
        scan = open_scan(case)
        rng = np.random.default_rng(seed)
        volume_ml = float(np.exp(rng.uniform(*np.log(VOLUMES_ML))))
        lesion = CONTRASTS[contrast].lesion
        data, truth = plant_lesion(scan.data, scan.data > 0, scan.spacing_mm, rng, volume_ml=volume_ml, contrast=lesion)
        write_volume(image, data, scan)
        write_volume(mask, truth, scan)
        write_json(sidecar, record)  # last: where it is, the others are complete
    return planted


def _read(sidecar: Path) -> dict[str, Any] | None:
    try:
        return json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
