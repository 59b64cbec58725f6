"""Every file that one scan's result has: its name, and what counts as complete."""

import contextlib
import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class ResultFiles:
    """Paths of the files of one result. `boxes` is written last: where it is, the others are complete."""

    mask: Path
    anomaly_map: Path
    uncertainty: Path  # with latent samples
    components: Path
    page: Path
    segmentation: Path  # DICOM SEG, of DICOM series
    boxes: Path

    @property
    def every(self) -> list[Path]:
        """All files that a result may have, sidecars included; `boxes` first, which makes it a result."""
        files = [
            self.boxes,
            *(getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "boxes"),
        ]
        return files + [sidecar_of(path) for path in (self.mask, self.anomaly_map, self.uncertainty)]

    def wanted(self, *, samples: bool, page: bool, segmentation: bool) -> list[Path]:
        """The files that a complete result has with these settings."""
        files = [self.boxes, self.mask, self.anomaly_map, self.components]
        return files + [self.uncertainty] * samples + [self.page] * page + [self.segmentation] * segmentation

    def remove(self) -> None:
        """Leave nothing of the result."""
        for path in self.every:
            with contextlib.suppress(OSError):  # a folder in a file's place is not ours
                path.unlink(missing_ok=True)


def sidecar_of(image: Path) -> Path:
    """The JSON file that BIDS puts beside an image."""
    return image.with_name(image.name.removesuffix(".nii.gz") + ".json")


def result_files(folder: Path, name: str) -> ResultFiles:
    """Where the files of the scan called `name` go."""
    return ResultFiles(
        mask=folder / f"{name}_mask.nii.gz",
        anomaly_map=folder / f"{name}_desc-anomalymap.nii.gz",
        uncertainty=folder / f"{name}_desc-uncertainty.nii.gz",
        components=folder / f"{name}_components.csv",
        page=folder / f"{name}.html",
        segmentation=folder / f"{name}_seg.dcm",
        boxes=folder / f"{name}_boxes.json",
    )
