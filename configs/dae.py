"""Denoising autoencoder with coarse noise, on intensities (Kascenas et al. 2022).

    python -m strega_jax.train --config=configs/dae.py --workdir=runs/dae --config.data.scans=IXI

A U-Net cleans images of noise drawn on 16×16 points and enlarged. Not in the paper; a strong simple method.
Slices lie on the grid of configs/strega.py, so that only the method differs.
"""

from ml_collections import ConfigDict

from strega_jax.config import Augment, Optimiser, Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            detector="dae",
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
            training=Training(batch_size=16, steps=20_000),
            postprocess=Postprocess(smooth_mm=3.0, threshold="healthy", false_positive_rate=0.005, min_volume_ml=2.0),
        )
    )
