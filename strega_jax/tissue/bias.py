"""The bias field: the smooth log-multiplicative error of the receive coil (Zhang 2001, section V)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from strega_jax.tissue.hmrf import Volumes

# Standard deviation of the smoothing as a share of its nominal extent (FAST's `-l`, 20 mm).
SIGMA_OF_EXTENT = 0.51
# The smoothed field is computed at nodes this many standard deviations apart and splined between them.
NODE_SIGMA = 0.4


@dataclasses.dataclass(frozen=True)
class Smoother:
    """Gaussian smoothing at sparse nodes along one axis, and the cubic spline back to every voxel."""

    down: Float[Array | np.ndarray, "m n"]
    up: Float[Array | np.ndarray, "n m"]


jax.tree_util.register_dataclass(Smoother, data_fields=["down", "up"], meta_fields=[])


def smoothing_matrix(n: int, sigma: float) -> Float[np.ndarray, "n n"]:
    """Gaussian smoothing of n samples as a banded matrix; `sigma` in samples, cut at 2·int(σ), zero outside."""
    radius = max(1, 2 * int(sigma))
    distance = np.arange(n)[:, None] - np.arange(n)[None]
    kernel = np.exp(-0.5 * (distance / sigma) ** 2) * (np.abs(distance) <= radius)
    offsets = np.arange(-radius, radius + 1)
    return kernel / np.exp(-0.5 * (offsets / sigma) ** 2).sum()


def smoother(n: int, spacing_mm: float, extent_mm: float) -> Smoother:
    """The smoother of an axis of n voxels."""
    sigma = SIGMA_OF_EXTENT * extent_mm / spacing_mm
    stride = max(1, min(int(NODE_SIGMA * sigma), (n - 1) // 4))
    nodes = np.minimum(np.arange(0, n - 1 + stride, stride), n - 1)
    down = smoothing_matrix(n, sigma)[nodes]
    up = spline_matrix(nodes, n) if stride > 1 else np.eye(n)
    return Smoother(down.astype(np.float32), up.astype(np.float32))


def spline_matrix(nodes: Int[np.ndarray, "m"], n: int) -> Float[np.ndarray, "n m"]:
    """The interpolating cubic spline through values at `nodes`, taken at 0…n−1, as a matrix; not-a-knot at the ends.

    SciPy has such splines, but loading them takes a tenth of a first call.

    Args:
        nodes: four or more, ascending, the first 0 and the last n − 1.
        n: number of samples.
    """
    gap = np.diff(nodes).astype(np.float64)
    inner = np.arange(1, nodes.size - 1)
    before, after = gap[:-1], gap[1:]
    # Second derivatives at the nodes: `system` times them is `slopes` times the values.
    system, slopes = np.zeros((2, nodes.size, nodes.size))
    system[inner, inner - 1], system[inner, inner], system[inner, inner + 1] = before, 2 * (before + after), after
    slopes[inner, inner - 1], slopes[inner, inner + 1] = 6 / before, 6 / after
    slopes[inner, inner] = -6 / before - 6 / after
    system[0, :3] = after[0], -after[0] - before[0], before[0]
    system[-1, -3:] = after[-1], -after[-1] - before[-1], before[-1]
    second = np.linalg.solve(system, slopes)
    at = np.arange(n)
    left = np.minimum(np.searchsorted(nodes, at, side="right") - 1, nodes.size - 2)
    width = gap[left][:, None]
    a, b = (nodes[left + 1] - at)[:, None] / width, (at - nodes[left])[:, None] / width
    value = np.eye(nodes.size)
    bend = ((a**3 - a) * second[left] + (b**3 - b) * second[left + 1]) * width**2 / 6
    return a * value[left] + b * value[left + 1] + bend


def along_axes(
    volume: Float[Array, "x y z"], matrices: tuple[ArrayLike, ArrayLike, ArrayLike]
) -> Float[Array, "a b c"]:
    """Apply one matrix along each axis: (a, x), (b, y) and (c, z)."""
    exact = jax.lax.Precision.HIGHEST
    volume = jnp.einsum("ax,xyz->ayz", matrices[0], volume, precision=exact)
    volume = jnp.einsum("by,ayz->abz", matrices[1], volume, precision=exact)
    return jnp.einsum("cz,abz->abc", matrices[2], volume, precision=exact)


def estimate_bias(
    p: Volumes,
    y: Float[Array, "x y z"],
    mask: Bool[Array, "x y z"],
    means: Float[Array, "k"],
    variances: Float[Array, "k"],
    smoothers: tuple[Smoother, Smoother, Smoother],
) -> Float[Array, "x y z"]:
    """Log bias field of the log image `y` under the present classes; mean 0 in the mask, 0 outside it."""
    precision = 1.0 / variances
    weight, pull = precision[-1], precision[-1] * means[-1]
    for c, volume in enumerate(p):
        weight = weight + volume * (precision[c] - precision[-1])
        pull = pull + volume * (precision[c] * means[c] - precision[-1] * means[-1])
    inside = mask.astype(jnp.float32)
    down = (smoothers[0].down, smoothers[1].down, smoothers[2].down)
    residual = along_axes((y * weight - pull) * inside, down)
    weight = along_axes(weight * inside, down)
    known = weight > 1e-6 * weight.max()
    nodes = jnp.where(known, residual / jnp.where(known, weight, jnp.float32(1)), jnp.float32(0))
    # z first: the first product then grows the smallest array.
    spread = jnp.einsum("zc,abc->abz", smoothers[2].up, nodes, precision=jax.lax.Precision.HIGHEST)
    spread = jnp.einsum("yb,abz->ayz", smoothers[1].up, spread, precision=jax.lax.Precision.HIGHEST)
    field = jnp.einsum("xa,ayz->xyz", smoothers[0].up, spread, precision=jax.lax.Precision.HIGHEST)
    mean = jnp.vdot(field, inside, precision=jax.lax.Precision.HIGHEST) / inside.sum()
    return jnp.where(mask, field - mean, jnp.float32(0))
