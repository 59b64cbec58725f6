"""Distance of tissue fractions to the healthy voxel statistics in template space. Nothing is learnt.

    python -m strega_jax.train --config=configs/tissue_atlas.py --workdir=runs/tissue_atlas --config.data.scans=IXI

Mean and variance of CSF, GM and WM at every voxel over the training brains, in one pass: what StRegA's network
must improve on. Slices lie on the grid of configs/strega.py, so that only the method differs.
"""

from ml_collections import ConfigDict

from strega_jax.config import Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            detector="tissue_atlas",
            model={"bins": 96},
            preprocess=Preprocess(
                window_percentiles=(3.0, 90.0),
                representation="fractions",
                grid="template",
                size=96,
                field_of_view_mm=192.0,
                slice_spacing_mm=2.0,
                normalise="unit",
            ),
            training=Training(batch_size=64, epochs=1, checkpoint_every=10_000, validate_every=10_000),
            postprocess=Postprocess(smooth_mm=3.0, threshold="healthy", false_positive_rate=0.005, min_volume_ml=2.0),
        )
    )
