"""A small cohort of "healthy subjects" for demonstrations, made from the MNI152 T1 template that nilearn packages."""

import json
import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.errors import ScanError
from strega_jax.scans.files import write_json, write_tsv
from strega_jax.scans.scan import Scan, write_volume

WHITE_MATTER_LEVEL = 1000.0  # intensity given to the brightest tissue; the files are int16
HEAD_SIZE_SD = 0.05  # of each axis; adult heads differ by about that much
SHAPE_MM = 3.0  # SD of the smooth displacement
SHAPE_SCALE_MM = 25.0  # distance over which the displacement changes
BIAS_SD = 0.12  # of the logarithm of the multiplicative field
BIAS_SCALE_MM = 60.0
GAMMA_SD = 0.12  # of the logarithm of the contrast exponent
REACH_VOXELS = 9  # no deformation moves the brain's border further
NOISE = (0.01, 0.03)  # Rician, of the white matter level


def make_demo_cohort(folder: str | os.PathLike[str], subjects: int, seed: int) -> list[Path]:
    """Write a BIDS-like cohort of brain-extracted 2 mm T1w scans; what is already there is kept.

    Every subject is the template under a random smooth deformation of size and shape, a monotone change of contrast,
    a bias field and Rician noise. A subject depends on `seed` and its number only. `participants.tsv` puts about one
    subject in six into `test`, as many into `dev`, and the others into `train`.

    Args:
        folder: made if missing.
        subjects: how many, at least 3.
        seed: of everything random.

    Returns:
        The paths of the images.

    Raises:
        ScanError: fewer than 3 subjects, nilearn missing, or a folder that holds another cohort.
    """
    if subjects < 3:
        raise ScanError(f"a demo cohort needs at least 3 subjects (train, dev, test), not {subjects}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"sub-demo{number:03d}" for number in range(1, subjects + 1)]
    paths = [folder / name / "anat" / f"{name}_desc-brain_T1w.nii.gz" for name in names]
    _describe(folder, seed)
    missing = [(number, path) for number, path in enumerate(paths) if not path.exists()]
    if missing:
        template, brain, affine = _template()
    for number, path in missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        scan = Scan.from_array(demo_subject(template, brain, np.random.default_rng([seed, number])), affine, path)
        write_volume(path, np.rint(scan.data).astype(np.int16), scan)
    held_out = max(1, subjects // 6)
    splits = ["train"] * (subjects - 2 * held_out) + ["dev"] * held_out + ["test"] * held_out
    rows = [
        {"participant_id": name, "split": split, "group": "healthy"} for name, split in zip(names, splits, strict=True)
    ]
    write_tsv(folder / "participants.tsv", rows)
    return paths


def demo_subject(
    template: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"], rng: np.random.Generator
) -> Float[np.ndarray, "x y z"]:
    """One variation of a 2 mm brain; intensities 0 outside the brain, above 0 inside, white matter near 1000."""
    shape = template.shape
    # Only where the deformed brain can be: a third of the template's box, and a third of the time.
    near = np.asarray(ndimage.binary_dilation(brain, iterations=REACH_VOXELS), bool)
    centre = np.array(ndimage.center_of_mass(brain), np.float32)[:, None]
    size = np.exp(rng.normal(0, HEAD_SIZE_SD, 3).clip(-0.1, 0.1)).astype(np.float32)[:, None]
    shift = np.stack([smooth_noise(rng, shape, SHAPE_SCALE_MM / 2)[near] for _ in range(3)]) * SHAPE_MM / 2
    where = (np.array(np.nonzero(near), np.float32) - centre) / size + centre + shift
    image = ndimage.map_coordinates(template, where, order=1)
    inside = ndimage.map_coordinates(brain.astype(np.float32), where, order=1) > 0.5
    image = (image / np.percentile(image[inside], 95)).clip(0) ** np.exp(rng.normal(0, GAMMA_SD))
    image *= np.exp(BIAS_SD * smooth_noise(rng, shape, BIAS_SCALE_MM / 2)[near])
    real, imaginary = np.float32(rng.uniform(*NOISE)) * rng.standard_normal((2, image.size), np.float32)
    image = WHITE_MATTER_LEVEL * np.hypot(image + real, imaginary)
    subject = np.zeros(shape, np.float32)
    subject[near] = np.where(inside, image.clip(1.0), 0.0)
    return subject


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], scale_voxels: float) -> Float[np.ndarray, "x y z"]:
    """A random field of mean near 0 and SD near 1 that changes over about `scale_voxels`."""
    coarse = rng.normal(size=[int(np.ceil(n / scale_voxels)) + 3 for n in shape])
    # Cubic spline between independent knots; a random origin keeps the knots from always being at one place.
    origin = rng.uniform(0, 1, 3) + 1
    knots = [np.arange(n) / scale_voxels + start for n, start in zip(shape, origin, strict=True)]
    field = coarse
    for axis, positions in enumerate(knots):
        field = _interpolate(field, positions, axis)
    return (field / field.std()).astype(np.float32)


def _interpolate(values: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """Cubic B-spline smoothing along one axis, so that a field is three small matrix products."""
    index = np.arange(values.shape[axis])
    distance = np.abs(positions[:, None] - index)
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance.clip(max=2)) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)


def _template() -> tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    try:
        from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
    except ImportError as error:
        raise ScanError(
            "the demo cohort needs nilearn, which holds the MNI152 template: pip install 'strega-jax[demo]'"
        ) from error
    image, mask = load_mni152_template(resolution=2), load_mni152_brain_mask(resolution=2)
    return image.get_fdata(dtype=np.float32), mask.get_fdata() > 0.5, image.affine


def _describe(folder: Path, seed: int) -> None:
    path = folder / "dataset_description.json"
    content = {
        "Name": "Demonstration cohort from the MNI152 template",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "strega-jax demo cohort", "Parameters": {"seed": seed}}],
    }
    try:
        unchanged = not path.exists() or json.loads(path.read_text(encoding="utf-8")) == content
    except ValueError:
        unchanged = False
    if not unchanged:
        raise ScanError(f"{folder}: holds another data set, or a demo cohort of another seed; name another folder")
    write_json(path, content)
