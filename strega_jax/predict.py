"""Find anomalies in brain scans with a trained model.

    python -m strega_jax.predict --input=patient.nii.gz --output=found/
    python -m strega_jax.predict --checkpoint=runs/ixi_t1 --input=brats/ --contrast=T2w --output=found/
    python -m strega_jax.predict --checkpoint=runs/ixi_t1 --input=dicom_series/ --output=found/
    python -m strega_jax.predict bids_dir output_dir participant --participant-label 01 02

For every scan it writes, on the scan's own grid, NAME_mask.nii.gz, NAME_desc-anomalymap.nii.gz (the anomaly score),
with --samples NAME_desc-uncertainty.nii.gz, and beside them NAME_components.csv (volumes in ml, places in scanner
mm, boxes), NAME_boxes.json (the same, boxes slice by slice, and the doubts that the input checks raised) and
NAME.html: a page to look at, without a network. group.html and group.tsv list all scans, most anomaly first.

Scans must be brain-extracted. What is complete, made by the same model with the same settings, is skipped. A scan
that fails is reported at the end and the others are done; exit code 1 if any failed. Research use only.
"""

import ast
import dataclasses
import sys
from pathlib import Path

from absl import flags
from tqdm import tqdm

from strega_jax import command
from strega_jax.config import Postprocess, build_dataclass
from strega_jax.errors import ConfigError, StregaError
from strega_jax.inference.batch import Job, Settings, detect_all, is_complete
from strega_jax.models.opened import SHIPPED
from strega_jax.models.opening import open_model
from strega_jax.output.bids import LEVELS, as_flags, derivative_paths, describe_data_set
from strega_jax.output.group import PAGE, write_group
from strega_jax.output.write import DISCLAIMER
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.contrast import NAMES
from strega_jax.scans.source import AUTO, BRAIN_HELP

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    str(SHIPPED),
    "Workdir of a training run, one checkpoint, or what strega_jax.export made. Default: the package's own weights.",
)
_INPUT = flags.DEFINE_string("input", None, "A scan, a folder of scans, or a folder of DICOM series.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; made if need be.")
_CONTRAST = flags.DEFINE_enum("contrast", None, NAMES, "Contrast to read; default: all, as the file names say.")
_BRAIN = flags.DEFINE_string("brain", AUTO, BRAIN_HELP)
_POSTPROCESS = flags.DEFINE_list(
    "postprocess", [], "Settings that replace the checkpoint's, e.g. threshold=fixed,value=0.4,min_volume_ml=1."
)
_SAMPLES = flags.DEFINE_integer(
    "samples", None, "Latent samples (≥ 2) for an uncertainty map; 0: none. Default: the model's.", lower_bound=0
)
_STRICT = flags.DEFINE_bool("strict", False, "Do not judge scans that the input checks doubt.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Do again what is complete.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what would be done, and do nothing.")
_PAGES = flags.DEFINE_bool("pages", True, "Write an HTML page for each scan.")
_LEVEL = flags.DEFINE_enum("level", None, LEVELS, "As a BIDS app: write derivatives, or their group page.")
_PARTICIPANTS = flags.DEFINE_list("participant_label", [], "Do these subjects only, with or without 'sub-'.")
_DICOM_SEG = flags.DEFINE_bool(
    "dicom_seg", False, "For DICOM series, write a DICOM segmentation too; needs pip install 'strega-jax[dicom]'."
)


def main() -> int:
    """Detect in every scan; say by the exit code whether all succeeded."""
    if _INPUT.value is None or _OUTPUT.value is None:
        raise ConfigError("--input and --output are both needed; --help tells more")
    source, output = Path(_INPUT.value), Path(_OUTPUT.value)
    if _LEVEL.value == "group":
        return _group(output)
    opened = open_model(_CHECKPOINT.value or SHIPPED)
    run = opened.model.about.run
    samples = _SAMPLES.value if _SAMPLES.value is not None else int(run.model.get("samples", 0))
    settings = Settings(
        _settings(run.postprocess, _POSTPROCESS.value),
        samples=samples if samples != 1 or _SAMPLES.value else 0,
        strict=_STRICT.value,
        overwrite=_OVERWRITE.value,
        pages=_PAGES.value,
        sidecars=_LEVEL.value is not None,
    )
    jobs = _jobs(source, output)
    if _DRY_RUN.value:
        for job in jobs:
            done = not settings.overwrite and is_complete(job, opened, settings)
            print(f"{'complete' if done else 'to do':8}  {job.name} → {job.paths.mask}")
        return 0
    if _LEVEL.value:
        describe_data_set(output)
    failures, skipped = [], 0
    for done in tqdm(detect_all(jobs, opened, settings), total=len(jobs), desc="detecting", unit="scan"):
        skipped += done.skipped
        if done.error is not None:
            failures.append(str(done.error))
        elif not done.skipped:
            tqdm.write(f"{done.job.paths.mask}: {done.anomaly_ml:.1f} ml marked")
        for flag in done.flags:
            tqdm.write(f"  doubt about {done.job.name}: {flag.check}: {flag.reason}")
    if output.is_dir():
        write_group(output)
    also = f" ({skipped} of them before)" if skipped else ""
    print(f"{output}: {len(jobs) - len(failures)} scans done{also}, {len(failures)} failed. {DISCLAIMER}")
    for message in failures:
        print(f"  failed: {message}")
    return 1 if failures else 0


def _group(output: Path) -> int:
    if not output.is_dir() or not write_group(output):
        raise StregaError(f"{output}: no results in it; run the participant level first")
    print(output / PAGE)
    return 0


def _jobs(source: Path, output: Path) -> list[Job]:
    from strega_jax.inference.jobs import dicom_jobs, nifti_jobs
    from strega_jax.scans.dicom import holds_dicom

    if source.is_dir() and holds_dicom(source):
        return dicom_jobs(source, output, _CONTRAST.value or "", _DICOM_SEG.value, _BRAIN.value)
    cases = find_cases(source, [_CONTRAST.value] if _CONTRAST.value else [], "bids" if _LEVEL.value else "auto")
    if _PARTICIPANTS.value:
        wanted = {f"sub-{label.removeprefix('sub-')}" for label in _PARTICIPANTS.value}
        missing = wanted - {case.subject for case in cases}
        if missing:
            raise ConfigError(f"--participant_label: {source} has no scan of {', '.join(sorted(missing))}")
        cases = [case for case in cases if case.subject in wanted]
    paths = derivative_paths if _LEVEL.value else None
    return nifti_jobs(cases, output, _CONTRAST.value or "", _BRAIN.value, paths)


def _settings(trained: Postprocess, overrides: list[str]) -> Postprocess:
    fields = dataclasses.asdict(trained)
    for item in overrides:
        name, separator, text = item.partition("=")
        if not separator:
            raise StregaError(f"--postprocess={item}: name=value is wanted")
        try:
            fields[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            fields[name] = text
    return build_dataclass(Postprocess, fields, "postprocess")


def cli() -> None:
    """Console entry point."""
    sys.argv[1:] = as_flags(sys.argv[1:], {name for name in flags.FLAGS if not flags.FLAGS[name].boolean})
    command.run(main)


if __name__ == "__main__":
    cli()
