"""Unsupervised anomaly detection in brain MRI.

    import strega_jax
    result = strega_jax.detect("scan.nii.gz", checkpoint="runs/ixi")

Everything else is a module of its own; `python -m strega_jax.train --help` and `python -m strega_jax.predict --help`
say how to run them.
"""

import gc
from typing import TYPE_CHECKING, Any

from strega_jax import terminal

if TYPE_CHECKING:
    from strega_jax.inference.api import Result, SessionResult, detect, detect_session

__all__ = ["Result", "SessionResult", "detect", "detect_session"]

# A command takes seconds to load, in which it may be interrupted.
if terminal.is_command():
    terminal.make_ready()
    # Loading and tracing make many objects and hardly any garbage; looking for it as often as Python does took a fifth
    # of their time.
    gc.set_threshold(20_000)


def __getattr__(name: str) -> Any:
    # JAX takes seconds to import: only who detects pays for it.
    if name in __all__:
        from strega_jax.inference import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
