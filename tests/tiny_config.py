"""A run of seconds on the demo cohort, for tests of the command line."""

from ml_collections import ConfigDict

from strega_jax.config import Data, Optimiser, Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            model={"maps": (8,), "latent": 8, "channel_weights": (1.0, 0.0, 0.0)},
            preprocess=Preprocess(
                representation="fractions",
                grid="fixed",
                size=32,
                field_of_view_mm=192.0,
                slice_spacing_mm=6.0,
                normalise="unit",
            ),
            optimiser=Optimiser(learning_rate=1e-3),
            training=Training(batch_size=8, steps=6, log_every=1, validate_every=6, checkpoint_every=3),
            postprocess=Postprocess(threshold="healthy", false_positive_rate=0.02, min_volume_ml=0.5),
            data=Data(scans="demo", demo_subjects=6, planted=1, controls=1),
        )
    )
