"""What the training cohort looked like, in numbers against which a new scan is held (`quality.py`)."""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from strega_jax.errors import CheckpointError, StoreError
from strega_jax.scans.files import PathLike, absolute, find_beside, write_json
from strega_jax.slices.brain import brain_of

if TYPE_CHECKING:
    from strega_jax.models.model import Model
    from strega_jax.slices.store import SliceStore

FILE = "reference.json"
# Scans that are reconstructed for the reference: enough for a mean and a spread, minutes at most.
RECONSTRUCTED_SCANS = 32


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over scans, and the least and greatest value."""

    mean: float
    std: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Spread":
        """The spread of one or more values."""
        numbers = np.asarray(values, np.float64)
        return cls(float(numbers.mean()), float(numbers.std()), float(numbers.min()), float(numbers.max()))


@dataclasses.dataclass(frozen=True)
class Reference:
    """The training cohort: `numbers` holds the spread of `csf`, `gm`, `wm` (shares of the brain), `brain_ml` and
    `error` (`slice_error`)."""

    scans: int
    reconstructed: int
    numbers: dict[str, Spread]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Reference":
        """The inverse of `to_dict`. Raises CheckpointError for anything else."""
        try:
            numbers = {name: Spread(**spread) for name, spread in fields["numbers"].items()}
            return cls(int(fields["scans"]), int(fields["reconstructed"]), numbers)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{FILE}: not the reference of a training cohort ({error})") from error


def slice_error(images: Float[np.ndarray, "k h w c"], reconstruction: Float[np.ndarray, "k h w c"]) -> float:
    """Median over slices of the mean absolute residual inside the brain, which a lesion in few slices hardly moves."""
    inside = brain_of(images)
    channels = range(images.shape[-1])  # one after the other: NumPy reduces short axes slowly
    total = sum(np.abs(images[..., c] - reconstruction[..., c]) for c in channels)
    residual = total / np.float32(len(channels)) * inside
    return float(np.median(residual.sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)))


def make_reference(model: "Model", store: "SliceStore") -> Reference:
    """Describe the healthy scans of a model's store: tissue shares of `train`, reconstruction error of `dev` first.

    Patients, who are in `test`, have no part in it. Raises StoreError for a store without training scans.
    """
    training = store.scans_of("train")
    if not training:
        raise StoreError(f"{store.path}: no scan in split 'train', whom a reference describes")
    tissue = np.array([entry.tissue_ml for entry in training])
    brain = tissue.sum(axis=1)
    order = sorted([*store.of_split("dev"), *training], key=lambda entry: (entry.split != "dev", entry.name))
    errors = []
    for entry in order[:RECONSTRUCTED_SCANS]:
        images = np.asarray(store.array(entry), np.float32)
        reconstruction = model.score(images, np.array(entry.positions, np.float32)).reconstruction
        errors.append(slice_error(images, reconstruction))
    numbers = {name: Spread.of(tissue[:, c] / brain) for c, name in enumerate(("csf", "gm", "wm"))}
    numbers |= {"brain_ml": Spread.of(brain), "error": Spread.of(errors)}
    return Reference(len(training), len(errors), numbers)


def save_reference(workdir: PathLike, reference: Reference) -> None:
    """Put it beside the checkpoints, where `load_reference` finds it."""
    write_json(absolute(workdir) / FILE, reference.to_dict())


def load_reference(checkpoint: PathLike) -> Reference | None:
    """The reference of a workdir, of its checkpoints folder or of one of its steps, if there is one."""
    path = find_beside(checkpoint, FILE)
    if path is None:
        return None
    try:
        return Reference.from_dict(json.loads(path.read_text()))
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged ({error}); train again or delete it") from error
