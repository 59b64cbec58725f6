"""How fast a cohort becomes a slice store, and how much of that time the device has nothing to do.

    python benchmarks/prepare.py --input=ixi/
    python benchmarks/prepare.py --input=ixi/ --config=configs/paper_t1.py --workers=3

Prepares the cohort as `strega_jax.prepare` does, into a folder that is thrown away. The device counts as busy from the
call of a compiled program to the end of its results, whichever thread calls; compilation counts as busy.
"""

import shutil
import tempfile
import time
from pathlib import Path

from absl import app, flags
from device_watch import PROGRAMS, Watch
from ml_collections import config_flags

from strega_jax.run_config import as_run
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.splits import subject_splits
from strega_jax.slices.cohort import prepare_cohort

INPUT = flags.DEFINE_string("input", None, "Folder with the scans.", required=True)
WORKERS = flags.DEFINE_integer("workers", 2, "Scans in flight at once.", lower_bound=1)
CONFIG = config_flags.DEFINE_config_file("config", "configs/strega.py", "Run config whose `preprocess` part is used.")


def main(argv: list[str]) -> None:
    """Prepare and print a table."""
    del argv
    settings = as_run(CONFIG.value).preprocess
    cases = find_cases(INPUT.value, [settings.contrast])
    splits = subject_splits(cases, {"train": 0.8, "dev": 0.1, "test": 0.1}, 0)
    watch, jitted = Watch(), {}
    for module, name in PROGRAMS:
        jitted[name] = getattr(module, name)
        setattr(module, name, watch.over(jitted[name]))
    output = Path(tempfile.mkdtemp(prefix="strega-prepare-"))
    try:
        begin = time.perf_counter()
        outcome = prepare_cohort(cases, splits, output, settings, workers=WORKERS.value)
        wall = time.perf_counter() - begin
    finally:
        shutil.rmtree(output)
    print("| scans | failed | s | scans a minute | device idle | programs compiled |")
    print("|---|---|---|---|---|---|")
    compiled = ", ".join(f"{name.strip('_').replace('_', ' ')} {f._cache_size()}" for name, f in jitted.items())
    idle, rate = 100 * (1 - watch.busy() / wall), 60 * outcome.prepared / wall
    print(f"| {outcome.prepared} | {len(outcome.failures)} | {wall:.1f} | {rate:.0f} | {idle:.0f} % | {compiled} |")


if __name__ == "__main__":
    app.run(main)
