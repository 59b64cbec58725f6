"""Detectors made from the plain values of a config: what is known, and what is wrong by name."""

import pytest

from strega_jax.augment.context import ContextEncoding
from strega_jax.detectors import build, names
from strega_jax.detectors.base import Detector
from strega_jax.detectors.cce_vae import CceVae
from strega_jax.errors import ConfigError


def test_build_makes_a_detector_from_plain_values():
    fields = {"maps": [8, 16], "block": "basic", "context": {"squares": [2, 2]}, "kl_weight": 2}
    detector = build("cce_vae", fields, "bfloat16")
    assert isinstance(detector, Detector)
    assert detector == CceVae(
        maps=(8, 16), block="basic", context=ContextEncoding(squares=(2, 2)), kl_weight=2.0, compute_dtype="bfloat16"
    )
    assert "cce_vae" in names()
    assert not {"base", "layers"} & set(names())


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("gmvea", {}, "no detector 'gmvea'.*cce_vae"),
        ("layers", {}, "no detector 'layers'"),
        ("cce_vae", {"mapz": 3}, "no field mapz; it has: maps, latent"),
        ("cce_vae", {"compute_dtype": "float16"}, "no field compute_dtype"),
        ("cce_vae", {"block": "dense"}, "block"),
        ("cce_vae", {"latent": 0}, "latent is 0"),
        ("cce_vae", {"channel_weights": [-1.0]}, "channel_weights"),
        ("cce_vae", {"context": {"squares": [3, 1]}}, "squares"),
    ],
)
def test_build_names_what_is_wrong(name: str, fields: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        build(name, fields)
