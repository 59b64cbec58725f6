"""What a training run loses to faults: each is done to a run, which is then started again and held against one left
alone.

    python benchmarks/faults.py --kills=5 --markdown=faults.md

A small network on the demo cohort, checkpoints every 20 steps. "Equal" means the loss of every step and every parameter
at the end, bit for bit. Steps redone are those between the last checkpoint and the fault: they cost time, and nothing
else.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from strega_jax.models.model import load_model
from strega_jax.training.metrics import read_metrics

_KILLS = flags.DEFINE_integer("kills", 5, "How often each kind of kill is done.", lower_bound=1)
_MARKDOWN = flags.DEFINE_string("markdown", None, "Write the table here too.")

STEPS, EVERY = 120, 20
SETTINGS = (
    "--config=configs/demo.py", "--config.data.planted=0", "--config.data.controls=0", "--config.data.demo_subjects=6",
    "--config.preprocess.size=32", "--config.preprocess.slice_spacing_mm=6.0", "--config.training.batch_size=8",
    "--config.model.maps=(8, 16)", "--config.training.log_every=1", f"--config.training.steps={STEPS}",
    f"--config.training.checkpoint_every={EVERY}", "--config.training.validate_every=1000",
)  # fmt: skip


class Runs:
    """Runs of one config, each with a copy of one slice store."""

    def __init__(self, folder: Path):
        self.folder, self.number = folder, 0
        self.whole = folder / "whole"
        self.finish(self.whole)

    def start(self, workdir: Path, limit_kb: int = 0) -> subprocess.Popen:
        """Start (again); `limit_kb` stands in for a full disk: no file may grow beyond it."""
        line = [sys.executable, "-m", "strega_jax.train", *SETTINGS, f"--workdir={workdir}"]
        shell = f'ulimit -f {limit_kb}; exec "$@"' if limit_kb else 'exec "$@"'
        return subprocess.Popen(
            ["bash", "-c", shell, "bash", *line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, workdir: Path) -> None:
        """Start (again) and see it end well."""
        process = self.start(workdir)
        told, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{workdir} ended with {process.returncode}:\n{told[-2000:]}")

    def fresh(self) -> Path:
        """A workdir with the store and nothing trained."""
        self.number += 1
        workdir = self.folder / f"run{self.number}"
        for part in ("store", "demo_cohort"):
            shutil.copytree(self.whole / part, workdir / part)
        return workdir

    def equal(self, workdir: Path) -> bool:
        """Whether every loss and every parameter is that of the run left alone."""
        losses = [[row["loss"] for row in read_metrics(w) if "loss" in row] for w in (workdir, self.whole)]
        ends = [load_model(w).variables for w in (workdir, self.whole)]
        same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), *ends)
        return losses[0] == losses[1] and all(jax.tree.leaves(same))


def steps_logged(workdir: Path) -> int:
    """The last step in the run's log."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def newest(workdir: Path) -> int:
    """The newest whole checkpoint."""
    return max((int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()), default=0)


def killed(runs: Runs, how: signal.Signals, in_save: bool, rng: random.Random) -> tuple[int, bool]:
    """Kill at a random step, or while a checkpoint is being written; steps redone, and whether all came out equal."""
    workdir, at = runs.fresh(), rng.randrange(5, STEPS - 10)
    process = runs.start(workdir)
    while process.poll() is None:
        saving = any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")) if in_save else True
        if steps_logged(workdir) >= at and saving:
            process.send_signal(how)
            break
        time.sleep(0.001)
    process.communicate()
    redone = max(0, steps_logged(workdir) - newest(workdir))
    runs.finish(workdir)
    return redone, runs.equal(workdir)


def damaged_checkpoint(runs: Runs, rng: random.Random) -> tuple[int, bool]:
    """Cut every file of the newest checkpoint's state in half."""
    workdir = runs.fresh()
    runs.finish(workdir)
    for path in (workdir / "checkpoints" / str(STEPS) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    runs.finish(workdir)
    return EVERY, runs.equal(workdir)


def damaged_slices(runs: Runs, rng: random.Random) -> tuple[int, bool]:
    """Flip a byte of a slice file half-way: the start is refused with the file's name; mended, the run goes on."""
    workdir = runs.fresh()
    file = rng.choice(sorted((workdir / "store" / "scans").glob("*.npy")))
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    process = runs.start(workdir)
    told, _ = process.communicate()
    refused = process.returncode == 1 and file.name in told and "Traceback" not in told
    file.write_bytes(whole)
    runs.finish(workdir)
    return 0, refused and runs.equal(workdir)


def full_disk(runs: Runs, rng: random.Random) -> tuple[int, bool]:
    """No file may grow beyond a few kB, so that a save fails: a non-zero end, and with room again the run goes on."""
    workdir = runs.fresh()
    process = runs.start(workdir, limit_kb=rng.choice([8, 16, 32]))
    process.communicate()
    redone = max(0, steps_logged(workdir) - newest(workdir))
    runs.finish(workdir)
    return redone, process.returncode != 0 and runs.equal(workdir)


def main(_: list[str]) -> None:
    """Do every fault and print the table."""
    rng, times = random.Random(0), _KILLS.value
    folder = Path(tempfile.mkdtemp(prefix="strega-faults-"))
    runs = Runs(folder)
    kinds = {
        "SIGKILL at a random step": lambda: killed(runs, signal.SIGKILL, False, rng),
        "SIGKILL while a checkpoint is written": lambda: killed(runs, signal.SIGKILL, True, rng),
        "SIGTERM at a random step": lambda: killed(runs, signal.SIGTERM, False, rng),
        "newest checkpoint cut in half": lambda: damaged_checkpoint(runs, rng),
        "a byte of a slice file flipped": lambda: damaged_slices(runs, rng),
        "no room for a checkpoint": lambda: full_disk(runs, rng),
    }
    lines = ["| fault | times | equal to a run left alone | steps redone, at most |", "|---|---|---|---|"]
    for name, fault in kinds.items():
        done = [fault() for _ in range(times)]
        equal = sum(same for _, same in done)
        lines.append(f"| {name} | {times} | {equal} of {times} | {max(redone for redone, _ in done)} |")
        print(lines[-1], flush=True)
    if _MARKDOWN.value:
        Path(_MARKDOWN.value).write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    app.run(main)
