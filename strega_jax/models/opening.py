"""Whatever a user calls a model — workdir, checkpoint, exported file — ready to detect with."""

import os
from pathlib import Path

from strega_jax.forked import require_own_threads
from strega_jax.models.opened import EXPORTED, SHIPPED, Opened
from strega_jax.models.reference import load_reference


def open_model(path: str | os.PathLike[str] = SHIPPED) -> Opened:
    """Load a workdir's newest checkpoint, the checkpoint named, or what `strega_jax.export` made.

    Without a path, the weights that come with the package.

    Raises:
        CheckpointError: it is missing, damaged or of another version.
        ConfigError: this process was forked after JAX had computed.
    """
    require_own_threads()
    if Path(path).suffix == EXPORTED:
        from strega_jax.models.exported import load_exported

        return load_exported(Path(path))
    # An exported model runs where what these import is not installed.
    from strega_jax.models.calibration import load_calibration
    from strega_jax.models.model import load_model
    from strega_jax.models.weights import FILE, load_weights

    model = load_weights(Path(path)) if (Path(path) / FILE).exists() else load_model(path)
    return Opened(model, load_calibration(path), load_reference(path))
