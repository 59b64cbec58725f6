"""Strict JAX for every test: two CPU devices, no implicit dtype or rank promotion."""

import os
from pathlib import Path

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real brains named by STREGA_TEST_DATA; the test is skipped, loudly, without it."""
    folder = os.environ.get("STREGA_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("STREGA_TEST_DATA names no folder: this check against real brains DID NOT RUN")
    return Path(folder)
