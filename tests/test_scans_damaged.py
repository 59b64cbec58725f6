"""Files that are cut short, damaged or larger than they look: refused in little memory, and by name."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from test_scans_reading import SPACING, save, save_with_header

from strega_jax.errors import ScanError
from strega_jax.scans.scan import read_scan


@pytest.mark.parametrize("keep", [0.999, 0.7, 0.3, 0.01])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, keep: float):
    noise = np.random.default_rng(0).random((20, 20, 20), np.float32)
    path = save(tmp_path / f"a{suffix}", nibabel.Nifti1Image(noise, SPACING))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ScanError, match=r"a\.nii"):
        read_scan(path)


def test_a_plain_file_too_short_for_its_header_is_refused_before_memory_is_asked_for(tmp_path: Path):
    path = save_with_header(tmp_path / "a.nii", dim=[3, 300, 300, 300, 1, 1, 1, 1])
    with pytest.raises(ScanError, match=r"a\.nii: 3124 bytes cannot hold \(300, 300, 300\) voxels"):
        read_scan(path)


def bomb(path: Path, shape: tuple[int, int, int], dtype: type, payload: int) -> Path:
    """A small gzip file whose header claims `shape` and which unpacks to `payload` zero bytes."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(SPACING, 1)
    header.set_data_offset(352)
    header["magic"] = b"n+1"
    # A gzip file may be made of many; packing the same MiB again and again would take long.
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)) + gzip.compress(bytes(2**20)) * (payload // 2**20))
    assert path.stat().st_size < 10**6
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory NOT checked: it is read from /proc")
@pytest.mark.parametrize(
    ("shape", "dtype", "payload"),
    [
        ((1000, 1000, 800), np.uint8, 800 * 2**20),  # really unpacks to that
        ((1000, 1000, 1000), np.float64, 2**20),  # claims 8 GB
        ((30000, 30000, 30000), np.uint8, 2**20),  # claims 27 TB
        ((600, 500, 500), np.float32, 2**20),
    ],
)
def test_a_small_file_never_takes_two_gigabytes(tmp_path: Path, shape: tuple[int, int, int], dtype: type, payload: int):
    path = bomb(tmp_path / "a.nii.gz", shape, dtype, payload)
    # In a process of its own. The peak is read where it starts from nothing when a program starts: `ru_maxrss` of a
    # child is never below its parent's, and a test process may have taken more than the bound.
    program = (
        "import sys\n"
        "from strega_jax.errors import ScanError\n"
        "from strega_jax.scans.scan import read_scan\n"
        "try:\n    read_scan(sys.argv[1])\n"
        "except ScanError as error:\n    print(error)\n"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "print('peak', peak[0].split()[1])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, env=environment, check=False
    )
    assert "a.nii.gz: " in done.stdout, done.stderr
    assert int(done.stdout.split("peak")[1]) * 1024 < 2e9


def test_a_large_empty_label_map_in_a_small_file_is_still_read(tmp_path: Path):
    path = save(tmp_path / "a.nii.gz", nibabel.Nifti1Image(np.zeros((240, 240, 155), np.uint8), SPACING))
    assert path.stat().st_size < 50_000
    assert not read_scan(path, allow_constant=True).data.any()


@pytest.mark.filterwarnings("ignore:pixdim")
def test_damaged_files_are_refused_or_give_a_sane_scan():
    from fuzz_scans import fuzz

    tally = fuzz(300, seed=1, bomb_share=0.0)
    assert not tally.findings, "\n".join(tally.findings.values())
    assert tally.outcomes["read"] > 50
    assert tally.outcomes["refused"] > 50
    assert tally.peak_bytes < 2e9


def test_an_image_that_unpacks_to_far_more_than_its_file_is_refused(tmp_path: Path):
    # Voxels of 0.3 mm in a file of kilobytes: each would take some hundred bytes of memory later.
    ramp = np.broadcast_to(np.arange(300, dtype=np.uint8)[:, None, None] % 7, (300, 300, 300))
    path = save(tmp_path / "a.nii.gz", nibabel.Nifti1Image(ramp, np.diag([0.3, 0.3, 0.3, 1.0])))
    assert path.stat().st_size < 1e6
    with pytest.raises(ScanError, match=r"a\.nii\.gz: claims \(300, 300, 300\) voxels.*save it uncompressed"):
        read_scan(path)
    assert read_scan(path, allow_constant=True).data.shape == (300, 300, 300)  # as a label map it is usual
