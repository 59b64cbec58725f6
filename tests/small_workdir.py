"""A workdir with a checkpoint for tests of prediction: a demo cohort of three, and a network that never trained."""

import atexit
import fcntl
import functools
import os
import shutil
import tempfile
from pathlib import Path

import jax

from strega_jax.config import Data, Postprocess, Preprocess, Run, Training
from strega_jax.detectors import build
from strega_jax.models.about import About
from strega_jax.models.calibration import calibrate, save_calibration
from strega_jax.models.model import load_model
from strega_jax.models.reference import make_reference, save_reference
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.demo import make_demo_cohort
from strega_jax.scans.splits import subject_splits
from strega_jax.slices.cohort import prepare_cohort
from strega_jax.slices.loader import training_batches
from strega_jax.slices.store import SliceStore
from strega_jax.training.checkpoints import Checkpoints
from strega_jax.training.state import init_state, make_optimizer

RUN = Run(
    model={"maps": (8, 16), "latent": 8, "channel_weights": (1.0, 0.0, 0.0), "sign": "absolute"},
    preprocess=Preprocess(
        representation="fractions", grid="fixed", size=32, field_of_view_mm=192.0, slice_spacing_mm=6.0,
        normalise="unit",
    ),
    training=Training(batch_size=8),
    postprocess=Postprocess(threshold="healthy", false_positive_rate=0.05, min_volume_ml=0.5),
    data=Data(scans="demo", demo_subjects=3),
)  # fmt: skip


@functools.cache
def small_workdir() -> Path:
    """`demo_cohort/`, `store/`, `checkpoints/`, `calibration.json`, `reference.json`; one for all processes."""
    shared = os.environ.get("STREGA_TESTS_SHARED")
    if not shared:
        folder = Path(tempfile.mkdtemp(prefix="strega-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return _made(folder)
    with open(Path(shared) / "workdir.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(shared) / "workdir"
        if not (folder / "reference.json").exists():  # which is written last
            shutil.rmtree(folder, ignore_errors=True)
            _made(folder)
        return folder


def _made(folder: Path) -> Path:
    make_demo_cohort(folder / "demo_cohort", 3, seed=0)
    cases = find_cases(folder / "demo_cohort")
    outcome = prepare_cohort(cases, subject_splits(cases), folder / "store", RUN.preprocess, workers=1)
    assert not outcome.failures
    store = SliceStore.open(folder / "store")
    source = store.source("train")
    detector = build(RUN.detector, RUN.model)
    shape = (32, 32, 3)
    optimizer = make_optimizer(RUN.optimiser, detector, 1)
    state = jax.jit(functools.partial(init_state, detector, optimizer, RUN.optimiser, shape, RUN.seed))()
    about = About(RUN, store.settings, store.normalisation, shape, 1, 1, len(source))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(1, state, training_batches(source, 8, 0, 1), about)
    model = load_model(folder)
    save_calibration(folder, calibrate(model, store, RUN.postprocess))
    save_reference(folder, make_reference(model, store))
    return folder


def small_scan() -> Path:
    """One of its scans: 2 mm, T1w, int16."""
    return sorted((small_workdir() / "demo_cohort").rglob("*_T1w.nii.gz"))[0]
