"""What a run is. Frozen dataclasses, checked when built; the only place where a setting is defined.

A file in `configs/` returns a `Run`'s fields as an `ml_collections.ConfigDict`, so that any of them can be
overridden on the command line (`--config.training.batch_size=32`); `Run.from_mapping` is the door through
which it enters, and an unknown field or a value out of range stops there.
"""

import ast
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from strega_jax.fields import (
    BelowOne,
    Count,
    CountOrZero,
    Degrees,
    Fraction,
    Inside,
    NotNegative,
    Positive,
    Probability,
    Rule,
    build_dataclass,
    check_fields,
    require,
)
from strega_jax.scans.contrast import Contrast

# Of planted lesions, as `scans.lesion_kinds` makes them.
LesionKind = Literal[
    "lesion", "tumour", "plaques", "bilateral", "bulge", "pinch", "mirror", "shift", "recolour", "noise"
]

_PERCENTILES = Rule("low, high with 0 ≤ low < high ≤ 100", lambda of: 0 <= of[0] < of[1] <= 100)
_GHOSTS = Rule("low, high with 1 ≤ low ≤ high", lambda of: 1 <= of[0] <= of[1])
_FRACTIONS = Rule("low, high with 0 ≤ low ≤ high ≤ 1", lambda of: 0 <= of[0] <= of[1] <= 1)
_SIZE = Rule("a multiple of 16, ≥ 16", lambda size: size >= 16 and size % 16 == 0)
_SEED = Rule("in [0, 2³²)", lambda seed: 0 <= seed < 2**32)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Scan → slices. These settings make a slice store; a checkpoint keeps them, and prediction uses them."""

    contrast: Contrast = "T1w"
    # of the brain's intensities; what lies beyond is set to these before segmentation. Vessels and contrast agent
    # at one end and residual skull at the other would otherwise claim a tissue class of their own
    window_percentiles: Annotated[tuple[float, float], _PERCENTILES] = (0.0, 100.0)
    tissue: Literal["fsl", "robust"] = "fsl"  # preset of the segmentation
    # pveseg, seg: one label channel (paper, sec. 3.2.1); fractions: CSF, GM, WM; fractions_excess: these and what
    # lies beyond white matter on the classes' own intensity scale; fractions_intensity: these and the intensities
    # themselves, on a scale of the brain's; intensity: restored image
    representation: Literal["pveseg", "seg", "fractions", "fractions_excess", "fractions_intensity", "intensity"] = (
        "pveseg"
    )
    # stretch: each slice resized to the square (the paper's letter); pad: made square in mm first;
    # fixed: `field_of_view_mm` about the brain's centre; template: the same after affine alignment to MNI152
    grid: Literal["stretch", "pad", "fixed", "template"] = "pad"
    size: Annotated[int, _SIZE] = 256  # pixels, both in-plane axes
    field_of_view_mm: Positive = 256.0  # used by fixed and template
    slice_spacing_mm: NotNegative = 0.0  # used by fixed and template; 0: the scan's own
    min_brain_fraction: BelowOne = 0.02  # of a slice's pixels; emptier slices are neither trained on nor scored
    normalise: Literal["zscore", "unit"] = "zscore"  # zscore: statistics of the training slices (paper)

    def __post_init__(self) -> None:
        check_fields(self, "preprocess")

    @property
    def channels(self) -> int:
        """Channels of a slice."""
        return {"fractions": 3, "fractions_excess": 4, "fractions_intensity": 5}.get(self.representation, 1)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random MR augmentations (paper, sec. 3.2.1), in the order below; each probability is per image."""

    bias_field: Probability = 0.0  # per image
    bias_coefficient: NotNegative = 0.5  # coefficients uniform in ± this, order 3
    noise: Probability = 0.0  # per image
    noise_std: NotNegative = 0.25  # standard deviation uniform in [0, this], in units of the normalised image
    gamma: Probability = 0.0  # per image
    log_gamma: NotNegative = 0.3  # log gamma uniform in ± this
    ghosting: Probability = 0.0  # per image
    ghosts: Annotated[tuple[int, int], _GHOSTS] = (4, 10)  # inclusive range of the number of ghosts
    ghost_intensity: Annotated[tuple[float, float], _FRACTIONS] = (0.5, 1.0)  # uniform in this; 1: the lines are gone
    flip_left_right: Probability = 0.0  # per image
    flip_front_back: Probability = 0.0  # per image
    affine: Probability = 0.0  # per image
    affine_degrees: Degrees = 35.0  # uniform in ± this
    affine_scale: BelowOne = 0.1  # scale of each axis uniform in 1 ± this
    rotation: Probability = 0.0  # per image
    rotation_degrees: Degrees = 15.0  # uniform in ± this

    def __post_init__(self) -> None:
        check_fields(self, "augment")


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam and its schedule."""

    learning_rate: Positive = 1e-4
    warmup_steps: CountOrZero = 0  # the learning rate rises linearly from 0 over these
    decay: Literal["constant", "cosine"] = "constant"
    clip_norm: NotNegative = 0.0  # 0: gradients are not clipped
    accumulate: Count = 1  # micro-batches a step
    ema_decay: BelowOne = 0.0  # 0: no moving average of the parameters is kept

    def __post_init__(self) -> None:
        check_fields(self, "optimiser")


@dataclasses.dataclass(frozen=True)
class Training:
    """The loop. Counts are optimiser steps."""

    batch_size: Count = 64  # global, over all devices and processes
    epochs: NotNegative = 70
    steps: CountOrZero = 0  # > 0: overrides epochs
    log_every: Count = 50
    validate_every: Count = 500
    checkpoint_every: Count = 500
    keep_checkpoints: Count = 3
    reader_threads: Count = 4

    def __post_init__(self) -> None:
        check_fields(self, "training")
        require(self.epochs > 0 or self.steps > 0, "training.epochs", self.epochs, "> 0")


@dataclasses.dataclass(frozen=True)
class Postprocess:
    """Score map → mask, on the scan's own grid, axial slice by axial slice."""

    clip: NotNegative = 0.0  # scores above count as this, so that one bright rim does not outshine the rest; 0: none
    smooth_mm: NotNegative = 0.0  # Gaussian sigma on the score map, before the threshold; 0: none
    # subtract this share of the score at the mirrored place of the other hemisphere: healthy anatomy and what sets one
    # scanner apart from another are nearly symmetric, lesions are not. 0: none; else needs preprocess.grid=template
    mirror: Fraction = 0.0
    # hysteresis: all above `low_fraction` of the scan's highest score, in components that somewhere reach the healthy
    # threshold; where no voxel does, nothing is marked
    threshold: Literal["otsu", "fixed", "healthy", "hysteresis"] = "otsu"
    scope: Literal["slice", "volume"] = "slice"  # of Otsu's histogram
    # fixed: the threshold; hysteresis: that of the seeds, 0: from healthy scans; otsu: a slice whose threshold falls
    # below it stays empty
    value: NotNegative = 0.0
    false_positive_rate: Inside = 0.01  # healthy, hysteresis: target rate among the voxels of healthy brains
    # hysteresis: the score that seeds must reach even where healthy scans score less, which may be of one site; 0: none
    least_seed: NotNegative = 0.0
    low_fraction: Inside = 0.35  # hysteresis: share of the highest score down to which a component reaches
    min_area_px: CountOrZero = 0  # smaller components of a slice are dropped (area opening)
    min_area_mm2: NotNegative = 0.0  # the same in mm²; the larger of both counts
    connectivity: Literal[4, 8] = 4  # of components within a slice
    min_volume_ml: NotNegative = 0.0  # smaller 3-D components (26-connected) are dropped
    # in the end detections take in what looks like them, up to this far away, and lose what does not; 0: they do not
    appearance_mm: NotNegative = 0.0
    # before that, and as far, they take in what a judge calls foreign with more than this probability, in scans whose
    # tissues have the training contrast's order of brightness (T1w, T1ce); 0: they do not
    grow_probability: BelowOne = 0.0
    # FLAIR: marked too is white matter that is brighter than all but this share of the same scan's grey matter, from
    # 0.05 ml on; 0: it is not
    bright_lesions: BelowOne = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "postprocess")

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


