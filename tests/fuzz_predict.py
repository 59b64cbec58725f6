"""Start `predict` on damaged scans: it must tell what is wrong or leave complete results, and touch nothing else.

    python tests/fuzz_predict.py --cases 1000

Every case is a whole run of the command's `main` on a folder with one damaged NIfTI file, or one damaged DICOM
series, below 1 MB: brains on a 4 mm grid, whose bytes, header fields, name, voxels or place in the folder are
spoilt. Allowed are a told error and complete results; not a traceback, a file outside the output folder, a part of a
result, a temporary file left behind, or 2 GB of memory. Not collected by pytest; `test_predict_cli.py` runs a few.
"""

import contextlib
import functools
import gzip
import io
import logging as std_logging
import tempfile
import warnings
from pathlib import Path

import fuzz_dicom
import fuzz_scans
import nibabel
import numpy as np
from absl import flags, logging
from fuzzing import Tally, command_line
from small_workdir import small_scan, small_workdir
from test_dicom import write_dicom

from strega_jax import predict
from strega_jax.errors import StregaError
from strega_jax.output.files import KINDS

NAMES = ["scan", "sub-01_T1w", "sub-..T1w", "..", "a b;c'd", "ä\n\t", "-flag", "x" * 200, "sub-1_T2w", "{0}%s"]
COMPLETE = {kind.ending for name, kind in KINDS.items() if kind.always or name == "page"}
OTHERS = {"group.html", "group.tsv"}


def brain() -> tuple[np.ndarray, np.ndarray]:
    """A demo brain on a 4 mm grid, int16, and its affine."""
    image = nibabel.load(small_scan())
    affine = image.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    return np.ascontiguousarray(np.asanyarray(image.dataobj)[::2, ::2, ::2]).astype(np.int16), affine


def spoilt(rng: np.random.Generator, data: np.ndarray, affine: np.ndarray) -> bytes:
    """The NIfTI file of a brain whose voxels or geometry are strange, but not its bytes."""
    data, affine = data.astype(np.float32), affine.copy()
    way = rng.integers(8)
    if way == 0:
        data[rng.random(data.shape) < rng.uniform(0, 0.5)] = rng.choice([np.nan, np.inf, -1e30, 0, 3e38])
    elif way == 1:
        affine[:3, :3] *= 10 ** rng.uniform(-4, 4)
    elif way == 2:
        affine[:3] = rng.normal(0, 3, (3, 4))
    elif way == 3:
        data = data[tuple(slice(*sorted(rng.integers(0, n + 1, 2))) for n in data.shape)]
    elif way == 4:
        data = np.where(data > 0, rng.integers(1, 4), 0).astype(np.float32)
    elif way == 5:
        data += rng.normal(0, 10 ** rng.uniform(-2, 4), data.shape).astype(np.float32)
    elif way == 6:
        data = np.stack([data] * rng.integers(1, 4), axis=-1)
    else:
        data = data * np.float32(10 ** rng.uniform(-30, 30))
    dtype = [np.float32, np.float64, np.int16, np.uint8][rng.integers(4)]
    if dtype in (np.int16, np.uint8):
        data = np.nan_to_num(data, posinf=0, neginf=0).clip(0, np.iinfo(dtype).max)
    return gzip.compress(nibabel.Nifti1Image(data.astype(dtype), affine).to_bytes(), 1)


def run(arguments: list[str], root: Path) -> str:
    """Run the command as its console entry point would; 'done', 'failed' or 'told'."""
    flags.FLAGS(["predict", f"--checkpoint={small_workdir()}", *arguments], known_only=False)
    shown = io.StringIO()
    before = contents(root, skip=root / "out")
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(io.StringIO()):
            outcome = "a scan failed" if predict.main() else "done"
    except StregaError as error:
        if not str(error):
            raise AssertionError("an error without a text") from error
        outcome = "told"
    assert "Traceback" not in shown.getvalue()
    assert contents(root, skip=root / "out") == before, "files outside the output folder changed"
    check_outputs(root / "out", outcome)
    return outcome


def check_outputs(folder: Path, outcome: str) -> None:
    """Nothing, or every file of a result."""
    # Where brain extraction is installed, it may find a brain in a spoilt scan.
    paths = folder.rglob("*") if folder.exists() else ()
    names = {path.name for path in paths if not path.name.endswith("_desc-brain_mask.nii.gz")}
    stems = {name.removesuffix("_boxes.json") for name in names if name.endswith("_boxes.json")}
    expected = {stem + end for stem in stems for end in COMPLETE} | (OTHERS if stems else set())
    assert names == expected, f"{outcome}: {sorted(names ^ expected)}"
    assert bool(stems) == (outcome == "done"), outcome


def contents(root: Path, skip: Path) -> dict[str, bytes]:
    """Every file below a folder but the outputs."""
    return {
        str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file() and skip not in path.parents
    }


def nifti_case(rng: np.random.Generator, good: bytes, volume: tuple[np.ndarray, np.ndarray]) -> str:
    """One damaged NIfTI file."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        if rng.random() < 0.4:
            suffix, content = ".nii.gz", spoilt(rng, *volume)
        else:
            suffix, content = fuzz_scans.damaged(rng, [good])
        path = root / "in" / f"{NAMES[rng.integers(len(NAMES))]}{suffix}"
        path.write_bytes(content)
        source = path if rng.random() < 0.5 else path.parent
        return "NIfTI " + run([f"--input={source}", f"--output={root / 'out'}"], root)


def dicom_case(rng: np.random.Generator, volume: tuple[np.ndarray, np.ndarray]) -> str:
    """One damaged DICOM series."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        name = NAMES[rng.integers(len(NAMES))]
        paths = write_dicom(root / "in" / name, *volume, RescaleSlope=1.0, RescaleIntercept=0.0)
        chosen = paths if rng.random() < 0.2 else [paths[rng.integers(len(paths))]]
        seed = rng.integers(2**32)
        for path in chosen:
            path.write_bytes(fuzz_dicom.damaged(np.random.default_rng(seed), path.read_bytes()))
        return "DICOM " + run([f"--input={root / 'in'}", f"--output={root / 'out'}"], root)


def fuzz(cases: int, seed: int, dicom_share: float = 0.3) -> Tally:
    """So many runs, of which a share on DICOM series."""
    rng, tally, volume = np.random.default_rng(seed), Tally(), brain()
    good = nibabel.Nifti1Image(*volume).to_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(cases):
            one = np.random.default_rng(rng.integers(2**63))
            dicom = rng.random() < dicom_share
            tally.run(number, functools.partial(dicom_case, one, volume) if dicom else functools.partial(
                nifti_case, one, good, volume
            ))  # fmt: skip
    return tally


if __name__ == "__main__":
    logging.set_verbosity(logging.FATAL)
    nibabel.imageglobals.logger.setLevel("CRITICAL")
    std_logging.disable(std_logging.CRITICAL)
    command_line(__doc__, fuzz)
