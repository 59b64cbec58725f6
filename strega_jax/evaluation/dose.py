"""Dose and response: how Dice and detection follow the size and contrast of lesions that were made to measure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strega_jax.scans.scan import stem

# Column of the results → what its curve is called.
RESPONSES = {"dice": "mean Dice", "lesion_sensitivity": "share of lesions detected"}


def dose_of(image: Path) -> dict[str, float]:
    """`dose_ml` and `dose_contrast` of an image made by `strega_jax.synthesize --kind=lesion`; empty for any other."""
    sidecar = image.with_name(stem(image) + ".json")
    try:
        synthesis = json.loads(sidecar.read_text(encoding="utf-8"))["Synthesis"]
        if synthesis["kind"] != "lesion":
            return {}
        return {"dose_ml": float(synthesis["volume_ml"]), "dose_contrast": float(synthesis["contrast"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a sidecar of another kind, or none, is no fault


def dose_response(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The report's `dose_response` entries for the rows of one method: one curve a contrast over lesion sizes.

    Empty unless there are lesions of two sizes or more.
    """
    dosed = [row for row in rows if "dose_ml" in row]
    if len({row["dose_ml"] for row in dosed}) < 2:
        return []
    return [
        {"dose": "lesion size, ml", "response": name, "curves": _curves(dosed, column)}
        for column, name in RESPONSES.items()
    ]


def _curves(rows: Sequence[dict[str, Any]], column: str) -> dict[str, dict[str, list[float]]]:
    curves = {}
    for contrast in sorted({row["dose_contrast"] for row in rows}):
        own = [row for row in rows if row["dose_contrast"] == contrast]
        sizes = sorted({row["dose_ml"] for row in own})
        means = [float(np.mean([row[column] for row in own if row["dose_ml"] == size])) for size in sizes]
        curves[f"contrast {contrast:+g}"] = {"dose": sizes, "response": means}
    return curves
