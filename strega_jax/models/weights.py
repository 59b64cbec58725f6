"""Weights that come with the package: what a checkpoint needs to predict, small, without an optimiser's state.

A folder of `variables.safetensors` (names are paths in the variable collections; whatever is float16 there is float32
in use), `about.json`, `calibration.json` and `reference.json`, as beside a checkpoint, and `MODEL_CARD.md`.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from strega_jax.detectors import build
from strega_jax.errors import CheckpointError
from strega_jax.models.about import About
from strega_jax.models.calibration import save_calibration
from strega_jax.models.model import Model
from strega_jax.models.opened import Opened
from strega_jax.models.reference import save_reference
from strega_jax.scans.files import replacing, write_json

FILE = "variables.safetensors"
# Statistics of a healthy atlas are many and need no more than three digits.
HALF_PRECISION = ("atlas",)


def save_weights(opened: Opened, folder: Path) -> None:
    """Write the weights of a checkpoint, its calibration and its reference to `folder`, made if need be.

    Raises:
        CheckpointError: it is an exported model, or is not described well enough to be handed on.
    """
    model = opened.model
    if not isinstance(model, Model) or opened.reference is None:
        raise CheckpointError(f"{model.source}: weights are taken from a workdir whose training came to its end")
    from flax import traverse_util

    folder.mkdir(parents=True, exist_ok=True)
    flat = {
        name: np.asarray(value, np.float16 if name.split("/")[0] in HALF_PRECISION else np.float32)
        for name, value in traverse_util.flatten_dict(model.variables, sep="/").items()
    }
    with replacing(folder / FILE) as temporary:
        temporary.write_bytes(save(flat))  # `save_file` would let nobody else read it
    write_json(folder / "about.json", model.about.to_dict())
    save_reference(folder, opened.reference)
    if opened.calibration is not None:
        save_calibration(folder, opened.calibration)


def load_weights(folder: Path) -> Model:
    """The model whose weights lie in `folder`.

    Raises:
        CheckpointError: a file is missing, damaged or of another version, or cannot be read now.
    """
    try:
        about = About.from_dict(json.loads((folder / "about.json").read_text(encoding="utf-8")))
        flat = load_file(folder / FILE)
    except (FileNotFoundError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: damaged weights ({error}); install the package again") from error
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read now ({error})") from error
    detector = build(about.run.detector, about.run.model, about.run.compute_dtype)
    return Model(detector, jax.device_put(_unflattened(flat)), about, str(folder))


def _unflattened(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    """As flax does it, which takes long to load."""
    variables: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, name = path.split("/")
        collection = variables
        for group in groups:
            collection = collection.setdefault(group, {})
        collection[name] = value.astype(np.float32)
    return variables
