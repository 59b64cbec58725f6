"""What the headers of DICOM images say of their frames: place, scale and acquisition, classic or enhanced multi-frame.

In a classic file the elements stand at the top and there is one frame. In an enhanced one they stand in functional
groups, those of the frame before those shared by all (DICOM PS3.3 A.36 and C.7.6.16).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from strega_jax.errors import ScanError
from strega_jax.scans.dicom_headers import CONVERT, number, numbers, short, text, words
from strega_jax.scans.scan import MAX_ORIGIN_MM, MAX_SPACING_MM, MIN_SPACING_MM

if TYPE_CHECKING:
    import pydicom

T = TypeVar("T")
MAX_FRAMES = 2**13
COMPONENTS = {"M": "MAGNITUDE", "P": "PHASE", "R": "REAL", "I": "IMAGINARY"}  # as Siemens and Philips write it
PULSES = {"SPIN": {"SE"}, "GRADIENT": {"GR"}, "BOTH": {"SE", "GR"}}
NO_AGENT = {"", "0", "-", "N", "NO", "NONE", "NO CONTRAST", "UNKNOWN", "N/A", "NA"}


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """How a frame was acquired, as far as the header says; times in ms, the flip angle in degrees."""

    modality: str = "MR"
    kind: str = ""  # name of the SOP class
    photometric: str = "MONOCHROME2"
    description: str = ""
    protocol: str = ""
    sequence: str = ""
    body_part: str = ""
    image_type: tuple[str, ...] = ()
    codes: frozenset[str] = frozenset()  # SE spin echo, GR gradient echo, IR inversion recovery, EP echo planar
    variants: frozenset[str] = frozenset()  # SP spoiled, SS steady state, MP prepared, MTC magnetisation transfer
    weighting: str = ""  # AcquisitionContrast of enhanced images
    component: str = ""  # MAGNITUDE, PHASE, REAL, IMAGINARY
    tr: float | None = None
    te: float | None = None
    ti: float | None = None
    flip: float | None = None
    agent: str = ""  # contrast agent; "" is none or not said
    b_value: float | None = None
    angiography: bool = False


@dataclasses.dataclass(frozen=True)
class Frame:
    """One plane of pixels and its place; directions and positions in DICOM's patient axes (left, back, up), mm."""

    path: Path
    index: int  # in its file, from 0
    rows: int
    columns: int
    orientation: tuple[float, ...]  # of a row, then of a column
    position: tuple[float, ...]  # centre of the first pixel
    spacing: tuple[float, ...]  # between rows, between columns
    slope: float
    intercept: float
    acquisition: Acquisition
    stack: str = ""
    time: str = ""
    trigger: str = ""
    number: str = ""  # AcquisitionNumber


Part = Callable[[str], "pydicom.Dataset"]  # name of a functional group → where its elements stand


def frame_count(path: Path, data: "pydicom.Dataset") -> int:
    """How many frames a file has. Raises ScanError where the header contradicts itself."""
    count = data.get("NumberOfFrames") or 1
    try:
        frames = int(count)
        groups = len(data.get("PerFrameFunctionalGroupsSequence") or ())
    except Exception as error:
        raise ScanError(f"{path}: NumberOfFrames is {count}; copy it again") from error
    if not 0 < frames <= MAX_FRAMES:
        raise ScanError(f"{path}: NumberOfFrames is {frames}; no volume has so many slices")
    if frames > 1 and not groups:
        raise ScanError(f"{path}: several frames in one file, without their places; {CONVERT}")
    if groups and groups != frames:
        raise ScanError(f"{path}: {frames} frames and functional groups of {groups}; copy it again")
    return frames


def acquisitions_of(path: Path, data: "pydicom.Dataset") -> list[Acquisition]:
    """How each frame was acquired. Raises ScanError for a damaged header."""
    return [guarded(path, lambda i=i: _acquisition(data, _parts(data, i))) for i in range(frame_count(path, data))]


def frames_of(path: Path, data: "pydicom.Dataset") -> list[Frame]:
    """The frames of a file with their places, in the file's order.

    Raises:
        ScanError: no place, or one that no image of a head has; pixel data that are not what the header says.
    """
    acquisitions = acquisitions_of(path, data)
    guarded(path, lambda: _check_pixel_length(path, data, len(acquisitions)))
    return [
        guarded(path, lambda i=i, a=a: _frame(path, data, i, a, _parts(data, i))) for i, a in enumerate(acquisitions)
    ]


