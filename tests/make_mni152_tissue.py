"""Make strega_jax/slices/mni152_tissue.npz, the tissue template that scans are aligned to.

Source: the ICBM 152 nonlinear 2009a symmetric average brain, T1 with grey- and white-matter probability maps
at 1 mm, as packaged by nilearn 0.14 (BSD-3). Copyright of the averages, whose notice must stay with copies:
(C) 1993–2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University; free use, copying, modification and distribution are granted by its licence. Reference: Fonov et
al., "Unbiased average age-appropriate brain templates from birth to adulthood", NeuroImage 47 (2009) S102.

Method: brain = nilearn's brain mask with holes filled; CSF = what grey and white matter leave of the brain;
each 4 mm voxel is the mean of its 64 voxels of 1 mm; stored as round(255 · fraction).

    python tests/make_mni152_tissue.py            # writes the file into the package
"""

from pathlib import Path

import numpy as np
from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template
from scipy.ndimage import binary_fill_holes

BLOCK = 4  # mm, of voxels of 1 mm
MARGIN = 3  # voxels of 4 mm kept free around the brain, room for smoothing
TEMPLATE = Path(__file__).parents[1] / "strega_jax/slices/mni152_tissue.npz"


def tissue_template() -> tuple[np.ndarray, np.ndarray]:
    """(x, y, z, 3) uint8 CSF, GM, WM fractions × 255 in RAS order, and the (4, 4) affine to MNI millimetres."""
    mask = load_mni152_brain_mask(resolution=1)
    brain = np.asarray(binary_fill_holes(np.asarray(mask.dataobj) > 0))
    matter = [np.asarray(load(resolution=1).dataobj) for load in (load_mni152_gm_template, load_mni152_wm_template)]
    grey, white = np.stack(matter) * brain / np.maximum(1.0, np.sum(matter, axis=0))
    fine = np.stack([brain - grey - white, grey, white], axis=-1)
    found = np.argwhere(brain)
    first, last = found.min(axis=0), found.max(axis=0) + 1
    inside = fine[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    short = -np.array(inside.shape[:3]) % BLOCK
    before = MARGIN * BLOCK + short // 2
    after = MARGIN * BLOCK + short - short // 2
    padded = np.pad(inside, [*zip(before, after, strict=True), (0, 0)])
    x, y, z = (n // BLOCK for n in padded.shape[:3])
    coarse = padded.reshape(x, BLOCK, y, BLOCK, z, BLOCK, 3).mean(axis=(1, 3, 5))
    affine = np.diag([BLOCK, BLOCK, BLOCK, 1.0])
    # Centre of the first block: half a block less half a fine voxel beyond the fine voxel it starts at.
    affine[:3, 3] = mask.affine[:3, :3] @ (first - before + (BLOCK - 1) / 2) + mask.affine[:3, 3]
    return np.rint(255 * np.clip(coarse, 0, 1)).astype(np.uint8), affine


if __name__ == "__main__":
    fractions, affine = tissue_template()
    np.savez_compressed(TEMPLATE, fractions=fractions, affine=affine)
    print(f"{TEMPLATE}: {fractions.shape}, {TEMPLATE.stat().st_size / 1024:.0f} KiB")
