"""Settings dataclasses: what a field may hold is said in its type, and checked whenever one is built.

    size: Annotated[int, Rule("≥ 16", lambda size: size >= 16)] = 256

Plain values of JSON or a command line become such a dataclass by `build_dataclass`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from strega_jax.errors import ConfigError

T = TypeVar("T")


class Rule(NamedTuple):
    """What values of a field have in common."""

    text: str  # "must be …"
    holds: Callable[[Any], bool]


Count = Annotated[int, Rule("≥ 1", lambda value: value >= 1)]
CountOrZero = Annotated[int, Rule("≥ 0", lambda value: value >= 0)]
Positive = Annotated[float, Rule("> 0", lambda value: value > 0)]
NotNegative = Annotated[float, Rule("≥ 0", lambda value: value >= 0)]
Fraction = Annotated[float, Rule("in [0, 1]", lambda value: 0 <= value <= 1)]
Probability = Annotated[float, Rule("a probability, in [0, 1]", lambda value: 0 <= value <= 1)]
BelowOne = Annotated[float, Rule("in [0, 1)", lambda value: 0 <= value < 1)]
Inside = Annotated[float, Rule("in (0, 1)", lambda value: 0 < value < 1)]
Degrees = Annotated[float, Rule("in [0, 180]", lambda value: 0 <= value <= 180)]


def check_fields(settings: Any, where: str) -> None:
    """For `__post_init__` of a frozen dataclass: types and ranges of all fields; whole numbers become floats.

    Raises:
        ConfigError: a value of the wrong type or out of range; `where` names the dataclass.
    """
    for name, kind in get_type_hints(type(settings), include_extras=True).items():
        object.__setattr__(settings, name, _convert(kind, getattr(settings, name), f"{where}.{name}".lstrip(".")))


def build_dataclass(cls: type[T], fields: Mapping[str, Any], where: str) -> T:
    """A settings dataclass from plain values, nested ones too; `where` names it in errors.

    Raises:
        ConfigError: an unknown field, or a value of the wrong type or out of range.
    """
    hints = get_type_hints(cls, include_extras=True)
    unknown = sorted(set(fields) - set(hints))
    if unknown:
        raise ConfigError(f"{where} has no field {', '.join(unknown)}; it has: {', '.join(hints)}")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in fields.items()})


def require(holds: bool, field: str, value: Any, rule: str) -> None:
    """Raise ConfigError, naming the field, unless it holds."""
    if not holds:
        raise ConfigError(f"config field {field} is {value!r}; it must be {rule}")


def rule_of(kind: Any) -> str:
    """What a field of this type must be, in words; empty where anything of the type will do."""
    if get_origin(kind) is Annotated:
        return kind.__metadata__[0].text
    return "one of " + ", ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else ""


def _convert(kind: Any, value: Any, where: str) -> Any:
    if get_origin(kind) is Annotated:
        value = _convert(kind.__origin__, value, where)
        for rule in kind.__metadata__:
            require(rule.holds(value), where, value, rule.text)
        return value
    if dataclasses.is_dataclass(kind):
        if isinstance(value, Mapping):
            return build_dataclass(kind, value, where)  # pyright: ignore[reportArgumentType]
        require(isinstance(value, kind), where, value, "a mapping of names to values")  # pyright: ignore
        return value
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        fits = any(value == choice and isinstance(value, type(choice)) for choice in choices)
        require(fits and not isinstance(value, bool), where, value, rule_of(kind))
        return value
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind), value, where)
    if kind in (int, float, str, bool):
        return _plain(kind, value, where)
    require(isinstance(value, Mapping), where, value, "a mapping of names to values")
    return {name: tuple(item) if isinstance(item, list) else item for name, item in dict(value).items()}


def _tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    require(isinstance(value, tuple | list), where, value, "a tuple of values")
    kinds = [items[0]] * len(value) if items[-1] is Ellipsis else items
    require(len(kinds) == len(value), where, value, f"{len(kinds)} values")
    return tuple(_convert(kind, item, where) for kind, item in zip(kinds, value, strict=True))


def _plain(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    require(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), where, value, kind.__name__)
    require(kind is not float or math.isfinite(value), where, value, "a finite number")
    return value
