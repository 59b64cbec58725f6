"""Checkpoints on disk, as far as a reader needs to know: where a step lies, what it holds, and whether it is whole."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from strega_jax.errors import CheckpointError
from strega_jax.models.about import About
from strega_jax.scans.files import write_json

CHECKSUMS = "checksums.json"
# Orbax writes these after all else, to say that the rest is there.
_WRITTEN_LAST = ("_CHECKPOINT_METADATA", "commit_success.txt")


def read_about(step_folder: epath.Path) -> About:
    """What the checkpoint in `…/checkpoints/STEP` says of itself.

    Raises:
        CheckpointError: it cannot be read, is no checkpoint, or one of another version.
    """
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            fields = reader.restore(step_folder / "about")
    except FileNotFoundError as error:
        raise CheckpointError(f"{step_folder}: not a checkpoint of strega_jax ({error})") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(unreadable(step_folder, error)) from error
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


def write_checksums(step_folder: epath.Path) -> None:
    """Write the SHA-256 of every file of a step beside them, where `damage` looks for it."""
    names = [name for name in _files(step_folder) if name.split("/")[-1] not in _WRITTEN_LAST]
    write_json(step_folder / CHECKSUMS, {name: _sha256(step_folder / name) for name in sorted(names)})


def damage(step_folder: epath.Path) -> str | None:
    """Which file of a step is not as it was saved, in words; None where all are, or where nobody wrote checksums.

    Raises:
        OSError: a file is there but cannot be read now; that is no damage.
    """
    if not (step_folder / CHECKSUMS).exists():
        return None
    try:
        checksums = dict(json.loads((step_folder / CHECKSUMS).read_text()))
    except ValueError:
        return f"{CHECKSUMS} is not what was written"
    for name, checksum in checksums.items():
        try:
            if _sha256(step_folder / name) != checksum:
                return f"the checksum of {name} differs"
        except FileNotFoundError:
            return f"{name} is missing"
    return None


def other_structure(step_folder: epath.Path, wanted: Any) -> str | None:
    """How the arrays of a step's state differ from the tree `wanted`, in words; None where they do not.

    Compared are names and shapes, of the top-level names of `wanted` only.
    """
    asked = _shapes(wanted)
    tops = {name.split("/")[0] for name in asked}
    stored = _shapes(ocp.PyTreeCheckpointHandler().metadata(step_folder / "state").tree)
    stored = {name: shape for name, shape in stored.items() if name.split("/")[0] in tops}
    names = sorted(name for name in asked | stored if asked.get(name, "none") != stored.get(name, "none"))
    if not names:
        return None
    first = names[0]
    text = f"{first} is {stored.get(first, 'none')} in the checkpoint, {asked.get(first, 'none')} in the network"
    return text if len(names) == 1 else f"{text}; {len(names) - 1} more differ"


def unreadable(step_folder: epath.Path, error: Exception) -> str:
    """What to tell of a step that cannot be read, although nothing says that it is damaged."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    text = (
        f"{step_folder}: cannot be read now ({reason}); nothing was changed, start again when disk and network are well"
    )
    if not (step_folder / CHECKSUMS).exists():
        text += (
            ". It has no checksums that would tell damage; if it stays so, move this folder away to use the one before"
        )
    return text


def _shapes(tree: Any) -> dict[str, str]:
    flat = ocp.tree.to_flat_dict(ocp.tree.serialize_tree(tree, keep_empty_nodes=True), sep="/", keep_empty_nodes=True)
    return {name: _shape(leaf) for name, leaf in flat.items()}


def _shape(leaf: Any) -> str:
    if not hasattr(leaf, "shape"):
        return "empty"
    # A key is stored as the numbers it is made of.
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(jax.eval_shape(jax.random.key_data, leaf).shape)
    return str(tuple(leaf.shape))


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def _files(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    for child in folder.iterdir():
        if child.is_dir():
            yield from _files(child, f"{prefix}{child.name}/")
        else:
            yield prefix + child.name


def _children(folder: epath.Path) -> Iterator[epath.Path]:
    return folder.iterdir() if folder.is_dir() else iter(())
