"""The judge's U-Net (`judge`), of whichever layers, and the layers that it scores with.

Those are functions of the variables that `judge_network` trained. Flax takes longer to load and to trace than a
scan's slices take to be scored.
"""

import collections
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from strega_jax.detectors.base import Variables
from strega_jax.detectors.operations import (
    NORM_EPSILON,
    SLOPE,
    bottleneck,
    depth_to_space,
    forward_conv,
    space_to_depth,
)


@runtime_checkable
class Layers(Protocol):
    """What a judge is made of; maps of (b, h, w, c) in and out. Each call is a layer of its own."""

    def unit(self, x: Array, maps: int) -> Array:
        """1×1 convolution, norm and activation."""
        ...

    def block(self, x: Array) -> Array:
        """Residual block."""
        ...

    def last(self, x: Array, maps: int) -> Array:
        """1×1 convolution with a bias, in float32."""
        ...


def u_net(
    layers: Layers, features: Float[Array, "b h w f"], maps: tuple[int, ...], blocks: int, patch: int
) -> Float[Array, "b h w"]:
    """U-Net (Ronneberger et al. 2015) on patches, of bottleneck blocks; what comes up is added to what went down.

    Args:
        layers: of which it is made, in the order of their calls.
        features: what is seen.
        maps: of each level.
        blocks: residual blocks a level, on the way down and on the way up.
        patch: pixels a side.

    Returns:
        Logits of the probability to be foreign, float32.
    """

    def refine(x: Array) -> Array:
        for _ in range(blocks):
            x = layers.block(x)
        return x

    first = layers.unit(space_to_depth(features, patch), maps[0])
    x, passed = refine(first), []
    for wanted in maps[1:]:
        passed.append(x)
        x = refine(layers.unit(space_to_depth(x, 2), wanted))
    for wanted, down in zip(maps[-2::-1], reversed(passed), strict=True):
        x = refine(depth_to_space(layers.unit(x, 4 * wanted), 2) + down)
    x = layers.unit(jnp.concatenate([x, first], axis=-1), maps[0])
    return depth_to_space(layers.last(x, patch**2), patch)[..., 0]


class Trained:
    """Layers of a judge's `params`, whose norms use the averages in its `batch_stats`."""

    def __init__(self, variables: Variables, dtype: Any = jnp.float32) -> None:
        self._params = variables["params"]
        self._dtype = dtype
        self._norms = _norms(variables)
        self._used = collections.Counter[str]()

    def unit(self, x: Array, maps: int) -> Array:
        """See `Layers`."""
        y = self._conv(self._next("Conv"), x, maps, 1)
        return jax.nn.leaky_relu(self._norm((self._next("Norm"),), y), SLOPE)

    def block(self, x: Array) -> Array:
        """See `Layers`."""
        name = self._next("ResidualBlock")
        plan = bottleneck(x.shape[-1])
        y = x
        for i, (maps, size) in enumerate(plan):
            y = self._norm((name, f"Norm_{i}"), self._conv(name, y, maps, size, f"Conv_{i}"))
            if i < len(plan) - 1:
                y = jax.nn.leaky_relu(y, SLOPE)
        return jax.nn.leaky_relu(x + y, SLOPE)

    def last(self, x: Array, maps: int) -> Array:
        """See `Layers`."""
        name = self._next("Conv")
        y = forward_conv(x.astype(jnp.float32), self._kernel(self._params[name], x.shape[-1], maps, 1))
        return y + self._params[name]["bias"].reshape(1, 1, 1, -1)

    def _next(self, kind: str) -> str:
        """The name that flax gives the next layer of this kind."""
        self._used[kind] += 1
        return f"{kind}_{self._used[kind] - 1}"

    def _conv(self, name: str, x: Array, maps: int, size: int, inner: str = "") -> Array:
        params = self._params[name][inner] if inner else self._params[name]
        return forward_conv(x.astype(self._dtype), self._kernel(params, x.shape[-1], maps, size).astype(self._dtype))

    def _kernel(self, params: Any, inputs: int, maps: int, size: int) -> Array:
        if params["kernel"].shape != (size, size, inputs, maps):
            raise ValueError(f"a kernel of {params['kernel'].shape} is not one of {(size, size, inputs, maps)}")
        return params["kernel"]

    def _norm(self, name: tuple[str, ...], x: Array) -> Array:
        gain, shift = self._norms[name]
        return (x.astype(jnp.float32) * gain + shift).astype(self._dtype)


def _norms(variables: Variables) -> dict[tuple[str, ...], tuple[Float[Array, "1 1 1 c"], Float[Array, "1 1 1 c"]]]:
    """Gain and shift of every norm, computed for all of them at once: each by itself would be programs to compile."""
    params, averages = (_by_norm(variables[part]) for part in ("params", "batch_stats"))
    names = list(averages)

    def all_of(tree: dict[tuple[str, ...], Any], what: str) -> Array:
        return jnp.concatenate([tree[name][what] for name in names]).reshape(1, 1, 1, -1)

    gain = all_of(params, "scale") * jax.lax.rsqrt(all_of(averages, "var") + NORM_EPSILON)
    shift = all_of(params, "bias") - all_of(averages, "mean") * gain
    ends = np.cumsum([0, *(averages[name]["mean"].size for name in names)]).tolist()
    return {
        name: (jax.lax.slice_in_dim(gain, a, b, axis=3), jax.lax.slice_in_dim(shift, a, b, axis=3))
        for name, a, b in zip(names, ends[:-1], ends[1:], strict=True)
    }


def _by_norm(variables: Any) -> dict[tuple[str, ...], Any]:
    """What belongs to each norm, by the names of the block that it is in, if any, and of the norm."""
    within = {(name, inner): part for name, block in variables.items() for inner, part in block.items()}
    found = {(name,): part for name, part in variables.items()} | within
    return {name: part for name, part in found.items() if name[-1].startswith("Norm")}
