"""Get ready what does not depend on the scan, while the first scan is read and segmented."""

from strega_jax.models.scorer import Scorer
from strega_jax.slices import align


def warm_up(model: Scorer, contrast: str) -> None:
    """Trace the programs of alignment and of scoring a contrast, and compile them or fetch them from the cache.

    Raises:
        CheckpointError: the model's weights are not what its settings say.
    """
    if model.about.preprocess.grid == "template":
        align.prepare()
    model.prepare(contrast)
