"""How often quality control warns of good scans, and how often it notices spoilt ones: two tables.

    python benchmarks/input_checks.py --scans=ixi/ --spoil_every=20
    python benchmarks/input_checks.py --scans=brats/ --spoil_every=0

First every scan as it is; then every so many-th T1w scan spoilt in each of the ways below. A scan counts as noticed
when the check that should is among its warnings, or when it was refused with an error; both are told. The scans must be
brain-extracted; the model is the package's own unless --checkpoint names another.
"""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags
from scipy import ndimage
from tqdm import tqdm

from strega_jax.detection.detect import detect_slices
from strega_jax.detection.quality import measure, reference_warnings, scan_warnings
from strega_jax.errors import ScanError
from strega_jax.models.opened import SHIPPED, Opened
from strega_jax.models.opening import open_model
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.scan import Scan, read_scan
from strega_jax.slices.preprocess import preprocess

_SCANS = flags.DEFINE_string("scans", None, "Folder of brain-extracted scans.", required=True)
_CHECKPOINT = flags.DEFINE_string("checkpoint", str(SHIPPED), "The model.")
_SPOIL_EVERY = flags.DEFINE_integer("spoil_every", 20, "Spoil every so many-th T1w scan; 0: none.", lower_bound=0)

Volume = np.ndarray
REFUSED = "refused"


@dataclasses.dataclass(frozen=True)
class Spoiling:
    """One way to spoil a scan, the check that should notice it, and the contrast to read it as (empty: its own)."""

    check: str
    change: Callable[[Volume, np.random.Generator], Volume]
    contrast: str = ""


def head(data: Volume, rng: np.random.Generator) -> Volume:
    """A scalp 10 to 20 mm from the brain (of 2 mm voxels) in noisy air."""
    distance = np.asarray(ndimage.distance_transform_edt(data == 0))
    scalp = (distance > 5) & (distance < 10)
    air = np.abs(rng.normal(0, 0.02 * data.max(), data.shape))
    return np.where(data > 0, data, np.where(scalp, 0.9 * data.max(), air))


def ghosts(data: Volume, rng: np.random.Generator) -> Volume:
    """Every 4th to 10th line weakened by half to all, left to right or back to front; as TorchIO's RandomGhosting."""
    axis, every, strength = int(rng.integers(2)), int(rng.integers(4, 11)), rng.uniform(0.5, 1)
    line = np.arange(data.shape[axis]) - data.shape[axis] // 2
    weight = np.where((line % every == 0) & (line != 0), 1 - strength, 1.0)
    shape = [-1 if a == axis else 1 for a in range(3)]
    spectrum = np.fft.fft(data, axis=axis) * np.fft.ifftshift(weight).reshape(shape)
    return np.where(data > 0, np.maximum(np.fft.ifft(spectrum, axis=axis).real, 1), 0)


