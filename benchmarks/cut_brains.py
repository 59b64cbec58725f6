"""What detection makes of brains that the field of view cuts off: one table.

    python benchmarks/cut_brains.py --data=brats/
    python benchmarks/cut_brains.py --data=brats/ --cases=sub-01_T1ce,sub-02_T2w --shares=0.25

Every brain-extracted scan of the folder is detected as it is and with a part of the brain's extent cropped away, from
each side in turn. Told are how many are accepted, the Dice of what is marked with what is marked in the whole scan,
inside what is left (both empty: 1), how many are flagged for their field of view on the right side, and the share of
the brain that was cropped beside the share that the flag names.
"""

import dataclasses
import re
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from absl import app, flags
from nibabel.affines import from_matvec
from tqdm import tqdm

from strega_jax import detect
from strega_jax.errors import ScanError
from strega_jax.evaluation.metrics import dice
from strega_jax.scans.cohorts import Case, find_cases
from strega_jax.scans.scan import Scan, read_scan

_DATA = flags.DEFINE_string("data", None, "Folder of brain-extracted scans.", required=True)
_CONTRASTS = flags.DEFINE_list("contrasts", ["T1ce", "T2w", "T1w"], "MR contrasts that are used.")
_CASES = flags.DEFINE_list("cases", [], "Names of the scans that are used; all where empty.")
_SHARES = flags.DEFINE_list("shares", ["0.15", "0.25", "0.35"], "Shares of the brain's extent that are cropped.")
_SIDES = flags.DEFINE_list("sides", ["front", "back", "top", "bottom", "left"], "Sides from which is cropped.")

# Axis and end of the array in RAS order.
FACES = {"left": (0, 0), "right": (0, 1), "back": (1, 0), "front": (1, 1), "bottom": (2, 0), "top": (2, 1)}


@dataclasses.dataclass
class Row:
    """What became of one crop of one scan."""

    accepted: bool
    agreement: float = np.nan
    flagged: bool = False
    cropped: float = np.nan  # share of the brain
    named: float = np.nan  # share of the brain that the flag says was not seen


def crop(scan: Scan, side: str, share: float) -> tuple[np.ndarray, np.ndarray, tuple[slice, ...]]:
    """The array without a share of the brain's extent on one side; its affine; where it lay in the scan's array."""
    axis, end = FACES[side]
    held = np.flatnonzero(scan.data.any(axis=tuple({0, 1, 2} - {axis})))
    low, high = int(held[0]), int(held[-1]) + 1
    lost = round(share * (high - low))
    kept = [slice(0, n) for n in scan.data.shape]
    kept[axis] = slice(0, high - lost) if end else slice(low + lost, scan.data.shape[axis])
    corner = [part.start for part in kept]
    return scan.data[tuple(kept)], scan.affine @ from_matvec(np.eye(3), corner), tuple(kept)


def row(case: Case, scan: Scan, whole: np.ndarray, side: str, share: float, folder: Path) -> Row:
    """Detect in one crop; `whole` is what is marked in the whole scan, in RAS order."""
    data, affine, kept = crop(scan, side, share)
    path = folder / "cropped.nii.gz"
    nib.save(nib.Nifti1Image(data, affine), path)
    try:
        found = detect(path, contrast=case.contrast or None)  # pyright: ignore[reportArgumentType]
    except ScanError as error:
        tqdm.write(f"{case.name} {side} {share}: {error}")
        return Row(False)
    reason = " ".join(flag.reason for flag in found.warnings if flag.check == "field of view")
    named = re.search(r"about (\d+) %|about (\d+)%", reason)
    return Row(
        accepted=True,
        agreement=dice(found.mask, whole[kept]) if whole[kept].any() else float(not found.mask.any()),
        flagged=side in reason,
        cropped=1 - np.count_nonzero(data) / np.count_nonzero(scan.data),
        named=float(named[1] or named[2]) / 100 if named else np.nan,
    )


def whole_mask(case: Case, scan: Scan) -> np.ndarray:
    """What is marked in the whole scan, in RAS order."""
    found = detect(case.image, contrast=case.contrast or None)  # pyright: ignore[reportArgumentType]
    order = nib.orientations.io_orientation(scan.native_affine)
    return nib.orientations.apply_orientation(found.mask, order)


def main(_: list[str]) -> None:
    """Detect and print the table."""
    cases = [c for c in find_cases(_DATA.value or "", _CONTRASTS.value) if not _CASES.value or c.name in _CASES.value]
    rows: dict[tuple[str, float], list[Row]] = {
        (side, float(share)): [] for share in _SHARES.value for side in _SIDES.value
    }
    with tempfile.TemporaryDirectory() as folder:
        for case in tqdm(cases):
            scan = read_scan(case.image)
            whole = whole_mask(case, scan)
            for (side, share), found in rows.items():
                found.append(row(case, scan, whole, side, share, Path(folder)))
    print(
        "\n| cropped | from the | scans | accepted | mean Dice | least | flagged | brain cropped | brain unseen, said |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for (side, share), found in rows.items():
        taken = [r for r in found if r.accepted]
        agreement = np.array([r.agreement for r in taken] or [np.nan])
        shares = [np.nanmean([getattr(r, name) for r in taken] or [np.nan]) for name in ("cropped", "named")]
        print(
            f"| {share:.0%} | {side} | {len(found)} | {len(taken)} | {agreement.mean():.3f} | {agreement.min():.2f} | "
            f"{sum(r.flagged for r in taken)} | {shares[0]:.0%} | {shares[1]:.0%} |"
        )


if __name__ == "__main__":
    app.run(main)
