"""Get ready what does not depend on the scan, while the first scan is read and segmented."""

import contextlib

import numpy as np

from strega_jax.errors import ScanError
from strega_jax.models.scorer import Scorer
from strega_jax.slices.align import align_to_template
from strega_jax.slices.template import tissue_template


def warm_up(model: Scorer) -> None:
    """Trace the programs of alignment and scoring, and compile them or fetch them from the cache.

    Raises:
        CheckpointError: the model's weights are not what its settings say.
    """
    about = model.about
    if about.preprocess.grid == "template":
        with contextlib.suppress(ScanError):  # what a scan is refused for is no matter here
            align_to_template(*tissue_template())
    model.score(np.zeros((1, *about.image_shape), np.float32), np.zeros(1, np.float32))
