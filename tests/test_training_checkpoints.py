"""Checkpoints that are damaged, of another network, or cannot be read for a moment: three things, told apart."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from conftest import small_run
from strega_jax.detectors import build
from strega_jax.errors import CheckpointError
from strega_jax.models.about import About
from strega_jax.models.calibration import load_calibration
from strega_jax.models.exported import load_exported
from strega_jax.models.model import load_model
from strega_jax.models.weights import load_weights
from strega_jax.slices.store import Normalisation
from strega_jax.training.checkpoints import Checkpoints
from strega_jax.training.state import TrainState, init_state, make_optimizer

RUN = small_run()
ABOUT = About(RUN, RUN.preprocess, Normalisation((0.0,) * 3, (1.0,) * 3), (32, 32, 3), 8, 4, 40)


class Batches(grain.DatasetIterator):
    """What of a data iterator a checkpoint needs."""

    def __init__(self) -> None:
        super().__init__()
        self.place = {"next_index": 0}

    def __next__(self) -> None:
        raise StopIteration

    def get_state(self) -> dict[str, int]:
        return dict(self.place)

    def set_state(self, state: dict[str, int]) -> None:
        self.place = dict(state)


def state_at(step: int, layers: int = 2, width: int = 3) -> TrainState:
    params = {f"layer{i}": {"kernel": jnp.full((width, 400), float(step))} for i in range(layers)}
    return TrainState(jnp.int32(step), params, {}, (params, None), None, jax.random.key(step))


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Checkpoints of the steps 1 and 2."""
    for step in (1, 2):
        save(tmp_path, step)
    return tmp_path


def save(folder: Path, step: int) -> None:
    batches = Batches()
    batches.place["next_index"] = 10 * step
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(step, state_at(step), batches, ABOUT)


