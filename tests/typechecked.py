"""What the import hook of the suite puts around every function of the package: a check of its annotations."""

import inspect
import re
from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

# Dataclasses that are made of more than their fields hold. JAX and Orbax fill a pytree with whatever stands for its
# arrays: None, shapes, shardings, names. Settings take what JSON has, and check and convert it themselves.
TOLERANT = re.compile(
    r"strega_jax\.(training\.state\.TrainState|config\.\w+|augment\.context\.ContextEncoding|augment\.foreign\.Planting"
    r"|scans\.splits\.SplitRule)\.__init__"
)
found: list[str] = []
"""What was refused in this test; `conftest` fails it for that, also where the code lives through every error."""


class FalseAnnotationError(TypeError):
    """A value is not what the annotation says."""

    def __init__(self, message: str):
        super().__init__(message)
        found.append(message)


_checked = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # an int is a float, as for pyright
        hint_overrides=FrozenDict({Self: Any}),  # methods are wrapped one by one: the class is not known there
        violation_type=FalseAnnotationError,
        is_color=False,
    )
)


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises where it is called with, or returns, what its annotations exclude."""
    name = f"{function.__module__}.{function.__qualname__}"
    return function if TOLERANT.fullmatch(name) else _checked(function)


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a user has it, for a test that hands it what its annotations exclude."""
    return inspect.unwrap(function)


install_import_hook("strega_jax", "typechecked.check")
