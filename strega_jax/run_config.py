"""Between config files and the command line on one side and `Run` on the other."""

import dataclasses
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from strega_jax.config import Run


def as_config(run: Run) -> ConfigDict:
    """What a file in `configs/` returns: every field of the run, the detector's too, open to overrides."""
    fields = dataclasses.asdict(run)
    detector = importlib.import_module(f"strega_jax.detectors.{run.detector}").DETECTOR
    defaults: dict[str, Any] = dataclasses.asdict(detector())
    defaults.pop("compute_dtype", None)  # the run's own field
    fields["model"] = {**defaults, **run.model}
    return ConfigDict(fields)


def as_run(config: ConfigDict) -> Run:
    """The run that a config, overridden or not, describes. Raises ConfigError."""
    return Run.from_mapping(config.to_dict())


def run_of(path: Path, *arguments: str) -> Run:
    """The run of a config file, for a config made from another one; `arguments` are what follows `NAME:`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return as_run(module.get_config(*arguments))
