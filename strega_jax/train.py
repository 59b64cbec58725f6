"""Train a detector on healthy brains, and evaluate it on lesions.

    python -m strega_jax.train --config=configs/demo.py
    python -m strega_jax.train --config=configs/strega.py --workdir=runs/ixi --config.data.scans=ixi/
    python -m strega_jax.train --config=configs/strega.py --workdir=runs/ixi --evaluate \\
        --config.data.lesions="('brats/','gbm/')"

The config says everything; any field can be overridden (`--config.training.batch_size=32`; below are all). Where
`data.scans` is set the scans are prepared first, into `data.store` or WORKDIR/store. Started again with the
same workdir, training goes on from the last checkpoint; SIGTERM saves and ends it (exit code 143). After training, or
with --evaluate alone, the cases of `data.lesions` and planted lesions are evaluated: WORKDIR/evaluation.

On several hosts start the same line on each with --distributed; see launch/. The workdir may be gs://BUCKET/…: slices
stay on a disk (`data.store`), and evaluation is a run of its own, into a folder.
"""

import logging
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from strega_jax import command
from strega_jax.config import Run
from strega_jax.config_help import config_help
from strega_jax.config_names import config_names
from strega_jax.errors import ConfigError
from strega_jax.run_config import as_run
from strega_jax.scans.files import in_bucket

log = logging.getLogger(__name__)

# 128 + SIGTERM: schedulers that sent it start such a job again.
TERMINATED = 143

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run: a file, or the name of a config of the package.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run, or gs://BUCKET/… for it. Default: runs/NAME-OF-THE-CONFIG."
)
_EVALUATE = flags.DEFINE_bool("evaluate", False, "Do not train: evaluate the workdir's last checkpoint.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "With --evaluate: another workdir or checkpoint to evaluate.")
_PROFILE = flags.DEFINE_bool("profile", False, "Write a trace of five training steps to WORKDIR/profile.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Scans prepared at once.", lower_bound=1)


def main() -> int:
    """Prepare, train, evaluate: whatever the config and the flags ask for."""
    if _CONFIG.value is None:
        raise ConfigError(f"--config is missing: a file, or one of {', '.join(config_names())}; --help tells more")
    if _CHECKPOINT.value and not _EVALUATE.value:
        raise ConfigError("--checkpoint names what --evaluate evaluates, and training takes none; add --evaluate")
    # What a help text does not need is loaded where the work begins.
    import jax

    from strega_jax.training.inputs import open_store, prepare_scans
    from strega_jax.training.loop import total_steps, train

    run = as_run(_CONFIG.value)
    workdir = _WORKDIR.value or f"runs/{Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem}"
    if in_bucket(workdir):
        _check_bucket(run, workdir)
    failures: list[str] = []
    if not _EVALUATE.value:
        failures += prepare_scans(run, workdir, _WORKERS.value)
        store = open_store(run, workdir)
        log.info("training on %s: %d slices", jax.devices(), len(store.source("train")))
        done = train(run, store, workdir, profile=_PROFILE.value)
        log.info("%s: %d steps done", workdir, done)
        if done < total_steps(run, len(store.source("train"))):
            print(f"{workdir}: stopped by SIGTERM after step {done}, all saved; the same line goes on from there")
            return TERMINATED
        _describe(run, workdir)
    if not (run.data.lesions or run.data.planted or run.data.controls):
        if _EVALUATE.value:
            raise ConfigError("nothing to evaluate: set --config.data.lesions or --config.data.planted")
    elif in_bucket(workdir):
        log.info("evaluate into a folder: this line with --evaluate --checkpoint=%s --workdir=FOLDER", workdir)
    elif jax.process_count() > 1:
        log.info("evaluate with one process: this line with --evaluate and without --distributed")
    else:
        # Statistics and figures take longer to load than all the rest, and many runs never need them.
        from strega_jax.evaluation.run import evaluate_run

        failures += evaluate_run(run, workdir, _CHECKPOINT.value)
    for message in failures:
        print(f"failed: {message}")
    return 1 if failures else 0


def _check_bucket(run: Run, workdir: str) -> None:
    """Raise ConfigError where a folder is wanted."""
    if _EVALUATE.value:
        raise ConfigError(
            f"--workdir={workdir}: evaluation writes into a folder; name one, and the run by --checkpoint={workdir}"
        )
    from strega_jax.training.inputs import DEMO

    if not run.data.store or run.data.scans == DEMO:
        raise ConfigError(
            f"--workdir={workdir}: slices and the demo's scans must lie on a disk; name a folder for the slices "
            "with --config.data.store, and no demo"
        )


def _describe(run: Run, workdir: str) -> None:
    """Leave beside the checkpoints what prediction needs to know of healthy brains.

    Every process finds it out, so that none has to wait for another; the first writes.
    """
    import jax

    from strega_jax.models.calibration import calibrate, save_calibration
    from strega_jax.models.model import load_model
    from strega_jax.models.reference import make_reference, save_reference
    from strega_jax.training.inputs import open_store

    model, store = load_model(workdir), open_store(run, workdir)
    calibration = calibrate(model, store, run.postprocess) if run.postprocess.needs_calibration else None
    reference = make_reference(model, store)
    if jax.process_index() == 0:
        if calibration is not None:
            save_calibration(workdir, calibration)
        save_reference(workdir, reference)


def cli() -> None:
    """Console entry point."""
    command.run(main, more_help=config_help)


if __name__ == "__main__":
    cli()
