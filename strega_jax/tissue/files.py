"""Tissue maps as files: FAST's names, or BIDS derivatives."""

from pathlib import Path
from typing import Any

import numpy as np

from strega_jax.errors import ScanError
from strega_jax.scans.files import write_json
from strega_jax.scans.scan import Scan, write_volume
from strega_jax.tissue import mixel
from strega_jax.tissue.segmentation import TissueMap

TISSUES = ("CSF", "GM", "WM")
# FAST's class numbers → the discrete labels of the BIDS derivatives (1 grey, 2 white matter, 3 fluid).
BIDS_LABEL = np.array([0, 3, 1, 2], np.uint8)


def file_raster(scan: Scan) -> mixel.Raster:
    """The voxel order in which FAST sweeps this scan, in axes of `scan.data`.

    FSL keeps the axes of the file but turns the first one where the file is not stored in radiological order.
    """
    axes = [int(axis) for axis in scan.native_to_canonical[:, 0]]
    backwards = [bool(sign < 0) for sign in scan.native_to_canonical[:, 1]]
    if np.linalg.det(scan.native_affine[:3, :3]) > 0:
        backwards[0] = not backwards[0]
    return (axes[0], backwards[0]), (axes[1], backwards[1]), (axes[2], backwards[2])


def write_fast(folder: Path, name: str, tissue: TissueMap, scan: Scan) -> None:
    """Write what FAST would: `<name>_seg`, `_pveseg`, `_pve_<class>`, `_mixeltype`, `_bias`, `_restore`."""
    volumes = {"seg": tissue.seg, "pveseg": tissue.pveseg, "mixeltype": tissue.mixeltype}
    volumes |= {f"pve_{c}": np.ascontiguousarray(tissue.pve[..., c]) for c in range(tissue.pve.shape[-1])}
    volumes |= {"bias": tissue.bias, "restore": tissue.restored}
    folder.mkdir(parents=True, exist_ok=True)
    for kind, volume in volumes.items():
        write_volume(folder / f"{name}_{kind}.nii.gz", volume, scan)


def bids_stem(name: str) -> str:
    """What the derivatives of a scan begin with: its name without suffix and `desc-`."""
    entities, _, suffix = name.rpartition("_")
    # The source's own `desc-` says how the brain was extracted; the derivative's says what was done here.
    return "_".join(part for part in (entities or suffix).split("_") if not part.startswith("desc-"))


def write_bids(folder: Path, name: str, tissue: TissueMap, scan: Scan, provenance: dict[str, Any]) -> None:
    """Write BIDS derivatives: `_dseg` (labels of `pveseg`), `_label-<tissue>_probseg`, `_desc-restored`, sidecars.

    Three classes only; `name` is the scan's, with its BIDS suffix; `provenance` goes into every sidecar.
    """
    if tissue.pve.shape[-1] != len(TISSUES):
        raise ScanError(f"{scan.path}: BIDS names tissues for 3 classes, not {tissue.pve.shape[-1]}; leave --bids out")
    base, suffix = bids_stem(name), name.rpartition("_")[2]
    labels = {"LabelMap": {"GM": 1, "WM": 2, "CSF": 3}}
    volumes: list[tuple[str, np.ndarray, dict[str, Any]]] = [(f"{base}_dseg", BIDS_LABEL[tissue.pveseg], labels)]
    for c, class_name in enumerate(TISSUES):
        fraction = np.ascontiguousarray(tissue.pve[..., c])
        volumes.append((f"{base}_label-{class_name}_probseg", fraction, {"Type": "PartialVolumeFraction"}))
    volumes.append((f"{base}_desc-restored_{suffix}", tissue.restored, {"SkullStripped": True}))
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, volume, about in volumes:
        write_volume(folder / f"{file_name}.nii.gz", volume, scan)
        write_json(folder / f"{file_name}.json", about | provenance)


def describe_derivatives(folder: Path) -> None:
    """Write the `dataset_description.json` that BIDS asks of a derivative."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"Name": "Tissue segmentation", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    write_json(folder / "dataset_description.json", about | {"GeneratedBy": [{"Name": "strega-jax"}]})
