"""The rows of docs/reproduction.md that go from the paper as described to the default, one change each."""

import dataclasses
from collections.abc import Mapping
from typing import Any

PAPER_T1, FULL, SHORT = "paper_t1", "paper_t1_full", "paper_t1_short"


@dataclasses.dataclass(frozen=True)
class Step:
    """One row from the paper to the default: what differs from the row above, and the postprocessing it asks for."""

    what: str
    settings: Mapping[str, Any] | None = None  # None: the config's
    workdir: str = ""  # of the weights; empty: the packaged ones
    network: str = ""  # flags with which they were trained, and are evaluated, beside those of the short training
    config: str = "paper_t1"  # name of the config that these flags change

    def flags(self) -> str:
        """As `strega_jax.train` takes them."""
        return " ".join(f"--config.postprocess.{name}={value}" for name, value in (self.settings or {}).items())


HEALTHY = {"threshold": "healthy", "false_positive_rate": 0.01}
OTSU = {"threshold": "otsu", "min_area_mm2": 256.0, "min_volume_ml": 0.0, "appearance_mm": 0.0}
PLAIN = OTSU | {"smooth_mm": 0.0, "mirror": 0.0}
PLAIN_SLICE = PLAIN | {"scope": "slice"}
LETTER = {"threshold": "otsu", "scope": "slice", "min_area_px": 0, "min_area_mm2": 256.0}
# Each with those before it.
WINDOWED = "--config.model.sign=negative --config.preprocess.window_percentiles='(3.0,90.0)'"
TEMPLATE = (
    f"{WINDOWED} --config.preprocess.grid=template --config.preprocess.field_of_view_mm=192.0 "
    "--config.preprocess.slice_spacing_mm=2.0"
)
UNIT = f"{TEMPLATE} --config.preprocess.normalise=unit"
TISSUE = f"{UNIT} --config.model.sign=contrast --config.preprocess.representation="
WEIGHTS = "--config.model.channel_weights="
FRACTIONS = f"{TISSUE}fractions {WEIGHTS}'(2.0,1.0,0.0)'"
AUGMENTED = (
    " --config.augment.bias_field=0.0 --config.augment.noise=0.0 --config.augment.gamma=0.0 "
    "--config.augment.ghosting=0.0 --config.augment.flip_front_back=0.0 --config.augment.rotation=0.0 "
    "--config.augment.affine_degrees=5.0 --config.augment.affine_scale=0.05"
)
MILD = FRACTIONS + AUGMENTED
EXCESS = f"{TISSUE}fractions_excess {WEIGHTS}'(2.0,1.0,0.0,6.0)'{AUGMENTED} --config.preprocess.size=96"
JUDGED = (
    "--config.preprocess.representation=fractions_excess --config.data.rendered='()' --config.training.batch_size=64"
)
STEPS = {
    PAPER_T1: Step("all as described: `configs/paper_t1.py`", workdir=PAPER_T1),
    "paper_t1_healthy": Step("the same, but the threshold that 1 % of healthy voxels exceed", workdir=PAPER_T1),
    FULL: Step("as described, but areas in mm²", LETTER, PAPER_T1),
    f"{FULL}_negative": Step("… reconstruction − input", LETTER, f"{PAPER_T1}_negative"),
    SHORT: Step("as described, but 600 steps, and areas in mm²", LETTER, SHORT),
    "short_px": Step("… areas in pixels, as `paper_t1`", LETTER | {"min_area_px": 256, "min_area_mm2": 0.0}, SHORT),
    "short_unopened": Step("… without area opening", LETTER | {"min_area_mm2": 0.0}, SHORT),
    "short_volume": Step("… Otsu over the volume", LETTER | {"scope": "volume"}, SHORT),
    "paper_t1_short_healthy": Step("… the threshold that 1 % of healthy voxels exceed", LETTER | HEALTHY, SHORT),
    "short_negative": Step("… reconstruction − input", LETTER, "short_negative"),
    "short_negative_healthy": Step(
        "… that residual, and the threshold that 1 % of healthy voxels exceed",
        LETTER | HEALTHY,
        "short_negative",
    ),
    "short_absolute": Step("… absolute residual", LETTER, "short_absolute"),
    "windowed": Step(
        "`short_negative`, trained on tissue maps of windowed intensities: cut at the 3rd and the 90th percentile",
        LETTER,
        "windowed",
        WINDOWED,
    ),
    "template": Step("… on slices of 192 mm, 2 mm apart, in template space", LETTER, "template", TEMPLATE),
    "unit": Step("… not normalised to zero mean and unit variance", LETTER, "unit", UNIT),
    "fractions": Step(
        "… on fractions of CSF, GM and WM; more CSF (twofold) and GM than expected count as anomalous",
        LETTER,
        "fractions",
        FRACTIONS,
    ),
    "mild": Step(
        "… augmented as the default is: flipped left to right, turned by up to 5°, scaled by up to 5 %",
        LETTER,
        "mild",
        MILD,
    ),
    "excess": Step(
        "… of 96×96, with what lies beyond white matter as a fourth channel, which counts sixfold",
        LETTER,
        "excess",
        EXCESS,
    ),
    "judged": Step(
        "… the healthy mean and the judge of tissue in the VAE's place", PLAIN_SLICE, "judged", JUDGED, "strega"
    ),
    "otsu_slice": Step("input and network of the default, postprocessing as described", PLAIN_SLICE),
    "otsu_volume": Step("Otsu over the volume, not on every slice", PLAIN | {"scope": "volume"}),
    "otsu_volume_refined": Step("anomaly map smoothed, mirror image subtracted", OTSU | {"scope": "volume"}),
    "healthy": Step(
        "threshold that 1 % of healthy voxels exceed, no Otsu",
        OTSU | HEALTHY,
    ),
    "hysteresis": Step(
        "seeds that 0.001 % of healthy voxels exceed, of 0.25 at least, grown to 0.3 of the peak",
        OTSU | {"threshold": "hysteresis"},
    ),
    "default": Step(
        "components from 2 ml, grown over what the judge is sure of, fitted to intensities: the default", {}
    ),
}
