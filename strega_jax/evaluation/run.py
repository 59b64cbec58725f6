"""Evaluate what a run's config names: cases with lesions, planted lesions and controls among its held-out scans."""

import dataclasses
from pathlib import Path

from strega_jax.config import Run
from strega_jax.detectors import build
from strega_jax.errors import ConfigError, ScanError
from strega_jax.evaluation.evaluate import evaluate
from strega_jax.models.calibration import Calibration, calibrate, save_calibration
from strega_jax.models.opened import Opened
from strega_jax.models.opening import open_model
from strega_jax.scans.case import Case
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.files import in_bucket
from strega_jax.scans.planted import plant_in_cohort
from strega_jax.slices.store import SliceStore
from strega_jax.training.inputs import held_out, store_path


def evaluate_run(run: Run, workdir: str, checkpoint: str | None = None) -> tuple[str, ...]:
    """Evaluate into WORKDIR/evaluation, and say what and where; one message for each case or picture that failed.

    Args:
        run: names the cases, and is how scores are postprocessed.
        workdir: a folder.
        checkpoint: what to evaluate in place of the workdir's last checkpoint.

    Raises:
        ConfigError: the workdir is another run's than the checkpoint, or the config describes another model.
    """
    output, source = Path(workdir) / "evaluation", checkpoint or workdir
    if _holds_run(workdir) and not _belongs(source, workdir):
        raise ConfigError(
            f"--workdir={workdir} holds a run of its own, whose results those of {source} would be taken for; name "
            "another --workdir for them"
        )
    opened = open_model(source)
    check_described(run, opened)
    cases = lesion_cases(run, workdir)
    print(f"evaluating {opened.model.source} into {output}")
    calibration = _calibration(run, workdir, opened, keep=checkpoint is None)
    return tuple(evaluate(opened.model, cases, run.postprocess, calibration, output))


def check_described(run: Run, opened: Opened) -> None:
    """Refuse to evaluate a model that the config does not describe; tell where its scores are treated otherwise."""
    trained, source = opened.model.about.run, opened.model.source
    models = [build(of.detector, of.model, of.compute_dtype) for of in (run, trained)]
    differing = ["model"] * (models[0] != models[1])
    differing += ["preprocess"] * (run.preprocess != opened.model.about.preprocess)
    if differing:
        raise ConfigError(
            f"--config describes another model than {source} (differs in: {', '.join(differing)}), and its "
            "postprocessing is that other's; give the config that it was trained with"
        )
    own, now = (dataclasses.asdict(of.postprocess) for of in (trained, run))
    for name, value in now.items():
        if value != own[name]:
            print(f"postprocess.{name}={value}, as the config says; {source} was trained with {own[name]}")


def lesion_cases(run: Run, workdir: str) -> list[Case]:
    """The cases of `data.lesions`, then planted lesions, then controls.

    Raises:
        ConfigError: planted lesions or controls without healthy scans.
        ScanError: fewer held-out scans than asked for.
    """
    contrasts = run.data.contrasts or (run.preprocess.contrast,)
    cases = [case for folder in run.data.lesions for case in find_cases(folder, contrasts)]
    wanted = max(run.data.planted, run.data.controls)
    if not wanted:
        return cases
    if not run.data.scans:
        raise ConfigError("data.planted and data.controls need data.scans, whose held-out scans they are")
    healthy = held_out(run, workdir)
    if len(healthy) < wanted:
        raise ScanError(
            f"{run.data.scans}: {len(healthy)} held-out healthy scans; data.planted or controls asks for {wanted}"
        )
    if run.data.planted:
        folder = Path(workdir) / "planted"
        cases += plant_in_cohort(healthy, folder, run.data.planted, run.seed, run.data.planted_kinds)
    return cases + [dataclasses.replace(case, healthy=True, cohort="controls") for case in healthy[: run.data.controls]]


def _holds_run(workdir: str) -> bool:
    return any((Path(workdir) / name).exists() for name in ("config.json", "checkpoints"))


def _belongs(checkpoint: str, workdir: str) -> bool:
    return not in_bucket(checkpoint) and Path(checkpoint).resolve().is_relative_to(Path(workdir).resolve())


def _calibration(run: Run, workdir: str, opened: Opened, keep: bool) -> Calibration | None:
    """The checkpoint's healthy scores; taken now if the settings need them and the store is at hand."""
    if not run.postprocess.needs_calibration:
        return None
    if opened.calibration and opened.calibration.refinement == run.postprocess.refinement:
        return opened.calibration
    calibration = calibrate(opened.model, SliceStore.open(store_path(run, workdir)), run.postprocess)
    if keep:
        save_calibration(workdir, calibration)
        print(f"{workdir}: its calibration holds for the config's postprocessing from now on")
    return calibration
