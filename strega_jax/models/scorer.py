"""What every trained model offers, however it was stored: slices in, anomaly scores out."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float


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

    def score(
        self, images: Float[np.ndarray, "k h w c"], position: Float[np.ndarray, " k"]
    ) -> tuple[Float[np.ndarray, "k h w"], Float[np.ndarray, "k h w c"]]:
        """Anomaly scores and healthy reconstructions of unnormalised slices; the latter unnormalised too."""
        ...

    def fingerprint(self) -> str:
        """A text that changes with the weights and with the settings they were trained with."""
        ...
