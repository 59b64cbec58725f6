"""Find anomalies in brain scans with a trained model.

    python -m strega_jax.predict --input=patient.nii.gz --output=found/
    python -m strega_jax.predict --checkpoint=runs/ixi_t1 --input=brats/ --contrast=T2w --output=found/
    python -m strega_jax.predict --checkpoint=runs/ixi_t1 --input=dicom_series/ --output=found/
    python -m strega_jax.predict bids_dir output_dir participant --participant-label 01 02

For every scan it writes, on the scan's own grid, NAME_mask.nii.gz, NAME_desc-anomalymap.nii.gz (the anomaly score),
of T1ce NAME_dseg.nii.gz (2: what takes up contrast agent), with --samples NAME_desc-uncertainty.nii.gz, and beside them
NAME_components.csv (volumes in ml, places in scanner mm, boxes), NAME_boxes.json (the same, boxes slice by slice, and
quality-control warnings) and NAME.html: a page to look at, offline. group.html and group.tsv list all scans, most
anomaly first.

Two or more contrasts of one subject and date are fused, too: SUBJECT_desc-fused_mask.nii.gz, its anomaly map,
components, boxes and a page that shows all contrasts side by side (--nofuse leaves them out).

Scans must be brain-extracted. What is complete, made by the same model with the same settings, is skipped. A scan
that fails is reported at the end, leaves no result, and the others are done; exit code 1 if any failed. Tracebacks of
unforeseen errors are in errors.log beside the results. Research use only.
"""

import collections
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from strega_jax import command
from strega_jax.config import changed_postprocess
from strega_jax.errors import ConfigError, StregaError
from strega_jax.failures import Failures
from strega_jax.output.bids import LEVELS, app_arguments, derivative_paths, describe_data_set
from strega_jax.output.files import GROUP_PAGE, require_apart
from strega_jax.scans.options import AUTO, BRAIN_HELP, CONTRAST_HELP

if TYPE_CHECKING:
    from strega_jax.inference.batch import Done, Job

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Workdir of a training run, one checkpoint, or what strega_jax.export made. Default: the package's own weights.",
)
_INPUT = flags.DEFINE_string("input", None, "A scan, a folder of scans, or a folder of DICOM series.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; made if need be.")
_CONTRAST = flags.DEFINE_list("contrast", [], CONTRAST_HELP)
_BRAIN = flags.DEFINE_string("brain", AUTO, BRAIN_HELP)
_POSTPROCESS = flags.DEFINE_list(
    "postprocess",
    [],
    "Settings that replace the checkpoint's, e.g. threshold=fixed,value=0.4,min_volume_ml=1, or a preset; small: in "
    "FLAIR small bright lesions of white matter (plaques, small infarcts) are marked too.",
)
_SAMPLES = flags.DEFINE_integer(
    "samples", None, "Latent samples (≥ 2) for an uncertainty map; 0: none. Default: the model's.", lower_bound=0
)
_STRICT = flags.DEFINE_bool("strict", False, "Skip scans that fail quality control.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Recompute existing results.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what would be done, and do nothing.")
_PAGES = flags.DEFINE_bool("pages", True, "Write an HTML page for each scan.")
_LEVEL = flags.DEFINE_enum("analysis_level", None, LEVELS, "As a BIDS app: write derivatives, or their group page.")
_PARTICIPANTS = flags.DEFINE_list("participant_label", [], "Do these subjects only, with or without 'sub-'.")
_SHARD = flags.DEFINE_string("shard", None, command.SHARD_HELP)
_FUSE = flags.DEFINE_bool("fuse", True, "Fuse the contrasts of a subject and date.")
_DICOM_SEG = flags.DEFINE_bool(
    "dicom_seg", False, "For DICOM series, write a DICOM segmentation too; needs pip install 'strega-jax[dicom]'."
)


def main() -> int:
    """Detect in every scan; say by the exit code whether all succeeded."""
    if _INPUT.value is None or _OUTPUT.value is None:
        raise ConfigError("--input and --output are both needed; --help tells more")
    source, output = Path(_INPUT.value), command.output_folder(_OUTPUT.value)
    if _LEVEL.value == "group":
        return _group(output)
    if not _CHECKPOINT.value and not _DRY_RUN.value:
        _compile_alignment()
    _load_nibabel()
    # What a help text does not need is loaded where the work begins.
    from tqdm import tqdm

    from strega_jax.inference.batch import Settings, is_complete
    from strega_jax.inference.sessions import detect_sessions, group_sessions, is_fused
    from strega_jax.models.opening import open_model
    from strega_jax.output.group import write_group

    opened = open_model(_CHECKPOINT.value) if _CHECKPOINT.value else open_model()
    settings = Settings(
        changed_postprocess(opened.model.about.run.postprocess, _POSTPROCESS.value),
        samples=opened.default_samples if _SAMPLES.value is None else _SAMPLES.value,
        strict=_STRICT.value,
        overwrite=_OVERWRITE.value,
        pages=_PAGES.value,
        sidecars=_LEVEL.value is not None,
    )
    jobs = _jobs(source, output)
    sessions = group_sessions(jobs) if _FUSE.value else []
    if _DRY_RUN.value:
        for job in jobs:
            done = not settings.overwrite and is_complete(job, opened, settings)
            print(f"{'complete' if done else 'to do':8}  {job.name} → {job.paths.mask}")
        for session in sessions:
            done = not settings.overwrite and is_fused(session, opened, settings)
            what = f"fused: {', '.join(job.name for job in session.jobs)}"
            print(f"{'complete' if done else 'to do':8}  {what} → {session.paths.mask}")
        return 0
    if _LEVEL.value:
        describe_data_set(output)
    failures, counts = Failures(output), collections.Counter[str]()
    try:
        done_all = detect_sessions(jobs, sessions, opened, settings)
        for done in tqdm(done_all, total=len(jobs) + len(sessions), desc="detecting", unit="scan"):
            what = "session " if done.fused else ""
            counts[what + ("failed" if done.error else "skipped" if done.skipped else "done")] += 1
            _tell(done, failures)
    finally:  # a full disk or Ctrl-C ends the run before its end
        if counts or not jobs:
            _summarise(output, counts, len(jobs), failures.messages)
    if output.is_dir():
        write_group(output)
    if _SHARD.value:
        command_line = shlex.join(["python", "-m", "strega_jax.predict", str(source), str(output), "group"])
        print(f"Once all shares are done, this lists all results: {command_line}")
    return 1 if failures.messages else 0


