"""What every trained model offers, however it was stored: slices in, anomaly scores out."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float


class Scores(NamedTuple):
    """What a model says of k slices; float32, 0 outside the brain."""

    score: Float[np.ndarray, "k h w"]  # anomaly scores, ≥ 0
    reconstruction: Float[np.ndarray, "k h w c"]  # healthy counterpart, unnormalised
    probability: Float[np.ndarray, "k h w"] | None  # of a pixel to be foreign; None where the method has no judge


def joined(batches: Sequence[Sequence[np.ndarray]]) -> Scores:
    """What a program gave for batches of slices, one after the other: two or three arrays each, as in `Scores`."""
    score, reconstruction, *judged = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Scores(score, reconstruction, *(judged or [None]))


@runtime_checkable
class Scorer(Protocol):
    """What scores slices: a `Model` from a checkpoint, or an `ExportedModel`."""

    @property
    def about(self) -> Any:
        """`preprocess`, `normalisation` and `run` as the model was trained; see `models.about.About`."""
        ...

    @property
    def source(self) -> str:
        """The file or folder it was loaded from."""
        ...

    def prepare(self, contrast: str = "") -> None:
        """Have ready what scores slices of this contrast, whenever they come."""
        ...

    def score(
        self, images: Float[np.ndarray, "k h w c"], position: Float[np.ndarray, " k"], contrast: str = ""
    ) -> Scores:
        """What the model says of unnormalised slices; of a scan of this contrast, "": of the training contrast."""
        ...

    def fingerprint(self) -> str:
        """A text that changes with the weights and with the settings they were trained with."""
        ...
