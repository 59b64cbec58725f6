"""Whether two folders of `predict` results hold the same masks: what a change of the code changed in what is marked.

    python benchmarks/compare_masks.py before/ after/ --atleast=0.99

A line a result: voxels marked in each, and the Dice between them; then what is in one folder only. Exit code 1 where
a mask is missing, lies on another grid, or has a Dice below --atleast.
"""

import argparse
from pathlib import Path

import nibabel
import numpy as np


def main() -> int:
    """Compare, print, and say by the exit code whether all agree."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("old", type=Path)
    arguments.add_argument("new", type=Path)
    arguments.add_argument("--atleast", type=float, default=1.0, help="Lowest Dice that counts as agreement.")
    given = arguments.parse_args()
    old, new = masks(given.old), masks(given.new)
    failed = 0
    for name in sorted(old.keys() & new.keys()):
        text, agreement = compared(old[name], new[name])
        failed += agreement < given.atleast
        print(f"{text}  {name}")
    for folder, names in ((given.old, old.keys() - new.keys()), (given.new, new.keys() - old.keys())):
        for name in sorted(names):
            failed += 1
            print(f"only in {folder}: {name}")
    print(f"{len(old.keys() & new.keys())} in both, {failed} differ")
    return 1 if failed or not old else 0


def masks(folder: Path) -> dict[str, Path]:
    """The masks of results below a folder, by their place in it; of the files named so, brain masks are none."""
    found = [path for path in folder.rglob("*_mask.nii.gz") if "_desc-brain" not in path.name]
    return {path.relative_to(folder).as_posix(): path for path in found}


def compared(old: Path, new: Path) -> tuple[str, float]:
    """Voxels of both masks and how far they agree, in words, and their Dice; −1 on different grids."""
    images = [nibabel.load(path) for path in (old, new)]
    one, other = (np.asanyarray(image.dataobj) > 0 for image in images)  # pyright: ignore
    counts = f"{one.sum():9d} {other.sum():9d}"
    if one.shape != other.shape or not np.allclose(images[0].affine, images[1].affine, atol=1e-3):  # pyright: ignore
        return f"{counts}  other grid ", -1.0
    if np.array_equal(one, other):
        return f"{counts}  equal      ", 1.0
    dice = 2 * np.count_nonzero(one & other) / (one.sum() + other.sum())
    return f"{counts}  Dice {dice:.4f}", float(dice)


if __name__ == "__main__":
    raise SystemExit(main())
