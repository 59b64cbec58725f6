"""Speed on this machine's GPUs: augmentation, train step, tissue segmentation, prediction, scaling; one table.

    pip install -U 'jax[cuda12]' && pip install -e '.[demo]'     # for the comparison also torch, built for CUDA
    python -m benchmarks.gpu                                     # writes docs/gpu.md
    python -m benchmarks.gpu --tiny --table=try.md              # the same rows, tiny, on any machine

Each figure is the median of `--rounds` runs, each waited for, after two that are not counted. The default network and
PyTorch's copy of it take turns; each run of theirs is ten steps. Images and scan are made here, from noise and from
the MNI152 template that nilearn holds. Without PyTorch, or with one that sees no GPU, its rows say so.

The train step that is compared with PyTorch is the network's alone (loss, gradient, Adam). The others are the step that
`strega_jax.train` runs, with augmentation. Its share of peak is XLA's count of the compiled program's operations, over
time, over the card's dense peak (bfloat16; TF32 for float32) as its maker states it.
"""

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import math
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
from absl import flags
from jax.sharding import AxisType

from benchmarks import predict_time, step_timing
from benchmarks.augment import FULL, jax_round, slices
from strega_jax import command
from strega_jax.augment import augment
from strega_jax.config import Augment, Run
from strega_jax.detectors import build
from strega_jax.errors import ConfigError
from strega_jax.tissue import segment

OUTPUT = flags.DEFINE_string("table", "", "Where the table is written; default: docs/gpu.md, on a GPU alone.")
TINY = flags.DEFINE_bool(
    "tiny", False, "Tiny sizes, no torch.compile, no prediction: to try the command on any device."
)
SIZE = flags.DEFINE_integer("size", 256, "Side of the images, pixels.", lower_bound=16)
SLICES = flags.DEFINE_integer("slices", 128, "Images a step and device.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Runs whose median counts.", lower_bound=1)
PEAK = flags.DEFINE_string("peak_tflops", "", "BF16,TF32 of a card that is not known here, dense TFLOP/s.")

# Dense TFLOP/s in bfloat16 and TF32, NVIDIA's data sheets; the first name that the device's contains counts.
PEAKS = {
    "H100 PCIe": (756.0, 378.0),
    "H100 NVL": (835.0, 418.0),
    "H100": (989.4, 494.7),
    "H200": (989.4, 494.7),
    "A100": (312.0, 156.0),
    "L40S": (362.0, 183.0),
    "L4": (121.0, 60.0),
}
TYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is timed, and how often."""

    size: int = 256  # pixels
    slices: int = 128  # a step and device
    rounds: int = 7
    steps: int = 10  # of a run of the train step
    augment_s: float = 2.0  # of a run of the augmentation
    every: int = 1  # voxel of the 1 mm scan that is kept, along each axis
    model: dict[str, Any] = dataclasses.field(default_factory=dict)  # fields of the network
    types: tuple[str, ...] = TYPES  # that steps compute in, bfloat16 among them
    augment: Augment = FULL  # of the train step
    slow_parts: bool = True  # torch.compile and prediction
    peaks: tuple[float, float] | None = None  # TFLOP/s, bfloat16 and TF32; None: by the device's name


TINY_SETTINGS = Settings(
    32,
    4,
    2,
    1,
    0.05,
    every=4,
    model={"maps": (4,), "latent": 4},
    augment=Augment(flip_left_right=0.5),
    slow_parts=False,
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; without a value, `note` says why."""

    what: str
    value: float | None
    unit: str
    bar: float | None = None  # at least this; at most, where the unit is s
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None without a bar or a value."""
        if self.bar is None or self.value is None:
            return None
        return self.value <= self.bar if self.unit == "s" else self.value >= self.bar

    def line(self) -> str:
        """As Markdown."""
        value = "–" if self.value is None else f"{self.value:,.4g}" if self.value < 1000 else f"{self.value:,.0f}"
        sign = "≤" if self.unit == "s" else "≥"
        bar = "" if self.bar is None else f"{sign} {self.bar:,g}"
        met = {None: "", True: "yes", False: "no"}[self.met]
        return f"| {self.what} | {value} | {self.unit} | {bar} | {met} | {self.note} |"


def median_s(call: Callable[[], Any], rounds: int) -> float:
    """Median seconds of a call."""
    return step_timing.timings({"": call}, rounds)[""][0]


def augmentation(settings: Settings) -> Iterator[Row]:
    """All seven transforms, on four times the images of a step."""
    images, brain = (jnp.asarray(x) for x in slices(4 * settings.slices, settings.size))
    for masks, what in ((False, "image alone"), (True, "image and brain mask")):
        step = jax.jit(lambda key, x, b, masks=masks: augment(key, x, b, FULL)[: 2 if masks else 1])
        runs = [jax_round(step, images, brain, masks, settings.augment_s)[1] for _ in range(settings.rounds + 2)]
        yield Row(f"augmentation, {what}", statistics.median(runs[2:]), "slices/s", 50_000)


def against_torch(settings: Settings, compute_dtype: str) -> Iterator[Row]:
    """The network's step alone, in turns with PyTorch."""
    images = np.random.default_rng(0).standard_normal((settings.slices, settings.size, settings.size, 1), np.float32)
    detector = build("cce_vae", settings.model, compute_dtype)
    own = step_timing.jax_step(detector, images, np.ones(images.shape[:3], np.float32), settings.steps)
    contenders, missing = {"JAX": own.advance}, no_torch()
    for name in () if missing else ("eager", "compiled") if settings.slow_parts else ("eager",):
        contenders[name], parameters = step_timing.torch_step(detector, images, name == "compiled", settings.steps)
        if parameters != own.parameters:
            raise ConfigError(f"the networks differ: {own.parameters} and {parameters} parameters")
    seconds = {name: wall for name, (wall, _) in step_timing.timings(contenders, settings.rounds).items()}
    rates = {name: settings.steps * settings.slices / wall for name, wall in seconds.items()}
    yield Row(f"network's step, {compute_dtype}, JAX", rates["JAX"], "slices/s")
    for name in ("eager", "compiled"):
        what = f"network's step, {compute_dtype}, PyTorch {name}"
        reason = "" if name in rates else missing or "not in --tiny"
        yield Row(what, rates.get(name), "slices/s", note=reason)
        ratio = rates["JAX"] / rates[name] if name in rates else None
        yield Row(f"{what}: JAX over it", ratio, "×", 1.2, reason)


