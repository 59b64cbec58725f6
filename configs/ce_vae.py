"""Context-encoding VAE on intensities (paper, sec. 2.7; Zimmerer et al. 2018).

    python -m strega_jax.train --config=configs/ce_vae.py --workdir=runs/ce_vae --config.data.scans=IXI

Maps 16-64-256-1024, z 1024, the combined score (smoothed KL gradient times residual); `--config.model.anomaly=`
reconstruction or elbo_gradient for the other two. On StRegA's input, the paper's ablation, add
`--config.preprocess.representation=fractions --config.preprocess.normalise=unit`. Slices lie on the grid of
configs/strega.py.
"""

from ml_collections import ConfigDict

from strega_jax.config import Augment, Optimiser, Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            detector="ce_vae",
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
