"""Config: what enters a run is checked at the door."""

import pytest

from strega_jax.config import Preprocess, Run, settings_hash
from strega_jax.errors import ConfigError
from strega_jax.run_config import as_config, as_run


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
        ({"training": {"batch_size": 0}}, "training.batch_size"),
        ({"training": {"batch_size": "8"}}, "must be int"),
        ({"training": {"batch_size": True}}, "must be int"),
        ({"preprocess": {"representation": "labels"}}, "one of pveseg"),
        ({"preprocess": {"size": 100}}, "multiple of 16"),
        ({"augment": {"noise": 1.5}}, "a probability"),
        ({"augment": {"ghosts": (4,)}}, "2 values"),
        ({"optimiser": {"learning_rate": -1.0}}, "> 0"),
        ({"postprocess": {"false_positive_rate": 0.0}}, "false_positive_rate"),
        ({"postprocess": {"mirror": 1.5}}, "mirror"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        Run.from_mapping(fields)


def test_settings_hash_changes_with_any_field():
    assert settings_hash(Preprocess()) == settings_hash(Preprocess())
    assert settings_hash(Preprocess()) != settings_hash(Preprocess(min_brain_fraction=0.03))
