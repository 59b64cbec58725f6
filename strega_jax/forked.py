"""Forked processes: JAX computes in threads, a fork does not copy them, and what computes without them never ends."""

import os

from strega_jax.errors import ConfigError

_started_in: int | None = None  # the process in which JAX began to compute


def require_own_threads() -> None:
    """Call before JAX computes. Raises ConfigError in a process forked from one in which it did before."""
    global _started_in
    if _started_in is None:
        _started_in = os.getpid()
    if _started_in != os.getpid():
        raise ConfigError(
            "this process was forked from one that had computed with JAX, whose threads it lacks: it would wait for "
            "ever. Make its pool with multiprocessing.get_context('spawn'), and open the model in each worker"
        )
