"""Segment brain-extracted scans into CSF, grey and white matter, as FSL FAST does, without FSL.

    python -m strega_jax.segment --input=sub-01_T1w.nii.gz --output=tissue/
    python -m strega_jax.segment --input=study/ --output=derivatives/tissue --bids
    python -m strega_jax.segment --input=t2.nii.gz --contrast=T2w --brain=brain.nii.gz --output=tissue/

Beside FAST's files (_seg, _pveseg, _pve_0..2, _mixeltype, _bias, _restore; classes 1 CSF, 2 GM, 3 WM), or with
--bids BIDS derivatives (labels 1 GM, 2 WM, 3 CSF), every scan gets a check sheet <name>_check.png: look at it.
A folder is searched for scans; one that fails is reported at the end, leaves no result, not even an earlier one, and
the others are done. Exit code 1 if any failed; tracebacks of unforeseen errors are in errors.log in the output. Scans
must be brain-extracted, or come with a brain mask (--brain).
"""

import collections
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from strega_jax import command
from strega_jax.errors import ConfigError, ScanError
from strega_jax.failures import Failures, one_line
from strega_jax.pipeline import in_threads
from strega_jax.scans.contrast import NAMES, tissue_contrasts
from strega_jax.scans.files import appearing_in
from strega_jax.scans.options import AUTO, BRAIN_HELP

if TYPE_CHECKING:
    from strega_jax.scans.case import Case

log = logging.getLogger(__name__)

DEFAULT = "T1w"  # of scans of unknown contrast

_INPUT = flags.DEFINE_string("input", None, "A scan, or a folder of scans.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; made if need be.", required=True)
_CONTRAST = flags.DEFINE_enum(
    "contrast",
    None,
    NAMES,
    "MR contrast. Default: as the file's name tells, else T1w. In a folder: do the scans of this contrast. PD and "
    "FLAIR give classes by brightness, which are not tissues.",
)
_PRESET = flags.DEFINE_enum("preset", "fsl", ["fsl", "robust"], "fsl: FAST's defaults. robust: for noisy scans.")
_N_CLASSES = flags.DEFINE_integer("n_classes", 3, "Number of classes.", lower_bound=2, upper_bound=4)
_BRAIN = flags.DEFINE_string("brain", AUTO, BRAIN_HELP)
_BIDS = flags.DEFINE_bool("bids", False, "Write BIDS derivatives instead of FAST's files.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Scans in flight at once.", lower_bound=1)
_SHARD = flags.DEFINE_string("shard", None, command.SHARD_HELP)


def main() -> int:
    """Segment, report, and say by the exit code whether every scan succeeded."""
    # What a help text does not need is loaded where the work begins.
    from tqdm import tqdm

    from strega_jax.scans.cohorts import find_cases
    from strega_jax.scans.splits import share_of
    from strega_jax.tissue import files

    cases = find_cases(_INPUT.value, [_CONTRAST.value] if _CONTRAST.value else [])
    mine = share_of(cases, *command.share(_SHARD.value))
    output = command.output_folder(_OUTPUT.value)
    if _BIDS.value:
        _require_apart(cases)
        files.describe_derivatives(output)
    failures, good = Failures(output), 0
    jobs = in_threads(mine, functools.partial(_one, output=output), _WORKERS.value)
    try:
        for case, _, error in tqdm(jobs, total=len(mine), desc="segmenting", unit="scan"):
            if error is None:
                good += 1
            else:
                failures.add(case.image, error)
                _remove_earlier(case, output)
    finally:  # a full disk or Ctrl-C ends the run before its end
        print("\n".join([f"{output}: {good} segmented, {len(failures.messages)} failed", *failures.messages]))
    return 1 if failures.messages else 0


def _one(case: "Case", output: Path) -> None:
    from strega_jax.scans.source import open_scan, told_contrast
    from strega_jax.tissue import files, mixel, segment
    from strega_jax.tissue.sheet import listed_files, write_sheet

    scan = open_scan(case, _CONTRAST.value or "", _BRAIN.value)
    contrast: Any = told_contrast(scan, DEFAULT)
    if _BIDS.value and contrast not in tissue_contrasts():
        raise ScanError(
            f"{case.image}: BIDS names tissues, and the classes of {contrast} are of brightness; leave --bids out"
        )
    try:
        tissue = segment(
            scan.data,
            scan.spacing_mm,
            contrast=contrast,
            preset=_PRESET.value,  # pyright: ignore[reportArgumentType]
            n_classes=_N_CLASSES.value,
            raster=files.file_raster(scan) if _PRESET.value == "fsl" else mixel.X_FASTEST,
            assume_stripped=bool(scan.brain),
        )
    except ScanError as error:
        raise ScanError(f"{case.image}: {error}") from error
    name, sheet = _name(case), _sheet(case, output)
    with appearing_in(sheet.parent, last=sheet.name, before=lambda: _remove_classes(sheet, name)) as folder:
        if _BIDS.value:
            about = {"Sources": [case.image.name], "Contrast": contrast, "Preset": _PRESET.value}
            files.write_bids(folder, name, tissue, scan, about)
        else:
            files.write_fast(folder, name, tissue, scan)
        written = {path.name for path in folder.iterdir()} | {path.name for path in listed_files(sheet)[1:]}
        write_sheet(folder / sheet.name, tissue, scan, sorted(written))


def _place(case: "Case") -> Path:
    """Where under the output a case goes: as under the input, so that equal file names do not meet."""
    root = Path(_INPUT.value)
    return Path() if root.is_file() else case.image.relative_to(root).parent


def _name(case: "Case") -> str:
    from strega_jax.scans.scan import stem

    # Several series may lie in one folder.
    return case.name if case.series else stem(case.image)


def _sheet(case: "Case", output: Path) -> Path:
    return output / _place(case) / f"{_name(case)}_check.png"


def _remove_earlier(case: "Case", output: Path) -> None:
    """Remove the result of an earlier run, which would look like this one's; what is none of ours stays."""
    from strega_jax.tissue.sheet import listed_files

    try:
        for path in listed_files(_sheet(case, output)):
            path.unlink(missing_ok=True)
    except OSError as left:
        log.warning("%s: its earlier result could not be removed: %s", case.image, one_line(left))


def _remove_classes(sheet: Path, name: str) -> None:
    """Remove the fractions of an earlier run, which may have had more classes."""
    from strega_jax.tissue.sheet import listed_files

    for path in listed_files(sheet):
        if path.name.startswith(f"{name}_pve_"):
            path.unlink(missing_ok=True)


def _require_apart(cases: "list[Case]") -> None:
    """Raise ConfigError where two scans would become one BIDS derivative."""
    from strega_jax.tissue import files

    named = collections.defaultdict(list)
    for case in cases:
        named[_place(case), files.bids_stem(_name(case))].append(case.image.name)
    for (_, base), images in named.items():
        if len(images) > 1:
            raise ConfigError(
                f"--bids: {' and '.join(images)} would both be written as {base}_dseg; choose one by --contrast or "
                "--input, or leave --bids out"
            )


def cli() -> None:
    """Console script."""
    command.run(main)


if __name__ == "__main__":
    cli()
