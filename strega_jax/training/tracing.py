"""`--profile`: a trace of a few steps for TensorBoard or Perfetto."""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Self

import jax
from etils import epath

from strega_jax.scans.files import copy_files

log = logging.getLogger(__name__)

# Of a start: after compilation, and few enough for a trace that can be opened.
TRACED_STEPS = range(10, 15)


class Tracer:
    """Traces `TRACED_STEPS` of a start into a folder, on a disk or in a bucket; nothing without a folder."""

    def __init__(self, target: epath.Path | None):
        self._target = target
        self._folder: Path | None = None  # where JAX, which knows disks only, writes while it traces

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        if self._target is not None:
            log.warning("no step was traced: the run ended before its %dth", TRACED_STEPS.start)

    def before(self, number: int) -> None:
        """To be called before the step of this number, counted from the start."""
        if self._target is None:
            return
        if number == TRACED_STEPS.start:
            self._folder = Path(tempfile.mkdtemp(prefix="strega-profile-"))
            jax.profiler.start_trace(str(self._folder))
        elif number == TRACED_STEPS.stop:
            self._stop()

    def _stop(self) -> None:
        target, folder = self._target, self._folder
        if target is None or folder is None:
            return
        self._target = self._folder = None
        jax.profiler.stop_trace()
        copy_files(folder, target)
        shutil.rmtree(folder)
        log.info("profile written to %s; open it with TensorBoard or Perfetto", target)
