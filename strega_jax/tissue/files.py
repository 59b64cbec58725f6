"""Tissue maps as files: FAST's names, BIDS derivatives, and results that FAST itself wrote."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from strega_jax.errors import ScanError
from strega_jax.scans.files import write_json
from strega_jax.scans.scan import Scan, read_scan, same_grid, write_volume
from strega_jax.tissue import mixel
from strega_jax.tissue.segmentation import TissueMap

TISSUES = ("CSF", "GM", "WM")
# FAST's class numbers → the discrete labels of the BIDS derivatives (1 grey, 2 white matter, 3 fluid).
BIDS_LABEL = np.array([0, 3, 1, 2], np.uint8)
ENDINGS = (".nii.gz", ".nii")


def stem(path: Path) -> str:
    """File name without its NIfTI ending."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def file_raster(scan: Scan) -> mixel.Raster:
    """The voxel order in which FAST sweeps this scan, in axes of `scan.data`.

    FSL keeps the axes of the file but turns the first one where the file is not stored in radiological order.
    """
    axes = [int(axis) for axis in scan.native_to_canonical[:, 0]]
    backwards = [bool(sign < 0) for sign in scan.native_to_canonical[:, 1]]
    if np.linalg.det(scan.native_affine[:3, :3]) > 0:
        backwards[0] = not backwards[0]
    return (axes[0], backwards[0]), (axes[1], backwards[1]), (axes[2], backwards[2])


def write_fast(folder: Path, tissue: TissueMap, scan: Scan) -> None:
    """Write what FAST would: `<stem>_seg`, `_pveseg`, `_pve_<class>`, `_mixeltype`, `_bias`, `_restore`."""
    volumes = {"seg": tissue.seg, "pveseg": tissue.pveseg, "mixeltype": tissue.mixeltype}
    volumes |= {f"pve_{c}": np.ascontiguousarray(tissue.pve[..., c]) for c in range(tissue.pve.shape[-1])}
    volumes |= {"bias": tissue.bias, "restore": tissue.restored}
    folder.mkdir(parents=True, exist_ok=True)
    for name, volume in volumes.items():
        write_volume(folder / f"{stem(scan.path)}_{name}.nii.gz", volume, scan)


def write_bids(folder: Path, tissue: TissueMap, scan: Scan, provenance: dict[str, Any]) -> None:
    """Write BIDS derivatives: `_dseg` (labels of `pveseg`), `_label-<tissue>_probseg`, `_desc-restored`, sidecars.

    Three classes only; `provenance` goes into every sidecar.
    """
    if tissue.pve.shape[-1] != len(TISSUES):
        raise ScanError(f"{scan.path}: BIDS names tissues for 3 classes, not {tissue.pve.shape[-1]}; leave --bids out")
    entities, _, suffix = stem(scan.path).rpartition("_")
    entities = entities or suffix
    # The source's own `desc-` says how the brain was extracted; the derivative's says what was done here.
    base = "_".join(part for part in entities.split("_") if not part.startswith("desc-"))
    labels = {"LabelMap": {"GM": 1, "WM": 2, "CSF": 3}}
    volumes: list[tuple[str, np.ndarray, dict[str, Any]]] = [(f"{base}_dseg", BIDS_LABEL[tissue.pveseg], labels)]
    for c, name in enumerate(TISSUES):
        fraction = np.ascontiguousarray(tissue.pve[..., c])
        volumes.append((f"{base}_label-{name}_probseg", fraction, {"Type": "PartialVolumeFraction"}))
    volumes.append((f"{base}_desc-restored_{suffix}", tissue.restored, {"SkullStripped": True}))
    folder.mkdir(parents=True, exist_ok=True)
    for name, volume, about in volumes:
        write_volume(folder / f"{name}.nii.gz", volume, scan)
        write_json(folder / f"{name}.json", about | provenance)


def describe_derivatives(folder: Path) -> None:
    """Write the `dataset_description.json` that BIDS asks of a derivative."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"Name": "Tissue segmentation", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    write_json(folder / "dataset_description.json", about | {"GeneratedBy": [{"Name": "strega-jax"}]})


def read_external(source: str | os.PathLike[str], scan: Scan) -> TissueMap:
    """Read what FSL FAST (`-t 1 -n 3`, or this project's `segment`) wrote for `scan`.

    Args:
        source: the prefix given to FAST's `-o`, or the folder with its output; in a folder with several results
            the one named like the scan.
        scan: the scan that was segmented.

    Returns:
        The result on `scan`'s canonical grid. Without `_mixeltype` the types follow from the fractions, without
        `_bias` the field is 1.

    Raises:
        ScanError: files are missing, or are on another grid than the scan.
    """
    prefix = _prefix(Path(source), scan)
    found = {name: _read(prefix, name, scan) for name in ("seg", "pveseg", "pve_0", "pve_1", "pve_2")}
    missing = [name for name, volume in found.items() if volume is None]
    if missing:
        raise ScanError(f"{prefix}_{missing[0]}.nii.gz: no such file; run FAST with -n 3 and without --nopve")
    volumes = {name: volume for name, volume in found.items() if volume is not None}
    pve = np.stack([volumes[f"pve_{c}"] for c in range(3)], axis=-1).astype(np.float32)
    inside = volumes["seg"] > 0
    types, bias = _read(prefix, "mixeltype", scan), _read(prefix, "bias", scan)
    bias = np.where(inside, 1.0 if bias is None else bias, 1.0).astype(np.float32)
    restored = np.where(inside, scan.data / np.maximum(bias, 1e-6), 0).astype(np.float32)
    weight = np.maximum(pve[inside].sum(0), 1e-6)
    means = restored[inside] @ pve[inside] / weight
    variances = ((restored[inside][:, None] - means) ** 2 * pve[inside]).sum(0) / weight
    return TissueMap(
        seg=volumes["seg"].astype(np.uint8),
        pveseg=volumes["pveseg"].astype(np.uint8),
        pve=pve,
        mixeltype=(_types(pve) if types is None else types).astype(np.uint8),
        bias=bias,
        restored=restored,
        means=means.astype(np.float32),
        variances=variances.astype(np.float32),
    )


def _prefix(source: Path, scan: Scan) -> Path:
    if not source.is_dir():
        return source.parent / stem(source)
    results = sorted({path.parent / stem(path).removesuffix("_pveseg") for path in source.rglob("*_pveseg.nii*")})
    named = [prefix for prefix in results if prefix.name == stem(scan.path)]
    if len(results) == 1:
        return results[0]
    if len(named) != 1:
        what = "no FAST output" if not results else f"{len(named)} FAST results named {stem(scan.path)}_*"
        raise ScanError(f"{source}: {what} for {scan.path}; name the prefix that FAST was given with -o")
    return named[0]


def _read(prefix: Path, name: str, scan: Scan) -> np.ndarray | None:
    for ending in ENDINGS:
        path = prefix.parent / f"{prefix.name}_{name}{ending}"
        if path.exists():
            volume = read_scan(path, allow_constant=True)
            if not same_grid(volume, scan):
                raise ScanError(f"{path}: lies on another voxel grid than {scan.path}; it belongs to another scan")
            return volume.data
    return None


def _types(pve: np.ndarray) -> np.ndarray:
    """Mixel types from the fractions: the class or the pair of classes that have a share."""
    present = (pve > 0) @ np.array([1, 2, 4])
    table = np.zeros(8, np.uint8)
    for kind, classes in enumerate(mixel.members(3)):
        table[sum(1 << c for c in classes)] = kind
    return table[present]
