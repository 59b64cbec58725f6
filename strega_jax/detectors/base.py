"""The one interface behind which every detector lives."""

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypedDict, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray

if TYPE_CHECKING:
    import optax

Variables = dict[str, Any]
"""Flax variable collections: `params` (trained) and any others (`batch_stats`, …), which `loss` may renew."""


class Batch(TypedDict):
    """What a detector is given; on device, float32, NHWC."""

    images: Float[Array, "b h w c"]
    brain: Float[Array, "b h w"]  # 1 inside the brain, 0 outside
    position: Float[Array, "b"]  # height of the slice in its grid: 0 the lowest, 1 the highest slice of the grid


class Aux(NamedTuple):
    """What `loss` returns beside the scalar."""

    metrics: dict[str, Float[Array, ""]]  # parts of the loss, by name, for the log
    mutable: Variables  # the renewed non-`params` collections


@runtime_checkable
class Detector(Protocol):
    """A method. An implementation is a frozen dataclass whose fields are its hyperparameters.

    All methods are pure functions of `variables` and can be jitted; none keeps state of its own.
    """

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh variables for images of (h, w, c)."""
        ...

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """The training loss of one batch. `step` is the optimiser step, for warm-ups and stages."""
        ...

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The healthy counterpart that the method sees in each image; deterministic."""
        ...

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Anomaly score a pixel: ≥ 0, higher is more anomalous, 0 outside the brain."""
        ...

    def optimizer(self, default: "optax.GradientTransformation") -> "optax.GradientTransformation":
        """The transformation to train with: `default` (from the config), or the method's own around it."""
        ...


@runtime_checkable
class FittedAfterTraining(Protocol):
    """A detector with a setting that is fitted to healthy slices when training is over."""

    def fit_after_training(self, variables: Variables, healthy: Batch) -> Variables:
        """The non-`params` collections with that setting in them; a pure function that can be jitted."""
        ...


@runtime_checkable
class Judging(Protocol):
    """A detector whose score is weighed by how sure it is that a pixel is foreign."""

    def probability(self, variables: Variables, batch: Batch) -> Float[Array, "b h w"]:
        """How sure it is, 0 to 1; 0 outside the brain."""
        ...

    def score_of_probability(
        self, variables: Variables, batch: Batch, key: PRNGKeyArray, probability: Float[Array, "b h w"]
    ) -> Float[Array, "b h w"]:
        """What `score` returns, given what `probability` returned for the same batch."""
        ...


@runtime_checkable
class ByContrast(Protocol):
    """A detector that scores scans of some contrasts in another way than those of the training contrast."""

    def for_contrast(self, contrast: str, trained: str) -> Self:
        """The detector for scans of `contrast`, where the model was trained on `trained`; of the same variables."""
        ...


@runtime_checkable
class Restoring(Protocol):
    """A detector whose score is read off its reconstruction, which costs too much to be made twice."""

    def score_of_reconstruction(self, batch: Batch, expected: Float[Array, "b h w c"]) -> Float[Array, "b h w"]:
        """What `score` returns, given what `reconstruct` returned for the same batch."""
        ...