def restored(folder: Path, **structure: int) -> tuple[int, int]:
    """The step and the place in the data that training would go on from; parameters are checked."""
    batches = Batches()
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = checkpoints.restore(state_at(0, **structure), batches)
    np.testing.assert_array_equal(state.params["layer1"]["kernel"], np.full((3, 400), float(state.step)))
    return int(state.step), batches.place["next_index"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def largest(step: Path) -> Path:
    return max((p for p in (step / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit flipped": lambda step: flip(largest(step)),
    "a byte cut": lambda step: cut(largest(step)),
    "a file gone": lambda step: largest(step).unlink(),
    "data": lambda step: flip(step / "data" / "metadata"),
    "checksums": lambda step: (step / "checksums.json").write_bytes(b"") and None,
}


@contextlib.contextmanager
def no_free_file_descriptor() -> Iterator[None]:
    """As when other jobs of a machine have opened all files that may be open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_every_file_of_a_step_has_its_checksum_when_the_step_appears(workdir):
    for step in (1, 2):
        files = contents(workdir / "checkpoints" / str(step))
        checksums = json.loads(files.pop("checksums.json"))
        assert checksums == {name: hashlib.sha256(files[name]).hexdigest() for name in checksums}
        unlisted = {name.split("/")[-1] for name in files.keys() - checksums.keys()}
        assert unlisted <= {"commit_success.txt", "_CHECKPOINT_METADATA"}
    assert restored(workdir) == (2, 20)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_step_is_set_aside_and_the_one_before_is_used(workdir, kind):
    DAMAGES[kind](workdir / "checkpoints" / "2")
    before = contents(workdir / "checkpoints" / "2")
    assert restored(workdir) == (1, 10)
    assert contents(workdir / "damaged-2") == before
    save(workdir, 2)
    DAMAGES[kind](workdir / "checkpoints" / "2")
    assert restored(workdir) == (1, 10)  # a second time: the first is kept
    assert contents(workdir / "damaged-2") == before
    assert (workdir / "damaged-2-2").exists()


def test_when_every_step_is_damaged_nothing_moves_and_nothing_is_trained_anew(workdir):
    for step in ("1", "2"):
        flip(largest(workdir / "checkpoints" / step))
    before = contents(workdir)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="every checkpoint in it is damaged"):
            restored(workdir)
    assert contents(workdir) == before


@pytest.mark.parametrize(
    ("structure", "told"),
    [
        ({"layers": 3}, r"layer2/kernel is none in the checkpoint, \(3, 400\) in the network"),
        ({"layers": 1}, r"layer1/kernel is \(3, 400\) in the checkpoint, none in the network"),
        ({"width": 4}, r"layer0/kernel is \(3, 400\) in the checkpoint, \(4, 400\) in the network"),
    ],
)
def test_another_network_is_told_and_nothing_moves(workdir, structure, told):
    before = contents(workdir)
    with pytest.raises(CheckpointError, match=told):
        restored(workdir, **structure)
    assert contents(workdir) == before
    assert restored(workdir) == (2, 20)


def test_what_cannot_be_read_for_a_moment_is_told_and_nothing_moves(workdir, monkeypatch):
    before = contents(workdir)
    batches = Batches()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        like = state_at(0)
        with no_free_file_descriptor(), pytest.raises(CheckpointError, match="cannot be read now"):
            checkpoints.restore(like, batches)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", fail)
        with pytest.raises(CheckpointError, match=r"checkpoints/2: cannot be read now .*Input/output error"):
            restored(workdir)
    assert contents(workdir) == before
    assert restored(workdir) == (2, 20)


def test_a_step_without_checksums_is_never_moved_and_the_way_out_works(workdir):
    step = workdir / "checkpoints" / "2"
    (step / "checksums.json").unlink()
    assert restored(workdir) == (2, 20)  # as saved by a version that wrote none
    largest(step).write_bytes(b"")
    before = contents(workdir)
    with pytest.raises(CheckpointError, match="move this folder away to use the one before"):
        restored(workdir)
    assert contents(workdir) == before
    step.rename(workdir / "elsewhere")
    assert restored(workdir) == (1, 10)


def test_a_model_that_is_damaged_or_another_or_cannot_be_read_is_told_as_what_it_is(tmp_path, monkeypatch):
    detector = build(RUN.detector, RUN.model)
    optimizer = make_optimizer(RUN.optimiser, detector, 8)
    shape = ABOUT.image_shape
    state = jax.jit(functools.partial(init_state, detector, optimizer, RUN.optimiser, shape, RUN.seed))()
    batches = Batches()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(8, state, batches, ABOUT)
    whole = load_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, whole.variables["params"], state.params)
    before = contents(tmp_path)

    with monkeypatch.context() as patch:
        wider = build(RUN.detector, {**RUN.model, "latent": 9})
        patch.setattr("strega_jax.models.model.build", lambda *_: wider)
        with pytest.raises(CheckpointError, match=r"of another network .*is \(8, 2048\) in the checkpoint"):
            load_model(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    with monkeypatch.context() as patch:
        patch.setattr(ocp.PyTreeCheckpointHandler, "restore", fail)
        with pytest.raises(CheckpointError, match="cannot be read now"):
            load_model(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.JsonCheckpointHandler, "restore", fail)
        with pytest.raises(CheckpointError, match="cannot be read now"):
            load_model(tmp_path)
    assert contents(tmp_path) == before
    flip(largest(tmp_path / "checkpoints" / "8"))
    with pytest.raises(CheckpointError, match="damaged, the checksum of state/"):
        load_model(tmp_path)


def test_beside_a_checkpoint_too_a_moment_is_no_damage_and_damage_is_told(tmp_path):
    for name in ("variables.safetensors", "about.json", "model.zip", "calibration.json"):
        (tmp_path / name).write_bytes(b"no such thing")
    for load, damaged in (
        (lambda: load_weights(tmp_path), "damaged weights"),
        (lambda: load_exported(tmp_path / "model.zip"), "or damaged"),
    ):
        with no_free_file_descriptor(), pytest.raises(CheckpointError, match="cannot be read now"):
            load()
        with pytest.raises(CheckpointError, match=damaged):
            load()
    with pytest.raises(CheckpointError, match=r"calibration\.json: damaged or of another version"):
        load_calibration(tmp_path)
