"""Strict JAX for every test: two CPU devices, no implicit dtype or rank promotion."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from browser import CHROMIUM, Browser
from typechecked import found  # before the package is loaded: it sees to the checks

from strega_jax.config import Preprocess, Run, settings_hash
from strega_jax.memory import COLLECT_AFTER
from strega_jax.scans.splits import SplitRule
from strega_jax.slices.grid import SliceGrid
from strega_jax.slices.preprocess import SliceVolume
from strega_jax.slices.store import SliceStore, write_manifest, write_scan
from strega_jax.tissue import TissueMap

# The suite compiles far more than it computes: compiled with these, in subprocesses too, files of tests that train take
# at least a third less processor time. What the package keeps compiled (`strega_jax.programs`) has options of its own.
QUICK = ("backend_optimization_level=0", "cpu_use_fusion_emitters=false", "cpu_parallel_codegen_split_count=1")
os.environ.setdefault("XLA_FLAGS", " ".join(f"--xla_{flag}" for flag in QUICK))
# A shell starts what goes into the background with interrupts ignored, and the commands under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
gc.set_threshold(COLLECT_AFTER)
# One compilation of a program serves all tests that run it, those in subprocesses too.
CACHE = tempfile.TemporaryDirectory(prefix="strega-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE.name)
os.environ.setdefault("STREGA_TESTS_SHARED", CACHE.name)  # of what is made once; see `small_workdir`
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()


# Of the files that take longest, the longest first: begun last, one would leave the other worker idle.
LONGEST = (
    "commands", "detectors_cce_vae_judge", "detectors_all", "export", "detectors_vq_vae", "gpu_benchmark",
    "predict_cli", "detectors_cce_vae", "training_bucket", "tissue_segmentation", "detectors_ss_ae",
    "evaluation_evaluate", "training_loop", "robust_batch", "journeys", "detectors_gm_vae", "detectors_cce_vae_score",
    "launch", "installed",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files; the tests in each stay in their order."""
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(autouse=True)
def annotations_hold() -> Iterator[None]:
    """A false annotation fails the test also where the code under test catches every error."""
    yield
    first, found[:] = found[:1], []
    assert not first, first[0]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real brains named by STREGA_TEST_DATA; the test is skipped, loudly, without it."""
    folder = os.environ.get("STREGA_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("STREGA_TEST_DATA names no folder: this check against real brains DID NOT RUN")
    return Path(folder)


@pytest.fixture(scope="session")
def one_browser() -> Iterator[Browser]:
    """A browser that all tests share; they are skipped, loudly, without one."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium): the pages were NOT looked at")
    with Browser() as one:
        yield one


@pytest.fixture
def browser(one_browser: Browser) -> Browser:
    """The browser, with no problems noted."""
    one_browser.problems.clear()
    return one_browser


SMALL_RUN = {
    "model": {"maps": (8,), "latent": 8, "sign": "absolute"},
    "preprocess": {"representation": "fractions", "grid": "fixed", "size": 32, "normalise": "unit"},
    "training": {"batch_size": 8, "steps": 8, "log_every": 1, "validate_every": 4, "checkpoint_every": 4},
}


def small_run(**changes: Any) -> Run:
    """A run that trains in seconds; `changes` replace top-level fields, dicts merge into their section."""
    fields: dict[str, Any] = {name: dict(section) for name, section in SMALL_RUN.items()}
    for name, value in changes.items():
        fields[name] = {**fields.get(name, {}), **value} if isinstance(value, dict) else value
    return Run.from_mapping(fields)


def disc_volume(rng: np.random.Generator, settings: Preprocess, slices: int = 10) -> SliceVolume:
    """Concentric discs of CSF, GM and WM of random size: a brain as simple as one can be."""
    rows, columns = np.mgrid[: settings.size, : settings.size] / settings.size - 0.5
    images = np.zeros((slices, settings.size, settings.size, 3), np.float32)
    for image in images:
        radius = np.hypot(rows * rng.uniform(0.9, 1.1), columns)
        edge = rng.uniform(0.38, 0.45)
        for channel, (inner, outer) in enumerate([(0.85, 1.0), (0.6, 0.85), (0.0, 0.6)]):
            image[..., channel] = (radius >= inner * edge) & (radius < outer * edge)
    images = np.where(images.max(axis=-1, keepdims=True) > 0, np.maximum(images, 1e-3), 0).astype(np.float32)
    brain = np.moveaxis(images.max(axis=-1) > 0, 0, 2)
    tissue = TissueMap.__new__(TissueMap)  # the store does not look at it
    grid = SliceGrid((settings.size, settings.size, slices), np.eye(4))
    return SliceVolume(images, np.arange(slices), np.linspace(0, 1, slices, dtype=np.float32), grid, brain, tissue)


def write_disc_store(folder: Path, settings: Preprocess, scans: int = 5) -> SliceStore:
    """A sealed store of disc brains: the last scan is `dev`, the others `train`."""
    rng = np.random.default_rng(0)
    for i in range(scans):
        write_scan(
            folder,
            disc_volume(rng, settings),
            name=f"sub-{i:02d}_T1w",
            cohort="discs",
            subject=f"sub-{i:02d}",
            session="",
            contrast="T1w",
            split="dev" if i == scans - 1 else "train",
            source=f"sub-{i:02d}.nii.gz",
            source_sha256="",
            spacing_mm=(2.0, 2.0, 2.0),
            grid_spacing_mm=(2.0, 2.0, 2.0),
            tissue_ml=(1.0, 1.0, 1.0),
            settings_hash=settings_hash(settings),
        )
    write_manifest(folder, settings, SplitRule())
    return SliceStore.open(folder)


@pytest.fixture
def disc_store(tmp_path: Path) -> SliceStore:
    """A small slice store with the settings of `small_run`."""
    return write_disc_store(tmp_path / "store", small_run().preprocess)
