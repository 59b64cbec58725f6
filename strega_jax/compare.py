"""Compare trained detectors on the same cases.

    python -m strega_jax.compare --checkpoints=runs/strega,runs/ce_vae,runs/dae --data=brats/,gbm/ --output=comparison

Every case of every folder is scored by every checkpoint, each with its own preprocessing and threshold. Prints and
writes one table over all (Dice, AUPRC, marked volume; parameters, training and scoring time), and tests each
method's Dice against the first checkpoint's. OUTPUT/NAME holds what `strega_jax.train --evaluate` writes for one.
Cases need expert masks; scans must be brain-extracted. Research use only.
"""

from pathlib import Path

from absl import flags

from strega_jax import command
from strega_jax.evaluation.compare import compare_checkpoints
from strega_jax.scans.cohorts import find_cases

_CHECKPOINTS = flags.DEFINE_list(
    "checkpoints", None, "Workdirs or checkpoints; the first is the reference.", required=True
)
_DATA = flags.DEFINE_list("data", None, "Folders of cases with expert masks.", required=True)
_CONTRASTS = flags.DEFINE_list("contrasts", [], "Contrasts to score, e.g. T1w,T2w; default: all.")
_OUTPUT = flags.DEFINE_string("output", "comparison", "Folder for the results; made if need be.")


def main() -> int:
    """Evaluate all and print the table; say by the exit code whether every case could be scored."""
    cases = [case for folder in _DATA.value for case in find_cases(folder, _CONTRASTS.value)]
    failures = compare_checkpoints(_CHECKPOINTS.value, cases, Path(_OUTPUT.value))
    for message in failures:
        print(f"failed: {message}")
    return 1 if failures else 0


def cli() -> None:
    """Console entry point."""
    command.run(main)


if __name__ == "__main__":
    cli()
