"""The tables of docs/performance.md: one benchmark after another, each in a process of its own, and what they printed.

    python -m benchmarks.performance
    python -m benchmarks.performance --only=step,startup --page=docs/performance.md

Let nothing else run beside it: threads that wait for each other fall behind by factors on a busy machine.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

from absl import app, flags

from benchmarks.marked import PAGE, put

ROOT = Path(__file__).parents[1]
# Name of the table → the benchmark that prints it.
BENCHMARKS = {
    "startup": ("benchmarks/startup.py", "--commands=strega-predict,strega-train", "--runs=5"),
    "cohort": ("benchmarks/cohort.py", "--scans=40"),
    "step": ("-m", "benchmarks.train_step", "--sizes=128,256", "--rounds=15"),
    "convolutions": ("-m", "benchmarks.convolutions", "--sizes=128,256"),
}
_ONLY = flags.DEFINE_list("only", list(BENCHMARKS), "Which of them.")


def table(name: str) -> list[str]:
    """The lines of the table that a benchmark prints."""
    line = [sys.executable, *BENCHMARKS[name]]
    done = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [row for row in done.stdout.splitlines() if row.startswith("|")]


def machine() -> list[str]:
    """Where the figures are from."""
    import jax

    return [
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, jax {jax.__version__}."
    ]


def main(_: list[str]) -> None:
    """Run, print, and put into the page."""
    tables = {name: table(name) for name in _ONLY.value or ()} | {"machine": machine()}
    for lines in tables.values():
        print("\n".join(lines), end="\n\n")
    if PAGE.value:
        page = Path(PAGE.value)
        page.write_text(put(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
