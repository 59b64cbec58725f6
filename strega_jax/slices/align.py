"""Affine alignment of a brain's tissue fractions to the MNI152 template, so that all scans share one pose.

A scan enters as CSF, GM and WM fractions, which makes contrasts alike, and is resampled onto one 4 mm grid
about its centre of gravity, so that a single compiled program serves every scan. That program minimises

    mean_x ρ(‖m(T x) − f(x)‖²) + prior(T),    ρ(s) = c² s / (c² + s)    (Geman & McClure 1985)

over T's 12 parameters by Levenberg–Marquardt with the exact gradient of trilinear interpolation; x runs over
the template's brain and a shell around it, f and m are the smoothed features of template and scan. ρ levels
off: a tumour costs a constant and pulls nowhere. Voxels that lie beyond the field of view are left out.
"""

import functools
from importlib import resources
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from scipy import ndimage
from scipy.spatial.transform import Rotation

from strega_jax.errors import ScanError

GRID_MM = 4.0
GRID_VOXELS = 64  # 256 mm: any head in any pose
# Brain, GM, WM. CSF enters through the brain only: skull stripping keeps or drops the outer CSF as it likes.
FEATURE_WEIGHT = np.array([0.7, 1.0, 1.0], np.float32)
SHELL_MM = 12.0  # around the template's brain, where the scan must be empty
RADIUS_MM = 60.0  # of a brain, about; makes translations commensurate with rotations and strains
# A face of the brain's box that holds more brain than this, relative to the largest section, was cut off.
CUT_FACE = 0.25
# Coarse to fine: stride over the 4 mm template, smoothing, robust scale c in units of the weighted features.
STRIDE = (2, 1)
SMOOTHING_MM = (8.0, 4.0)
ROBUST_SCALE = (1.0, 0.4)
ITERATIONS = (30, 20)
SETTLED_MM = 0.005  # an iteration that moves the brain's surface by less is the last
# Axis scales and shears: bounds, and the prior's standard deviations (of a scale: about the mean of the three).
SCALE_RANGE = (0.65, 1.4)
MAX_SHEAR = 0.2
SCALE_STD, SHEAR_STD = 0.1, 0.05
PRIOR_WEIGHT = 1e-4
# A pose is believed when the brains' outlines agree well, or fairly and the tissues inside agree too. (Tissue alone
# decides nothing: of some T2w and contrast-enhanced scans it is segmented badly, and the pose is right nonetheless.)
GOOD_DICE = 0.935
FAIR_DICE, FAIR_CORRELATION = 0.88, 0.45


class Level(NamedTuple):
    """The template at one resolution: n points about its centre of gravity."""

    points: Float[Array, "n 3"]  # millimetres
    features: Float[Array, "n 3"]  # weighted brain, GM, WM


class Template(NamedTuple):
    """The template's centre of gravity (millimetres), volume (mm³) and levels, coarse to fine."""

    centre: Float[np.ndarray, "3"]
    volume: float
    levels: tuple[Level, ...]


class Fit(NamedTuple):
    """State of Levenberg–Marquardt: the best parameters yet, and the normal equations there."""

    parameters: Float[Array, "12"]
    cost: Float[Array, ""]
    gradient: Float[Array, "12"]
    hessian: Float[Array, "12 12"]
    damping: Float[Array, ""]
    moved: Float[Array, ""]


