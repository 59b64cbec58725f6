"""How far trainings are and whether their held-out error still falls: for docs/reproduction.md."""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from strega_jax.errors import ConfigError
from strega_jax.training.metrics import read_metrics

LATE = 5  # validations at the end whose mean is held against that of as many before


@dataclasses.dataclass(frozen=True)
class Training:
    """How far a training is: held-out reconstruction error at epochs, summed over a slice, mean over slices.

    The detector's own error: absolute residuals (`validation_rec`, `validation_l1`), or half the squared ones
    (`validation_nll` of unit variance, without its constant).
    """

    epochs: float  # done
    planned: float
    size: int  # side of the slices, pixels
    errors: Sequence[tuple[float, float]]  # epoch, error
    steps: int = 0  # done

    @classmethod
    def read(cls, workdir: Path) -> "Training":
        """Of a run. Raises ConfigError where nothing was logged yet."""
        config, log = workdir / "config.json", workdir / "metrics.jsonl"
        if not config.exists() or not log.exists():
            raise ConfigError(f"--training={workdir}: no config.json and metrics.jsonl of a run")
        run = json.loads(config.read_text(encoding="utf-8"))
        training, slices, lines = run["training"], run["training_slices"]["slices"], read_metrics(workdir)
        epoch = training["batch_size"] / slices
        planned = training["steps"] * epoch if training["steps"] else training["epochs"]
        size = run["preprocess"]["size"]
        errors = [(line["step"] * epoch, error) for line in lines if (error := _error(line, size)) is not None]
        steps = int(max((line["step"] for line in lines), default=0))
        return cls(min(steps * epoch, planned), planned, size, errors, steps)

    def lines(self, most: int = 8) -> list[str]:
        """A sentence, a table of at most so many of the validations, and their picture."""
        told = f"{self.epochs:.1f} of {self.planned:g} epochs done, slices of {self.size}×{self.size}."
        if not self.errors:
            return [f"{told} No validation yet."]
        pick = np.unique(np.linspace(0, len(self.errors) - 1, most).astype(int))
        epochs, errors = zip(*(self.errors[i] for i in pick), strict=True)
        return [told, "", f"| epoch | {' | '.join(f'{x:.2g}' for x in epochs)} |", "|---" * (len(pick) + 1) + "|",
                f"| held-out error | {' | '.join(f'{x:,.0f}' for x in errors)} |", "",
                "![Held-out error over epochs](images/reproduction_training.png)"]  # fmt: skip

    def picture(self) -> Figure | None:
        """Error over epochs; None before the first validation."""
        if not self.errors:
            return None
        figure = Figure(figsize=(5, 3), layout="constrained")
        axis = figure.subplots()
        axis.plot(*zip(*self.errors, strict=True), marker=".", color="black")
        axis.set(xlabel=f"epoch (of {self.planned:g})", ylabel="held-out reconstruction term", xlim=(0, self.planned))
        return figure

    def late_change(self) -> str:
        """Mean of the last validations against that of as many before them, in percent."""
        errors = [error for _, error in self.errors]
        late, before = errors[-LATE:], errors[-2 * LATE : -LATE]
        if len(before) < LATE:
            return "–"
        return f"{100 * (np.mean(late) / np.mean(before) - 1):+.1f} %".replace("-", "−")


def _error(line: Mapping[str, Any], size: int) -> float | None:
    """The reconstruction error of a line of the log, if it holds a validation."""
    for name in ("validation_rec", "validation_l1"):
        if name in line:
            return line[name]
    if "validation_nll" in line:
        return line["validation_nll"] - size**2 * math.log(2 * math.pi) / 2  # one channel, unit variance
    return None


def curves_table(trainings: Mapping[str, Training], most: int = 7) -> list[str]:
    """A line a training: its error at some shares of what was trained, and the late change."""
    shares = np.linspace(1 / most, 1, most)
    head = " | ".join(f"{100 * share:.0f} %" for share in shares)
    lines = [f"| training | steps (epochs) | {head} | last {LATE} validations against the {LATE} before |"]
    lines.append("|---" * (most + 3) + "|")
    for name, of in trainings.items():
        cells = ["–"] * most
        if of.errors:
            epochs, errors = (np.array(part) for part in zip(*of.errors, strict=True))
            cells = [f"{errors[np.abs(epochs - share * of.epochs).argmin()]:,.0f}" for share in shares]
        lines.append(f"| `{name}` | {of.steps:,} ({of.epochs:.1f}) | {' | '.join(cells)} | {of.late_change()} |")
    return lines


def curves_picture(trainings: Mapping[str, Training]) -> Figure | None:
    """Errors over steps, as multiples of each training's last; None without a validation."""
    shown = {name: of for name, of in trainings.items() if of.errors}
    if not shown:
        return None
    figure = Figure(figsize=(7.5, max(3.0, 0.5 + 0.19 * len(shown))), layout="constrained")  # all of the legend is seen
    axis = figure.subplots()
    # Colours come back after ten lines, markers after seven: no two lines have both in common.
    for (name, of), marker in zip(shown.items(), itertools.cycle("os^vDP*"), strict=False):
        epochs, errors = zip(*of.errors, strict=True)
        axis.plot(
            np.array(epochs) * of.steps / of.epochs, np.array(errors) / errors[-1], marker=marker, ms=4, label=name
        )
    axis.set(xlabel="step", ylabel="held-out error / its last", xscale="log", yscale="log")
    figure.legend(fontsize="small", loc="outside right upper")
    return figure
