"""Test sets whose truth is known to the voxel: healthy brains with superimposed tumours, lesions or local changes.

And healthy brains rendered in other contrasts, whose truth is that there is nothing.
"""

import dataclasses
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.anomalies import ANOMALIES, local_anomaly
from strega_jax.scans.case import Case, read_truth
from strega_jax.scans.cohorts import unique_names
from strega_jax.scans.contrast import CONTRASTS, contrast_named
from strega_jax.scans.files import file_sha256, write_json, write_tsv
from strega_jax.scans.lesions import plant_lesion, plant_spots
from strega_jax.scans.looks import check_renderable
from strega_jax.scans.scan import Scan, write_volume
from strega_jax.scans.source import open_scan

PROVENANCE = "provenance.json"
Render = Callable[[Scan, str, int], Scan]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One synthetic image: which healthy scan, what is done to it, and what it is called."""

    healthy: Case
    kind: str  # tumour, lesion, spots, local, rendered or control
    label: str  # letters and digits; the `acq-` entity of the file's name
    settings: tuple[tuple[str, Any], ...] = ()
    donor: Case | None = None  # of the tumour


def superimpose(
    healthy: Scan, donor: Scan, tumour: Bool[np.ndarray, "i j k"], how: str = "add"
) -> tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Lay the tumour of one brain over another, healthy brain (paper, eq. 15).

    The donor's brain box is resized to the healthy brain's box, so the tumour keeps its place in the brain. With
    `add`, the paper's letter: A' = A + M, where M is the donor's image inside the tumour normalised to 0-1, and A
    is counted in units of its own largest intensity. With `replace`, the tumour takes the place of the tissue, its
    intensities carried over by the medians and 98th percentiles of the two brains outside it.

    Args:
        healthy: brain-extracted (0 outside the brain).
        donor: brain-extracted, of any grid.
        tumour: on the donor's grid.
        how: `add` or `replace`.

    Returns:
        Image (float32) and tumour mask on the healthy scan's grid; the mask ends at the healthy brain's border.

    Raises:
        ConfigError: unknown `how`.
        ScanError: the tumour is empty, or nothing of it lies inside the healthy brain.
    """
    if how not in ("add", "replace"):
        raise ConfigError(f"unknown way to superimpose {how!r}; known: add, replace")
    if not tumour.any():
        raise ScanError(f"{donor.path}: its label map is empty; there is no tumour to cut out")
    brain = healthy.data > 0
    where = _box_to_box(brain, (donor.data > 0) | tumour)
    weight = ndimage.map_coordinates(tumour.astype(np.float32), where, order=1)
    mask = np.zeros(brain.shape, bool)
    mask[brain] = weight > 0.5
    if not mask.any():
        raise ScanError(f"{donor.path}: nothing of its tumour lies inside the brain of {healthy.path}")
    inside = donor.data[tumour]
    patch = ndimage.map_coordinates(donor.data, where, order=1)[weight > 0.5]
    image = healthy.data.copy()
    if how == "add":
        low, high = inside.min(), inside.max()
        normalised = ((patch - low) / max(high - low, np.finfo(np.float32).tiny)).clip(0, 1)
        image[mask] += normalised * healthy.data.max()
    else:
        tissue = donor.data[(donor.data > 0) & ~tumour]
        middle, top = np.percentile(tissue if tissue.size else inside, (50, 98))
        own_middle, own_top = np.percentile(healthy.data[brain], (50, 98))
        carried = own_middle + (patch - middle) * (own_top - own_middle) / max(top - middle, 1e-6)
        image[mask] = carried.clip(healthy.data[brain].min())
    return image, mask