def align_to_template(
    fractions: Float[np.ndarray, "x y z 3"],
    affine: Float[np.ndarray, "4 4"],
    *,
    kind: Literal["affine", "rigid"] = "affine",
) -> Float[np.ndarray, "4 4"]:
    """Find where the template's brain lies in a scan.

    The start is the brain's centre of gravity and size, with the axes that the affine names; head rotations
    up to about 30° from there are found. The origin of the scan's millimetres does not matter.

    Args:
        fractions: (x, y, z, 3) float32, CSF, GM and WM shares of each voxel; 0 outside the brain.
        affine: (4, 4), voxel index → scan millimetres (RAS+).
        kind: "affine", 12 parameters; "rigid", rotation and translation alone.

    Returns:
        (4, 4) float64, MNI152 millimetres → scan millimetres.

    Raises:
        ScanError: no brain, or nothing like a brain in any pose that was tried.
    """
    if fractions.ndim != 4 or fractions.shape[3] != 3:
        raise ValueError(f"fractions have shape {fractions.shape}, not (x, y, z, 3)")
    if kind not in ("affine", "rigid"):
        raise ValueError(f"kind={kind!r} is neither 'affine' nor 'rigid'")
    template = mni152_template()
    maps, frame, volume = _resample(np.asarray(fractions, np.float32), np.asarray(affine, np.float64))
    start = np.zeros(12, np.float32)
    start[3:6] = _cayley(frame[:3, :3].T)
    free = np.ones(12, np.float32)
    if kind == "affine":
        start[6:9] = np.log(np.clip(np.cbrt(volume / template.volume), *SCALE_RANGE))
    else:
        free[6:] = 0
    pyramid = tuple(_features(maps, sigma) for sigma in SMOOTHING_MM)
    parameters, dice, correlation = jax.device_get(_register(template.levels, pyramid, start, free))
    if not (dice >= GOOD_DICE or (dice >= FAIR_DICE and correlation >= FAIR_CORRELATION)):
        raise ScanError(
            f"the brain could not be aligned to MNI152 (overlap {dice:.2f}, needed {GOOD_DICE}; tissue correlation "
            f"{correlation:.2f}): check that the scan is brain-extracted, that its contrast is named rightly and that "
            "its header tells front from back and top from bottom; or choose a grid other than 'template', which "
            "needs no alignment"
        )
    matrix = np.asarray(_matrix(parameters), np.float64)
    return frame @ from_matvec(matrix[:, :3], RADIUS_MM * matrix[:, 3] - matrix[:, :3] @ template.centre)


@functools.cache
def mni152_template() -> Template:
    """The packaged template, smoothed. Made by tests/make_mni152_tissue.py from the ICBM 152 average."""
    with resources.files("strega_jax.slices").joinpath("mni152_tissue.npz").open("rb") as file:
        stored = np.load(file)
        fractions, affine = stored["fractions"].astype(np.float32) / 255, stored["affine"]
    brain = fractions.sum(axis=-1)
    millimetres = np.moveaxis(np.indices(brain.shape), 0, -1) * GRID_MM + affine[:3, 3]
    centre = np.average(millimetres.reshape(-1, 3), axis=0, weights=brain.ravel())
    near = np.asarray(ndimage.distance_transform_edt(brain < 0.5)) <= SHELL_MM / GRID_MM
    levels = []
    for stride, sigma in zip(STRIDE, SMOOTHING_MM, strict=True):
        every = (slice(None, None, stride),) * 3
        maps = np.concatenate([fractions, np.ones((*brain.shape, 1), np.float32)], axis=-1)
        features = _features(maps, sigma)[every][near[every]]
        points = (millimetres[every][near[every]] - centre).astype(np.float32)
        levels.append(Level(points, features[:, :3]))  # pyright: ignore[reportArgumentType]
    return Template(centre, float(brain.sum()) * GRID_MM**3, tuple(levels))


