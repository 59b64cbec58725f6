"""Histogram-equalised intensity as the score (Meissen et al. 2021): the baseline to beat. Nothing is learnt.

    python -m strega_jax.train --config=configs/intensity_threshold.py --config.data.scans=IXI

Training counts the intensities of healthy brains; a pixel's score is its rank among them. Meant for FLAIR and T2w:
set `--config.preprocess.contrast`.
"""

from ml_collections import ConfigDict

from strega_jax.config import Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            detector="intensity_threshold",
            preprocess=Preprocess(
                window_percentiles=(3.0, 90.0),
                representation="intensity",
                grid="template",
                size=96,
                field_of_view_mm=192.0,
                slice_spacing_mm=2.0,
                normalise="zscore",
            ),
            training=Training(batch_size=64, epochs=1, checkpoint_every=10_000, validate_every=10_000),
            postprocess=Postprocess(smooth_mm=1.0, threshold="healthy", false_positive_rate=0.005, min_volume_ml=2.0),
        )
    )
