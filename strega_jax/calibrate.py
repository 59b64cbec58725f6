"""Find out what healthy brains score in contrasts of which there is no healthy cohort.

    python -m strega_jax.calibrate --checkpoint=runs/strega --healthy=ixi/ --split=dev

Healthy T1w brains that the model was not trained on are rendered in each of --contrasts and scored. The distribution of
their scores is added to `calibration.json` beside the checkpoint: the threshold for a scan then comes from healthy
brains of its own contrast, and that for a fused map from fused maps. `--output` writes it elsewhere.
"""

from pathlib import Path

from absl import flags

from strega_jax import command
from strega_jax.errors import CheckpointError, ConfigError

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "Workdir of a training run; default: the weights that come with the package.")
flags.DEFINE_string("healthy", None, "Folder of healthy, brain-extracted T1w scans.", required=True)
flags.DEFINE_string("split", "dev", "Use the subjects of this split only (participants.tsv); empty: all.")
flags.DEFINE_integer("count", 0, "How many scans; 0: all.", lower_bound=0)
flags.DEFINE_list("contrasts", ["T1ce", "T2w", "FLAIR"], "Contrasts to render.")
flags.DEFINE_integer("seed", 0, "Of everything random.", lower_bound=0)
flags.DEFINE_string("output", "", "Folder for calibration.json; default: the workdir.")


def main() -> int:
    """Write the calibration; 0 where it is complete."""
    if not (FLAGS.checkpoint or FLAGS.output):
        raise ConfigError("--output: name a folder; the package's own calibration is not written over")
    # What a help text does not need is loaded where the work begins.
    from tqdm import tqdm

    from strega_jax.models.calibration import FILE, save_calibration
    from strega_jax.models.opened import SHIPPED
    from strega_jax.models.opening import open_model
    from strega_jax.scans.cohorts import find_cases
    from strega_jax.scans.source import open_scan
    from strega_jax.scans.splits import subject_splits

    opened = open_model(FLAGS.checkpoint or SHIPPED)
    folder = command.output_folder(FLAGS.output or FLAGS.checkpoint)
    if opened.calibration is None:
        raise CheckpointError(f"{opened.model.source}: no {FILE} beside it; make it with `strega_jax.train --evaluate`")
    cases = [case for case in find_cases(FLAGS.healthy, ("T1w",)) if case.healthy is not False]
    if FLAGS.split:
        splits = subject_splits(cases)
        cases = [case for case in cases if splits[case.subject] == FLAGS.split]
    cases = cases[: FLAGS.count or None]
    if not cases:
        raise ConfigError(f"{FLAGS.healthy}: no healthy T1w scan in the split {FLAGS.split!r}")
    # Rendering is asked for here alone: the other commands do not wait for its imports.
    from strega_jax.detection.contrast_calibration import calibrate_contrasts

    settings = opened.model.about.run.postprocess
    scans = (open_scan(case) for case in tqdm(cases, "rendering and scoring", unit="brain"))
    calibration = calibrate_contrasts(
        opened.model, opened.calibration, scans, settings, FLAGS.contrasts, seed=FLAGS.seed
    )
    save_calibration(folder, calibration)
    rate = settings.false_positive_rate
    print(
        f"scores that {rate:g} of healthy brain voxels exceed; training contrast: {calibration.threshold(settings):.3f}"
    )
    for name in calibration.contrasts:
        print(f"  {name}: {calibration.threshold(settings, name):.3f}")
    print(Path(folder) / FILE)
    return 0


def cli() -> None:
    """Console entry point."""
    command.run(main)


if __name__ == "__main__":
    cli()
