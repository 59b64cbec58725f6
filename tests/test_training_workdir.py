"""A workdir belongs to one run: what may change between two starts, what may not, and what a longer training means."""

import dataclasses
import json
import logging
from pathlib import Path

import pytest
from test_training_loop import losses

from conftest import small_run
from strega_jax.config import Optimiser, Run
from strega_jax.errors import ConfigError
from strega_jax.models import calibration, reference
from strega_jax.slices.store import SliceStore, write_entry
from strega_jax.training.loop import train
from strega_jax.training.workdir import claim_workdir, forget_description, tell_schedule

COSINE = small_run(optimiser={"decay": "cosine", "warmup_steps": 2})


def claim(workdir: Path, store: SliceStore, **changes: object) -> object:
    from etils import epath

    return claim_workdir(epath.Path(workdir), small_run(**changes), store)


def test_a_longer_training_goes_on_as_if_it_had_been_as_long_from_the_start(disc_store, tmp_path):
    quick = {"detector": "vae", "model": {"maps": (8,), "latent": 8}}  # to compile
    short, longer = (
        Run.from_mapping({**small_run(training=training).to_dict(), **quick})
        for training in ({"steps": 2, "checkpoint_every": 2}, {"steps": 4, "checkpoint_every": 4, "log_every": 1})
    )
    train(longer, disc_store, tmp_path / "whole")
    assert train(short, disc_store, tmp_path / "run") == 2
    for name in (calibration.FILE, reference.FILE):
        (tmp_path / "run" / name).write_text("{}")
    assert train(longer, disc_store, tmp_path / "run") == 4
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["steps"] == 4
    # What described the model of step 2 does not describe this one.
    assert not (tmp_path / "run" / calibration.FILE).exists()
    assert not (tmp_path / "run" / reference.FILE).exists()


def test_what_another_length_means_for_the_learning_rate_is_told(caplog):
    with caplog.at_level(logging.INFO):
        tell_schedule(COSINE, 6, 6, 6)
        assert not caplog.messages
        tell_schedule(COSINE, 6, 6, 14)
        tell_schedule(dataclasses.replace(COSINE, optimiser=Optimiser()), 6, 6, 14)
    # Half a cosine over 4 steps is at its end, over 12 steps at a third: 1e-4 · (1 + cos 60°) / 2.
    assert "to step 14, the one before to step 6" in caplog.messages[0]
    assert "goes on at 7.5e-05 where it was 0;" in caplog.messages[0]
    assert caplog.messages[1].endswith("the learning rate is constant")


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"steps": 80, "epochs": 3.0, "log_every": 3, "reader_threads": 1}},
        {"data": {"store": "elsewhere"}},
        {"postprocess": {"smooth_mm": 2.0}},
        {"model": {"maps": (8,), "latent": 8, "sign": "absolute", "kl_weight": 1.0}},  # a default, spelt out
    ],
)
def test_what_is_not_learnt_may_change(disc_store, tmp_path, changes):
    assert claim(tmp_path, disc_store) is None
    assert claim(tmp_path, disc_store, **changes) == small_run()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 5}, "seed"),
        ({"training": {"batch_size": 4}}, "training.batch_size"),
        ({"optimiser": {"decay": "cosine"}}, "optimiser"),
        ({"augment": {"noise": 0.5}}, "augment"),
        ({"model": {"latent": 4}}, "model"),
        ({"preprocess": {"min_brain_fraction": 0.5}}, "preprocess"),
    ],
)
def test_what_is_learnt_may_not(disc_store, tmp_path, changes, told):
    claim(tmp_path, disc_store)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ConfigError, match=rf"another config \(differs in: {told}\)"):
        claim(tmp_path, disc_store, **changes)
    assert (tmp_path / "config.json").read_text() == before


def test_a_run_does_not_go_on_with_other_slices_than_it_began_with(disc_store, tmp_path):
    claim(tmp_path, disc_store)
    first = disc_store.entries[0]
    write_entry(disc_store.path, dataclasses.replace(first, split="test"))
    with pytest.raises(ConfigError, match=r"trained on other slices than the store has now \(40, now 30\)"):
        claim(tmp_path, SliceStore.open(disc_store.path))
    write_entry(disc_store.path, dataclasses.replace(first, sha256="another image"))
    with pytest.raises(ConfigError, match="other slices"):
        claim(tmp_path, SliceStore.open(disc_store.path))
    write_entry(disc_store.path, first)
    claim(tmp_path, SliceStore.open(disc_store.path))


def test_a_workdir_of_the_version_before_goes_on(disc_store, tmp_path):
    claim(tmp_path, disc_store)
    there = json.loads((tmp_path / "config.json").read_text())
    del there["training_slices"], there["augment"]["rotation"]
    (tmp_path / "config.json").write_text(json.dumps(there))
    claim(tmp_path, disc_store)
    assert json.loads((tmp_path / "config.json").read_text())["training_slices"]["slices"] == 40
    there["augment"]["gone"] = 1
    (tmp_path / "config.json").write_text(json.dumps(there))
    with pytest.raises(ConfigError, match=r"of another version .*no field gone"):
        claim(tmp_path, disc_store)


def test_nothing_to_forget_is_no_error(tmp_path):
    from etils import epath

    forget_description(epath.Path(tmp_path))
