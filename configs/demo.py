"""From nothing to marked lesions in minutes: the whole pipeline on a cohort made from the MNI152 template.

    python -m strega_jax.train --config=configs/demo.py

Makes healthy "subjects" (deformed copies of the template), prepares and trains on them, plants lesions in
held-out ones and evaluates. A demonstration of the machinery, not of accuracy on patients.
"""

from ml_collections import ConfigDict

from strega_jax.config import Augment, Data, Optimiser, Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            # Planted lesions turn white and grey matter into fluid: CSF where none belongs is what to look for.
            model={"reconstruction": "l2", "sign": "positive", "channel_weights": (1.0, 0.0, 0.0)},
            preprocess=Preprocess(
                representation="fractions", grid="fixed", size=96, field_of_view_mm=192.0, normalise="unit"
            ),
            augment=Augment(flip_left_right=0.5, rotation=0.5, rotation_degrees=5.0),
            optimiser=Optimiser(learning_rate=1e-3, decay="cosine", warmup_steps=20, clip_norm=1e4),
            training=Training(batch_size=16, steps=400, log_every=10, validate_every=200, checkpoint_every=100),
            postprocess=Postprocess(smooth_mm=3.0, threshold="healthy", false_positive_rate=0.005, min_volume_ml=2.0),
            data=Data(scans="demo", demo_subjects=24, planted=4, controls=4),
        )
    )
