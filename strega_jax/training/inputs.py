"""Where a run's scans and slices are, and whom it holds out."""

from collections.abc import Iterable
from pathlib import Path

import jax

from strega_jax.config import Run
from strega_jax.errors import ConfigError
from strega_jax.scans.case import Case
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.demo import make_demo_cohort
from strega_jax.scans.splits import SplitRule, subject_splits
from strega_jax.slices.cohort import prepare_cohort
from strega_jax.slices.store import SliceStore, read_manifest

DEMO = "demo"


def scans_folder(run: Run, workdir: str) -> Path:
    """The folder of the healthy scans; the demo's cohort is made there by the first process if need be."""
    if run.data.scans != DEMO:
        return Path(run.data.scans)
    folder = Path(workdir) / "demo_cohort"
    if jax.process_index() == 0:
        make_demo_cohort(folder, run.data.demo_subjects, run.seed)
    return folder


def store_path(run: Run, workdir: str) -> Path:
    """The folder of the slice store, whether it exists or not."""
    return Path(run.data.store or Path(workdir) / "store")


def open_store(run: Run, workdir: str) -> SliceStore:
    """The slice store, which must have been prepared with the run's settings."""
    store = SliceStore.open(store_path(run, workdir))
    if store.settings != run.preprocess:
        raise ConfigError(
            f"{store.path} was prepared with other settings than config.preprocess; prepare another store, or "
            f"train with the store's: {store.settings}"
        )
    there = {entry.contrast for entry in store.entries if entry.rendered}
    if there != set(run.data.rendered):
        raise ConfigError(
            f"{store.path} has training scans rendered in: {_listed(there)}; config.data.rendered says: "
            f"{_listed(run.data.rendered)}. Prepare it again with this config, or set config.data.rendered"
        )
    return store


def prepare_scans(run: Run, workdir: str, workers: int) -> tuple[str, ...]:
    """Make the slice store from `data.scans`, if the run says so; one message for each scan that failed."""
    if not run.data.scans:
        return ()
    cases = find_cases(scans_folder(run, workdir), [run.preprocess.contrast])
    rule, path = split_rule(run, workdir), store_path(run, workdir)
    outcome = prepare_cohort(
        cases,
        subject_splits(cases, rule.fractions, rule.seed),
        path,
        run.preprocess,
        rule=rule,
        rendered=run.data.rendered,
        workers=workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    print(outcome.describe(path))
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("prepared")
    return outcome.failures


def split_rule(run: Run, workdir: str) -> SplitRule:
    """That of the store if there is one: no training moves a subject from one split to another."""
    manifest = read_manifest(store_path(run, workdir))
    if manifest is None:
        return SplitRule()
    return manifest[1] or SplitRule(seed=run.seed)  # versions that did not write it down split by the run's seed


def held_out(run: Run, workdir: str) -> list[Case]:
    """The healthy scans of `test`, else of `dev`, as the store holds them out."""
    found = find_cases(scans_folder(run, workdir), [run.preprocess.contrast])
    healthy = [case for case in found if case.mask is None and case.healthy is not False]
    rule, path = split_rule(run, workdir), store_path(run, workdir)
    by_rule = subject_splits(healthy, rule.fractions, rule.seed)
    stored = {entry.name: entry.split for entry in SliceStore.open(path).entries} if read_manifest(path) else {}
    splits = {case.name: stored.get(case.name, by_rule[case.subject]) for case in healthy}
    test, dev = ([case for case in healthy if splits[case.name] == split] for split in ("test", "dev"))
    return test or dev


def _listed(contrasts: Iterable[str]) -> str:
    return ", ".join(sorted(contrasts)) or "none"
