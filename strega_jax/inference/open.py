"""Whatever a user calls a model — workdir, checkpoint, exported file — ready to detect with."""

import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strega_jax.inference.detect import Scorer
from strega_jax.inference.reference import Reference, load_reference

if TYPE_CHECKING:
    from strega_jax.inference.calibration import Calibration

EXPORTED = ".zip"
SHIPPED = Path(__file__).parent.parent / "weights"


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model, what healthy brains score with it, and what its training cohort looked like."""

    model: Scorer
    calibration: "Calibration | None"
    reference: Reference | None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with the weights, with what healthy brains score and with the training cohort's numbers."""
        whole = f"{self.model.fingerprint()} {self.calibration} {self.reference}"
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """What a reader should know of the model: name → value."""
        about = self.model.about
        shipped = self.model.source == str(SHIPPED)
        return {
            "checkpoint": "the package's own weights" if shipped else self.model.source,
            "fingerprint": self.fingerprint,
            "detector": about.run.detector,
            "trained on": f"{about.training_scans} scans, {about.training_slices} slices, of healthy brains",
            "training contrast": about.preprocess.contrast,
            "slices show": about.preprocess.representation,
            "slice grid": f"{about.preprocess.grid}, {about.preprocess.size}×{about.preprocess.size} pixels",
        }


def open_model(path: str | os.PathLike[str] = SHIPPED) -> Opened:
    """Load a workdir's newest checkpoint, the checkpoint named, or what `strega_jax.export` made.

    Without a path, the weights that come with the package.

    Raises:
        CheckpointError: it is missing, damaged or of another version.
    """
    if Path(path).suffix == EXPORTED:
        from strega_jax.inference.exported import load_exported

        return load_exported(Path(path))
    # An exported model runs where what these import is not installed.
    from strega_jax.inference.calibration import load_calibration
    from strega_jax.inference.model import load_model
    from strega_jax.inference.weights import FILE, load_weights

    model = load_weights(Path(path)) if (Path(path) / FILE).exists() else load_model(path)
    return Opened(model, load_calibration(path), load_reference(path))
