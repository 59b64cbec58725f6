"""Whole heads: find the brain in an image whose skull is still on.

The networks are other people's, installed beside this package: `METHODS` names them in the order of trust.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cc3d
import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.scan import Scan, read_scan, same_grid, write_volume
from strega_jax.scans.stripped import border_mode, why_not_extracted

if TYPE_CHECKING:
    import torch

INSTALL = 'pip install "strega-jax[heads]"'
# What deepbet's networks were trained on: the whole volume and the box around the brain, each of this many voxels.
COARSE_SHAPE, FINE_SHAPE = (128, 128, 128), (256, 256, 256)
INTENSITY_RANGE = (0.005, 0.995)
CHANNEL_MEAN, CHANNEL_STD = 0.449, 0.226
BOX_MARGIN = 0.1
LEAST_SECTION = 0.02  # of the coarse volume's section: the box ends where the brain covers less
# A head holds more brain than this; less is noise that the network took for brain.
LEAST_BRAIN_ML = 100.0
# Foreground beside the brain, as a share of it: nine extracted brains have at most 0.04, three heads at least 1.8, and
# 0.7 with the air set to 0.
LEAST_SKULL = 0.2
HD_BET_TIMEOUT_S = 3600

# Scans are read in threads, and a run of deepbet takes about 1 GB.
_one_at_a_time = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to extract a brain."""

    installed: Callable[[], bool]
    extract: Callable[[Scan], Bool[np.ndarray, "x y z"]]


