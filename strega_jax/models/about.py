"""What a checkpoint says of itself: its config, preprocessing and statistics."""

import dataclasses
from typing import Any, Self

from strega_jax.config import Preprocess, Run, build_dataclass
from strega_jax.errors import CheckpointError, ConfigError
from strega_jax.scans.splits import SplitRule
from strega_jax.slices.store import Normalisation

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class About:
    """What a checkpoint says of itself: with the variables, enough to predict."""

    run: Run
    preprocess: Preprocess  # of the store the model was trained on
    normalisation: Normalisation
    image_shape: tuple[int, int, int]
    total_steps: int
    training_scans: int
    training_slices: int
    split: SplitRule | None = None  # that the store's subjects were split by; None: it does not say

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "run": self.run.to_dict(),
            "preprocess": dataclasses.asdict(self.preprocess),
            "normalisation": dataclasses.asdict(self.normalisation),
            "image_shape": list(self.image_shape),
            "total_steps": self.total_steps,
            "training_scans": self.training_scans,
            "training_slices": self.training_slices,
            **({} if self.split is None else {"split": dataclasses.asdict(self.split)}),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises CheckpointError for another format."""
        if fields.get("format") != FORMAT:
            raise CheckpointError(f"checkpoint format {fields.get('format')}, this version reads {FORMAT}")
        try:
            statistics = fields["normalisation"]
            return cls(
                run=Run.from_mapping(fields["run"]),
                preprocess=build_dataclass(Preprocess, fields["preprocess"], "preprocess"),
                normalisation=Normalisation(tuple(statistics["mean"]), tuple(statistics["std"])),
                image_shape=tuple(fields["image_shape"]),
                total_steps=fields["total_steps"],
                training_scans=fields["training_scans"],
                training_slices=fields["training_slices"],
                split=build_dataclass(SplitRule, fields["split"], "split") if "split" in fields else None,
            )
        except (ConfigError, KeyError, TypeError) as error:
            raise CheckpointError(f"checkpoint written by another version of strega_jax ({error})") from error