def middle(data: Volume, change: Callable[[Volume, slice], None], count: int = 1) -> Volume:
    """A copy with `change` made at `count` axial slices of the brain's middle."""
    data = data.copy()
    held = np.flatnonzero(data.any(axis=(0, 1)))
    start = int(held[len(held) // 2])
    change(data, slice(start, start + count))
    return data


def emptied(data: Volume, at: slice) -> None:
    data[:, :, at] = 0


def darkened(data: Volume, at: slice) -> None:
    data[:, :, at] *= 0.4


def repeated(data: Volume, at: slice) -> None:
    data[:, :, at] = data[:, :, at.start - 1 : at.start]


def cut(data: Volume, rng: np.random.Generator) -> Volume:
    """The upper quarter of the brain's height is outside the field of view."""
    held = np.flatnonzero(data.any(axis=(0, 1)))
    return data[:, :, : int(held[0] + 0.75 * len(held))]


def noisy(data: Volume, rng: np.random.Generator) -> Volume:
    """Noise of a quarter of the brain's mean intensity."""
    noise = rng.normal(0, 0.25 * data[data > 0].mean(), data.shape)
    return np.where(data > 0, np.maximum(data + noise, 1), 0)


def one_sided(data: Volume, rng: np.random.Generator) -> Volume:
    """One hemisphere is gone."""
    data = data.copy()
    held = np.flatnonzero(data.any(axis=(1, 2)))
    data[: int(held[len(held) // 2])] = 0
    return data


SPOILINGS = {
    "not brain-extracted": Spoiling(REFUSED, head),
    "read as T2w": Spoiling("contrast", lambda data, rng: data, "T2w"),
    "read as FLAIR": Spoiling("contrast", lambda data, rng: data, "FLAIR"),
    "header: front and back reversed": Spoiling("orientation", lambda data, rng: data[:, ::-1]),
    "header: top and bottom reversed": Spoiling("orientation", lambda data, rng: data[:, :, ::-1]),
    "header: height taken for depth": Spoiling("orientation", lambda data, rng: data.transpose(0, 2, 1)),
    "header: left and right reversed (cannot be seen)": Spoiling("orientation", lambda data, rng: data[::-1]),
    "ghosts": Spoiling("ghosting", ghosts),
    "one slice empty": Spoiling("slices", lambda data, rng: middle(data, emptied)),
    "one slice at 40 % signal": Spoiling("slices", lambda data, rng: middle(data, darkened)),
    "one slice twice": Spoiling("slices", lambda data, rng: middle(data, repeated)),
    "upper quarter cut off": Spoiling("field of view", cut),
    "noise of 25 %": Spoiling("noise", noisy),
    "one hemisphere missing": Spoiling("tissue", one_sided),
}


def checks(opened: Opened, scan: Scan, contrast: Any) -> set[str]:
    """The checks that warn of a scan; `refused` where it came to an error."""
    about = opened.model.about
    scan = dataclasses.replace(scan, contrast=contrast)
    try:
        slices = preprocess(scan, about.preprocess)
    except ScanError:
        return {REFUSED}
    warnings = scan_warnings(scan, slices, about.preprocess.contrast)
    found = detect_slices(opened.model, scan, slices, about.run.postprocess, opened.calibration)
    return {warning.check for warning in [*warnings, *reference_warnings(measure(found), opened.reference)]}


def main(_: list[str]) -> None:
    opened = open_model(_CHECKPOINT.value or SHIPPED)
    cases = find_cases(_SCANS.value or "")
    clean: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for case in tqdm(cases, "as they are"):
        contrast = case.contrast or "T1w"
        seen = checks(opened, read_scan(case.image), contrast)
        clean[contrast].update(["scans", *seen, *(["warned"] if seen else [])])
    print("\n| contrast | scans | with warnings | by |\n|---|---|---|---|")
    for contrast, count in clean.items():
        by = ", ".join(f"{name} {n}" for name, n in count.most_common() if name not in ("scans", "warned"))
        print(f"| {contrast} | {count['scans']} | {count['warned']} | {by or '–'} |")
    if not _SPOIL_EVERY.value:
        return
    chosen = [case for case in cases if case.contrast in ("T1w", "")][:: _SPOIL_EVERY.value]
    print("\n| spoilt | should be noticed by | scans | noticed so | refused | by any |\n|---|---|---|---|---|---|")
    for name, spoiling in SPOILINGS.items():
        count: collections.Counter[str] = collections.Counter()
        for number, case in enumerate(tqdm(chosen, name)):
            scan = read_scan(case.image)
            spoilt = np.ascontiguousarray(spoiling.change(scan.data, np.random.default_rng(number)), np.float32)
            seen = checks(opened, dataclasses.replace(scan, data=spoilt), spoiling.contrast or "T1w")
            count.update([*seen, *(["any"] if seen else [])])
        row = (spoiling.check, len(chosen), count[spoiling.check], count[REFUSED], count["any"])
        print(f"| {name} | {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    app.run(main)
