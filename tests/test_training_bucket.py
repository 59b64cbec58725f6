"""A workdir in a bucket holds what one on a disk holds, and runs go on from it as exactly."""

import importlib.util
import os
import signal
import struct
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from etils import epath
from fake_gcs import Buckets, serve
from tensorboardX.proto import event_pb2

from conftest import small_run
from strega_jax.errors import ConfigError
from strega_jax.models.calibration import Calibration, load_calibration, save_calibration
from strega_jax.models.model import load_model
from strega_jax.models.opening import open_model
from strega_jax.models.reference import Reference, Spread, load_reference, save_reference
from strega_jax.scans.files import absolute, copy_files
from strega_jax.training import loop
from strega_jax.training.loop import train
from strega_jax.training.metrics import read_metrics

if importlib.util.find_spec("gcsfs") is None:  # importing it reads its settings, which the fixture makes
    pytest.skip("gcsfs is not installed: training into buckets was NOT checked", allow_module_level=True)


@pytest.fixture(scope="module")
def buckets() -> Iterator[Buckets]:
    """One server for all tests here, for its clients remember it; each test has a bucket of its own."""
    with serve() as (stored, variables), pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield stored


def logged(workdir: epath.PathLike) -> list[tuple]:
    """What of a log does not depend on the clock."""
    return [
        tuple(line.get(name) for name in ("step", "loss", "kl", "validation_loss")) for line in read_metrics(workdir)
    ]


def events(content: bytes) -> Iterator[event_pb2.Event]:
    """The records of a TensorBoard file: length, its checksum, an event, its checksum."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_a_run_in_a_bucket_is_stopped_damaged_and_still_the_run_on_a_disk(buckets, disc_store, tmp_path, monkeypatch):
    run = small_run(training={"steps": 6, "validate_every": 3, "checkpoint_every": 3}, optimiser={"ema_decay": 0.5})
    train(run, disc_store, tmp_path / "whole")
    inner = loop.Loop.report

    def report_then_terminate(self, pending, *args):
        inner(self, pending, *args)
        if pending and pending[0] == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    place = "gs://first/some/run"
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "report", report_then_terminate)
        stopped = train(run, disc_store, place)
    assert 4 <= stopped < 6
    for (bucket, name), (_, generation) in list(buckets.objects.items()):
        if f"/checkpoints/{stopped}/state/" in name:
            buckets.objects[bucket, name] = (b"", generation)
    assert train(run, disc_store, place) == 6
    assert logged(place) == logged(tmp_path / "whole")
    assert (epath.Path(place) / f"damaged-{stopped}" / "about").exists()
    model, other = load_model(place), load_model(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, model.variables, other.variables)

    files = [content for (_, name), (content, _) in buckets.objects.items() if "/tensorboard/events" in name]
    values = [(event.step, value) for content in files for event in events(content) for value in event.summary.value]
    losses = {step: value.simple_value for step, value in values if value.tag == "loss"}
    assert losses == {step: pytest.approx(loss) for step, loss, *_ in logged(place) if loss is not None}
    assert {value.tag for _, value in values if value.HasField("image")} == {"validation/input_above_reconstruction"}

    with pytest.raises(ConfigError, match="gs://first/some/run holds a run of another config"):
        train(small_run(seed=5), disc_store, place)

    assert open_model(place).reference is None
    calibration = Calibration({"smooth_mm": 0.0}, 1, (0.01, 0.1), (2.0, 1.0))
    reference = Reference(4, 1, {"error": Spread.of([0.1, 0.2])})
    save_calibration(place, calibration)
    save_reference(place, reference)
    for named in (place, f"{place}/checkpoints", f"{place}/checkpoints/6"):
        assert load_calibration(named) == calibration
        assert load_reference(named) == reference


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_files_of_any_size_are_copied(buckets, tmp_path):
    (tmp_path / "deep").mkdir()
    large = np.random.default_rng(0).bytes(11_000_000)  # more than gcsfs sends at once
    (tmp_path / "deep" / "large").write_bytes(large)
    (tmp_path / "small").write_bytes(b"small")
    copy_files(tmp_path, absolute("gs://second/copy"))
    stored = {name: content for (bucket, name), (content, _) in buckets.objects.items() if bucket == "second"}
    assert stored == {"copy/deep/large": large, "copy/small": b"small"}


def test_other_addresses_are_refused():
    with pytest.raises(ConfigError, match="only gs://"):
        absolute("s3://bucket/run")
