"""Hyperparameters out of range stop before anything is built."""

from typing import Any

from strega_jax.errors import ConfigError


def require(holds: bool, field: str, value: Any, rule: str) -> None:
    """Raise ConfigError, naming `model.<field>`, unless it holds."""
    if not holds:
        raise ConfigError(f"config field model.{field} is {value!r}; it must be {rule}")


def require_sides(image_shape: tuple[int, int, int], multiple: int, method: str) -> None:
    """Raise ConfigError unless height and width can be halved as often as the method does."""
    h, w, _ = image_shape
    if h % multiple or w % multiple:
        raise ConfigError(f"images of {h}×{w} pixels do not fit {method}: both sides must be multiples of {multiple}")
