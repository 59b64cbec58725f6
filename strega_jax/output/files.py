"""The files of one scan's result: one list that writing, looking for, removing and describing them go by."""

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from strega_jax.errors import ConfigError
from strega_jax.scans.files import appearing_in

# Beside the results of all scans, not of one; `failures.LOG` is another.
GROUP_PAGE, GROUP_TABLE = "group.html", "group.tsv"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of file of a result.

    Attributes:
        ending: what follows the scan's name.
        bids: what follows subject, session and entities in BIDS derivatives.
        fused: what follows subject and session for the contrasts of a session together, in BIDS derivatives, too.
        what: what it holds, for the documentation.
        always: every result has it.
    """

    ending: str
    bids: str
    fused: str
    what: str
    always: bool = False


@dataclasses.dataclass(frozen=True)
class ResultFiles:
    """Paths of every file that the result of one scan may have, all in one folder.

    `boxes` is written last: where it is, the result is complete. It names the files that belong to it.
    """

    mask: Annotated[
        Path,
        Kind(
            "_mask.nii.gz",
            "_desc-anomaly{contrast}_mask.nii.gz",  # contrasts of one subject may share all entities: the label differs
            "_desc-fused_mask.nii.gz",
            "what is marked, uint8, on the scan's own grid with its own affine",
            always=True,
        ),
    ]
    anomaly_map: Annotated[
        Path,
        Kind(
            "_desc-anomalymap.nii.gz",
            "_desc-anomalymap_{contrast}.nii.gz",
            "_desc-fusedanomalymap.nii.gz",
            "the anomaly score, float32",
            always=True,
        ),
    ]
    regions: Annotated[
        Path,
        Kind(
            "_dseg.nii.gz",
            "_desc-anomaly{contrast}_dseg.nii.gz",
            "_desc-fused_dseg.nii.gz",
            "of T1ce: 1 what is marked, 2 the part of it that takes up contrast agent, uint8",
        ),
    ]
    uncertainty: Annotated[
        Path,
        Kind(
            "_desc-uncertainty.nii.gz",
            "_desc-uncertainty_{contrast}.nii.gz",
            "_desc-fuseduncertainty.nii.gz",
            "with `--samples=8`: standard deviation of the score over latent samples",
        ),
    ]
    brain_mask: Annotated[
        Path,
        Kind(
            "_desc-brain_mask.nii.gz",
            "_desc-brain{contrast}_mask.nii.gz",
            "_desc-brain_mask.nii.gz",
            "where a mask cut out the brain: the brain that was judged, uint8",
        ),
    ]
    segmentation: Annotated[
        Path,
        Kind(
            "_seg.dcm",
            "_{contrast}_seg.dcm",
            "_desc-fused_seg.dcm",
            "with `--dicom_seg`: a DICOM segmentation on the frames of the series",
        ),
    ]
    components: Annotated[
        Path,
        Kind(
            "_components.csv",
            "_{contrast}_components.csv",
            "_desc-fused_components.csv",
            "a line a component: ml, centroid in scanner mm, peak and mean score, box",
            always=True,
        ),
    ]
    boxes: Annotated[
        Path,
        Kind(
            "_boxes.json",
            "_{contrast}_boxes.json",
            "_desc-fused_boxes.json",
            "the same, boxes slice by slice, quality-control warnings, and what the result was made from and with",
            always=True,
        ),
    ]
    page: Annotated[
        Path, Kind(".html", "_{contrast}.html", "_desc-fused.html", "the page below; `--nopages` leaves it out")
    ]

    def paths(self) -> dict[str, Path]:
        """Field → path, of all."""
        return {name: getattr(self, name) for name in KINDS}

    def sidecars(self) -> dict[str, Path]:
        """Field → the JSON file that BIDS wants beside each map."""
        maps = {name: path for name, path in self.paths().items() if path.name.endswith(".nii.gz")}
        return {name: path.with_name(path.name.removesuffix(".nii.gz") + ".json") for name, path in maps.items()}

    def read(self) -> dict[str, Any] | None:
        """What the boxes' file of a complete result says; None where there is none, or another program's."""
        try:
            content = json.loads(self.boxes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and "slice_boxes" in content else None

    def is_complete(self, wanted: Collection[str], made: Mapping[str, Any]) -> bool:
        """Whether the result is there, whole, with the optional files `wanted` (names of fields) and made as `made`."""
        content = self.read()
        if content is None or any(content.get(key) != value for key, value in made.items()):
            return False
        needed = [path for name, path in self.paths().items() if name in wanted or KINDS[name].always]
        needed += self._listed(content)
        return all(path.is_file() for path in needed)

    def remove(self) -> None:
        """Remove an earlier result, the file that says it is complete first; what is none of ours stays."""
        content = self.read()
        if content is not None:
            for path in (self.boxes, *self._listed(content)):
                path.unlink(missing_ok=True)

    def _listed(self, content: Mapping[str, Any]) -> list[Path]:
        """The files that the boxes' file names, of those that a result may have."""
        names = content.get("files", ())
        return [path for path in (*self.paths().values(), *self.sidecars().values()) if path.name in names]

    @contextlib.contextmanager
    def replacing(self) -> Iterator["ResultFiles"]:
        """Give temporary paths of the same names; what was written there replaces the result when the block ends well.

        The result appears whole or not at all, and nothing of an earlier one stays.
        """
        with appearing_in(self.boxes.parent, last=self.boxes.name, before=self.remove) as temporary:
            yield ResultFiles(**{name: temporary / path.name for name, path in self.paths().items()})


KINDS: dict[str, Kind] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(ResultFiles, include_extras=True).items()
}
"""Field of `ResultFiles` → what it is."""


def result_files(folder: Path, name: str) -> ResultFiles:
    """Where the result of the scan `name` goes."""
    return ResultFiles(**{field: folder / f"{name}{kind.ending}" for field, kind in KINDS.items()})


def bids_files(folder: Path, stem: str, contrast: str) -> ResultFiles:
    """Where it goes as a BIDS derivative.

    Args:
        folder: `sub-…/[ses-…/]anat`.
        stem: subject, session and entities.
        contrast: suffix of the scan, such as T1w.
    """
    endings = {field: kind.bids.format(contrast=contrast) for field, kind in KINDS.items()}
    return ResultFiles(**{field: folder / f"{stem}{ending}" for field, ending in endings.items()})


def fused_files(folder: Path, name: str) -> ResultFiles:
    """Where the result of all contrasts of the session `name` (subject and session) goes."""
    return ResultFiles(**{field: folder / f"{name}{kind.fused}" for field, kind in KINDS.items()})


def require_apart(results: Collection[ResultFiles], inputs: Collection[Path]) -> None:
    """Raise ConfigError where a result would replace one of the input files, such as an expert's NAME_mask.nii.gz."""
    own = {path.absolute() for path in inputs}
    for files in results:
        for path in files.paths().values():
            # What an earlier run put into the folder of the scans looks like an expert's, but says whose it is.
            if path.absolute() in own and path.name not in (files.read() or {}).get("files", ()):
                raise ConfigError(f"--output={path.parent}: a result would replace {path.name}; name another folder")
