"""`benchmarks/convolutions.py`: what it times is what a step does."""

from pathlib import Path

import numpy as np
import pytest

from strega_jax.detectors import build


def test_the_layers_it_times_hold_the_steps_operations(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks.step_timing import convolutions, jax_step

    size, images = 64, 2
    detector = build("cce_vae", {"maps": (16, 32), "latent": 8})
    found = convolutions(detector, size)
    # A multiply and an add for each weight and pixel, in the output and in each of two gradients.
    counted = sum(
        calls * 6 * side**2 * kernel**2 * maps * features for (side, kernel, maps, features), calls in found.items()
    )
    step = jax_step(detector, np.zeros((images, size, size, 1), np.float32), np.ones((images, size, size), np.float32))
    # The rest: norms, activations, losses, Adam; less what falls on padding, and the gradient by the image.
    assert counted / 1e9 == pytest.approx(step.gflop, rel=0.15)
