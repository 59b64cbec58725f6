"""The slice store: preprocessed slices on disk, one memory-mappable array a scan.

    STORE/manifest.json      what its scans have in common: settings, and how subjects were split
    STORE/scans/NAME.npy     (k, h, w, c) float16 slices; background is exactly 0
    STORE/scans/NAME.json    the scan's entry; written after its array, so that its presence means "complete"

What is in a store is what has an entry with the manifest's settings: processes that prepare at once share no file that
one could overwrite with less. Statistics are those of the entries. Reading one slice costs one read of its bytes. Every
file appears whole or not at all.
"""

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from strega_jax.config import Preprocess, build_dataclass, settings_hash
from strega_jax.errors import ConfigError, StoreError
from strega_jax.scans.files import file_sha256, write_json
from strega_jax.scans.splits import SplitRule
from strega_jax.slices.brain import brain_of
from strega_jax.slices.preprocess import SliceVolume

MANIFEST = "manifest.json"
SCHEMA = 1
# A class of voxels that is all but constant would otherwise be blown up by the division.
MIN_STD = 1e-3


@dataclasses.dataclass(frozen=True)
class Entry:
    """One scan in the store."""

    name: str
    cohort: str
    subject: str
    session: str
    contrast: str
    split: str
    source: str  # name of the scan's file
    source_sha256: str  # of that file; tells whether the scan changed
    spacing_mm: tuple[float, float, float]  # of the scan
    grid_spacing_mm: tuple[float, float, float]  # of the slices: in-plane, in-plane, between slices
    indices: tuple[int, ...]  # of the stored slices in the scan's grid
    positions: tuple[float, ...]  # 0 lowest, 1 highest
    tissue_ml: tuple[float, float, float]  # CSF, GM, WM
    sums: tuple[tuple[float, ...], tuple[float, ...], int]  # brain pixels: Σx, Σx² a channel, count
    settings_hash: str
    sha256: str  # of the array file
    rendered: bool = False  # in its contrast, from a scan of another one


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Per-channel shift and scale: normalised = (image − mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def write_scan(store: Path, volume: SliceVolume, **about: Any) -> Entry:
    """Add one preprocessed scan. `about` are the fields of `Entry` that the slices do not tell."""
    images = volume.images.astype(np.float16)
    folder = store / "scans"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{about['name']}.npy"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        np.save(file, images)
    digest = file_sha256(temporary)
    os.replace(temporary, path)
    inside = images[brain_of(images)].astype(np.float64)
    entry = Entry(
        indices=tuple(int(i) for i in volume.indices),
        positions=tuple(float(p) for p in volume.position),
        sums=(tuple(inside.sum(axis=0)), tuple((inside**2).sum(axis=0)), len(inside)),
        sha256=digest,
        **about,
    )
    write_entry(store, entry)
    return entry


def write_entry(store: Path, entry: Entry) -> None:
    """Write a scan's own record; its array must be there already."""
    write_json(store / "scans" / f"{entry.name}.json", dataclasses.asdict(entry))


def read_entry(store: Path, name: str) -> Entry | None:
    """The entry of a scan that is completely written, else None."""
    path = store / "scans" / f"{name}.json"
    if not path.exists() or not path.with_suffix(".npy").exists():
        return None
    try:
        return _entry(json.loads(path.read_text()))
    except FileNotFoundError:
        return None  # another process prepares it anew
    except (ValueError, TypeError, KeyError):
        return None  # of another schema, or damaged: prepared anew


def remove_entry(store: Path, name: str) -> None:
    """Make a scan incomplete, before it is prepared anew: should that fail, nothing outdated stays."""
    (store / "scans" / f"{name}.json").unlink(missing_ok=True)


def delete_scan(store: Path, name: str) -> bool:
    """Delete a scan for good, its slices as well; whether it was there."""
    there = (store / "scans" / f"{name}.json").exists()
    remove_entry(store, name)
    (store / "scans" / f"{name}.npy").unlink(missing_ok=True)
    return there


def write_manifest(store: Path, settings: Preprocess, rule: SplitRule) -> None:
    """Seal the store: what has an entry with these settings can be read from now on."""
    manifest = {
        "schema": SCHEMA,
        "settings": dataclasses.asdict(settings),
        "settings_hash": settings_hash(settings),
        "split": dataclasses.asdict(rule),
    }
    write_json(store / MANIFEST, manifest)


def read_manifest(store: Path) -> tuple[Preprocess, SplitRule | None] | None:
    """The settings of a sealed store and how its subjects were split (None: by an older version, which did not say).

    None where there is no manifest.

    Raises:
        StoreError: it is damaged or of another version.
    """
    path = store / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        if manifest["schema"] != SCHEMA:
            raise StoreError(f"{store}: schema {manifest['schema']}, this version reads {SCHEMA}; prepare it again")
        rule = manifest.get("split")
        settings = build_dataclass(Preprocess, manifest["settings"], str(path))
        return settings, rule and build_dataclass(SplitRule, rule, str(path))
    except (ConfigError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path}: not a manifest ({error}); delete it and prepare the store again") from error


def entry_names(store: Path) -> set[str]:
    """The names of all scans with an entry, of whatever settings."""
    return {path.stem for path in (store / "scans").glob("*.json")}


def _normalisation(entries: Sequence[Entry], settings: Preprocess) -> Normalisation:
    """Statistics of the training slices; without any, which no training starts from, images stay as they are."""
    entries = [entry for entry in entries if entry.split == "train"]
    if settings.normalise == "unit" or not entries:
        return Normalisation((0.0,) * settings.channels, (1.0,) * settings.channels)
    total = sum(entry.sums[2] for entry in entries)
    mean = np.sum([entry.sums[0] for entry in entries], axis=0) / total
    square = np.sum([entry.sums[1] for entry in entries], axis=0) / total
    std = np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), MIN_STD)
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))


