"""The doctor passes what is sound, and tells what is not."""

import numpy as np

from strega_jax import doctor


def test_a_sound_installation_is_found_sound(capsys):
    assert doctor.main() == 0
    shown = capsys.readouterr().out
    assert "0 broken" in shown
    for word in ("jax 0.", "cpu", "memory:", "matrix products right", "of a phantom right", "network's score"):
        assert word in shown


def test_wrong_products_are_told(monkeypatch, capsys):
    monkeypatch.setattr("jax.numpy.matmul", lambda a, b: a + b)
    assert [finding.state for finding in doctor.computation()] == [doctor.BROKEN]
    monkeypatch.setattr("jax.numpy.matmul", lambda a, b: (a + b) * np.float32(np.nan))
    assert [finding.state for finding in doctor.computation()] == [doctor.BROKEN]


def test_every_declared_package_is_looked_for():
    assert {"jax", "scikit-image", "safetensors"} <= set(doctor.needed())
    assert not {"pytest", "nilearn"} & set(doctor.needed())


def test_what_is_missing_old_or_failing_is_told_with_advice(monkeypatch):
    monkeypatch.setattr(doctor, "needed", lambda: ["jax", "no-such-package"])
    monkeypatch.setattr("jax.__version__", "0.4.30")
    found = [finding for finding in doctor.python_and_packages() if finding.state == doctor.BROKEN]
    assert ["no-such-package" in found[0].what, "too old" in found[1].what] == [True, True]
    assert all(finding.advice for finding in found)

    def fails():
        raise RuntimeError("no device")
        yield

    (finding,) = doctor.run_check(fails)
    assert finding.state == doctor.BROKEN
    assert "no device" in finding.what
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 1e9)
    assert doctor.WARNING in [finding.state for finding in doctor.disk()]
