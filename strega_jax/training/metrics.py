"""The run's log: metrics.jsonl for programs, TensorBoard for people."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float
from tensorboardX import SummaryWriter


class MetricsLog:
    """One JSON object a line (`step`, then its numbers), the same numbers and images in TensorBoard.

    Opened at `start_step`, lines of later steps are dropped: they belong to steps that a killed run did
    after its last checkpoint and that will be done again.
    """

    def __init__(self, folder: Path, start_step: int):
        self._path = folder / "metrics.jsonl"
        _drop_after(self._path, start_step)
        self._file = open(self._path, "a")  # noqa: SIM115 - closed in close()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log numbers of one step."""
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels: Float[np.ndarray, "h w"]) -> None:
        """Log one grey-scale image with values in [0, 1]."""
        self._board.add_image(name, np.clip(pixels, 0, 1)[None], step)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """All lines of a run's metrics.jsonl, in order."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _drop_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if _step(line) <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    os.replace(temporary, path)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # cut short by the kill
