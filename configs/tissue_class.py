"""A tissue class of the tissue map as the anomaly (paper, sec. 4.2, with CSF). Nothing is learnt.

    python -m strega_jax.train --config=configs/tissue_class.py --workdir=runs/tissue_class --config.data.scans=IXI

The fraction of CSF is the score; `--config.model.tissue=GM` or WM for the others. One step of training writes the
checkpoint that evaluation and prediction ask for.
"""

from ml_collections import ConfigDict

from strega_jax.config import Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            detector="tissue_class",
            preprocess=Preprocess(
                window_percentiles=(3.0, 90.0),
                representation="fractions",
                grid="template",
                size=96,
                field_of_view_mm=192.0,
                slice_spacing_mm=2.0,
                normalise="unit",
            ),
            training=Training(batch_size=16, steps=1),
            postprocess=Postprocess(threshold="fixed", value=0.5, min_volume_ml=2.0),
        )
    )
