"""Detectors: one module a method, each with its class as `DETECTOR`."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, get_type_hints

from strega_jax.config import build_dataclass
from strega_jax.detectors.base import Detector
from strega_jax.errors import ConfigError

SHARED = (  # modules of this package that are no method
    "base",
    "checks",
    "convolutional",
    "filters",
    "gaussian",
    "judge",
    "judge_network",
    "judge_unet",
    "layers",
    "operations",
    "pyramid",
    "residual",
    "transformer",
)


def names() -> list[str]:
    """The methods that `build` knows."""
    return sorted(
        module.name for module in pkgutil.iter_modules(__path__) if module.name not in SHARED and module.name[0] != "_"
    )


def build(name: str, fields: Mapping[str, Any], compute_dtype: str = "float32") -> Detector:
    """The detector of module `strega_jax.detectors.<name>` with these hyperparameters.

    Args:
        name: one of `names()`.
        fields: hyperparameters by name; nested settings as mappings, tuples also as lists.
        compute_dtype: "float32" or "bfloat16"; parameters, losses and the output layer stay float32.

    Raises:
        ConfigError: unknown method or hyperparameter, or a value that the method refuses.
    """
    if name not in names():
        raise ConfigError(f"there is no detector {name!r}; there are: {', '.join(names())}")
    cls = importlib.import_module(f"{__name__}.{name}").DETECTOR
    known = [field for field in get_type_hints(cls) if field != "compute_dtype"]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ConfigError(f"detector {name} has no field {', '.join(unknown)}; it has: {', '.join(known)}")
    return build_dataclass(cls, {**fields, "compute_dtype": compute_dtype}, f"model ({name})")
