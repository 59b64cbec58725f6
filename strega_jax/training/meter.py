"""How fast the steps are, and how long they wait for data."""

import contextlib
import time
from collections.abc import Iterator


class Meter:
    """Images a second and the share of time spent waiting for data, since last read."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Begin to count anew, from now on."""
        self._begin, self._steps, self._waited = time.perf_counter(), 0, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def count(self) -> None:
        """A step is done."""
        self._steps += 1

    def read(self) -> dict[str, float]:
        """The figures since the last reading, which begin anew."""
        elapsed = max(time.perf_counter() - self._begin, 1e-9)
        numbers = {
            "images_per_second": self._steps * self._batch_size / elapsed,
            "data_wait_fraction": min(1.0, self._waited / elapsed),
        }
        self.restart()
        return numbers
