"""Scale-space autoencoder on intensities (paper, sec. 2.2; Baur et al. 2020b).

    python -m strega_jax.train --config=configs/ss_ae.py --workdir=runs/ss_ae --config.data.scans=IXI

A Laplacian pyramid of three halvings, one autoencoder a level, all levels' losses weighing 1.
Slices lie on the grid of configs/strega.py, so that only the method differs.
"""

from ml_collections import ConfigDict

from strega_jax.config import Augment, Optimiser, Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            detector="ss_ae",
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
