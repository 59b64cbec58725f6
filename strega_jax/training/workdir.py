"""A workdir belongs to one run: what may change between two starts, and what a longer training means."""

import dataclasses
import hashlib
import json
import logging
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from strega_jax.config import Run
from strega_jax.detectors import build
from strega_jax.errors import ConfigError, StoreError
from strega_jax.models import calibration, reference
from strega_jax.scans.files import write_json
from strega_jax.slices.store import SliceStore
from strega_jax.training.state import learning_rate

log = logging.getLogger(__name__)

FILE = "config.json"
# Beside what is learnt, a run says where its images are, how long it trains, what it logs and what is done to scores.
_MAY_CHANGE = ("data", "postprocess", "training")


def claim_workdir(workdir: epath.Path, run: Run, store: SliceStore) -> Run | None:
    """Make the workdir this run's, or make sure that it is; the run of the start before, if there was one.

    Its config.json is that of the last start, with the store's settings and what tells its training slices from others.

    Raises:
        ConfigError: it is of a run that learnt with other settings or from other slices.
        StoreError: the processes do not see the same slices.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / FILE
    slices = {"slices": len(store.source("train")), "digest": store.training_digest}
    _check_all_see(slices, store)
    more = {"store_settings": dataclasses.asdict(store.settings), "training_slices": slices}
    mine = json.loads(json.dumps({**run.to_dict(), **more}))
    before = None
    if path.exists():
        there = json.loads(path.read_text())
        try:
            before = Run.from_mapping({name: value for name, value in there.items() if name not in more})
        except ConfigError as error:
            raise ConfigError(f"{path}: of another version ({error}); choose another --workdir") from error
        _check_same(workdir, there, before, mine, run)
    if jax.process_index() == 0:
        write_json(path, mine)
    return before


def tell_schedule(run: Run, done: int, before: int, total: int) -> None:
    """Say what another length means for a learning rate that depends on it."""
    if before == total:
        return
    text = f"this start trains to step {total}, the one before to step {before}"
    if run.optimiser.decay == "constant":
        log.info("%s; the learning rate is constant", text)
        return
    was, now = (float(np.asarray(learning_rate(run.optimiser, length)(done))) for length in (before, total))
    log.warning(
        "%s: the %s decay is another from here on. The learning rate goes on at %.3g where it was %.3g; a run of %d "
        "steps from the start would have followed another one from its first steps",
        text, run.optimiser.decay, now, was, total,
    )  # fmt: skip


def forget_description(workdir: epath.Path) -> None:
    """Remove what described the model that is now trained on: it comes again with the last step."""
    if jax.process_index() == 0:
        for name in (calibration.FILE, reference.FILE):
            (workdir / name).unlink(missing_ok=True)


def _check_same(workdir: epath.Path, there: dict[str, Any], before: Run, mine: dict[str, Any], run: Run) -> None:
    old, new = _learnt(before), _learnt(run)
    differing = sorted(name for name in new if old[name] != new[name])
    differing += ["store_settings"] * (there["store_settings"] != mine["store_settings"])
    if differing:
        raise ConfigError(
            f"{workdir} holds a run of another config (differs in: {', '.join(differing)}); choose another --workdir"
        )
    trained, now = there.get("training_slices"), mine["training_slices"]  # older versions did not write it
    if trained not in (None, now):
        raise ConfigError(
            f"{workdir} was trained on other slices than the store has now ({trained['slices']}, now "
            f"{now['slices']}); bring the store back to what it was, or choose another --workdir"
        )


def _learnt(run: Run) -> dict[str, Any]:
    """What may not change, by name; a detector's defaults spelt out or not are the same."""
    fields = {name: value for name, value in run.to_dict().items() if name not in _MAY_CHANGE}
    fields |= {"model": build(run.detector, run.model, run.compute_dtype)}
    return fields | {"training.batch_size": run.training.batch_size}


def _check_all_see(slices: dict[str, Any], store: SliceStore) -> None:
    if jax.process_count() == 1:
        return
    own = np.frombuffer(hashlib.sha256(json.dumps(slices).encode()).digest(), np.uint8)
    if not (multihost_utils.process_allgather(own) == own).all():
        raise StoreError(f"{store.path}: the processes of this job see different slices in it; start it again")
