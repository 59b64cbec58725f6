"""Checkpoints on disk, as far as a reader needs to know: where a step lies and what it says of itself."""

from collections.abc import Iterator

import orbax.checkpoint as ocp
from etils import epath

from strega_jax.errors import CheckpointError
from strega_jax.models.about import About


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
