"""Find anomalies in brain scans with a trained model.

    python -m strega_jax.predict --checkpoint=runs/ixi_t1 --input=patient.nii.gz --output=found/
    python -m strega_jax.predict --checkpoint=runs/ixi_t1 --input=brats/ --contrast=T2w --output=found/

For every scan it writes, on the scan's own grid: NAME_mask.nii.gz, NAME_desc-residual.nii.gz (the anomaly
score) and NAME_boxes.json (components, volumes, boxes). Scans must be brain-extracted. A scan that fails is
reported at the end and the others are done; exit code 1 if any failed. Research use only.
"""

import ast
import dataclasses
import logging
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from strega_jax import command
from strega_jax.config import Postprocess, build_dataclass
from strega_jax.errors import ScanError, StregaError
from strega_jax.inference.calibration import load_calibration
from strega_jax.inference.detect import detect_scan
from strega_jax.inference.model import load_model
from strega_jax.inference.write import DISCLAIMER, write_detection
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.scan import read_scan

log = logging.getLogger(__name__)

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir of a training run, or one checkpoint.", required=True)
_INPUT = flags.DEFINE_string("input", None, "A scan, or a folder of scans.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; made if need be.", required=True)
_CONTRAST = flags.DEFINE_enum(
    "contrast", None, ["T1w", "T1ce", "T2w", "PD", "FLAIR"], "Contrast to read; default: all, as the file names say."
)
_POSTPROCESS = flags.DEFINE_list(
    "postprocess", [], "Settings that replace the checkpoint's, e.g. threshold=fixed,value=0.4,min_volume_ml=1."
)


def main() -> int:
    """Detect in every scan; say by the exit code whether all succeeded."""
    model = load_model(_CHECKPOINT.value)
    settings = _settings(model.about.run.postprocess, _POSTPROCESS.value)
    calibration = load_calibration(_CHECKPOINT.value)
    cases = find_cases(_INPUT.value, [_CONTRAST.value] if _CONTRAST.value else [])
    failures = []
    for case in tqdm(cases, desc="detecting", unit="scan"):
        try:
            contrast: Any = _CONTRAST.value or case.contrast or None
            detection = detect_scan(model, read_scan(case.image), settings, calibration, contrast=contrast)
            written = write_detection(Path(_OUTPUT.value), case.name, detection, model.source)
            log.info("%s: %.1f ml marked", written.mask, detection.mask.sum() * detection.scan.voxel_ml)
        except ScanError as error:
            failures.append(str(error))
            log.error("%s", error)
    print(f"{_OUTPUT.value}: {len(cases) - len(failures)} scans done, {len(failures)} failed. {DISCLAIMER}")
    for message in failures:
        print(f"  failed: {message}")
    return 1 if failures else 0


def _settings(trained: Postprocess, overrides: list[str]) -> Postprocess:
    fields = dataclasses.asdict(trained)
    for item in overrides:
        name, separator, text = item.partition("=")
        if not separator:
            raise StregaError(f"--postprocess={item}: name=value is wanted")
        try:
            fields[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            fields[name] = text
    return build_dataclass(Postprocess, fields, "postprocess")


def cli() -> None:
    """Console entry point."""
    command.run(main)


if __name__ == "__main__":
    cli()
