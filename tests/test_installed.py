"""What a user installs: a wheel that works from an empty folder, and that declares what it imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from strega_jax.config_names import config_file, config_names
from strega_jax.errors import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built and unpacked where only it can be found; what it depends on is this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", f"--target={folder / 'site'}", str(wheel)], check=True)
    return folder / "site"


def run(site: Path, folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(site)}
    line = [sys.executable, "-m", f"strega_jax.{module}", *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)


def test_train_predict_and_doctor_run_from_an_empty_folder(installed, tmp_path):
    pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")
    short = ["--config.training.steps=2", "--config.data.demo_subjects=6", "--config.data.planted=1",
             "--config.data.controls=0", "--config.preprocess.size=32", "--config.preprocess.slice_spacing_mm=6.0",
             "--config.model.maps=(8,)"]  # fmt: skip
    trained = run(installed, tmp_path, "train", "--config=demo", *short)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    (scan,) = (tmp_path / "runs" / "demo" / "planted").rglob("*_T1w.nii.gz")
    found = run(installed, tmp_path, "predict", f"--input={scan}", "--output=found", "--no-pages")
    assert found.returncode == 0, found.stdout + found.stderr
    assert list((tmp_path / "found").glob("*_mask.nii.gz"))
    told = run(installed, tmp_path, "doctor")
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_wrong_name_lists_the_configs(installed, tmp_path):
    done = run(installed, tmp_path, "train", "--config=stregaa")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for name in ("demo", "strega", "paper_t1"):
        assert name in done.stderr


def test_configs_go_by_name_or_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in config_names():
        assert Path(config_file(name)).is_file()
    assert config_file("compared:vae").endswith("compared.py:vae")
    assert config_file("configs/strega.py") == config_file("strega")
    (tmp_path / "own.py").touch()
    assert config_file("own.py") == "own.py"
    with pytest.raises(ConfigError, match="paper_t1"):
        config_file("nothing")
