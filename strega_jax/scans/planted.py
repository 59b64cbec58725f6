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
from strega_jax.scans.lesion_kinds import PLAIN, plant_kind
from strega_jax.scans.scan import write_volume
from strega_jax.scans.source import open_scan, scan_digest

UNTOLD = "T1w"  # contrast of scans of which nothing tells it


def plant_in_cohort(
    cases: Sequence[Case], folder: Path, count: int, seed: int, kinds: Sequence[str] = (PLAIN,)
) -> list[Case]:
    """Write copies of the first `count` scans, for each kind one with a lesion and its mask.

    Each kind, a name in `lesion_kinds.KINDS`, is a cohort of its own.

    What is there already, made from the same scan with the same seed, is kept; other files of the same names are
    made again.

    Returns:
        The copies, `count` at most of a kind, kind by kind.

    Raises:
        ConfigError: unknown kind, or a brain too small for it.
        ScanError: a scan that cannot be read.
    """
    chosen = list(enumerate(list(cases)[:count]))
    return [_plant(case, folder, [seed, number], kind) for kind in kinds for number, case in chosen]


def _plant(case: Case, folder: Path, seed: list[int], kind: str) -> Case:
    contrast = contrast_named(case.contrast) or UNTOLD
    anat = folder / case.subject / case.session / "anat"
    # Runs of one session are scans of their own.
    own = re.sub(r"[^A-Za-z0-9]", "", case.name) + ("" if kind == PLAIN else kind)
    entities = "_".join(part for part in (case.subject, case.session, f"acq-{own}") if part)
    image = anat / f"{entities}_desc-brain_{contrast}.nii.gz"
    mask = anat / f"{entities}_desc-lesion_mask.nii.gz"
    sidecar = anat / f"{entities}_desc-brain_{contrast}.json"
    digest = scan_digest(case)
    record = {"SkullStripped": True, "SourcesSha256": digest, "Seed": seed}
    cohort = folder.name
    if kind != PLAIN:
        record, cohort = {**record, "Kind": kind}, f"{cohort}-{kind}"
    planted = dataclasses.replace(
        case, image=image, mask=mask, cohort=cohort, contrast=contrast, healthy=False, brain=None
    )
    if not (image.exists() and mask.exists() and _read(sidecar) == record):
        anat.mkdir(parents=True, exist_ok=True)
        sidecar.unlink(missing_ok=True)
        scan = open_scan(case)
        rng = np.random.default_rng(seed)
        data, truth = plant_kind(kind, scan.data, scan.data > 0, scan.spacing_mm, rng, CONTRASTS[contrast].lesion)
        write_volume(image, data, scan)
        write_volume(mask, truth, scan)
        write_json(sidecar, record)  # last: where it is, the others are complete
    return planted


def _read(sidecar: Path) -> dict[str, Any] | None:
    try:
        return json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
