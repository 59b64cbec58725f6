"""Evaluate trained detectors on the same cases, side by side.

    python -m strega_jax.compare --data=brats/,gbm/ --controls=ixi/ --controls_split=dev --output=evaluation
    python -m strega_jax.compare --checkpoints=runs/strega_seed0,runs/strega_seed1,runs/dae --data=brats/ --output=out

Every case of every folder is scored by every checkpoint (workdir, checkpoint or exported file; default: the weights
that come with the package), each with its own preprocessing and threshold. Workdirs that differ in the seed alone are
trainings of one method. Prints and writes one table over all, sentences with statistics, the first checkpoint being
the reference, and a report with figures. OUTPUT/NAME holds each checkpoint's masks, and of several the same for each.

--controls names healthy scans: with them come false-positive volumes and rates, Dice at a matched burden of false
positives, and the detection of slices and subjects. --fuse adds the fused contrasts of each subject and date, and
tests them against each contrast alone. Cases need expert masks; scans must be brain-extracted.

--region=enhancing is for cohorts whose experts outlined the enhancing rim alone: of T1ce scans the enhancing label is
scored, not the whole mask.

    python -m strega_jax.compare --redraw=evaluation/results.json --output=again

draws report and figures again from the results alone. Research use only.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, cast

from absl import flags

from strega_jax import command
from strega_jax.errors import ConfigError

if TYPE_CHECKING:
    from strega_jax.evaluation.scoring import Region
    from strega_jax.scans.case import Case

_CHECKPOINTS = flags.DEFINE_list("checkpoints", [], "Workdirs, checkpoints or exported files, the reference first.")
_DATA = flags.DEFINE_list("data", [], "Folders of cases with expert masks.")
_CONTRASTS = flags.DEFINE_list("contrasts", [], "Contrasts to score, e.g. T1w,T2w; default: all.")
_CONTROLS = flags.DEFINE_string("controls", "", "Folder of healthy scans.")
_CONTROLS_SPLIT = flags.DEFINE_string("controls_split", "", "Of these, the subjects of this split only.")
_CONTROLS_CONTRAST = flags.DEFINE_string("controls_contrast", "T1w", "Contrast of the controls.")
_FUSE = flags.DEFINE_bool("fuse", False, "Evaluate the fused contrasts of each subject and date, too.")
_REGION = flags.DEFINE_enum(
    "region", "whole", ["whole", "enhancing"], "What of T1ce scans is scored: the whole mask, or its enhancing part."
)
_POSTPROCESS = flags.DEFINE_list(
    "postprocess", [], "Settings that replace each checkpoint's, as strega_jax.predict takes them, e.g. small."
)
_REDRAW = flags.DEFINE_string("redraw", "", "Only draw the report of this results.json again.")
_OUTPUT = flags.DEFINE_string("output", "comparison", "Folder for the results; made if need be.")


def main() -> int:
    """Evaluate all and print the table; say by the exit code whether every case could be scored and drawn."""
    output = Path(_OUTPUT.value)
    # What a help text does not need is loaded where the work begins.
    if _REDRAW.value:
        from strega_jax.evaluation.report import report_from_json

        failures = report_from_json(_REDRAW.value, output)
        print(f"report: {output / 'report.html'}")
        return _tell(failures)
    if not _DATA.value:
        raise ConfigError("--data is missing: folders of cases with expert masks; --help tells more")
    from strega_jax.evaluation.compare import compare_checkpoints
    from strega_jax.scans.cohorts import find_cases

    cases = [case for folder in _DATA.value for case in find_cases(folder, _CONTRASTS.value)] + _controls()
    region = cast("Region", _REGION.value)
    changes = _POSTPROCESS.value
    return _tell(compare_checkpoints(_checkpoints(), cases, output, region, fuse=_FUSE.value, postprocess=changes))


def _tell(failures: list[str]) -> int:
    for message in failures:
        print(f"failed: {message}")
    return 1 if failures else 0


def _controls() -> "list[Case]":
    if not _CONTROLS.value:
        return []
    from strega_jax.models.opening import open_model
    from strega_jax.scans.cohorts import find_cases
    from strega_jax.scans.splits import common_rule, subject_splits

    cases = find_cases(_CONTROLS.value, [_CONTROLS_CONTRAST.value])
    if _CONTROLS_SPLIT.value:
        rule = common_rule({str(path): open_model(path).model.about.split for path in _checkpoints()})
        splits = subject_splits(cases, rule.fractions, rule.seed)
        cases = [case for case in cases if splits[case.subject] == _CONTROLS_SPLIT.value]
    healthy = [case for case in cases if case.mask is None and case.healthy is not False]
    if not healthy:
        split = f" in the split {_CONTROLS_SPLIT.value}" if _CONTROLS_SPLIT.value else ""
        raise ConfigError(f"--controls={_CONTROLS.value}: no scan without a lesion mask{split}")
    return [dataclasses.replace(case, healthy=True, cohort="controls") for case in healthy]


def _checkpoints() -> list[str | Path]:
    from strega_jax.models.opened import SHIPPED

    return list(_CHECKPOINTS.value) or [SHIPPED]


def cli() -> None:
    """Console entry point."""
    command.run(main)


if __name__ == "__main__":
    cli()
