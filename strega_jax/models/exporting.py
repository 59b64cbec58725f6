"""A model from a checkpoint → one file that runs without flax, orbax and the checkpoint; `exported.py` reads it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float, Int

from strega_jax.errors import ConfigError
from strega_jax.models.exported import write_exported
from strega_jax.models.model import Model, detector_for, score_and_reconstruct
from strega_jax.models.opened import Opened
from strega_jax.scans.contrast import NAMES

PLATFORMS = ("cpu", "cuda", "tpu")


def export_model(opened: Opened, output: Path, kind: str) -> None:
    """Write `opened`, which must come from a checkpoint, to `output` as `stablehlo` or `onnx`.

    Raises:
        ConfigError: it is an exported file itself; or ONNX cannot be had (no jax2onnx, or a score that is random).
    """
    model = opened.model
    if not isinstance(model, Model):
        raise ConfigError(f"{model.source} is an exported model already; give the checkpoint")
    detectors = {name: detector_for(model.detector, model.about, name) for name in ("", *NAMES)}
    different = list(dict.fromkeys(detectors.values()))
    convert = to_stablehlo if kind == "stablehlo" else to_onnx
    networks = [convert(dataclasses.replace(model, detector=detector)) for detector in different]
    places = {name: different.index(detector) for name, detector in detectors.items()}
    about = {
        "run": model.about.run.to_dict(),
        "preprocess": dataclasses.asdict(model.about.preprocess),
        "image_shape": list(model.about.image_shape),
        "training_scans": model.about.training_scans,
        "training_slices": model.about.training_slices,
        "of_contrast": {name: place for name, place in places.items() if place},
        "split": model.about.split and dataclasses.asdict(model.about.split),
        "calibration": opened.calibration and dataclasses.asdict(opened.calibration),
        "reference": opened.reference.to_dict() if opened.reference else None,
    }
    write_exported(output, kind, networks, about)


def program_of(model: Model) -> Callable[[Array, Array, Array], tuple[Array, ...]]:
    """Stored slices, their positions and the number of the batch → what `score_and_reconstruct` returns.

    The model's detector is used as it is, for whatever contrast.
    """
    seed = model.about.run.seed

    def program(
        images: Float[Array, "b h w c"], position: Float[Array, " b"], number: Int[Array, ""]
    ) -> tuple[Array, ...]:
        key = jax.random.fold_in(jax.random.key(seed), number)
        raw = {"images": images, "position": position}
        return score_and_reconstruct(model.detector, model.about.normalisation, model.variables, raw, key)

    return program


def to_stablehlo(model: Model) -> bytes:
    """The program for any batch size on CPU, CUDA and TPU, weights inside."""
    (batch,) = export.symbolic_shape("b")
    shapes = (
        jax.ShapeDtypeStruct((batch, *model.about.image_shape), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    return bytes(export.export(jax.jit(program_of(model)), platforms=PLATFORMS)(*shapes).serialize())


def to_onnx(model: Model) -> bytes:
    """The program as an ONNX graph for any batch size, weights inside. Raises ConfigError."""
    if getattr(model.detector, "samples", 0):
        raise ConfigError(
            "model.samples > 0: the score is random, which ONNX cannot repeat; export stablehlo, or a model with 0"
        )
    try:
        from jax2onnx import to_onnx as convert  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("--format=onnx needs jax2onnx: pip install 'strega-jax[onnx]'") from error
    # The score of such a model depends neither on the key nor on the batch's number.
    program = program_of(model)

    def first(images: Float[Array, "b h w c"], position: Float[Array, " b"]) -> tuple[Array, ...]:
        return program(images, position, jnp.zeros((), jnp.int32))

    inputs = [("B", *model.about.image_shape), ("B",)]
    graph: Any = convert(first, inputs=inputs, model_name="strega_jax", input_names=["images", "position"])
    return graph.SerializeToString()
