"""Checkpoints: train state, data iterator, config, preprocessing and statistics, in one Orbax step."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, Self

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from strega_jax.config import Preprocess, Run, build_dataclass
from strega_jax.errors import CheckpointError, ConfigError
from strega_jax.slices.store import Normalisation
from strega_jax.training.state import TrainState

log = logging.getLogger(__name__)

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class About:
    """What a checkpoint says of itself: with the variables, enough to predict."""

    run: Run
    preprocess: Preprocess  # of the store the model was trained on
    normalisation: Normalisation
    image_shape: tuple[int, int, int]
    total_steps: int
    training_scans: int
    training_slices: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "run": self.run.to_dict(),
            "preprocess": dataclasses.asdict(self.preprocess),
            "normalisation": dataclasses.asdict(self.normalisation),
            "image_shape": list(self.image_shape),
            "total_steps": self.total_steps,
            "training_scans": self.training_scans,
            "training_slices": self.training_slices,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises CheckpointError for another format."""
        if fields.get("format") != FORMAT:
            raise CheckpointError(f"checkpoint format {fields.get('format')}, this version reads {FORMAT}")
        try:
            statistics = fields["normalisation"]
            return cls(
                run=Run.from_mapping(fields["run"]),
                preprocess=build_dataclass(Preprocess, fields["preprocess"], "preprocess"),
                normalisation=Normalisation(tuple(statistics["mean"]), tuple(statistics["std"])),
                image_shape=tuple(fields["image_shape"]),
                total_steps=fields["total_steps"],
                training_scans=fields["training_scans"],
                training_slices=fields["training_slices"],
            )
        except (ConfigError, KeyError, TypeError) as error:
            raise CheckpointError(f"checkpoint written by another version of strega_jax ({error})") from error


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, folder: epath.PathLike, keep: int = 3):
        self.folder = epath.Path(folder)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The last complete step, if any; half-written ones do not count."""
        return self._manager.latest_step()

    def preempted(self, step: int) -> bool:
        """Whether the scheduler announced this job's end (after jax.distributed.initialize)."""
        return self._manager.reached_preemption(step)

    def save(self, step: int, state: TrainState, batches: grain.DatasetIterator, about: About) -> None:
        """Save everything at `step`, in the background; the iterator's state is taken now."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(batches.get_state()),
                about=ocp.args.JsonSave(about.to_dict()),
            ),
        )

    def wait(self) -> None:
        """Return when all that was saved is on disk."""
        self._manager.wait_until_finished()

    def restore(self, like: TrainState, batches: grain.DatasetIterator) -> TrainState:
        """The newest state that can be read, laid out as `like`, with `batches` set to where it was.

        A damaged step is named and the one before it is used. Raises CheckpointError if none can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract),
                        data=ocp.args.JsonRestore(),
                    ),
                )
            except Exception as error:  # Orbax raises what its many layers raise
                self._set_aside(step, error)
                continue
            batches.set_state(restored["data"])
            return restored["state"]
        raise CheckpointError(f"{self.folder}: no checkpoint in it can be read; delete the folder to train anew")

    def _set_aside(self, step: int, error: Exception) -> None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        aside = self.folder.parent / f"damaged-{step}"
        log.error("checkpoint %d cannot be read (%s); moved to %s, trying the one before", step, reason, aside)
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("set aside")
        self._manager.reload()


def read_about(step_folder: epath.Path) -> About:
    """What the checkpoint in `…/checkpoints/STEP` says of itself."""
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            fields = reader.restore(step_folder / "about")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{step_folder}: not a checkpoint of strega_jax ({error})") from error
    return About.from_dict(fields)


def find_step(path: epath.PathLike) -> epath.Path:
    """A workdir, its checkpoints folder, or one step → the folder of the (newest) step."""
    root = epath.Path(path)
    if not root.exists():
        raise CheckpointError(f"{root}: no such checkpoint")
    for folder in (root, root / "checkpoints"):
        if (folder / "about").exists():
            return folder
        steps = [int(child.name) for child in _children(folder) if child.name.isdigit()]
        if steps:
            return folder / str(max(steps))
    raise CheckpointError(f"{root}: no checkpoint in it; give a workdir of strega_jax.train or one of its steps")


def _children(folder: epath.Path) -> Iterator[epath.Path]:
    return folder.iterdir() if folder.is_dir() else iter(())
