"""What a run is. Frozen dataclasses, checked when built; the only place where a setting is defined.

A file in `configs/` returns a `Run`'s fields as an `ml_collections.ConfigDict`, so that any of them can be
overridden on the command line (`--config.training.batch_size=32`); `Run.from_mapping` is the door through
which it enters, and an unknown field or a value out of range stops there.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from strega_jax.errors import ConfigError
from strega_jax.scans.contrast import Contrast


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Scan → slices. These settings make a slice store; a checkpoint keeps them, and prediction uses them."""

    contrast: Contrast = "T1w"
    # of the brain's intensities; what lies beyond is set to these before segmentation. Vessels and contrast agent
    # at one end and residual skull at the other would otherwise claim a tissue class of their own
    window_percentiles: tuple[float, float] = (0.0, 100.0)
    tissue: Literal["fsl", "robust"] = "fsl"  # preset of the segmentation
    # pveseg, seg: one label channel (paper, sec. 3.2.1); fractions: CSF, GM, WM; fractions_excess: these and what
    # lies beyond white matter on the classes' own intensity scale; intensity: restored image
    representation: Literal["pveseg", "seg", "fractions", "fractions_excess", "intensity"] = "pveseg"
    # stretch: each slice resized to the square (the paper's letter); pad: made square in mm first;
    # fixed: `field_of_view_mm` about the brain's centre; template: the same after affine alignment to MNI152
    grid: Literal["stretch", "pad", "fixed", "template"] = "pad"
    size: int = 256  # pixels, both in-plane axes
    field_of_view_mm: float = 256.0  # used by fixed and template
    slice_spacing_mm: float = 0.0  # used by fixed and template; 0: the scan's own
    min_brain_fraction: float = 0.02  # of a slice's pixels; emptier slices are neither trained on nor scored
    normalise: Literal["zscore", "unit"] = "zscore"  # zscore: statistics of the training slices (paper)

    def __post_init__(self) -> None:
        _require(
            self.size >= 16 and self.size % 16 == 0,
            "preprocess.size",
            self.size,
            "a multiple of 16",
        )
        _require(
            self.field_of_view_mm > 0,
            "preprocess.field_of_view_mm",
            self.field_of_view_mm,
            "> 0 mm",
        )
        _require(
            self.slice_spacing_mm >= 0,
            "preprocess.slice_spacing_mm",
            self.slice_spacing_mm,
            "≥ 0 mm",
        )
        _require(
            0 <= self.min_brain_fraction < 1,
            "preprocess.min_brain_fraction",
            self.min_brain_fraction,
            "in [0, 1)",
        )

    @property
    def channels(self) -> int:
        """Channels of a slice."""
        return {"fractions": 3, "fractions_excess": 4}.get(self.representation, 1)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random MR augmentations (paper, sec. 3.2.1), in the order below; each probability is per image."""

    bias_field: float = 0.0  # probability
    bias_coefficient: float = 0.5  # coefficients uniform in ± this, order 3
    noise: float = 0.0  # probability
    noise_std: float = 0.25  # standard deviation uniform in [0, this], in units of the normalised image
    gamma: float = 0.0  # probability
    log_gamma: float = 0.3  # log gamma uniform in ± this
    ghosting: float = 0.0  # probability
    ghosts: tuple[int, int] = (4, 10)  # inclusive range of the number of ghosts
    ghost_intensity: tuple[float, float] = (0.5, 1.0)
    flip_left_right: float = 0.0  # probability
    flip_front_back: float = 0.0  # probability
    affine: float = 0.0  # probability
    affine_degrees: float = 35.0  # uniform in ± this
    affine_scale: float = 0.1  # scale of each axis uniform in 1 ± this
    rotation: float = 0.0  # probability
    rotation_degrees: float = 15.0  # uniform in ± this

    def __post_init__(self) -> None:
        for name in (
            "bias_field",
            "noise",
            "gamma",
            "ghosting",
            "flip_left_right",
            "flip_front_back",
            "affine",
            "rotation",
        ):
            _require(
                0 <= getattr(self, name) <= 1,
                f"augment.{name}",
                getattr(self, name),
                "a probability",
            )


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam and its schedule."""

    learning_rate: float = 1e-4
    warmup_steps: int = 0
    decay: Literal["constant", "cosine"] = "constant"
    clip_norm: float = 0.0  # 0: gradients are not clipped
    accumulate: int = 1  # micro-batches a step
    ema_decay: float = 0.0  # 0: no moving average of the parameters is kept

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "optimiser.learning_rate", self.learning_rate, "> 0")
        _require(self.warmup_steps >= 0, "optimiser.warmup_steps", self.warmup_steps, "≥ 0")
        _require(self.clip_norm >= 0, "optimiser.clip_norm", self.clip_norm, "≥ 0")
        _require(self.accumulate >= 1, "optimiser.accumulate", self.accumulate, "≥ 1")
        _require(0 <= self.ema_decay < 1, "optimiser.ema_decay", self.ema_decay, "in [0, 1)")


@dataclasses.dataclass(frozen=True)
class Training:
    """The loop. Counts are optimiser steps."""

    batch_size: int = 64  # global, over all devices and processes
    epochs: float = 70
    steps: int = 0  # > 0: overrides epochs
    log_every: int = 50
    validate_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    reader_threads: int = 4

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "log_every",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
            "reader_threads",
        ):
            _require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "≥ 1")
        _require(self.epochs > 0 or self.steps > 0, "training.epochs", self.epochs, "> 0")