def extract_brain(scan: Scan, method: str) -> Bool[np.ndarray, "x y z"]:
    """Which voxels of a whole head are brain.

    Args:
        scan: a whole head in RAS canonical order.
        method: a key of `METHODS`.

    Returns:
        The brain on the scan's canonical grid: one component without holes.

    Raises:
        ConfigError: an unknown method, or one that is not installed.
        ScanError: the method finds no brain, or fails.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown brain extraction {method!r}; known: {', '.join(METHODS)}")
    if not METHODS[method].installed():
        raise ConfigError(f"{method} is not installed: {INSTALL} brings deepbet; hd-bet is a command on the PATH")
    brain = _one_filled(METHODS[method].extract(scan))
    if brain.sum() * scan.voxel_ml < LEAST_BRAIN_ML:
        raise ScanError(f"{scan.path}: {method} finds no brain in it; give a brain mask (--brain=PATH)")
    return brain


def installed_method() -> str:
    """The first of `METHODS` that is installed; empty where none is."""
    return next((name for name, method in METHODS.items() if method.installed()), "")


def looks_extracted(image: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> bool:
    """Whether the skull is off already: background on the border, and nothing connected larger than a brain."""
    return not why_not_extracted(image, spacing_mm)


def already_extracted(scan: Scan, brain: Bool[np.ndarray, "x y z"]) -> bool:
    """Whether the brain found is nearly all that the image holds: then its skull was off already.

    So it is with a brain that the field of view cuts off, whose border is not background.
    """
    background, _ = border_mode(scan.data, scan.spacing_mm)
    return bool(np.count_nonzero((scan.data != background) & ~brain) <= LEAST_SKULL * np.count_nonzero(brain))


def enclosed(mask: Bool[np.ndarray, "x y z"]) -> Int[np.ndarray, "x y z"]:
    """The holes of a mask, numbered from 1; 0 elsewhere. A hole touches neither the outside nor the border."""
    labels = cc3d.connected_components(~np.pad(mask, 1), connectivity=6)
    outside = labels[0, 0, 0]
    inner = labels[1:-1, 1:-1, 1:-1].astype(np.int64)
    return np.where(inner == outside, 0, np.where(inner > outside, inner - 1, inner))


def _one_filled(mask: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    if not mask.any():
        return mask
    labels = cc3d.connected_components(mask, connectivity=26)
    largest = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return largest | (enclosed(largest) > 0)


def _deepbet_installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "deepbet"))


@functools.cache
def _deepbet_networks(device: str) -> "tuple[torch.jit.ScriptModule, torch.jit.ScriptModule]":
    """deepbet's two networks from the files of its package, on a device.

    The package itself is not imported: it brings a graphical interface, which a server has no use for.
    """
    import torch

    networks: list[Any] = []
    for name in ("bbox_model.pt", "model.pt"):
        listed = [file for file in importlib.metadata.files("deepbet") or () if file.name == name]
        if not listed:
            raise ConfigError(f"deepbet is installed without its weights {name}: {INSTALL} --force-reinstall")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # deepbet ships TorchScript, and nothing else
            networks.append(torch.jit.load(str(listed[0].locate()), map_location=device).eval())
    return networks[0], networks[1]


def _deepbet(scan: Scan) -> Bool[np.ndarray, "x y z"]:
    """On a GPU that PyTorch sees, unless other programs or JAX have taken its memory; else on the CPU."""
    import torch

    with _one_at_a_time:
        if torch.cuda.is_available():
            try:
                return _deepbet_on("cuda", scan)
            except torch.cuda.OutOfMemoryError:
                logging.warning("%s: too little GPU memory is left for deepbet; the CPU does it", scan.path)
        return _deepbet_on("cpu", scan)


def _deepbet_on(device: str, scan: Scan) -> Bool[np.ndarray, "x y z"]:
    """Fisch et al. 2024, deepbet: a coarse network finds the box of the brain, a fine one the brain within it."""
    import torch

    coarse_network, network = _deepbet_networks(device)
    image = torch.from_numpy(np.ascontiguousarray(scan.data)).to(device)[None, None]
    with torch.inference_mode():
        coarse = _resized(image, COARSE_SHAPE)
        low, high = np.quantile(coarse.cpu().numpy(), INTENSITY_RANGE)
        if not low < high:
            raise ScanError(f"{scan.path}: nearly every voxel has one value; is it a whole head?")
        found = coarse_network(_normalised(coarse, low, high))[0, 1] > 0.5
        box = _box(_one_filled(found.cpu().numpy()), scan.data.shape)
        if box is None:
            return np.zeros(scan.data.shape, bool)
        inner = image[:, :, *box]
        probability = network(_normalised(_resized(inner, FINE_SHAPE), low, high))[:, 1:2]
        inside = _resized(probability, inner.shape[2:])[0, 0] > 0.5
    brain = np.zeros(scan.data.shape, bool)
    brain[box] = inside.cpu().numpy()
    return brain


def _resized(volume: "torch.Tensor", shape: tuple[int, ...]) -> "torch.Tensor":
    import torch

    return torch.nn.functional.interpolate(volume, tuple(shape), mode="nearest-exact")


def _normalised(volume: "torch.Tensor", low: float, high: float) -> "torch.Tensor":
    unit = ((volume - low) / (high - low)).clamp(0, 1)
    return CHANNEL_STD * (unit - unit.mean()) / unit.std() + CHANNEL_MEAN


def _box(coarse: Bool[np.ndarray, "a b c"], shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """The box around a brain found on the coarse grid, with a margin, on the grid of `shape`; None without a brain."""
    box = []
    for axis, size in enumerate(shape):
        covered = np.flatnonzero(coarse.mean(axis=tuple({0, 1, 2} - {axis})) > LEAST_SECTION)
        if not covered.size:
            return None
        scale = size / coarse.shape[axis]
        centre = round((covered[0] + covered[-1] + 1) / 2 * scale)
        length = round((covered[-1] + 1 - covered[0]) * scale * (1 + 2 * BOX_MARGIN))
        box.append(slice(max(0, int(centre - length / 2)), min(size, int(centre + length / 2))))
    return tuple(box)


def _hd_bet_installed() -> bool:
    return shutil.which("hd-bet") is not None


def _hd_bet(scan: Scan) -> Bool[np.ndarray, "x y z"]:
    """Isensee et al. 2019, HD-BET: the command, in version 1 or 2, whose options differ."""
    with tempfile.TemporaryDirectory() as folder:
        head, brain = Path(folder) / "head.nii.gz", Path(folder) / "brain.nii.gz"
        write_volume(head, scan.data, Scan.from_array(scan.data, scan.affine, scan.path))
        command = ["hd-bet", "-i", str(head), "-o", str(brain)]
        gpu = shutil.which("nvidia-smi") is not None
        if "--save_bet_mask" in _hd_bet_help(shutil.which("hd-bet") or ""):
            options = ["-device", "cuda"] if gpu else ["-device", "cpu", "--disable_tta"]
            command += ["--save_bet_mask", "--no_bet_image", *options]
        else:
            options = ["-device", "0"] if gpu else ["-device", "cpu", "-mode", "fast", "-tta", "0"]
            command += ["-s", "1", *options]
        said = _called(command, scan.path)
        masks = [path for name in ("brain_bet", "brain_mask") if (path := head.with_name(f"{name}.nii.gz")).is_file()]
        if not masks:
            raise ScanError(f"{scan.path}: hd-bet wrote no mask; it said: {said[-300:]}")
        mask = read_scan(masks[0], allow_constant=True)
    if not same_grid(mask, scan):
        raise ScanError(f"{scan.path}: hd-bet's mask has another voxel grid ({mask.data.shape})")
    return mask.data > 0.5


@functools.cache
def _hd_bet_help(command: str) -> str:
    """What `hd-bet -h` prints. It loads all that the networks need, so it is asked once."""
    return _called([command, "-h"], Path(command))


def _called(command: list[str], path: Path) -> str:
    """What a command prints; a failure is a `ScanError` with its last words."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=HD_BET_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ScanError(f"{path}: hd-bet did not run ({error})") from error
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
        raise ScanError(f"{path}: hd-bet failed and said: {last}")
    return done.stdout


METHODS = {"deepbet": Method(_deepbet_installed, _deepbet), "hd-bet": Method(_hd_bet_installed, _hd_bet)}