def plan_tumours(
    healthy: Sequence[Case], donors: Sequence[Case], count: int, controls: int, how: str, seed: int
) -> list[Recipe]:
    """Pair `count` healthy scans with tumours at random, each tumour used before one is used again.

    Controls are other healthy scans as long as there are any, then those that got a tumour.
    """
    _enough(healthy, max(count, controls))
    donors = [case for case in donors if case.mask]
    if count and not donors:
        raise ScanError("none of the cases to take tumours from has a label map")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(healthy))
    tumours = np.concatenate([rng.permutation(len(donors)) for _ in range(count // max(len(donors), 1) + 1)])
    chosen = [
        Recipe(healthy[h], "tumour", f"tumour{n + 1:03d}", (("how", how),), donors[int(d)])
        for n, (h, d) in enumerate(zip(order[:count], tumours, strict=False))
    ]
    spare = np.roll(order, -count)[:controls]
    return chosen + [Recipe(healthy[h], "control", "control") for h in spare]


def plan_doses(
    healthy: Sequence[Case],
    sizes_ml: Sequence[float],
    contrasts: Sequence[float],
    texture: float,
    count: int,
    controls: int,
    seed: int,
) -> list[Recipe]:
    """Every size × every contrast in each of `count` healthy scans, and the first `controls` of them unchanged."""
    _enough(healthy, max(count, controls))
    chosen = [healthy[i] for i in np.random.default_rng(seed).permutation(len(healthy))]
    doses = [(size, contrast) for size in sizes_ml for contrast in contrasts]
    return [
        Recipe(
            case,
            "lesion",
            f"lesion{number + 1:03d}",
            (("volume_ml", float(size)), ("contrast", float(contrast)), ("texture", float(texture))),
        )
        for case in chosen[:count]
        for number, (size, contrast) in enumerate(doses)
    ] + [Recipe(case, "control", "control") for case in chosen[:controls]]


def plan_spots(healthy: Sequence[Case], texture: float, count: int, controls: int, seed: int) -> list[Recipe]:
    """Small lesions, dark or bright as the contrast has them, in each of `count` scans; `controls` unchanged ones."""
    _enough(healthy, max(count, controls))
    chosen = [healthy[i] for i in np.random.default_rng(seed).permutation(len(healthy))]
    recipes = []
    for case in chosen[:count]:
        change = CONTRASTS[contrast_named(case.contrast) or "T1w"].lesion
        recipes.append(Recipe(case, "spots", "spots", (("contrast", change), ("texture", float(texture)))))
    return recipes + [Recipe(case, "control", "control") for case in chosen[:controls]]


def plan_local(healthy: Sequence[Case], kinds: Sequence[str], count: int, controls: int, seed: int) -> list[Recipe]:
    """Every kind of local anomaly in each of `count` healthy scans, and the first `controls` of them unchanged."""
    if unknown := set(kinds) - set(ANOMALIES):
        raise ConfigError(f"unknown local anomalies {', '.join(sorted(unknown))}; known: {', '.join(ANOMALIES)}")
    _enough(healthy, max(count, controls))
    chosen = [healthy[i] for i in np.random.default_rng(seed).permutation(len(healthy))]
    recipes = [Recipe(case, "local", kind, (("kind", kind),)) for case in chosen[:count] for kind in kinds]
    return recipes + [Recipe(case, "control", "control") for case in chosen[:controls]]


def plan_rendered(healthy: Sequence[Case], contrasts: Sequence[str], count: int, seed: int) -> list[Recipe]:
    """Each of `count` healthy scans in every contrast."""
    check_renderable(contrasts)
    _enough(healthy, count)
    chosen = [healthy[i] for i in np.random.default_rng(seed).permutation(len(healthy))[:count]]
    return [Recipe(case, "rendered", "rendered", (("contrast", name),)) for case in chosen for name in contrasts]


def make_set(folder: Path, recipes: Sequence[Recipe], seed: int, render: Render | None = None) -> Iterator[Path]:
    """Write a synthetic set, BIDS-like, one image after the other; what is already there and equal is kept.

    Each image has a sidecar that says how it was made, and a `label-lesion_mask` unless it is a control.
    `provenance.json` in the folder gathers the sidecars when all are done. Recipes of the kind `rendered` need
    `render`: scan, contrast and seed → the scan in that contrast.

    Yields:
        The path of each image once it, its mask and its sidecar are complete.

    Raises:
        ScanError: a source cannot be read, the folder holds a set made from other recipes, or two images are the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = [_record(recipe, stem, seed) for recipe, stem in zip(recipes, _stems(recipes), strict=True)]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    _describe(folder, digest)
    subjects = sorted({recipe.healthy.subject for recipe in recipes})
    rows = [{"participant_id": subject, "split": "test", "group": "healthy"} for subject in subjects]
    write_tsv(folder / "participants.tsv", rows)
    for recipe, record in zip(recipes, content, strict=True):
        path = folder / record["image"]
        if not path.with_name(path.name.removesuffix(".nii.gz") + ".json").exists():
            _make(folder, recipe, record, seed, render)
        yield path
    write_json(folder / PROVENANCE, {"seed": seed, "recipes_sha256": digest, "images": content})


def _make(folder: Path, recipe: Recipe, record: dict[str, Any], seed: int, render: Render | None) -> None:
    scan = open_scan(recipe.healthy)
    # Its own stream for every image, so that none depends on how many were made before it.
    rng = np.random.default_rng([seed, zlib.crc32(record["image"].encode())])
    settings = dict(recipe.settings)
    brain = scan.data > 0
    if recipe.kind == "tumour" and recipe.donor is not None:
        donor = open_scan(recipe.donor)
        image, mask = superimpose(scan, donor, read_truth(recipe.donor, donor), **settings)
    elif recipe.kind == "lesion":
        image, mask = plant_lesion(scan.data, brain, scan.spacing_mm, rng, **settings)
    elif recipe.kind == "spots":
        image, mask = plant_spots(scan.data, brain, scan.spacing_mm, rng, **settings)
    elif recipe.kind == "local":
        image, mask = local_anomaly(scan.data, brain, scan.spacing_mm, rng, **settings)
    elif recipe.kind == "rendered" and render is not None:
        image, mask = render(scan, settings["contrast"], seed).data, None
    else:
        image, mask = scan.data, None
    path = folder / record["image"]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, image, scan)
    if mask is not None:
        write_volume(folder / record["mask"], mask, scan)
        write_json(
            folder / record["mask"].replace(".nii.gz", ".json"), {"Type": "Lesion", "Sources": record["sources"]}
        )
    sidecar = {"SkullStripped": True, "Sources": record["sources"], "Synthesis": record["synthesis"], "Seed": seed}
    write_json(folder / record["image"].replace(".nii.gz", ".json"), sidecar)


def _stems(recipes: Sequence[Recipe]) -> list[str]:
    """What the files of each image begin with; where scans of one session would share it, their own names are in it.

    Raises:
        ScanError: two images that are the same.
    """

    def stem(recipe: Recipe, own: str = "") -> str:
        label = recipe.label + re.sub(r"[^A-Za-z0-9]", "", own)
        return "_".join(part for part in (recipe.healthy.subject, recipe.healthy.session, f"acq-{label}") if part)

    cases = list({recipe.healthy.image: recipe.healthy for recipe in recipes}.values())
    names = {case.image: named.name for case, named in zip(cases, unique_names(cases), strict=True)}
    count = Counter((stem(of), _contrast(of)) for of in recipes)
    stems = [stem(of, names[of.healthy.image] if count[stem(of), _contrast(of)] > 1 else "") for of in recipes]
    files = Counter(zip(stems, map(_contrast, recipes), strict=True))
    twice = ["_".join(file) for file, times in files.items() if times > 1]
    if twice:
        raise ScanError(f"two images would both be called {twice[0]}; ask for every kind and size once")
    return stems


def _contrast(recipe: Recipe) -> str:
    made = dict(recipe.settings).get("contrast") if recipe.kind == "rendered" else recipe.healthy.contrast
    return str(made or "T1w")


def _record(recipe: Recipe, stem: str, seed: int) -> dict[str, Any]:
    """What the image is called and made of; two equal records give two equal images."""
    case = recipe.healthy
    place = "/".join(part for part in (case.subject, case.session, "anat") if part)
    image = f"{place}/{stem}_desc-brain_{_contrast(recipe)}.nii.gz"
    used = [case.image] + ([recipe.donor.image, recipe.donor.mask] if recipe.donor else [])
    record = {
        "image": image,
        "mask": None if recipe.kind in ("control", "rendered") else f"{place}/{stem}_label-lesion_mask.nii.gz",
        "sources": [{"file": path.name, "sha256": file_sha256(path)} for path in used if path],
        "synthesis": {"kind": recipe.kind, **dict(recipe.settings)},
        "seed": seed,
    }
    return record


def _describe(folder: Path, digest: str) -> None:
    path = folder / "dataset_description.json"
    content = {
        "Name": "Synthetic anomalies in healthy brains",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "strega_jax.synthesize", "Parameters": {"recipes_sha256": digest}}],
    }
    try:
        unchanged = not path.exists() or json.loads(path.read_text(encoding="utf-8")) == content
    except ValueError:
        unchanged = False
    if not unchanged:
        raise ScanError(f"{folder}: holds a set made from other scans or settings; name another folder")
    write_json(path, content)


def _box_to_box(brain: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For every voxel of `brain`, the point of `other`'s grid at the same place between the ends of its box; (3, n)."""
    box, other_box = (ndimage.find_objects(mask.astype(np.uint8))[0] for mask in (brain, other))
    points = np.array(np.nonzero(brain), np.float64)
    for axis, (own, its) in enumerate(zip(box, other_box, strict=True)):
        # Voxels have an extent: box edges, half a voxel outside of the first and the last centre, correspond.
        share = (points[axis] - own.start + 0.5) / (own.stop - own.start)
        points[axis] = its.start - 0.5 + share * (its.stop - its.start)
    return points


def _enough(healthy: Iterable[Case], wanted: int) -> None:
    there = len(list(healthy))
    if there < wanted:
        raise ScanError(f"{wanted} healthy scans are asked for, but only {there} were found")