def guarded(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives; whatever it raises becomes a ScanError about the file."""
    try:
        return read()
    except ScanError:
        raise
    except Exception as error:  # pydicom decodes an element when it is asked for, with errors of any type
        raise ScanError(f"{path}: not a readable DICOM file ({short(error)}); copy it again") from error


def _check_pixel_length(path: Path, data: "pydicom.Dataset", frames: int) -> None:
    """Refuse a file that holds more or fewer pixels than its header says. Raises ScanError."""
    if "PixelData" not in data:
        raise ScanError(f"{path}: no pixel data in it")
    sizes = [number(data, name) for name in ("Rows", "Columns", "BitsAllocated")]
    samples = number(data, "SamplesPerPixel") or 1
    if any(size is None or not 0 < size < 2**16 for size in sizes):
        raise ScanError(f"{path}: its rows, columns or bits are {sizes}; copy it again")
    one = int(np.prod([size for size in sizes if size]) * samples) // 8
    held = len(data.PixelData)
    if data.file_meta.TransferSyntaxUID.is_encapsulated:
        return  # the decoder will tell
    # An odd number of bytes is padded, and some exporters pad further, but never by an image.
    if not one * frames <= held < one * (frames + 1):
        raise ScanError(
            f"{path}: its pixel data hold {held / one:.3g} images, its header says {frames}; export it again"
        )


def _parts(data: "pydicom.Dataset", index: int) -> Part:
    frames = data.get("PerFrameFunctionalGroupsSequence") or ()
    shared = data.get("SharedFunctionalGroupsSequence") or ()
    owners = [*frames[index : index + 1], *shared[:1]]

    def part(name: str) -> "pydicom.Dataset":
        return next((owner[name].value[0] for owner in owners if owner.get(name)), data)

    return part


def _acquisition(data: "pydicom.Dataset", part: Part) -> Acquisition:
    frame_type, modifier = part("MRImageFrameTypeSequence"), part("MRModifierSequence")
    timing, echo = part("MRTimingAndRelatedParametersSequence"), part("MREchoSequence")
    image_type = words(frame_type, "FrameType") or words(data, "ImageType")
    written = text(frame_type, "ComplexImageComponent") or text(data, "ComplexImageComponent")
    codes = set(words(data, "ScanningSequence")) | PULSES.get(text(data, "EchoPulseSequence"), set())
    codes |= {"EP"} if text(data, "EchoPlanarPulseSequence") == "YES" else set()
    codes |= {"IR"} if text(modifier, "InversionRecovery") == "YES" else set()
    variants = set(words(data, "SequenceVariant"))
    variants |= {"SS"} if text(data, "SteadyStatePulseSequence") == "FREE_PRECESSION" else set()
    variants |= {"SP"} if text(data, "Spoiling") not in ("", "NONE") else set()
    variants |= {"MTC"} if text(data, "MagnetizationTransfer") not in ("", "NONE") else set()
    return Acquisition(
        modality=text(data, "Modality") or "MR",
        kind=data["SOPClassUID"].value.name if data.get("SOPClassUID") else "",
        photometric=text(data, "PhotometricInterpretation"),
        description=text(data, "SeriesDescription"),
        protocol=text(data, "ProtocolName"),
        sequence=text(data, "SequenceName") or text(data, "PulseSequenceName"),
        body_part=text(data, "BodyPartExamined").upper(),
        image_type=image_type,
        codes=frozenset(codes),
        variants=frozenset(variants),
        weighting=text(frame_type, "AcquisitionContrast") or text(data, "AcquisitionContrast"),
        component=written or next((COMPONENTS[word] for word in image_type[2:4] if word in COMPONENTS), ""),
        tr=number(timing, "RepetitionTime") or number(data, "RepetitionTime"),
        te=number(echo, "EffectiveEchoTime") or number(data, "EchoTime"),
        ti=number(modifier, "InversionTimes") or number(data, "InversionTime") or None,
        flip=number(timing, "FlipAngle") or number(data, "FlipAngle"),
        agent=_agent(data, part),
        b_value=number(part("MRDiffusionSequence"), "DiffusionBValue"),
        angiography=text(data, "AngioFlag") == "Y" or text(data, "TimeOfFlightContrast") == "YES",
    )


def _agent(data: "pydicom.Dataset", part: Part) -> str:
    usage = text(part("ContrastBolusUsageSequence"), "ContrastBolusAgentAdministered")
    if usage:
        return "administered" if usage == "YES" else ""
    named = text(data, "ContrastBolusAgent")
    return named if named.upper() not in NO_AGENT else ""


def _frame(path: Path, data: "pydicom.Dataset", index: int, acquisition: Acquisition, part: Part) -> Frame:
    orientation = numbers(path, part("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    position = numbers(path, part("PlanePositionSequence"), "ImagePositionPatient", 3)
    spacing = numbers(path, part("PixelMeasuresSequence"), "PixelSpacing", 2)
    axes = orientation.reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=0.01):
        raise ScanError(f"{path}: ImageOrientationPatient {orientation.tolist()} is no pair of directions")
    if not ((spacing >= MIN_SPACING_MM) & (spacing <= MAX_SPACING_MM)).all():
        raise ScanError(f"{path}: PixelSpacing {spacing.tolist()} mm is that of no brain scan")
    if np.abs(position).max() > MAX_ORIGIN_MM:
        raise ScanError(f"{path}: ImagePositionPatient lies metres from the scanner")
    scale, content = part("PixelValueTransformationSequence"), part("FrameContentSequence")
    return Frame(
        path=path,
        index=index,
        rows=int(data.Rows),
        columns=int(data.Columns),
        orientation=tuple(orientation.tolist()),
        position=tuple(position.tolist()),
        spacing=tuple(spacing.tolist()),
        slope=_scale(path, scale, "RescaleSlope", 1.0),
        intercept=_scale(path, scale, "RescaleIntercept", 0.0),
        acquisition=acquisition,
        stack=text(content, "StackID"),
        time=text(content, "TemporalPositionIndex") or text(data, "TemporalPositionIdentifier"),
        trigger=text(part("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime")
        or text(data, "TriggerTime"),
        number=text(content, "FrameAcquisitionNumber") or text(data, "AcquisitionNumber"),
    )


def _scale(path: Path, owner: "pydicom.Dataset", name: str, default: float) -> float:
    if not text(owner, name):
        return default
    value = number(owner, name)
    if value is None:
        raise ScanError(f"{path}: {name} is {text(owner, name)}; export the series again")
    return value
