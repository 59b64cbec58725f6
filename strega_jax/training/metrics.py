"""The run's log: metrics.jsonl for programs, TensorBoard for people."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Float

from strega_jax.scans.files import PathLike, absolute, copy_files, in_bucket

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FILE = "metrics.jsonl"


class MetricsLog:
    """One JSON object a line (`step`, then its numbers), the same numbers and images in TensorBoard.

    Opened at `start_step`, lines of later steps are dropped: they belong to steps that a killed run did
    after its last checkpoint and that will be done again. In a bucket nothing can be appended: there the log grows
    with each `flush`, which belongs before each checkpoint.
    """

    def __init__(self, folder: PathLike, start_step: int):
        self._bucket = absolute(folder) if in_bucket(folder) else None
        self._folder = Path(tempfile.mkdtemp(prefix="strega-log-") if self._bucket else folder)
        if self._bucket and (self._bucket / FILE).exists():
            (self._folder / FILE).write_bytes((self._bucket / FILE).read_bytes())
        _drop_after(self._folder / FILE, start_step)
        self._file = open(self._folder / FILE, "a")  # noqa: SIM115 - closed in __exit__
        self._board = self._open_board(start_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()
        if self._bucket:
            copy_files(self._folder, self._bucket)
            shutil.rmtree(self._folder)

    def flush(self, step: int) -> None:
        """Bring all that was logged up to `step` into the bucket; on a disk it is there already."""
        if self._bucket is None:
            return
        self._board.close()
        copy_files(self._folder, self._bucket)
        shutil.rmtree(self._folder / "tensorboard")  # each file is copied once; the next steps get another
        self._board = self._open_board(step)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log numbers of one step."""
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)

    def _open_board(self, step: int) -> "SummaryWriter":
        # Loads PyTorch where that is installed, for seconds: not before a run is sure to start.
        from tensorboardX import SummaryWriter

        folder = str(self._folder / "tensorboard")
        return SummaryWriter(folder, purge_step=step + 1, filename_suffix=f".{step}")

    def image(self, step: int, name: str, pixels: Float[np.ndarray, "h w"]) -> None:
        """Log one grey-scale image with values in [0, 1]."""
        self._board.add_image(name, np.clip(pixels, 0, 1)[None], step)


def read_metrics(folder: PathLike) -> list[dict[str, float]]:
    """All lines of a run's metrics.jsonl, in order."""
    return [json.loads(line) for line in (absolute(folder) / FILE).read_text().splitlines()]


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