def _resample(
    fractions: Float[np.ndarray, "x y z 3"], affine: Float[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "g g g 4"], Float[np.ndarray, "4 4"], float]:
    """CSF, GM, WM and field of view on an isotropic grid about the brain's centre; its frame; the brain's volume.

    The grid's axes are the scan's own, so that an oblique header changes no sample; the frame maps millimetres about
    the grid's centre to scan millimetres.
    """
    # Flipped and permuted copies of a scan become one array here, so that they end in one pose.
    order = io_orientation(affine)
    affine = affine @ inv_ornt_aff(order, fractions.shape[:3])
    fractions = apply_orientation(fractions, order)
    brain = fractions.sum(axis=-1)
    hits = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if hits[0].size == 0:
        raise ScanError("there is no brain in the tissue map: check the scan's brain mask")
    low = np.array([hit[0] for hit in hits])
    high = np.array([hit[-1] + 1 for hit in hits])
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    fractions, brain = fractions[box], brain[box]
    affine = affine @ from_matvec(np.eye(3), low)
    mass = brain.sum(dtype=np.float64)
    profiles = [brain.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in range(3)]
    index = np.array([np.arange(len(profile)) @ profile / mass for profile in profiles])
    centre = apply_affine(affine, index)
    volume = mass * abs(np.linalg.det(affine[:3, :3]))
    maps, affine = _shrink(fractions, affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / voxel_sizes(affine))
    frame = from_matvec(left @ right, centre)  # the rotation nearest to the axes, which may be sheared
    half = (GRID_VOXELS - 1) / 2 * GRID_MM
    to_index = np.linalg.inv(affine) @ frame @ from_matvec(np.diag([GRID_MM] * 3), [-half] * 3)
    shape = (GRID_VOXELS,) * 3
    out = [ndimage.affine_transform(maps[..., c], to_index, output_shape=shape, order=1) for c in range(3)]
    out.append(_field_of_view(profiles, to_index, maps.shape[:3]).astype(np.float32))
    return np.stack(out, axis=-1), frame, float(volume)


def _shrink(
    maps: Float[np.ndarray, "x y z c"], affine: Float[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "i j k c"], Float[np.ndarray, "4 4"]]:
    """Means over whole voxels of a fine scan, up to the grid's spacing, so that sampling it does not alias."""
    factor = np.maximum(1, np.floor(GRID_MM / voxel_sizes(affine) + 1e-3).astype(int))
    short = -np.array(maps.shape[:3]) % factor
    maps = np.pad(maps, [*((0, n) for n in short), (0, 0)])
    i, j, k = np.array(maps.shape[:3]) // factor
    blocks = maps.reshape(i, factor[0], j, factor[1], k, factor[2], maps.shape[3]).mean(axis=(1, 3, 5))
    return blocks, affine @ from_matvec(np.diag(factor.astype(float)), (factor - 1) / 2)


def _field_of_view(
    profiles: list[Float[np.ndarray, " n"]], to_index: Float[np.ndarray, "4 4"], shape: tuple[int, ...]
) -> Bool[np.ndarray, "g g g"]:
    """Grid voxels that were scanned: all but those beyond a face of the brain's box where the brain is cut off."""
    grid = np.indices((GRID_VOXELS,) * 3).reshape(3, -1)
    index = to_index[:3, :3] @ grid + to_index[:3, 3:]
    inside = np.ones(grid.shape[1], bool)
    faces = np.array([profile[[0, -1]] / profile.max() for profile in profiles])
    # Slabs end along one axis; what ends squarely along several is no brain, and must not pass for a cropped one.
    axis = int(faces.max(axis=1).argmax())
    low, high = faces[axis] > CUT_FACE
    if low:
        inside &= index[axis] >= -0.5
    if high:
        inside &= index[axis] <= shape[axis] - 0.5
    return inside.reshape((GRID_VOXELS,) * 3)


def _features(maps: Float[np.ndarray, "g g g 4"], sigma_mm: float) -> Float[np.ndarray, "g g g 4"]:
    """CSF, GM, WM, field of view → smoothed and weighted brain, GM, WM, and the field of view as it was."""
    raw = np.stack([maps[..., :3].sum(axis=-1), maps[..., 1], maps[..., 2]], axis=-1) * FEATURE_WEIGHT
    sigma = (sigma_mm / GRID_MM,) * 3 + (0.0,)
    smooth = ndimage.gaussian_filter(raw, sigma, mode="constant")
    # What lies beyond a cut face must not darken what lies before it.
    seen = ndimage.gaussian_filter(maps[..., 3:], sigma, mode="nearest")
    return np.concatenate([smooth / np.maximum(seen, 0.5), maps[..., 3:]], axis=-1)


