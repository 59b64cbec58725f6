"""Adversarial autoencoder on intensities (paper, sec. 2.1; Makhzani et al. 2016), its critic a WGAN-GP.

    python -m strega_jax.train --config=configs/aae.py --workdir=runs/aae --config.data.scans=IXI

z 128, critic 50-50-1, gradient penalty 10, the critic's Adam 1e-4 with betas 0.5 and 0.9.
Slices lie on the grid of configs/strega.py, so that only the method differs.
"""

from ml_collections import ConfigDict

from strega_jax.config import Augment, Optimiser, Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            detector="aae",
            preprocess=Preprocess(
                window_percentiles=(3.0, 90.0),
                representation="intensity",
                grid="template",
                size=96,
                field_of_view_mm=192.0,
                slice_spacing_mm=2.0,
                normalise="zscore",
            ),
            augment=Augment(flip_left_right=0.5, affine=0.5, affine_degrees=5.0, affine_scale=0.05),
            optimiser=Optimiser(learning_rate=1e-4),
            training=Training(batch_size=64, steps=10_000),
            postprocess=Postprocess(smooth_mm=3.0, threshold="healthy", false_positive_rate=0.005, min_volume_ml=2.0),
        )
    )
