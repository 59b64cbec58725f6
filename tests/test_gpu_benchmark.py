"""The benchmark of GPUs, tiny and on CPU: its table is whole and its figures agree with each other."""

import dataclasses
import math
from pathlib import Path

import jax
import pytest
from absl.testing import flagsaver

from strega_jax.errors import ConfigError


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import gpu

    return gpu


def test_the_tiny_benchmark_writes_a_table_of_finite_figures_that_agree(gpu, tmp_path):
    kinds = ("bfloat16",)  # the other type takes the same way
    rows = gpu.write(tmp_path / "gpu.md", dataclasses.replace(gpu.TINY_SETTINGS, types=kinds))
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "no GPU's figures" in text
    assert all(row.line() in text for row in rows)
    assert all(row.bar is None for row in rows)
    found = {row.what: row for row in rows}
    assert len(found) == len(rows)
    for row in rows:
        assert row.note if row.value is None else math.isfinite(row.value) and row.value > 0
    for kind in kinds:
        step, eager = f"network's step, {kind}, JAX", f"network's step, {kind}, PyTorch eager"
        ratio = found[step].value / found[eager].value
        assert found[f"{eager}: JAX over it"].value == pytest.approx(ratio)
        whole = f"train step, {kind}"
        speed = found[f"{whole}, operations"].value * found[whole].value / 1e3
        assert found[f"{whole}, speed"].value == pytest.approx(speed)
    devices = [row.what for row in rows if "devices:" in row.what]
    assert len(devices) == jax.device_count()  # 1 and 2 here


def test_a_bar_is_a_least_rate_or_a_longest_time(gpu):
    assert gpu.Row("speed", 3.0, "slices/s", 2.0).met is True
    assert gpu.Row("time", 3.0, "s", 2.0).met is False
    assert gpu.Row("unknown", None, "s", 2.0, "why").met is None


def test_without_a_gpu_no_figures_are_written(gpu):
    with flagsaver.flagsaver(tiny=False, table=""), pytest.raises(ConfigError, match="no GPU to measure"):
        gpu.main()
