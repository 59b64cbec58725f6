"""What starting a command takes, and `predict` on one scan, in units of importing the libraries that it stands on.

    python benchmarks/startup.py
    python benchmarks/startup.py --scan=scan_T1w.nii.gz --runs=5

The unit is `python -c "import jax, flax, scipy, nibabel"`, timed before every other process, so that a machine that is
busy with other things slows both. Shown are medians, and medians of the ratios to the unit just before. Help: `--help`
of each command. Misspelt: a flag that does not exist. Cold: `predict` with the package's model and an empty folder for
compiled programs; warm: the next run of the same line. The scan is one of 240×240×155 voxels of 1 mm, as in
predict_time.py, unless --scan names another.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import app, flags

ROOT = Path(__file__).parents[1]
UNIT = ("-c", "import jax, flax, scipy, nibabel")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]

_RUNS = flags.DEFINE_integer("runs", 3, "How often each is run.", lower_bound=1)
_SCAN = flags.DEFINE_string("scan", None, "The scan to predict on; default: the MNI152 template with a lesion.")
_COMMANDS = flags.DEFINE_list("commands", list(SCRIPTS), "Whose help is timed.")
_PREDICT = flags.DEFINE_bool("predict", True, "Time predict too.")


def seconds(arguments: Sequence[str], **environment: str) -> float:
    """Wall time of a Python process; its exit code is 1 where it ends in a help text."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if "Traceback" in done.stderr or (done.returncode and environment):
        raise RuntimeError(done.stderr)
    return time.perf_counter() - start


def lines() -> Iterator[tuple[str, Sequence[str]]]:
    """What is timed of every command: its name in the table, and the line."""
    for name in _COMMANDS.value or ():
        module = SCRIPTS[name].split(":")[0]
        yield f"{name} --help", ("-m", module, "--help")
        yield f"{name}, misspelt", ("-m", module, "--misspelt")


def predictions(scan: Path, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Name, time of the unit, and time of `predict`, cold and warm."""
    environment = {"JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    for name in ("predict, cold", "predict, warm"):
        line = ("-m", "strega_jax.predict", f"--input={scan}", f"--output={folder / name[-4:]}")
        yield name, seconds(UNIT), seconds(line, **environment)


def measured(scan: Path | None) -> Iterator[tuple[str, float, float]]:
    """One round of everything."""
    for name, line in lines():
        yield name, seconds(UNIT), seconds(line)
    if scan is not None:
        with tempfile.TemporaryDirectory() as folder:
            yield from predictions(scan, Path(folder))


def main(_: list[str]) -> None:
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(_SCAN.value) if _SCAN.value else Path(folder, "scan_T1w.nii.gz")
        if _PREDICT.value and not _SCAN.value:
            from predict_time import make_scan

            make_scan(scan)
        for _round in range(_RUNS.value or 1):
            for name, unit, own in measured(scan if _PREDICT.value else None):
                found.setdefault(name, []).append((unit, own))
    unit = statistics.median(one for times in found.values() for one, _ in times)
    print(f"| | s | in units |\n|---|---|---|\n| {UNIT[1]} | {unit:.2f} | 1 |")
    for name, times in found.items():
        ratio = statistics.median(own / one for one, own in times)
        print(f"| {name} | {statistics.median(own for _, own in times):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    app.run(main)
