"""A cohort of 1 mm scans through `predict`: seconds a scan, against one scan alone, and how long the device works.

    python benchmarks/cohort.py --scans=40

The scans are copies of one of 240×240×155 voxels, as in predict_time.py, done in one process with the package's model.
Every scan gets all files and its page. The first run, of two scans, compiles and is not counted. Alone: the stages of
one scan after another. The device counts as busy from the call of a compiled program to the end of its results; the
cores, as far as the process takes processor time. On CPU the two are the same hardware: between its programs the device
reads, samples and writes.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from absl import app, flags
from device_watch import PROGRAMS, Watch
from predict_time import make_scan, stages_s

from strega_jax import memory
from strega_jax.inference.batch import Settings, detect_all
from strega_jax.inference.jobs import make_jobs
from strega_jax.models.model import Model
from strega_jax.models.opening import open_model
from strega_jax.scans.cohorts import find_cases

_SCANS = flags.DEFINE_integer("scans", 40, "How many.", lower_bound=2)


def predict_s(scans: Path, output: Path) -> tuple[float, float]:
    """Wall time of all scans of a folder, and the processor time."""
    opened = open_model()
    settings = Settings(opened.model.about.run.postprocess)
    start, worked = time.perf_counter(), time.process_time()
    for done in detect_all(make_jobs(find_cases(scans), output), opened, settings):
        if done.error is not None:
            raise done.error
    return time.perf_counter() - start, time.process_time() - worked


def main(_: list[str]) -> None:
    memory.keep_freed_memory()  # as every command does
    with tempfile.TemporaryDirectory() as root:
        folder, one = Path(root), Path(root, "scan_T1w.nii.gz")
        make_scan(one)
        alone = stages_s(one, folder / "alone")["in all"]
        for name, count in (("few", 2), ("many", _SCANS.value or 0)):
            (folder / name).mkdir()
            for number in range(count):
                shutil.copy(one, folder / name / f"s{number:02d}_T1w.nii.gz")
        predict_s(folder / "few", folder / "first")
        watch = Watch()
        for module, name in PROGRAMS:
            setattr(module, name, watch.over(getattr(module, name)))
        Model.score = watch.over(Model.score)
        wall, worked = predict_s(folder / "many", folder / "second")
        count = _SCANS.value or 1
        print("| scans | s a scan | one alone, s | alone over that | device busy | cores busy |\n" + "|---" * 6 + "|")
        rate, device, cores = wall / count, watch.busy() / wall, worked / wall / (os.cpu_count() or 1)
        print(f"| {count} | {rate:.2f} | {alone:.2f} | {alone / rate:.2f} | {device:.0%} | {cores:.0%} |")


if __name__ == "__main__":
    app.run(main)
