"""Checkpoints: train state, data iterator, config, preprocessing and statistics, in one Orbax step."""

import logging
from typing import Self

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from strega_jax.errors import CheckpointError
from strega_jax.models.about import About
from strega_jax.models.checkpoint import damage, other_structure, unreadable, write_checksums
from strega_jax.training.state import TrainState

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, folder: epath.PathLike, keep: int = 3):
        self.folder = epath.Path(folder)
        self._saving = -1
        finished = ocp.AsyncOptions(post_finalization_callback=self._write_checksums)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, async_options=finished
        )
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
        self.wait()
        self._saving = step
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
        """The newest state whose files are as they were saved, laid out as `like`, with `batches` set to where it was.

        Newer steps whose files are not are named and set aside. Nothing else moves anything.

        Raises:
            CheckpointError: every step is damaged, or the newest sound one is of another network or cannot be read
                now.
        """
        step = self._newest_sound()
        folder = self.folder / str(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        try:
            different = other_structure(folder, like)
            restored = None if different else self._manager.restore(step, args=args)
        except Exception as error:  # Orbax raises what its many layers raise
            raise CheckpointError(unreadable(folder, error)) from error
        if restored is None:
            raise CheckpointError(
                f"{folder}: of another network than this config builds now ({different}). Nothing was changed: go on "
                "with the code and settings that it was trained with, or train anew with another --workdir"
            )
        batches.set_state(restored["data"])
        return restored["state"]

    def _newest_sound(self) -> int:
        """The newest step without damage; those after it are set aside."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged: dict[int, str] = {}
        if jax.process_index() == 0:
            for step in steps:
                try:
                    found = damage(self.folder / str(step))
                except OSError as error:
                    raise CheckpointError(unreadable(self.folder / str(step), error)) from error
                if found is None:
                    break
                damaged[step] = found
        count = len(damaged)
        if jax.process_count() > 1:  # one looks, all do the same
            count = int(multihost_utils.broadcast_one_to_all(np.int32(count)))
        if count == len(steps):
            raise CheckpointError(
                f"{self.folder}: every checkpoint in it is damaged "
                f"({', '.join(f'{step}: {text}' for step, text in damaged.items())}); delete it to train anew"
            )
        for step, text in damaged.items():
            aside = _unused(self.folder.parent / f"damaged-{step}")
            log.error("checkpoint %d is damaged (%s); moved to %s, going on from one before", step, text, aside)
            (self.folder / str(step)).rename(aside)
        if count:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("set aside")
            self._manager.reload()
        return steps[count]

    def _write_checksums(self) -> None:
        """Called in the background when a step's files are there and it is not yet called by its name."""
        for child in self.folder.iterdir():
            if child.name == str(self._saving) or child.name.startswith(f"{self._saving}.orbax-checkpoint-tmp"):
                write_checksums(child)


def _unused(path: epath.Path) -> epath.Path:
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}-{number + 1}")
    return free
