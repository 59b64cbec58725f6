"""VQ-VAE with a causal transformer as prior, on intensities (paper, sec. 2.5; Marimont & Tarroni 2020).

    python -m strega_jax.train --config=configs/vq_vae.py --workdir=runs/vq_vae --config.data.scans=IXI

128 codes of 256 dimensions on a 12×12 grid, 10,000 steps for the autoencoder, then as many for the prior; codes
above 5 nats are resampled, 15 restorations. Slices lie on the grid of
configs/strega.py, so that only the method differs.
"""

from ml_collections import ConfigDict

from strega_jax.config import Augment, Optimiser, Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            detector="vq_vae",
            model={"autoencoder_steps": 10_000},
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
            training=Training(batch_size=64, steps=20_000),
            postprocess=Postprocess(smooth_mm=3.0, threshold="healthy", false_positive_rate=0.005, min_volume_ml=2.0),
        )
    )
