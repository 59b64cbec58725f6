"""Config: what enters a run is checked at the door."""

import dataclasses
import math
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strega_jax import config
from strega_jax.augment.foreign import Planting
from strega_jax.config import Augment, Preprocess, Run, Training, settings_hash
from strega_jax.detectors import build
from strega_jax.errors import ConfigError
from strega_jax.run_config import as_config, as_run
from strega_jax.scans.splits import SplitRule


def test_a_run_survives_json_and_config_dict():
    run = Run.from_mapping({"seed": 3, "model": {"maps": (8, 16)}, "data": {"lesions": ["a", "b"]}})
    assert Run.from_mapping(run.to_dict()) == run
    assert as_run(as_config(run)).training == run.training


def test_as_config_opens_every_field_of_the_detector_to_overrides():
    config = as_config(Run(model={"latent": 8}))
    assert config.model.latent == 8
    assert tuple(config.model.maps) == (64, 128, 256)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainning": {}}, "no field trainning"),
        ({"training": {"batch": 3}}, "config.training has no field batch"),
        ({"training": {"batch_size": 0}}, r"training.batch_size is 0; it must be ≥ 1"),
        ({"training": {"batch_size": "8"}}, "must be int"),
        ({"training": {"batch_size": True}}, "must be int"),
        ({"training": {"epochs": 0, "steps": 0}}, "training.epochs"),
        ({"training": {"steps": -1}}, "training.steps is -1; it must be ≥ 0"),
        ({"training": 3}, "config.training is 3; it must be a mapping"),
        ({"preprocess": {"representation": "labels"}}, "one of pveseg"),
        ({"preprocess": {"size": 100}}, "multiple of 16"),
        ({"preprocess": {"window_percentiles": (99, 1)}}, r"window_percentiles is \(99.0, 1.0\); it must be low, high"),
        ({"augment": {"noise": 1.5}}, "a probability"),
        ({"augment": {"ghosts": (4,)}}, "2 values"),
        ({"augment": {"ghosts": 4}}, "a tuple of values"),
        ({"augment": {"ghosts": (10, 4)}}, r"augment.ghosts is \(10, 4\); it must be low, high with 1 ≤ low ≤ high"),
        ({"optimiser": {"learning_rate": -1.0}}, "> 0"),
        ({"optimiser": {"learning_rate": math.inf}}, "a finite number"),
        ({"postprocess": {"false_positive_rate": 0.0}}, "false_positive_rate"),
        ({"postprocess": {"mirror": 1.5}}, "mirror"),
        ({"postprocess": {"connectivity": 4.0}}, "one of 4, 8"),
        ({"model": 3}, "config.model is 3"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        Run.from_mapping(fields)


# What each number may be: lowest, highest; a bracket turned outwards leaves the bound itself out.
RANGES = {
    "Preprocess.size": "[16 ∞[", "Preprocess.field_of_view_mm": "]0 ∞[", "Preprocess.slice_spacing_mm": "[0 ∞[",
    "Preprocess.min_brain_fraction": "[0 1[",
    "Augment.bias_field": "[0 1]", "Augment.bias_coefficient": "[0 ∞[", "Augment.noise": "[0 1]",
    "Augment.noise_std": "[0 ∞[", "Augment.gamma": "[0 1]", "Augment.log_gamma": "[0 ∞[", "Augment.ghosting": "[0 1]",
    "Augment.flip_left_right": "[0 1]", "Augment.flip_front_back": "[0 1]", "Augment.affine": "[0 1]",
    "Augment.affine_degrees": "[0 180]", "Augment.affine_scale": "[0 1[", "Augment.rotation": "[0 1]",
    "Augment.rotation_degrees": "[0 180]",
    "Optimiser.learning_rate": "]0 ∞[", "Optimiser.warmup_steps": "[0 ∞[", "Optimiser.clip_norm": "[0 ∞[",
    "Optimiser.accumulate": "[1 ∞[", "Optimiser.ema_decay": "[0 1[",
    "Training.batch_size": "[1 ∞[", "Training.epochs": "]0 ∞[", "Training.steps": "[0 ∞[",
    "Training.log_every": "[1 ∞[", "Training.validate_every": "[1 ∞[", "Training.checkpoint_every": "[1 ∞[",
    "Training.keep_checkpoints": "[1 ∞[",
    "Training.reader_threads": "[1 ∞[",
    "Postprocess.clip": "[0 ∞[", "Postprocess.smooth_mm": "[0 ∞[", "Postprocess.mirror": "[0 1]",
    "Postprocess.value": "[0 ∞[", "Postprocess.false_positive_rate": "]0 1[", "Postprocess.low_fraction": "]0 1[",
    "Postprocess.least_seed": "[0 ∞[",
    "Postprocess.min_area_px": "[0 ∞[", "Postprocess.min_area_mm2": "[0 ∞[", "Postprocess.min_volume_ml": "[0 ∞[",
    "Postprocess.appearance_mm": "[0 ∞[", "Postprocess.grow_probability": "[0 1[",
    "Postprocess.bright_lesions": "[0 1[",
    "Data.demo_subjects": "[0 ∞[", "Data.planted": "[0 ∞[", "Data.controls": "[0 ∞[",
    "Run.seed": "[0 4294967296[",
    "Planting.probability": "[0 1]", "Planting.infiltrating": "[0 1]",
    "SplitRule.train": "[0 1]", "SplitRule.dev": "[0 1]", "SplitRule.test": "[0 1]", "SplitRule.seed": "]-∞ ∞[",
}  # fmt: skip
# The same of both numbers of a range, and whether they may be equal.
PAIRS = {
    "Preprocess.window_percentiles": ("[0 100]", False), "Augment.ghosts": ("[1 ∞[", True),
    "Augment.ghost_intensity": ("[0 1]", True), "Planting.radius": ("]0 1]", True),
}  # fmt: skip
SECTIONS: list[Any] = [
    config.Preprocess, config.Augment, config.Optimiser, config.Training, config.Postprocess, config.Data, config.Run,
    Planting, SplitRule,
]  # fmt: skip
NUMBERS = {
    f"{cls.__name__}.{name}": (cls, name, kind)
    for cls in SECTIONS
    for name, kind in typing.get_type_hints(cls).items()
    if kind in (int, float) or (typing.get_origin(kind) is tuple and typing.get_args(kind)[0] in (int, float))
}


def within(value: float, bounds: str) -> bool:
    low, high = (float(text.replace("∞", "inf")) for text in bounds[1:-1].split())
    return (low < value or (low == value and bounds[0] == "[")) and (
        value < high or (value == high and bounds[-1] == "]")
    )


def accepts(cls: Any, name: str, value: Any) -> bool:
    told = ""
    try:
        assert getattr(cls(**{name: value}), name) == value
    except ConfigError as error:
        told = str(error)
    assert not told or (name in told and "it must be" in told)
    return not told


def test_every_number_of_every_section_has_a_range_here():
    assert NUMBERS.keys() == RANGES.keys() | PAIRS.keys()


SPECIAL = st.sampled_from([-1, 0, 1, 2, 15, 16, 24, 100, 180, 181, 2**32 - 1, 2**32])
REAL = st.one_of(SPECIAL, st.floats(allow_nan=True), st.floats(-0.5, 1.5))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("field", RANGES)
def test_a_number_is_taken_exactly_within_its_range(field, data):
    cls, name, kind = NUMBERS[field]
    value = data.draw(REAL if kind is float else st.one_of(SPECIAL, st.integers(), st.floats()))
    fits = within(value, RANGES[field]) and math.isfinite(value)
    fits &= kind is float or isinstance(value, int)
    fits &= name != "size" or value % 16 == 0
    assert accepts(cls, name, value) == fits


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("field", PAIRS)
def test_a_range_is_taken_exactly_when_it_rises_within_its_bounds(field, data):
    cls, name, kind = NUMBERS[field]
    bounds, equal = PAIRS[field]
    part = st.one_of(SPECIAL, st.integers(-2, 120)) if typing.get_args(kind)[0] is int else REAL
    low, high = data.draw(st.tuples(part, part))
    fits = within(low, bounds) and within(high, bounds) and (low < high or (equal and low == high))
    assert accepts(cls, name, (low, high)) == fits


@pytest.mark.parametrize("value", [None, "text", b"", [1], {"a": 1}, object()])
def test_what_is_no_such_value_at_all_is_refused_too(value):
    for cls, name, _ in NUMBERS.values():
        assert not accepts(cls, name, value)
    for cls in (Preprocess, Augment):
        with pytest.raises(ConfigError, match="must be"):
            Run(**{cls.__name__.lower(): value if value != {"a": 1} else 1})
    with pytest.raises(ConfigError, match=r"preprocess\.tissue"):
        Preprocess(tissue=value)


def test_settings_are_equal_however_their_numbers_were_written():
    assert Training(epochs=3) == Training(epochs=3.0)
    one, other = Preprocess(field_of_view_mm=192, window_percentiles=[0, 99]), Preprocess(  # pyright: ignore
        field_of_view_mm=192.0, window_percentiles=(0.0, 99.0)
    )  # fmt: skip
    assert one == other
    assert settings_hash(one) == settings_hash(other)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_detectors_numbers_are_finite(value):
    for fields in ({"kl_weight": value}, {"channel_weights": (1.0, value)}):
        with pytest.raises(ConfigError, match=r"it must be a finite number"):
            build("cce_vae", fields)


def test_settings_hash_changes_with_any_field():
    assert settings_hash(Preprocess()) == settings_hash(Preprocess())
    assert settings_hash(Preprocess()) != settings_hash(Preprocess(min_brain_fraction=0.03))
    fields = [field.name for field in dataclasses.fields(Preprocess)]
    assert len(fields) == len({settings_hash(changed(name)) for name in fields})


def changed(name: str) -> Preprocess:
    """The default with another value of one field."""
    kind = typing.get_type_hints(Preprocess)[name]
    default = getattr(Preprocess(), name)
    if typing.get_origin(kind) is typing.Literal:
        other: Any = next(choice for choice in typing.get_args(kind) if choice != default)
    else:
        other = (1.0, 99.0) if isinstance(default, tuple) else 0.5 if default < 1 else default * 2
    return dataclasses.replace(Preprocess(), **{name: other})
