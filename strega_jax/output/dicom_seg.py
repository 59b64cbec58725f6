"""A mask as a DICOM segmentation beside the series that it was made from. Needs highdicom."""

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strega_jax.detection.found import Detection
from strega_jax.errors import ConfigError, ScanError
from strega_jax.output.write import DISCLAIMER
from strega_jax.scans.dicom import Series, sort_slices
from strega_jax.scans.dicom_frames import Frame
from strega_jax.scans.files import replacing

if TYPE_CHECKING:
    import pydicom

MODEL = "strega-jax"


def require_highdicom() -> None:
    """Raise ConfigError where highdicom is not installed."""
    if importlib.util.find_spec("highdicom") is None:
        raise ConfigError("--dicom_seg needs highdicom: python -m pip install 'strega-jax[dicom]'")


def write_segmentation(path: Path, detection: Detection, series: Series, source: str) -> None:
    """Write the mask as one binary segment on the frames of the series, classic or enhanced multi-frame.

    Args:
        path: the file.
        detection: of the series' scan.
        series: what the scan was read from; its patient and study are taken over.
        source: the checkpoint, for the record.

    Raises:
        ScanError: the series lacks what a segmentation must name.
        ConfigError: highdicom is not installed.
    """
    require_highdicom()
    import highdicom as hd
    from pydicom.uid import generate_uid

    slices = sort_slices(series)
    sources = list({frame.path: data for frame, data in slices}.values())
    # Columns, rows, slices → frames of rows × columns.
    frames = detection.scan.to_native(detection.mask).transpose(2, 1, 0).astype(np.uint8)
    # Two echoes of one series may have equal masks: their segmentations are still two objects.
    made_of = [f"{data.SOPInstanceUID} {frame.index}" for frame, data in slices]
    entropy = [source, hashlib.sha256(frames.tobytes()).hexdigest(), *made_of]
    try:
        dataset = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            **_places(hd, [frame for frame, _ in slices], sources),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(hd, source)],
            series_instance_uid=generate_uid(entropy_srcs=[*entropy, "series"]),
            series_number=9000,
            sop_instance_uid=generate_uid(entropy_srcs=[*entropy, "instance"]),
            instance_number=1,
            manufacturer=MODEL,
            manufacturer_model_name=MODEL,
            software_versions="1",
            device_serial_number="0",
            omit_empty_frames=False,  # an empty mask is a result too
            series_description=DISCLAIMER,
        )
        _refer_to(dataset, {frame.index + 1 for frame, _ in slices})
    except Exception as error:  # attributes that the series lacks raise errors of many types
        raise ScanError(f"{series.folder}: no DICOM SEG can be made of it ({error})") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        dataset.save_as(temporary)


def _segment(hd: Any, source: str) -> Any:
    """What the one segment is, and what made it."""
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name=MODEL, family=codes.DCM.ArtificialIntelligence, version="1", parameters={"checkpoint": Path(source).name}
    )
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="anomaly",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.AbnormalTissue if hasattr(codes.SCT, "AbnormalTissue") else codes.SCT.Lesion,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )


def _places(hd: Any, frames: list[Frame], sources: "list[pydicom.Dataset]") -> dict[str, Any]:
    """What highdicom must be told of places, and what it wants to find in the sources, which are mended in memory."""
    if "PerFrameFunctionalGroupsSequence" not in sources[0]:
        for source in sources:  # it takes directions that differ in the ninth digit for different ones
            source.ImageOrientationPatient = sources[0].ImageOrientationPatient
        return {}
    if len(sources) > 1:
        raise ValueError("it is spread over several multi-frame files, and a DICOM SEG can be made of one")
    own = sources[0].PerFrameFunctionalGroupsSequence[frames[0].index]
    shared = sources[0].SharedFunctionalGroupsSequence[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared:
            setattr(shared, name, own[name].value)
    system = hd.CoordinateSystemNames.PATIENT
    return {"plane_positions": [hd.PlanePositionSequence(system, list(frame.position)) for frame in frames]}


def _refer_to(segmentation: "pydicom.Dataset", numbers: set[int]) -> None:
    """Keep those references to frames that the scan was made of: other echoes and times may lie at the same places."""
    for item in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in item.get("DerivationImageSequence") or ():
            derivation.SourceImageSequence = [
                source
                for source in derivation.SourceImageSequence
                if source.get("ReferencedFrameNumber") is None or source.ReferencedFrameNumber in numbers
            ]
