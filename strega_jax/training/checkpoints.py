"""Checkpoints: train state, data iterator, config, preprocessing and statistics, in one Orbax step."""

import logging
from typing import Self

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from strega_jax.errors import CheckpointError
from strega_jax.models.about import About
from strega_jax.training.state import TrainState

log = logging.getLogger(__name__)


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