def no_torch() -> str:
    """Why PyTorch cannot be compared on this device, or nothing."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    return "" if jax.default_backend() == "cpu" or torch.cuda.is_available() else "this PyTorch sees no GPU"


def whole_step(settings: Settings, compute_dtype: str, devices: int) -> tuple[float, step_timing.Timed]:
    """Slices a second of what training runs, on the first `devices`, and the step."""
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    run = Run(model=settings.model, compute_dtype=compute_dtype, augment=settings.augment)  # pyright: ignore[reportArgumentType]
    images = settings.slices * devices
    timed = step_timing.train_step(run, mesh, settings.size, images, settings.steps)
    return settings.steps * images / median_s(timed.advance, settings.rounds), timed


def training(settings: Settings, compute_dtype: str) -> Iterator[Row]:
    """The step that training runs, on one device: speed, operations and share of the peak."""
    rate, timed = whole_step(settings, compute_dtype, 1)
    what = f"train step, {compute_dtype}"
    yield Row(what, rate, "slices/s", 3000, "the bar is meant for an H100")
    gflop = timed.compiled_flops / settings.slices / 1e9
    yield Row(f"{what}, operations", gflop, "GFLOP/slice", note=f"compiled; {timed.gflop:.4g} before optimisation")
    yield Row(f"{what}, speed", gflop * rate / 1e3, "TFLOP/s")
    peaks, kind = settings.peaks or peaks_of(jax.devices()[0].device_kind), TYPES[1:] + TYPES[:1]
    if peaks is None:
        yield Row(f"{what}, share of peak", None, "%", note="peak of this device not known; give --peak_tflops")
        return
    peak = peaks[kind.index(compute_dtype)]
    yield Row(f"{what}, share of peak", 100 * gflop * rate / 1e3 / peak, "%", note=f"of {peak:g} TFLOP/s")


def peaks_of(device_kind: str) -> tuple[float, float] | None:
    """Dense TFLOP/s in bfloat16 and TF32, if the card is known."""
    return next((peaks for name, peaks in PEAKS.items() if name in device_kind), None)


def scaling(settings: Settings, alone: float) -> Iterator[Row]:
    """The bfloat16 step on 1, 2, 4, … devices and on all, with as many images on each; `alone`: slices/s of one."""
    available = jax.device_count()
    counts = sorted({2**i for i in range(int(math.log2(available)) + 1)} | {available})
    for count in counts:
        rate = alone if count == 1 else whole_step(settings, "bfloat16", count)[0]
        share = f"{100 * rate / (count * alone):.1f} % of {count} × one device"
        yield Row(f"train step, bfloat16, devices: {count}", rate, "slices/s", note=share)


def scan_to_mask(settings: Settings) -> Iterator[Row]:
    """Tissue segmentation and prediction of one brain, warm."""
    with tempfile.TemporaryDirectory() as root:
        scan = Path(root, "scan_T1w.nii.gz")
        predict_time.make_scan(scan, settings.every)
        file = nibabel.load(scan)
        image = np.asarray(file.dataobj, np.float32)  # pyright: ignore[reportAttributeAccessIssue]
        x, y, z = (float(edge) for edge in nibabel.affines.voxel_sizes(file.affine))  # pyright: ignore
        note = f"{image.shape}, {np.count_nonzero(image):,} brain voxels, {x:g} mm; from array to arrays"
        yield Row("tissue segmentation", median_s(lambda: segment(image, (x, y, z)), settings.rounds), "s", 0.1, note)
        what = "prediction of one scan, file to files, process warm"
        if not settings.slow_parts:
            yield Row(what, None, "s", note="not in --tiny")
            return
        runs = [predict_time.stages_s(scan, Path(root, str(i)))["in all"] for i in range(min(3, settings.rounds))]
        yield Row(what, statistics.median(runs), "s", note="with report; stages one after another")


def measure(settings: Settings) -> list[Row]:
    """All rows, printed as they come."""
    rows: list[Row] = []

    def told(part: Iterator[Row]) -> None:
        for measured in part:
            # What is asked of a card says nothing of anything else.
            row = measured if jax.default_backend() == "gpu" else dataclasses.replace(measured, bar=None)
            print(row.line(), flush=True)
            rows.append(row)

    told(augmentation(settings))
    for kind in settings.types:
        told(against_torch(settings, kind))
    for kind in settings.types:
        told(training(settings, kind))
    alone = next(row.value for row in rows if row.what == "train step, bfloat16")
    told(scaling(settings, alone or math.nan))
    told(scan_to_mask(settings))
    return rows


def machine(settings: Settings) -> list[str]:
    """Date, devices, driver, versions and sizes, a line each."""
    device, lines = jax.devices()[0], [f"- {datetime.date.today().isoformat()}"]
    lines.append(f"- {jax.device_count()} × {device.device_kind} ({device.platform})")
    if device.platform == "gpu" and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
        lines += [f"- nvidia-smi: {line}" for line in dict.fromkeys(told)]
    platform = " ".join(device.client.platform_version.split())
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("strega-jax", "jax", "jaxlib")]
    if importlib.util.find_spec("torch"):
        versions.append(f"torch {importlib.metadata.version('torch')}")
    lines.append(f"- {', '.join(versions)}; {platform}")
    lines.append(
        f"- images {settings.size}×{settings.size}, {settings.slices} a step and device; medians of {settings.rounds} "
        f"runs; {os.cpu_count()} CPU cores"
    )
    return lines


def write(path: Path, settings: Settings) -> list[Row]:
    """Measure and write the table to `path`; the rows."""
    begin = time.perf_counter()
    head = [*machine(settings), "", "| | | | bar | met | |", "|---|---|---|---|---|---|"]
    rows = measure(settings)
    title = (
        "# Speed on GPU" if jax.default_backend() == "gpu" else "# A trial of the benchmark: these are no GPU's figures"
    )
    command_line = "Written by `python -m benchmarks.gpu`, whose help says what each row is."
    took = f"The whole took {time.perf_counter() - begin:.0f} s."
    lines = [title, "", command_line, "", *head, *(row.line() for row in rows), "", took]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rows


def main() -> int:
    """Measure and write. Raises ConfigError where there is no GPU to measure."""
    # PyTorch is to find room on the card too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    output = Path(OUTPUT.value or "docs/gpu.md")
    if jax.default_backend() != "gpu" and not (TINY.value and OUTPUT.value):
        raise ConfigError(
            f"JAX computes on {jax.default_backend()}: there is no GPU to measure. With a card, install what JAX needs "
            "for it (pip install -U 'jax[cuda12]'); to try the command here, add --tiny --table=FILE.md"
        )
    settings = TINY_SETTINGS if TINY.value else Settings(SIZE.value, SLICES.value, ROUNDS.value, peaks=_given_peaks())
    write(output, settings)
    print(f"written to {output}")
    return 0


def _given_peaks() -> tuple[float, float] | None:
    if not PEAK.value:
        return None
    try:
        bfloat16, tf32 = (float(number) for number in PEAK.value.split(","))
    except ValueError as error:
        raise ConfigError(f"--peak_tflops={PEAK.value}: two numbers are wanted, BF16,TF32, e.g. 989.4,494.7") from error
    return bfloat16, tf32


if __name__ == "__main__":
    command.run(main)