@dataclasses.dataclass(frozen=True)
class Postprocess:
    """Score map → mask, on the scan's own grid, axial slice by axial slice."""

    clip: float = 0.0  # scores above count as this, so that one bright rim does not outshine the rest; 0: none
    smooth_mm: float = 0.0  # Gaussian sigma on the score map, before the threshold; 0: none
    # subtract this share of the score at the mirrored place of the other hemisphere: healthy anatomy and what sets one
    # scanner apart from another are nearly symmetric, lesions are not. 0: none; else needs preprocess.grid=template
    mirror: float = 0.0
    # hysteresis: all above `low_fraction` of the scan's highest score, in components that somewhere reach the healthy
    # threshold; where no voxel does, nothing is marked
    threshold: Literal["otsu", "fixed", "healthy", "hysteresis"] = "otsu"
    scope: Literal["slice", "volume"] = "slice"  # of Otsu's histogram
    # fixed: the threshold; hysteresis: that of the seeds, 0: from healthy scans; otsu: a slice whose threshold falls
    # below it stays empty
    value: float = 0.0
    false_positive_rate: float = 0.01  # healthy, hysteresis: target rate among the voxels of healthy brains
    low_fraction: float = 0.35  # hysteresis: share of the highest score down to which a component reaches
    min_area_px: int = 0  # smaller components of a slice are dropped (area opening)
    min_area_mm2: float = 0.0  # the same in mm²; the larger of both counts
    connectivity: Literal[4, 8] = 4  # of components within a slice
    min_volume_ml: float = 0.0  # smaller 3-D components (26-connected) are dropped

    def __post_init__(self) -> None:
        for name in (
            "clip",
            "smooth_mm",
            "value",
            "min_area_px",
            "min_area_mm2",
            "min_volume_ml",
        ):
            _require(getattr(self, name) >= 0, f"postprocess.{name}", getattr(self, name), "≥ 0")
        _require(0 <= self.mirror <= 1, "postprocess.mirror", self.mirror, "in [0, 1]")
        for name in ("false_positive_rate", "low_fraction"):
            _require(0 < getattr(self, name) < 1, f"postprocess.{name}", getattr(self, name), "in (0, 1)")

    @property
    def needs_calibration(self) -> bool:
        """Whether the threshold comes from healthy scans."""
        return self.threshold == "healthy" or (self.threshold == "hysteresis" and self.value == 0)

    @property
    def refinement(self) -> dict[str, float]:
        """What is done to scores before they are compared with a threshold, where it is done at all.

        A calibration holds for these.
        """
        return {name: value for name in ("clip", "smooth_mm", "mirror") if (value := getattr(self, name))}


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images are. Folders hold NIfTI files, BIDS-like or flat."""

    scans: str = ""  # healthy scans to prepare before training; "demo": a cohort made from the MNI152 template
    store: str = ""  # slice store; empty: WORKDIR/store
    demo_subjects: int = 0  # size of the demo cohort
    lesions: tuple[str, ...] = ()  # folders of cases with expert masks, for --evaluate
    contrasts: tuple[Contrast, ...] = ()  # which images of a case are scored; empty: the training contrast
    planted: int = 0  # how many held-out healthy scans get a planted lesion and are evaluated too
    controls: int = 0  # how many held-out healthy scans are evaluated as they are


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that a run depends on."""

    detector: str = "cce_vae"  # a module of strega_jax.detectors
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the detector's hyperparameters
    seed: int = 0  # the one seed
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # parameters and losses stay float32
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)
    augment: Augment = dataclasses.field(default_factory=Augment)
    optimiser: Optimiser = dataclasses.field(default_factory=Optimiser)
    training: Training = dataclasses.field(default_factory=Training)
    postprocess: Postprocess = dataclasses.field(default_factory=Postprocess)
    data: Data = dataclasses.field(default_factory=Data)

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any]) -> Self:
        """Build a run from nested plain values. Raises ConfigError on an unknown field or a bad value."""
        return build_dataclass(cls, fields, "config")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values: what JSON holds, and what `from_mapping` takes."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def settings_hash(settings: Any) -> str:
    """Twelve hex digits that change with any field of a dataclass."""
    text = json.dumps(dataclasses.asdict(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _require(holds: bool, field: str, value: Any, rule: str) -> None:
    if not holds:
        raise ConfigError(f"config field {field} is {value!r}; it must be {rule}")


def build_dataclass(cls: type, fields: Mapping[str, Any], where: str) -> Any:
    """A settings dataclass from plain values, nested ones too; `where` names it in errors.

    Raises:
        ConfigError: an unknown field, or a value of the wrong type or out of range.
    """
    hints = get_type_hints(cls)
    unknown = sorted(set(fields) - set(hints))
    if unknown:
        raise ConfigError(f"{where} has no field {', '.join(unknown)}; it has: {', '.join(hints)}")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in fields.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if dataclasses.is_dataclass(value):
            return value
        return build_dataclass(kind, value, where)  # pyright: ignore[reportArgumentType]
    origin = get_origin(kind)
    if origin is Literal:
        _require(value in get_args(kind), where, value, "one of " + ", ".join(map(str, get_args(kind))))
        return value
    if origin is tuple:
        items = get_args(kind)
        kinds = [items[0]] * len(value) if items[-1] is Ellipsis else items
        _require(len(kinds) == len(value), where, value, f"{len(kinds)} values")
        return tuple(_convert(k, v, where) for k, v in zip(kinds, value, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str, bool):
        _require(
            isinstance(value, kind) and (kind is bool or not isinstance(value, bool)),
            where,
            value,
            kind.__name__,
        )
        return value
    _require(isinstance(value, Mapping), where, value, "a mapping of names to values")
    return {name: tuple(item) if isinstance(item, list) else item for name, item in dict(value).items()}  # pyright: ignore
