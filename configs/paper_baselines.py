"""The baselines that the paper compares StRegA with (Chatterjee et al. 2022, tables 1 and 2), on its grid of slices.

    python -m strega_jax.train --config=configs/paper_baselines.py:NAME --workdir=runs/NAME --config.data.scans=SCANS

NAME is skip_ae, gm_vae or ce_vae, which see intensities and no augmentation, as both are StRegA's preprocessing; or
ce_vae_strega, the same ceVAE with that of configs/paper_t1.py. Slices are stretched to 256×256 and normalised to zero
mean and unit variance; Adam 1e-4, batch 64, 70 epochs; Otsu on every slice, then area opening of 256 mm². The paper
tells neither its baselines' networks nor how they were trained: networks are the detectors' own, the rest is StRegA's.
"""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from strega_jax.config import Augment
from strega_jax.run_config import as_config, run_of

MODELS = {"skip_ae": {"samples": 10}, "gm_vae": {}, "ce_vae": {}}


def get_config(name: str = "ce_vae") -> ConfigDict:
    """The run of one baseline."""
    detector = name.removesuffix("_strega")
    run = run_of(Path(__file__).with_name("paper_t1.py"))
    if name == detector:
        intensities = dataclasses.replace(run.preprocess, representation="intensity")
        run = dataclasses.replace(run, preprocess=intensities, augment=Augment())
    opened = dataclasses.replace(run.postprocess, min_area_px=0, min_area_mm2=256.0)
    return as_config(dataclasses.replace(run, detector=detector, model=MODELS[detector], postprocess=opened))
