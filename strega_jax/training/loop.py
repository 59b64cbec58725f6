"""The training loop: from a slice store to checkpoints, exactly resumable."""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
from tqdm import tqdm

from strega_jax.config import Run
from strega_jax.detectors import build
from strega_jax.errors import StregaError
from strega_jax.models.about import About
from strega_jax.scans.files import PathLike, absolute
from strega_jax.slices.loader import training_batches
from strega_jax.slices.store import SliceStore
from strega_jax.training import mesh as meshes
from strega_jax.training.checkpoints import Checkpoints
from strega_jax.training.fit_after import fitted_after_training
from strega_jax.training.meter import Meter
from strega_jax.training.metrics import MetricsLog
from strega_jax.training.state import TrainState, init_state, make_optimizer
from strega_jax.training.step import make_train_step
from strega_jax.training.termination import Termination
from strega_jax.training.tracing import Tracer
from strega_jax.training.validation import Validator
from strega_jax.training.workdir import claim_workdir, forget_description, tell_schedule

log = logging.getLogger(__name__)


class DivergedError(StregaError):
    """The loss is no longer a finite number."""


def train(run: Run, store: SliceStore, workdir: PathLike, *, profile: bool = False) -> int:
    """Train a detector, going on from the workdir's last checkpoint if there is one.

    Args:
        run: the config; a workdir belongs to one config for life, save for how long it trains and what it logs.
        store: the slices.
        workdir: gets checkpoints/, metrics.jsonl, tensorboard/ and config.json; a folder or gs://BUCKET/….
        profile: write a trace of five steps to workdir/profile.

    Returns:
        The last step done: the total, or less when a SIGTERM ended the run early (it saves first).

    Raises:
        ConfigError: a workdir of another config or of other slices, or a batch that does not divide among the devices.
        StoreError: the processes do not see the same slices.
        CheckpointError: the checkpoints are damaged, of another network, or cannot be read now.
        DivergedError: NaN or infinite loss.
    """
    workdir = absolute(workdir)
    source = store.source("train")
    total = total_steps(run, len(source))
    mesh = meshes.data_mesh()
    meshes.check_divides(mesh, run.training.batch_size, run.optimiser.accumulate)
    before = claim_workdir(workdir, run, store)
    detector = build(run.detector, run.model, run.compute_dtype)
    shape = store.array(store.entries[0]).shape[1:]
    optimizer = make_optimizer(run.optimiser, detector, total)
    fresh = functools.partial(init_state, detector, optimizer, run.optimiser, shape, run.seed)
    state = jax.jit(fresh, out_shardings=meshes.replicated(mesh))()
    batches = training_batches(
        source,
        run.training.batch_size,
        run.seed,
        run.training.reader_threads,
        jax.process_index(),
        jax.process_count(),
    )
    scans = len(store.scans_of("train"))
    about = About(run, store.settings, store.normalisation, shape, total, scans, len(source), store.rule)
    with Checkpoints(workdir / "checkpoints", run.training.keep_checkpoints) as checkpoints:
        if checkpoints.latest is not None:
            state = checkpoints.restore(state, batches)
            log.info("going on from step %d of %d", int(state.step), total)
            if int(state.step) < total:
                tell_schedule(run, int(state.step), total_steps(before or run, len(source)), total)
                forget_description(workdir)
        else:
            log.info("%s", parameter_table(state.params))
        step_function = make_train_step(detector, optimizer, run, store.normalisation, mesh)
        validator = Validator(detector, store, mesh, run)
        fit = functools.partial(fitted_after_training, detector, store, mesh)
        leader = jax.process_index() == 0
        log_context = MetricsLog(workdir, int(state.step)) if leader else contextlib.nullcontext()
        tracer = Tracer(workdir / "profile" if profile and leader else None)
        with log_context as metrics_log, Termination() as termination, tracer, contextlib.closing(batches):
            loop = Loop(run, step_function, validator, fit, mesh, about, checkpoints, metrics_log, termination, tracer)
            return loop.run(state, batches)


def total_steps(run: Run, slices: int) -> int:
    """Optimiser steps of a whole run over so many training slices."""
    return run.training.steps or math.ceil(run.training.epochs * slices / run.training.batch_size)


def parameter_table(params: Any) -> str:
    """Names, shapes and counts of all parameters, one a line, and their total."""
    leaves = [("/".join(key.key for key in path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    rows = [f"{name:<60} {leaf.shape!s:>22} {leaf.size:>12,}" for name, leaf in leaves]
    total = sum(leaf.size for _, leaf in leaves)
    return "\n".join(["parameters:", *rows, f"{'total':<60} {'':>22} {total:>12,}"])


@dataclasses.dataclass
class Loop:
    """The parts of one run, and the loop over its steps."""

    run_config: Run
    step_function: Any
    validator: Validator
    fit: Callable[[TrainState], TrainState]  # done once, after the last step
    mesh: jax.sharding.Mesh
    about: About
    checkpoints: Checkpoints
    metrics_log: MetricsLog | None  # of the first process
    termination: Termination
    tracer: Tracer

    def run(self, state: TrainState, batches: Any) -> int:
        """Train from `state` on; the last step done."""
        settings, total, start = self.run_config.training, self.about.total_steps, int(state.step)
        pending: tuple[int, Any] | None = None
        meter = Meter(settings.batch_size)
        leader = jax.process_index() == 0
        with tqdm(total=total, initial=start, desc="training", unit="step", disable=not leader) as bar:
            for step in range(start + 1, total + 1):
                with meter.waiting():
                    batch = meshes.shard_batch(self.mesh, next(batches))
                self.tracer.before(step - start)
                state, metrics = self.step_function(state, batch)
                # The numbers of the step before are fetched while this one runs.
                self.report(pending, meter, bar, settings.log_every, total)
                pending = (step, metrics)
                bar.update()
                last = step == total or self._asked_to_stop(step)
                save = last or step % settings.checkpoint_every == 0
                validate = step == total or step % settings.validate_every == 0
                if save or validate:
                    self.report(pending, meter, bar, settings.log_every, total)  # never save a diverged state
                    pending = None
                    state = self.fit(state) if step == total else state
                if validate:
                    self.validator(step, state, self.metrics_log)
                    meter.restart()
                if save:
                    if self.metrics_log is not None:
                        self.metrics_log.flush(step)  # what a checkpoint has behind it must not be lost
                    self.checkpoints.save(step, state, batches, self.about)
                if last:
                    self.checkpoints.wait()
                    return step
        return start

    def _asked_to_stop(self, step: int) -> bool:
        return self.termination.asked or (jax.process_count() > 1 and self.checkpoints.preempted(step))

    def report(self, pending: tuple[int, Any] | None, meter: Meter, bar: tqdm, every: int, total: int) -> None:
        """Log one step's numbers; raise DivergedError if they are no longer numbers."""
        if pending is None:
            return
        step, metrics = pending
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at step {step}: training diverged. The last checkpoint is sound; lower "
                "optimiser.learning_rate, set optimiser.clip_norm, or look for a damaged scan"
            )
        meter.count()
        if step % every == 0 or step == total:
            numbers = {name: float(value) for name, value in metrics.items()}
            numbers |= meter.read()
            bar.set_postfix_str(f"loss {loss:.4g}, {numbers['images_per_second']:.3g} images/s")
            if self.metrics_log is not None:
                self.metrics_log.write(step, numbers)
