"""Brains of which a part was not seen: several starts, and a look whether another orientation fits as well.

The brain's centre of gravity and size, from which a whole brain is aligned, mislead where a part of it lies beyond
the field of view or was taken out. Here each start supposes that a certain share is missing. The scales may go
further, to children's brains; in return the aspect of the brain is held to that of healthy ones.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from strega_jax.slices.registration import GRID_MM, RADIUS_MM, Level, Prior, agreement, cayley, matrix, minimise
from strega_jax.slices.template import Template
from strega_jax.slices.unseen import Face

# Aspect and its spread: of 20 healthy adults (IXI) aligned whole. The pose is looked for with the first, for where a
# third of the extent is missing it can be stretched over the rest; what is found is settled with the weaker second.
PRIOR = Prior(scale_range=(0.45, 1.6), aspect=(0.006, 0.046, -0.052), scale_std=0.03, shear_std=0.03, weight=3e-4)
SETTLING_PRIOR = PRIOR._replace(shear_std=0.05, weight=1e-4)
# Coarse to fine: robust scale c in units of the weighted features, iterations, and how many starts get so far.
ROBUST_SCALE = (1.0, 0.4)
ITERATIONS = (30, 20)
KEPT = (3, 2)
# All starts are screened by a few iterations on some of the coarse level's points.
SCREEN_STRIDE, SCREEN_ITERATIONS = 5, 8
MISSING = (0.05, 0.2, 0.35)  # shares of the brain's extent supposed beyond a cut face
TILTS = (0.0, -25.0, 25.0)  # degrees about the left-right axis: gantry and chin
SAME_POSE_DEGREES = 45.0
AXES = ("left-right", "front-back", "top-bottom")


class Brain(NamedTuple):
    """What was seen of a brain, on the grid about its centre of gravity.

    Attributes:
        pyramid: features and field of view, coarse and fine.
        rotation: grid axes → world axes as the header has them.
        volume: mm³.
        cut: faces at which the brain was cut off, of the grid as of the scan.
    """

    pyramid: tuple[Float[np.ndarray, "g g g 4"], ...]
    rotation: Float[np.ndarray, "3 3"]
    volume: float
    cut: tuple[Face, ...]


class Rival(NamedTuple):
    """The best other orientation: its cost relative to the found pose's (coarse level), and in words, what it is."""

    cost: float
    words: str


class Found(NamedTuple):
    """The best pose: parameters as `registration.matrix` takes them, agreement of what was seen, and its rival."""

    parameters: Float[np.ndarray, "12"]
    dice: float
    correlation: float
    rival: Rival


def find_pose(template: Template, brain: Brain, free: Float[np.ndarray, "12"]) -> Found:
    """The pose of an incomplete or unusual brain, in the orientation that the header names.

    Args:
        template: the template.
        brain: what was seen.
        free: (12,) float32, 1 for parameters that may change.
    """
    tilts = map(_tilt, np.radians(TILTS))
    supposed = list(itertools.product(MISSING, repeat=len(brain.cut)))
    starts = [_start(template, brain, brain.rotation.T @ t, s, free) for t in tilts for s in supposed]
    screened = _by_cost(starts, _screen_level(template), brain.pyramid[0], free, SCREEN_ITERATIONS)[: KEPT[0]]
    coarse = _by_cost([p for _, p in screened], template.levels[0], brain.pyramid[0], free, ITERATIONS[0])
    kept = [p for _, p in coarse[: KEPT[1]]]
    parameters = _by_cost(kept, template.levels[1], brain.pyramid[1], free, ITERATIONS[1], ROBUST_SCALE[1])[0][1]
    [(_, parameters)] = _by_cost(
        [parameters], template.levels[1], brain.pyramid[1], free, ITERATIONS[1], ROBUST_SCALE[1], SETTLING_PRIOR
    )
    dice, correlation = agreement(template.levels[1], brain.pyramid[1], parameters)
    cost, words = _best_rival(template, brain, parameters, free)
    return Found(parameters, dice, correlation, Rival(cost / coarse[0][0], words))


