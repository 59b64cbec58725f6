"""How long the device works while a cohort is done: compiled programs that are watched, whichever thread calls them."""

import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from strega_jax.slices import registration
from strega_jax.tissue import fields

# What preprocessing runs on the device: module and name of each jitted function.
PROGRAMS = (
    (fields, "expectation_maximisation"),
    (fields, "partial_volumes"),
    (registration, "_minimise"),
)


class Watch:
    """Notes from when to when each call of a jitted function keeps the device busy."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []
        self._waiting: list[threading.Thread] = []

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched; it returns as early as before."""

        def watched(*arguments: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            results = function(*arguments, **named)
            waiting = threading.Thread(target=self._note, args=(begin, results))
            self._waiting.append(waiting)
            waiting.start()
            return results

        setattr(watched, "ready", getattr(function, "ready", None))  # noqa: B010, of a `Program`
        return watched

    def busy(self) -> float:
        """Seconds in which at least one call was under way."""
        for waiting in self._waiting:
            waiting.join()
        total, until = 0.0, 0.0
        for begin, end in sorted(self.spans):
            total += max(0.0, end - max(begin, until))
            until = max(until, end)
        return total

    def _note(self, begin: float, results: Any) -> None:
        jax.block_until_ready(results)
        self.spans.append((begin, time.perf_counter()))
