"""What a user installs: a wheel that works from an empty folder, and that declares what it imports."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
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
    short = ["--config.training.steps=2", "--config.data.demo_subjects=10", "--config.data.planted=1",
             "--config.data.controls=0"]  # fmt: skip
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


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name for name in project["optional-dependencies"] if name not in ("test", "benchmark")}
    lists = [project["dependencies"], *(project["optional-dependencies"][name] for name in extras)]
    declared = {re.split(r"[\[><=~ ]", requirement)[0].lower() for one in lists for requirement in one}
    imported = set()
    for path in (ROOT / "strega_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.split(".")[0] for name in names}
    outside = {name for name in imported if name and name not in sys.stdlib_module_names and name != "strega_jax"}
    owners = importlib.metadata.packages_distributions()
    known = {name: {owner.lower().replace("_", "-") for owner in owners.get(name, [name])} for name in outside}
    # A package of many distributions: one that is declared will do. gcsfs and flatbuffers are used by others.
    undeclared = {name for name, distributions in known.items() if not distributions & declared}
    assert not undeclared - OPTIONAL, undeclared
    unused = declared - set().union(*known.values()) - BY_OTHERS
    assert not unused, unused


# Reached through a declared package that needs it, or looked for and told of where it is missing.
OPTIONAL = {"torch", "fsspec"}
# Declared for what is done with them: weights that are read, jax.export, buckets.
BY_OTHERS = {"deepbet", "flatbuffers", "google-cloud-storage"}
