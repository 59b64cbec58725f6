"""Look over this installation: versions, devices, memory, a self-test of seconds, and what to do about it.

    python -m strega_jax.doctor

Exit code 1 if something is broken; warnings alone leave it at 0.
"""

import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from strega_jax import command

DISTRIBUTION = "strega-jax"
OPTIONAL = {
    "nilearn": "the demo cohort: pip install 'strega-jax[demo]'",
    "pydicom": "reading DICOM: pip install 'strega-jax[dicom]'",
    "highdicom": "writing DICOM SEG: pip install 'strega-jax[dicom]'",
    "onnxruntime": "running ONNX models: pip install 'strega-jax[onnx]'",
}
OLDEST_JAX = (0, 10)
LEAST_MEMORY_GB = 4.0
LEAST_DISK_GB = 2.0
# Of a product of 512² matrices against float64, relative: TF32 and bfloat16 passes of accelerators stay below.
LARGEST_ERROR = 0.02
LEAST_AGREEMENT = 0.9  # of the segmented phantom
OK, WARNING, BROKEN = "ok", "warning", "BROKEN"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: str  # OK, WARNING or BROKEN
    what: str
    advice: str = ""


def main() -> int:
    """Print what was found; 1 if something is broken."""
    findings = []
    for check in (python_and_packages, devices, memory, disk, computation, pipeline):
        for finding in run_check(check):
            findings.append(finding)
            print(f"{finding.state:8}{finding.what}", flush=True)
            if finding.advice:
                print(f"        → {finding.advice}")
    broken, warned = (sum(f.state == state for f in findings) for state in (BROKEN, WARNING))
    print(f"{broken} broken, {warned} warnings")
    return 1 if broken else 0


