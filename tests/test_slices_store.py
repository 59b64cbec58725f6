"""The slice store and the batches drawn from it."""

import json

import numpy as np
import pytest

from conftest import disc_volume, small_run, write_disc_store
from strega_jax.errors import ConfigError, StoreError
from strega_jax.models.batches import padded_batches
from strega_jax.slices.loader import training_batches
from strega_jax.slices.store import SliceStore, read_entry


def test_slices_come_back_as_written(disc_store):
    volume = disc_volume(np.random.default_rng(0), disc_store.settings)
    entry = disc_store.entries[0]
    np.testing.assert_array_equal(disc_store.array(entry), volume.images.astype(np.float16))
    source = disc_store.source("train")
    assert len(source) == 40
    np.testing.assert_array_equal(source[3]["images"], volume.images[3].astype(np.float16))
    assert source[9]["position"] == 1.0


def test_statistics_are_those_of_the_training_brain_pixels(tmp_path):
    settings = small_run(preprocess={"normalise": "zscore"}).preprocess
    store = write_disc_store(tmp_path / "store", settings)
    pixels = np.concatenate([np.asarray(store.array(e), np.float64) for e in store.entries if e.split == "train"])
    inside = pixels[pixels.max(axis=-1) > 0]
    np.testing.assert_allclose(store.normalisation.mean, inside.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(store.normalisation.std, inside.std(axis=0), rtol=1e-6)


def test_damage_is_noticed_and_named(disc_store):
    path = disc_store.path / "scans" / "sub-00_T1w.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"sub-00_T1w\.npy: checksum"):
        SliceStore.open(disc_store.path).source("train")[0]


def test_a_missing_array_and_a_foreign_manifest_are_named(disc_store, tmp_path):
    (disc_store.path / "scans" / "sub-01_T1w.npy").unlink()
    assert read_entry(disc_store.path, "sub-01_T1w") is None
    with pytest.raises(StoreError, match="missing"):
        SliceStore.open(disc_store.path).source("train")[10]
    with pytest.raises(StoreError, match=r"strega_jax\.prepare"):
        SliceStore.open(tmp_path / "nowhere")
    manifest = disc_store.path / "manifest.json"
    manifest.write_text(json.dumps({"schema": 99}))
    with pytest.raises(StoreError, match="schema 99"):
        SliceStore.open(disc_store.path)
    with pytest.raises(StoreError, match="no scan in split 'test'"):
        disc_store.source("test")


def batches_of(store, count, **kwargs):
    iterator = training_batches(store.source("train"), 8, seed=1, threads=2, **kwargs)
    try:
        return [next(iterator)["images"] for _ in range(count)]
    finally:
        iterator.close()


def test_two_processes_share_the_batches_of_one(disc_store):
    whole = batches_of(disc_store, 7)  # 40 slices: past the end of an epoch
    first = batches_of(disc_store, 7, process_index=0, process_count=2)
    second = batches_of(disc_store, 7, process_index=1, process_count=2)
    for batch, a, b in zip(whole, first, second, strict=True):
        np.testing.assert_array_equal(batch, np.concatenate([a, b]))


def test_an_epoch_holds_every_slice_once_and_the_next_is_shuffled_anew(disc_store):
    batches = batches_of(disc_store, 10)
    first, second = np.concatenate(batches[:5]), np.concatenate(batches[5:])

    def ordered(stack):
        return sorted(image.tobytes() for image in stack)

    everything = [disc_store.source("train")[i]["images"] for i in range(40)]
    assert ordered(first) == ordered(everything) == ordered(second)
    assert not np.array_equal(first, second)


def test_an_iterator_resumes_from_its_state(disc_store):
    iterator = training_batches(disc_store.source("train"), 8, seed=1, threads=2)
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    expected = [next(iterator)["images"] for _ in range(4)]
    other = training_batches(disc_store.source("train"), 8, seed=1, threads=2)
    other.set_state(state)
    for images in expected:
        np.testing.assert_array_equal(next(other)["images"], images)
    iterator.close()
    other.close()


def test_impossible_batches_are_refused(disc_store):
    with pytest.raises(ConfigError, match="only 40 slices"):
        training_batches(disc_store.source("train"), 64, seed=0, threads=1)
    with pytest.raises(ConfigError, match="3 processes"):
        training_batches(disc_store.source("train"), 8, seed=0, threads=1, process_count=3)


def test_padded_batches_are_all_of_one_size_and_say_what_is_real():
    images, position = np.arange(7, dtype=np.float32).reshape(7, 1, 1, 1), np.arange(7, dtype=np.float32)
    parts = list(padded_batches(images, position, 4))
    assert [(raw["images"].shape, real) for raw, real in parts] == [((4, 1, 1, 1), 4), ((4, 1, 1, 1), 3)]
    np.testing.assert_array_equal(np.concatenate([raw["position"][:real] for raw, real in parts]), position)
