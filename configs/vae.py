"""Variational autoencoder on intensities (paper, sec. 2.4; Kingma & Welling 2014; Chatterjee et al. 2021).

    python -m strega_jax.train --config=configs/vae.py --workdir=runs/vae --config.data.scans=IXI

Four halving convolutions with maps 16-32-64-256, z 256, the ELBO with unit pixel variance, Adam 1e-4, batch 64.
Slices lie on the grid of configs/strega.py, so that only the method differs.
"""

from ml_collections import ConfigDict

from strega_jax.config import Augment, Optimiser, Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            detector="vae",
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