def run_check(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of one check; one that fails itself is a finding."""
    try:
        yield from check()
    except Exception as error:  # the point is to tell, whatever it is
        name = check.__name__.replace("_", " ")
        yield Finding(
            BROKEN, f"{name}: {type(error).__name__}: {error}", "install the package again in a fresh environment"
        )


def python_and_packages() -> Iterator[Finding]:
    """Python and the packages that are used."""
    import jax

    yield Finding(OK, f"Python {platform.python_version()} on {platform.platform()}")
    versions, missing = {}, []
    for name in (*needed(), "jaxlib"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding(OK, ", ".join(f"{name} {version}" for name, version in versions.items()))
    if missing:
        yield Finding(BROKEN, f"not installed: {', '.join(missing)}", f"{sys.executable} -m pip install strega-jax")
    if tuple(int(part) for part in jax.__version__.split(".")[:2]) < OLDEST_JAX:
        yield Finding(BROKEN, f"jax {jax.__version__} is too old", "pip install -U 'jax>=0.10'")
    for name, purpose in OPTIONAL.items():
        try:
            yield Finding(OK, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(OK, f"{name} is not installed; it is for {purpose}")


def needed() -> list[str]:
    """The packages that this one cannot do without, as it declares them."""
    requirements = importlib.metadata.requires(DISTRIBUTION) or []
    names = [re.match(r"[\w.-]+", text) for text in requirements if "extra ==" not in text]
    return [name.group() for name in names if name]


def devices() -> Iterator[Finding]:
    """What JAX computes on."""
    import jax

    for device in jax.devices():
        statistics = device.memory_stats() or {}
        limit = statistics.get("bytes_limit")
        yield Finding(OK, f"{device.platform} {device.device_kind}" + (f", {limit / 2**30:.0f} GiB" if limit else ""))
    if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
        advice = "pip install -U 'jax[cuda13]' (or cuda12, as the driver's nvidia-smi says)"
        yield Finding(WARNING, "there is an NVIDIA driver, but JAX computes on the CPU", advice)
    if os.environ.get("JAX_PLATFORMS"):
        yield Finding(WARNING, f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']} restricts the devices", "unset it")


def memory() -> Iterator[Finding]:
    """The machine's memory."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError, AttributeError):
        yield Finding(WARNING, "the machine does not tell its memory", f"{LEAST_MEMORY_GB:g} GB are needed")
        return
    enough = total >= LEAST_MEMORY_GB
    yield Finding(
        OK if enough else WARNING,
        f"memory: {total:.1f} GiB, {free:.1f} free; {os.cpu_count()} cores",
        "" if enough else f"1 mm scans need about {LEAST_MEMORY_GB:g} GB",
    )


def disk() -> Iterator[Finding]:
    """Room for temporary files, and for compiled programs, which are kept between runs."""
    cache = Path(os.environ.get(command.CACHE_VARIABLE) or os.path.expanduser(command.DEFAULT_CACHE))
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(place, os.W_OK):
        yield Finding(WARNING, f"{place}: compiled programs cannot be kept", f"set {command.CACHE_VARIABLE}")
    for folder in dict.fromkeys((Path(tempfile.gettempdir()), Path.cwd())):
        free = shutil.disk_usage(folder).free / 1e9
        enough = free >= LEAST_DISK_GB
        yield Finding(OK if enough else WARNING, f"{folder}: {free:.1f} GB free", "" if enough else "make room")


def computation() -> Iterator[Finding]:
    """Whether the device multiplies matrices rightly, and how fast."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    a, b = np.random.default_rng(0).standard_normal((2, 512, 512)).astype(np.float32)
    product = jax.jit(jnp.matmul)
    found = np.asarray(product(a, b))
    wanted = a.astype(np.float64) @ b
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    start = time.perf_counter()
    for _ in range(20):
        last = product(a, b)
    last.block_until_ready()
    speed = 20 * 2 * 512**3 / (time.perf_counter() - start) / 1e9
    if not error < LARGEST_ERROR:
        yield Finding(BROKEN, f"matrix products are wrong by {error:.2g}", "update the driver and jaxlib")
    else:
        yield Finding(OK, f"matrix products right to {error:.1g}, {speed:.0f} GFLOP/s")


def pipeline() -> Iterator[Finding]:
    """A phantom of three tissues through segmentation, and slices through a tiny network."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from strega_jax.detectors import build
    from strega_jax.detectors.base import Batch
    from strega_jax.tissue import segment

    start = time.perf_counter()
    place = np.indices((28, 28, 28))
    # Blocks smaller than any bias field, so that none can be taken for one.
    blocks = 1 + (place // 3).sum(axis=0) % 3
    labels = np.where(((place - 13.5) ** 2).sum(axis=0) < 12**2, blocks, 0)
    noise = np.random.default_rng(0).normal(0, 8, labels.shape)
    image = np.where(labels > 0, np.array([0, 150, 300, 450])[labels] + noise, 0).astype(np.float32)
    agree = float((segment(image, (1.0, 1.0, 1.0)).seg == labels)[labels > 0].mean())
    state = OK if agree > LEAST_AGREEMENT else BROKEN
    yield Finding(state, f"segmentation: {agree:.0%} of a phantom right, {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    detector = build("cce_vae", {"maps": (4, 8), "latent": 4})
    variables = jax.jit(lambda key: detector.init(key, (16, 16, 1)))(jax.random.key(0))
    ones = jnp.ones((2, 16, 16), jnp.float32)
    batch: Batch = {"images": ones[..., None], "brain": ones, "position": jnp.zeros(2, jnp.float32)}
    score = np.asarray(jax.jit(detector.score)(variables, batch, jax.random.key(1)))
    sound = score.shape == (2, 16, 16) and bool(np.isfinite(score).all()) and score.min() >= 0
    yield Finding(OK if sound else BROKEN, f"a network's score: {time.perf_counter() - start:.1f} s")


def cli() -> None:
    """Console entry point."""
    command.run(main)


if __name__ == "__main__":
    cli()
