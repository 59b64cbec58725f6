"""SIGTERM, which schedulers send before they take a machine away: save, then stop."""

import signal
import threading
from typing import Any, Self

import jax


class Termination:
    """Turns SIGTERM into a request to save and stop, while training runs in the main thread."""

    def __init__(self) -> None:
        self.asked = False  # whether the signal came
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_: object) -> None:
        self.asked = True