class SliceStore:
    """A sealed store, open for reading. Random access; safe to share between threads."""

    def __init__(self, path: Path, settings: Preprocess, rule: SplitRule | None, entries: tuple[Entry, ...]):
        self.path, self.settings, self.rule, self.entries = path, settings, rule, entries
        self.normalisation = _normalisation(entries, settings)
        self._arrays: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a sealed store with what is complete in it now, in the order of cohort and name.

        Raises:
            StoreError: there is none, it is of another version, or an entry of it is damaged.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest is None:
            raise StoreError(f"{path}: no slice store (manifest.json is missing); make it with strega_jax.prepare")
        settings, rule = manifest
        digest, entries = settings_hash(settings), []
        for name in entry_names(path):
            try:
                entry = _entry(json.loads((path / "scans" / f"{name}.json").read_text()))
            except FileNotFoundError:
                continue  # another process prepares it anew
            except (ValueError, TypeError, KeyError) as error:
                raise StoreError(
                    f"{path / 'scans' / name}.json: damaged ({error}); delete it and run strega_jax.prepare again"
                ) from error
            if entry.settings_hash == digest:
                entries.append(entry)
        return cls(path, settings, rule, tuple(sorted(entries, key=lambda entry: (entry.cohort, entry.name))))

    @property
    def training_digest(self) -> str:
        """Hexadecimal digits that change with the training slices or their order."""
        training = [entry.sha256 for entry in self.of_split("train")]
        return hashlib.sha256("".join(training).encode()).hexdigest()[:16]

    def array(self, entry: Entry) -> Float[np.ndarray, "k h w c"]:
        """The memory-mapped slices of one scan, its checksum verified when first opened."""
        with self._lock:
            if entry.name not in self._arrays:
                path = self.path / "scans" / f"{entry.name}.npy"
                if not path.exists():
                    raise StoreError(f"{path}: has an entry but is missing; run strega_jax.prepare again")
                if file_sha256(path) != entry.sha256:
                    raise StoreError(
                        f"{path}: checksum differs from its entry's, the file is damaged; delete it "
                        "and run strega_jax.prepare again"
                    )
                self._arrays[entry.name] = np.load(path, mmap_mode="r")
            return self._arrays[entry.name]

    def of_split(self, split: str) -> list[Entry]:
        """The entries of one split, in order."""
        return [entry for entry in self.entries if entry.split == split]

    def scans_of(self, split: str) -> list[Entry]:
        """Those of one split that are scans, not rendered from one."""
        return [entry for entry in self.of_split(split) if not entry.rendered]

    def source(self, split: str) -> "SplitSource":
        """Random access to all slices of one split. Raises StoreError if there is none."""
        entries = self.of_split(split)
        if not entries:
            splits = sorted({entry.split for entry in self.entries})
            raise StoreError(f"{self.path}: no scan in split '{split}' (there are: {', '.join(splits)})")
        return SplitSource(self, entries)


class SplitSource:
    """The slices of one split as grain wants them: `len(source)` and `source[i]`."""

    def __init__(self, store: SliceStore, entries: Iterable[Entry]):
        self._store = store
        self._slices = [(entry, i) for entry in entries for i in range(len(entry.indices))]

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: Any) -> dict[str, np.ndarray]:
        entry, i = self._slices[int(index)]
        return {"images": self._store.array(entry)[i], "position": np.array(entry.positions[i], np.float32)}

    def __repr__(self) -> str:
        # Grain records it beside the iterator's state; it must be the same in every process.
        return f"SplitSource({len(self)} slices)"


def _entry(fields: dict[str, Any]) -> Entry:
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    sums = fields["sums"]
    return Entry(**{**fields, "sums": (tuple(sums[0]), tuple(sums[1]), int(sums[2]))})
