"""Gaussian-mixture VAE with MAP restoration, on intensities (paper, sec. 2.6; Chen et al. 2020).

    python -m strega_jax.train --config=configs/gm_vae.py --workdir=runs/gm_vae --config.data.scans=IXI

Nine clusters, 4×4 patches, 16 maps, latent maps a quarter of the image's sides, 500 restoration steps: small, because
every scan takes 500 passes through the network and back. When training is over the TV weight with which restoration
changes held-out healthy slices least is kept in the checkpoint (`--config.model.tv_weights`). Slices lie on the grid
of configs/strega.py, so that only the method differs.
"""

from ml_collections import ConfigDict

from strega_jax.config import Augment, Optimiser, Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            detector="gm_vae",
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
            training=Training(batch_size=32, steps=10_000),
            postprocess=Postprocess(smooth_mm=3.0, threshold="healthy", false_positive_rate=0.005, min_volume_ml=2.0),
        )
    )
