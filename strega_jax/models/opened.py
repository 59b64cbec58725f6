"""A model opened for use, with what belongs to it."""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

from strega_jax.models.calibration import Calibration
from strega_jax.models.reference import Reference
from strega_jax.models.scorer import Scorer

EXPORTED = ".zip"
SHIPPED = Path(__file__).parent.parent / "weights"


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model, what healthy brains score with it, and what its training cohort looked like."""

    model: Scorer
    calibration: Calibration | None
    reference: Reference | None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with the weights, with what healthy brains score and with the training cohort's numbers."""
        whole = f"{self.model.fingerprint()} {self.calibration} {self.reference}"
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    @property
    def default_samples(self) -> int:
        """Latent samples for an uncertainty map where none are asked for: the model's own number.

        None for an exported model, from which no single samples can be had, and where there is one only.
        """
        samples = int(self.model.about.run.model.get("samples", 0))
        return 0 if samples == 1 or Path(self.model.source).suffix == EXPORTED else samples

    def describe(self) -> dict[str, Any]:
        """What a reader should know of the model: name → value."""
        about = self.model.about
        shipped = self.model.source == str(SHIPPED)
        rendered = ", ".join(about.run.data.rendered)
        also = f", those of the scans rendered as {rendered} among them" if rendered else ""
        return {
            "checkpoint": "the package's own weights" if shipped else self.model.source,
            "fingerprint": self.fingerprint,
            "detector": about.run.detector,
            "trained on": f"{about.training_scans} scans, {about.training_slices} slices, of healthy brains{also}",
            "training contrast": about.preprocess.contrast,
            "slices show": about.preprocess.representation,
            "slice grid": f"{about.preprocess.grid}, {about.preprocess.size}×{about.preprocess.size} pixels",
        }