PRESETS: Mapping[str, Mapping[str, Any]] = {"small": {"bright_lesions": 0.02}}
"""Settings of `Postprocess` that go together, by name; they replace a model's own."""


def changed_postprocess(settings: Postprocess, changes: Sequence[str]) -> Postprocess:
    """Settings with some replaced, from the command line: each `name=value`, or the name of a preset.

    Raises:
        ConfigError: an unknown name, or a value out of range.
    """
    fields = dataclasses.asdict(settings)
    for item in changes:
        name, separator, text = item.partition("=")
        if not separator:
            known = ", ".join(PRESETS)
            require(item in PRESETS, "postprocess", item, f"name=value, or the name of a preset: {known}")
            fields |= PRESETS[item]
            continue
        try:
            fields[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            fields[name] = text
    return build_dataclass(Postprocess, fields, "postprocess")


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images are. Folders hold NIfTI files, BIDS-like or flat."""

    scans: str = ""  # healthy scans to prepare before training; "demo": a cohort made from the MNI152 template
    store: str = ""  # slice store; empty: WORKDIR/store
    # contrasts in which T1w training scans are rendered and then segmented, to be trained on as well
    rendered: tuple[Contrast, ...] = ()
    demo_subjects: CountOrZero = 0  # size of the demo cohort
    lesions: tuple[str, ...] = ()  # folders of cases with expert masks, for --evaluate
    contrasts: tuple[Contrast, ...] = ()  # which images of a case are scored; empty: the training contrast
    planted: CountOrZero = 0  # how many held-out healthy scans get a planted lesion and are evaluated too
    planted_kinds: tuple[LesionKind, ...] = ("lesion",)  # each of them in all of these scans, a cohort each
    controls: CountOrZero = 0  # how many held-out healthy scans are evaluated as they are

    def __post_init__(self) -> None:
        check_fields(self, "data")


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that a run depends on."""

    detector: str = "cce_vae"  # a module of strega_jax.detectors
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the detector's hyperparameters
    seed: Annotated[int, _SEED] = 0  # the one seed
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # parameters and losses stay float32
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)
    augment: Augment = dataclasses.field(default_factory=Augment)
    optimiser: Optimiser = dataclasses.field(default_factory=Optimiser)
    training: Training = dataclasses.field(default_factory=Training)
    postprocess: Postprocess = dataclasses.field(default_factory=Postprocess)
    data: Data = dataclasses.field(default_factory=Data)

    def __post_init__(self) -> None:
        check_fields(self, "")

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
