"""Make docs/images/report.png and group.png: what `predict` writes, as Chromium shows it.

    python tests/make_page_pictures.py

The scans are the MNI152 template with noise, with and without a planted lesion, and one with motion-like ghosts.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from browser import Browser
from nilearn import datasets
from PIL import Image

from strega_jax.scans.lesions import plant_lesion

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLOURS = 256
SPACING_MM = (1.0, 1.0, 1.0)


def scans(folder: Path) -> None:
    """Four scans, 1 mm."""
    template = datasets.load_mni152_template(resolution=1)
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0
    for name, lesion_ml, contrast, ghosts in (
        ("sub-large", 40.0, -0.55, False), ("sub-small", 12.0, -0.6, False), ("sub-healthy", 0.0, 0.0, False),
        ("sub-moved", 0.0, 0.0, True),
    ):  # fmt: skip
        rng = np.random.default_rng(len(name))
        noise = rng.normal(scale=0.03, size=mask.shape)
        brain = np.where(mask, np.maximum(np.asarray(template.dataobj) + noise, 0.02), 0).astype(np.float32) * 1000
        if lesion_ml:
            brain, _ = plant_lesion(brain, mask, SPACING_MM, rng, volume_ml=lesion_ml, contrast=contrast)
        if ghosts:
            copies = sum(np.roll(brain, shift, axis=1) for shift in (58, 116, 175))
            brain = np.where(mask, np.maximum(0.85 * brain + 0.12 * copies, 1), 0)
        nib.save(nib.Nifti1Image(brain.astype(np.float32), template.affine), folder / f"{name}_T1w.nii.gz")


def save(picture: bytes, name: str) -> None:
    """As PNG with a palette: a fraction of the size, and no difference to be seen."""
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    image.save(IMAGES / name, optimize=True)
    print(IMAGES / name, (IMAGES / name).stat().st_size)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        scans(root / "in")
        command = [sys.executable, "-m", "strega_jax.predict", f"--input={root / 'in'}", f"--output={root / 'out'}"]
        subprocess.run(command, check=True)
        with Browser(1200, 900) as browser:
            browser.open(root / "out" / "sub-large_T1w.html", "document.body && document.body.dataset.ready === 'yes'")
            save(browser.screenshot("body"), "report.png")
            browser.open(root / "out" / "group.html")
            save(browser.screenshot("body"), "group.png")


if __name__ == "__main__":
    main()