def _compile_alignment() -> None:
    """In the background, while the rest is loaded: the packaged model needs it, and the scan has no part in it."""
    from strega_jax.slices import registration

    background = ThreadPoolExecutor(1)
    background.submit(registration.compile_ahead)  # what goes wrong is raised again where the alignment is needed
    background.shutdown(wait=False)


def _load_nibabel() -> None:
    """Without pydicom, which it loads where it is installed, for extensions of NIfTI that nothing here reads."""
    if "pydicom" not in sys.modules:
        sys.modules["pydicom"] = None  # pyright: ignore[reportArgumentType]: as Python marks what is not there
        try:
            import nibabel  # noqa: F401
        finally:
            del sys.modules["pydicom"]


def _tell(done: "Done", failures: Failures) -> None:
    from tqdm import tqdm

    if done.error is not None:
        failures.add(done.source, done.error)
    elif not done.skipped:
        tqdm.write(f"{done.paths.mask}: {done.anomaly_ml:.1f} ml marked")
    for warning in done.warnings:
        tqdm.write(f"  quality-control warning for {done.name}: {warning.check}: {warning.reason}")


def _summarise(output: Path, counts: Mapping[str, int], wanted: int, messages: Sequence[str]) -> None:
    from strega_jax.output.write import DISCLAIMER

    done = counts["done"] + counts["skipped"]
    told = [_counted(done, "scan") + f" done{_before(counts['skipped'])}"]
    if fused := counts["session done"] + counts["session skipped"]:
        told.append(_counted(fused, "session") + f" fused{_before(counts['session skipped'])}")
    told.append(f"{len(messages)} failed")
    if left := wanted - done - counts["failed"]:
        told.append(f"{left} not done")
    print(f"{output}: {', '.join(told)}. {DISCLAIMER}")
    for message in messages:
        print(f"  failed: {message}")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _before(skipped: int) -> str:
    return f" ({skipped} of them before)" if skipped else ""


def _group(output: Path) -> int:
    from strega_jax.output.group import write_group

    if not output.is_dir() or not write_group(output):
        raise StregaError(f"{output}: no results in it; run the participant level first")
    print(output / GROUP_PAGE)
    return 0


def _jobs(source: Path, output: Path) -> "list[Job]":
    from strega_jax.inference.jobs import make_jobs
    from strega_jax.inference.sessions import group_sessions
    from strega_jax.scans.chosen import choose_contrasts
    from strega_jax.scans.cohorts import find_cases
    from strega_jax.scans.splits import share_of

    cases = choose_contrasts(find_cases(source, layout="bids" if _LEVEL.value else "auto"), _CONTRAST.value)
    if _PARTICIPANTS.value:
        wanted = {f"sub-{label.removeprefix('sub-')}" for label in _PARTICIPANTS.value}
        missing = wanted - {case.subject for case in cases}
        if missing:
            raise ConfigError(f"--participant_label: {source} has no scan of {', '.join(sorted(missing))}")
        cases = [case for case in cases if case.subject in wanted]
    if _DICOM_SEG.value:
        from strega_jax.output.dicom_seg import require_highdicom

        require_highdicom()
        if not any(case.series for case in cases):
            raise ConfigError(f"--dicom_seg: {source} holds no DICOM series; leave it out")
    paths = derivative_paths if _LEVEL.value else None
    inputs = [path for case in cases for path in (*case.files, case.mask, case.brain) if path]
    cases = share_of(cases, *command.share(_SHARD.value))
    jobs = make_jobs(cases, output, _BRAIN.value or AUTO, paths, _DICOM_SEG.value)
    results = [one.paths for one in (*jobs, *group_sessions(jobs))]
    require_apart(results, inputs)
    return jobs


def _take(plain: Sequence[str]) -> Sequence[str]:
    """Understand the command line of a BIDS app; what is left of it."""
    values, left = app_arguments(plain, _PARTICIPANTS.value)
    for name, value in values.items():
        setattr(flags.FLAGS, name, value)
    return left


def cli() -> None:
    """Console entry point."""
    command.run(main, _take)


if __name__ == "__main__":
    cli()
