"""The numbers of an evaluation, small enough to be kept beside the code: without pictures, curves, and paths."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from strega_jax.scans.files import write_json

STORED = flags.DEFINE_string("stored", "", "Folder of the stored results; default: the one beside the benchmark.")
KEEP = flags.DEFINE_string("keep", "", "Folder of fresh results to take over.")
ENTRIES = ("title", "about", "rows", "sizes", "healthy")
DIGITS = 6
RESULTS = "results.json"


def evaluation_file(folder: Path) -> Path | None:
    """The results under the --workdir of `strega_jax.train --evaluate`, the --output of `compare`, or a kept folder."""
    return next((path for path in (folder / "evaluation" / RESULTS, folder / RESULTS) if path.exists()), None)


def keep_evaluation(found: Path, target: Path, wanted: Callable[[Any], bool] | None = None, **more: Any) -> None:
    """Write the numbers of `found`, of its rows those `wanted`, its SHA-256, and `more` to `target`."""
    content = json.loads(found.read_text(encoding="utf-8"))
    content["rows"] = [row for row in content["rows"] if wanted is None or wanted(row)]
    kept = {name: _rounded(content[name]) for name in ENTRIES if name in content}
    kept["about"] = {name: value for name, value in kept["about"].items() if not name.endswith("checkpoint")}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, {"taken from": hashlib.sha256(found.read_bytes()).hexdigest(), **kept, **more})


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
