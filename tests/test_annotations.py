"""Annotations are checked wherever the suite calls the package, so that those that stand there are true."""

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from test_import_graph import STATIONS
from typechecked import found

from strega_jax.augment.gamma import Gamma, gamma
from strega_jax.cpu import threefry_2x32
from strega_jax.detection.ghosting import strongest_ghost
from strega_jax.detectors.gaussian import log_density, sample
from strega_jax.detectors.layers import Conv
from strega_jax.evaluation.metrics import dice
from strega_jax.inference.api import Result
from strega_jax.models.reference import slice_error
from strega_jax.output.pictures import grey
from strega_jax.postprocess.otsu import otsu_thresholds
from strega_jax.scans.geometry import check_truth_in_brain
from strega_jax.slices.grid import SliceGrid
from strega_jax.tissue.mixel import mixtures
from strega_jax.training.metrics import MetricsLog

IMAGE, VOLUME, MASK = np.zeros((4, 4), np.float32), np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 4), bool)
CALLS: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (check_truth_in_brain, (MASK, VOLUME, "a float as a mask")),
    (mixtures, (jnp.zeros(3), jnp.zeros(2))),
    (SliceGrid((4, 4, 4), np.eye(4)).sample, (IMAGE,)),
    (gamma, (jnp.zeros((4, 4)), Gamma(jnp.ones(4)))),
    (log_density, (jnp.zeros((2, 3)), jnp.zeros((2, 2)), jnp.zeros((2, 1)))),
    (otsu_thresholds, (IMAGE,)),
    (slice_error, (np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4, 1)))),
    (MetricsLog.image, (None, 0, "a volume as an image", VOLUME)),
    (strongest_ghost, (IMAGE, IMAGE > 0, (1.0, 1.0, 1.0))),
    (grey, (VOLUME, MASK[:2])),
    (Result, ("T1w", MASK, None, VOLUME[:2], None, np.eye(4), (), 0.0, 1.0, (), True)),
    (dice, (VOLUME, MASK)),
]  # fmt: skip


def must_be_refused(function: Callable[..., Any], *given: Any) -> None:
    with pytest.raises(TypeCheckError):
        function(*given)
    assert found
    found.clear()  # else this test would fail for it, as any other does


@pytest.mark.parametrize(("function", "given"), CALLS, ids=lambda of: getattr(of, "__qualname__", ""))
def test_an_array_against_its_annotation_is_refused(function: Callable[..., Any], given: tuple[Any, ...]):
    must_be_refused(function, *given)


def test_each_station_is_among_those_calls():
    modules = [inspect.unwrap(function).__module__ for function, _ in CALLS]
    assert [module.split(".")[1] for module in modules] == list(STATIONS)


def test_modules_outside_the_stations_and_networks_are_checked_too():
    must_be_refused(threefry_2x32, jnp.zeros(3, jnp.uint32), jnp.zeros(4, jnp.uint32))
    must_be_refused(Conv(2).init_with_output, jnp.zeros(2, jnp.uint32), jnp.zeros((4, 4, 1)))


def test_sizes_of_several_arguments_must_agree():
    must_be_refused(sample, jnp.zeros((), jnp.float32), jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    must_be_refused(mixtures, jnp.zeros((3, 1)), jnp.zeros((3, 1)))


def test_a_refusal_is_told_where_the_code_lives_through_errors():
    try:
        dice(VOLUME, MASK)
    except Exception:
        assert found
    found.clear()