def _cayley(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """The parameters of `_matrix` that give a rotation of less than half a turn."""
    turn = Rotation.from_matrix(rotation).as_rotvec()
    angle = float(np.linalg.norm(turn))
    return turn * (2 * np.tan(angle / 2) / angle) if angle > 0 else turn


def _matrix(p: Float[Array, "12"]) -> Float[Array, "3 4"]:
    """Parameters (shift / RADIUS_MM, rotation, log scales, shears) → linear part and shift / RADIUS_MM."""
    zero, one = jnp.zeros((), p.dtype), jnp.ones((), p.dtype)
    k = jnp.stack([zero, -p[5], p[4], p[5], zero, -p[3], -p[4], p[3], zero]).reshape(3, 3)
    # Cayley's transform: a rotation by 2 atan(|p| / 2), smooth everywhere.
    rotation = jnp.eye(3, dtype=p.dtype) + (k + k @ k / 2) / (1 + jnp.sum(p[3:6] ** 2) / 4)
    shear = jnp.stack([one, p[9], p[10], zero, one, p[11], zero, zero, one]).reshape(3, 3)
    linear = rotation @ shear @ jnp.diag(jnp.exp(p[6:9]))
    return jnp.concatenate([linear, p[:3, None]], axis=1)


def _sample(
    volume: Float[Array, "g g g c"], points: Float[Array, "n 3"]
) -> tuple[Float[Array, "n c"], Float[Array, "n c 3"]]:
    """Trilinear values at points (millimetres about the grid's centre), and their gradients per millimetre."""
    index = jnp.clip(points / GRID_MM + (GRID_VOXELS - 1) / 2, 0, GRID_VOXELS - 1 - 1e-3)
    corner = jnp.floor(index)
    part = index - corner
    at = corner.astype(jnp.int32)
    flat = (at[:, 0] * GRID_VOXELS + at[:, 1]) * GRID_VOXELS + at[:, 2]
    steps = [(i * GRID_VOXELS + j) * GRID_VOXELS + k for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    rows = volume.reshape(-1, volume.shape[-1])[flat[:, None] + jnp.array(steps, jnp.int32)[None, :]]
    v = rows.reshape(len(points), 2, 2, 2, volume.shape[-1])
    x, y, z = (part[:, axis, None] for axis in range(3))
    ends = v[:, :, :, 0] + (v[:, :, :, 1] - v[:, :, :, 0]) * z[:, None, None]
    along_z = v[:, :, :, 1] - v[:, :, :, 0]
    lines = ends[:, :, 0] + (ends[:, :, 1] - ends[:, :, 0]) * y[:, None]
    along_y = ends[:, :, 1] - ends[:, :, 0]
    z_lines = along_z[:, :, 0] + (along_z[:, :, 1] - along_z[:, :, 0]) * y[:, None]
    value = lines[:, 0] + (lines[:, 1] - lines[:, 0]) * x
    dx = lines[:, 1] - lines[:, 0]
    dy = along_y[:, 0] + (along_y[:, 1] - along_y[:, 0]) * x
    dz = z_lines[:, 0] + (z_lines[:, 1] - z_lines[:, 0]) * x
    return value, jnp.stack([dx, dy, dz], axis=-1) / GRID_MM


def _prior_residual(p: Float[Array, "12"]) -> Float[Array, "6"]:
    scales = p[6:9] - jnp.mean(p[6:9])
    return jnp.concatenate([scales / SCALE_STD, p[9:] / SHEAR_STD]) * PRIOR_WEIGHT**0.5


def _normal_equations(
    level: Level, volume: Float[Array, "g g g 4"], c: float, p: Float[Array, "12"]
) -> tuple[Float[Array, ""], Float[Array, "12"], Float[Array, "12 12"]]:
    """Cost, half its gradient, and the Gauss–Newton approximation of half its Hessian."""
    moved = level.points @ _matrix(p)[:, :3].T + RADIUS_MM * p[None, :3]
    value, slope = _sample(volume, moved)
    seen = value[:, 3]
    residual, slope = value[:, :3] - level.features, slope[:, :3]
    square = jnp.sum(residual**2, axis=1)
    # A mean over what was scanned: to move into the unknown neither costs nor gains.
    share = seen / jnp.sum(seen)
    cost = jnp.sum(share * c**2 * square / (c**2 + square))
    weight = share * (c**2 / (c**2 + square)) ** 2
    place = jnp.concatenate([level.points, jnp.full_like(level.points[:, :1], RADIUS_MM)], axis=1)
    pull = jnp.einsum("n,nc,nca->na", weight, residual, slope)
    metric = jnp.einsum("n,nca,ncb->nab", weight, slope, slope)
    squares = place[:, :, None] * place[:, None, :]
    hessian = metric.reshape(-1, 9).T @ squares.reshape(-1, 16)
    hessian = hessian.reshape(3, 3, 4, 4).transpose(0, 2, 1, 3).reshape(12, 12)
    chain = jax.jacfwd(_matrix)(p).reshape(12, 12)
    prior, prior_slope = _prior_residual(p), jax.jacfwd(_prior_residual)(p)
    gradient = chain.T @ (pull.T @ place).reshape(12) + prior_slope.T @ prior
    return cost + prior @ prior, gradient, chain.T @ hessian @ chain + prior_slope.T @ prior_slope


def _bounded(p: Float[Array, "12"]) -> Float[Array, "12"]:
    scales = jnp.clip(p[6:9], np.log(SCALE_RANGE[0]), np.log(SCALE_RANGE[1]))
    return jnp.concatenate([p[:6], scales, jnp.clip(p[9:], -MAX_SHEAR, MAX_SHEAR)])


def _minimise(
    level: Level,
    volume: Float[Array, "g g g 4"],
    c: float,
    iterations: int,
    start: Float[Array, "12"],
    free: Float[Array, "12"],
) -> Fit:
    """Levenberg–Marquardt (Marquardt 1963) over the free parameters."""

    def step(carry: tuple[jax.Array, Fit]) -> tuple[jax.Array, Fit]:
        count, fit = carry
        system = fit.hessian * free[:, None] * free[None, :]
        system = system + jnp.diag(fit.damping * jnp.diag(system) + (1 - free) + 1e-9)
        trial = _bounded(fit.parameters - jnp.linalg.solve(system, fit.gradient * free))
        cost, gradient, hessian = _normal_equations(level, volume, c, trial)
        moved = RADIUS_MM * jnp.max(jnp.abs(trial - fit.parameters))
        better = Fit(trial, cost, gradient, hessian, fit.damping * 0.2, moved)
        worse = fit._replace(damping=fit.damping * 8, moved=moved)
        return count + 1, jax.tree.map(lambda a, b: jnp.where(cost < fit.cost, a, b), better, worse)

    def unsettled(carry: tuple[jax.Array, Fit]) -> jax.Array:
        return (carry[0] < iterations) & (carry[1].moved > SETTLED_MM)

    first = Fit(start, *_normal_equations(level, volume, c, start), jnp.float32(1e-3), jnp.float32(jnp.inf))
    return jax.lax.while_loop(unsettled, step, (jnp.int32(0), first))[1]


@jax.jit
def _register(
    levels: tuple[Level, ...],
    pyramid: tuple[Float[Array, "g g g 4"], ...],
    start: Float[Array, "12"],
    free: Float[Array, "12"],
) -> tuple[Float[Array, "12"], Float[Array, ""], Float[Array, ""]]:
    """Parameters found, and there: Dice of the smoothed brains, correlation of the GM − WM contrast."""
    p = start
    for level, volume, c, iterations in zip(levels, pyramid, ROBUST_SCALE, ITERATIONS, strict=True):
        p = _minimise(level, volume, c, iterations, p, free).parameters
    level = levels[-1]
    value, _ = _sample(pyramid[-1], level.points @ _matrix(p)[:, :3].T + RADIUS_MM * p[None, :3])
    seen = value[:, 3]
    ours, theirs = value[:, 0] * seen, level.features[:, 0] * seen
    dice = 2 * jnp.sum(jnp.minimum(ours, theirs)) / jnp.sum(ours + theirs)
    a, b = value[:, 1] - value[:, 2], level.features[:, 1] - level.features[:, 2]
    brain = theirs / jnp.sum(theirs)
    a, b = a - jnp.sum(brain * a), b - jnp.sum(brain * b)
    correlation = jnp.sum(brain * a * b) / jnp.sqrt(jnp.sum(brain * a**2) * jnp.sum(brain * b**2))
    return p, dice, correlation