def orientations() -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Orders and flips of the axes that can be told apart: a brain is its mirror image, so the first never flips.

    The header's own comes first.
    """
    for x, y, z in itertools.permutations((0, 1, 2)):
        for front, up in itertools.product((1, -1), repeat=2):
            yield (x, y, z), (1, front, up)


def orientation_words(order: tuple[int, int, int], flips: tuple[int, int, int]) -> str:
    """What an orientation does to the axes, in words; empty for nothing."""
    parts = [f"{AXES[i]} taken for {AXES[axis]}" for axis, i in enumerate(order) if i != axis]
    parts += [f"{AXES[axis]} reversed" for axis, flip in enumerate(flips) if flip < 0]
    return ", ".join(parts)


def _start(
    template: Template,
    brain: Brain,
    linear: Float[np.ndarray, "3 3"],
    missing: tuple[float, ...],
    free: Float[np.ndarray, "12"],
) -> Float[np.ndarray, "12"]:
    """The template without what lies beyond the cut faces, laid over the brain: centres and volumes agree."""
    points = _brain_points(template) @ linear.T
    kept = np.ones(len(points), bool)
    for (axis, end), share in zip(brain.cut, missing, strict=True):
        height = points[:, axis] * (1 if end else -1)
        low, high = height.min(), height.max()
        kept &= height <= high - share * (high - low)
    size = np.cbrt(brain.volume / (template.volume * max(kept.mean(), 0.1))) if free[6] else 1.0
    size = float(np.clip(size, *PRIOR.scale_range))
    start = np.zeros(12, np.float32)
    start[:3] = -size * points[kept].mean(axis=0) / RADIUS_MM
    start[3:6] = cayley(linear)
    start[6:9] = np.log(size)
    return start


def _tilt(angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about the left-right axis."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


def _brain_points(template: Template) -> Float[np.ndarray, "n 3"]:
    level = template.levels[0]
    brain = level.features[:, 0]
    return level.points[brain > brain.max() / 2]


def _screen_level(template: Template) -> Level:
    return Level(*(part[::SCREEN_STRIDE] for part in template.levels[0]))


def _by_cost(
    starts: list[Float[np.ndarray, "12"]],
    level: Level,
    volume: Float[np.ndarray, "g g g 4"],
    free: Float[np.ndarray, "12"],
    iterations: int,
    c: float = ROBUST_SCALE[0],
    prior: Prior = PRIOR,
) -> list[tuple[float, Float[np.ndarray, "12"]]]:
    """Each start minimised: cost and parameters, the best first."""
    volume = jax.device_put(volume)
    fits = jax.device_get([minimise(level, volume, c, iterations, start, free, prior) for start in starts])
    return sorted(((float(fit.cost), np.asarray(fit.parameters)) for fit in fits), key=lambda fit: fit[0])


def _best_rival(
    template: Template, brain: Brain, parameters: Float[np.ndarray, "12"], free: Float[np.ndarray, "12"]
) -> tuple[float, str]:
    """Lowest cost of another orientation of the axes than the header's, and what it is in words.

    A rival that turns into the found pose, or its mirror image, is none.
    """
    pose, missing = matrix(parameters)[:, :3], _missing(template, brain, parameters)
    screened = []
    for order, flips in itertools.islice(orientations(), 1, None):
        turn = np.zeros((3, 3))
        turn[order, range(3)] = flips  # axes of the turned grid → axes of the grid
        turned = _turned(brain, order, flips)
        start = _start(template, turned, turned.rotation.T, missing, free)
        [(cost, p)] = _by_cost([start], _screen_level(template), turned.pyramid[0], free, SCREEN_ITERATIONS)
        screened.append((cost, p, turn, turned, orientation_words(order, flips)))
    rivals: list[tuple[float, str]] = []
    for _, p, turn, turned, words in sorted(screened, key=lambda rival: rival[0]):
        [(cost, p)] = _by_cost([p], template.levels[0], turned.pyramid[0], free, ITERATIONS[0])
        if not _same(pose, turn @ matrix(p)[:, :3]):
            rivals.append((cost, words))
        if len(rivals) == KEPT[0]:
            break
    return min(rivals, default=(np.inf, ""))


def _missing(template: Template, brain: Brain, parameters: Float[np.ndarray, "12"]) -> tuple[float, ...]:
    """Share of the template's extent that lies beyond each cut face in a pose."""
    moved = matrix(parameters.astype(np.float64))
    points = _brain_points(template) @ moved[:, :3].T + RADIUS_MM * moved[:, 3]
    shares = []
    for axis, end in brain.cut:
        scanned = np.flatnonzero(brain.pyramid[0][..., 3].any(axis=tuple({0, 1, 2} - {axis})))
        face = (scanned[-end] - (brain.pyramid[0].shape[axis] - 1) / 2) * GRID_MM
        height, face = (points[:, axis], face) if end else (-points[:, axis], -face)
        shares.append(float(np.clip((height.max() - face) / np.ptp(height), 0, 0.7)))
    return tuple(shares)


def _turned(brain: Brain, order: tuple[int, int, int], flips: tuple[int, int, int]) -> Brain:
    """The brain, were its axes in another order."""
    volume = brain.pyramid[0].transpose(*order, 3)[:: flips[0], :: flips[1], :: flips[2]]
    turn = np.zeros((3, 3))
    turn[order, range(3)] = flips
    cut = []
    for axis, end in brain.cut:
        now = order.index(axis)
        cut.append((now, end if flips[now] > 0 else 1 - end))
    return Brain((np.ascontiguousarray(volume),), turn.T @ brain.rotation @ turn, brain.volume, tuple(cut))


def _same(a: Float[np.ndarray, "3 3"], b: Float[np.ndarray, "3 3"]) -> bool:
    """Whether two linear maps differ by a small rotation, and perhaps by exchange of left and right."""
    change = np.linalg.inv(a) @ b
    if np.linalg.det(change) < 0:
        change = change @ np.diag([-1.0, 1.0, 1.0])
    left, _, right = np.linalg.svd(change)
    cosine = (np.trace(left @ right) - 1) / 2  # of the angle of a rotation
    return bool(cosine > np.cos(np.radians(SAME_POSE_DEGREES)))
