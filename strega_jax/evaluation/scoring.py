"""Score a model's detections against expert masks, volume by volume: the numbers that everything else is made of."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from strega_jax.config import Postprocess
from strega_jax.detection.detect import detect_slices
from strega_jax.detection.found import Detection
from strega_jax.detection.quality import detection_warnings
from strega_jax.detection.session import Part
from strega_jax.errors import ScanError
from strega_jax.evaluation.baselines import bright_mask, class_masks
from strega_jax.evaluation.calibration import BURDENS_ML, threshold_at_burden
from strega_jax.evaluation.dose import dose_of
from strega_jax.evaluation.fused import Gathering, Member, fuse_members
from strega_jax.evaluation.lesions import LesionMatch
from strega_jax.evaluation.metrics import dice, slice_level_scores, volume_level_score
from strega_jax.evaluation.slices import ShownSlice, shown_slice
from strega_jax.evaluation.volume import score_volume_and_lesions
from strega_jax.failures import Failures
from strega_jax.models.calibration import Calibration
from strega_jax.models.reference import Reference
from strega_jax.models.scorer import Scorer
from strega_jax.output.files import fused_files, result_files
from strega_jax.output.write import write_result
from strega_jax.pipeline import staged
from strega_jax.scans.case import Case, read_truth
from strega_jax.scans.cohorts import unique_names
from strega_jax.scans.geometry import check_truth_in_brain
from strega_jax.scans.scan import Scan
from strega_jax.scans.source import open_scan
from strega_jax.slices.preprocess import SliceVolume, preprocess

log = logging.getLogger(__name__)

Row = dict[str, Any]
Region = Literal["whole", "enhancing"]  # what of a detection is scored
# Of a healthy brain every n-th score is kept, so that about this many are left: rates of 1 % are met to 0.02 %.
KEPT_SCORES = 200_000


@dataclasses.dataclass(frozen=True)
class Scored:
    """One volume, scored by one method.

    Attributes:
        row: `case`, `cohort` (with the contrast), `subject`, `contrast`, `method`, and the numbers by name.
        match: lesions and marks.
        slice_scores: (k,) 99th percentile of each slice's brain.
        slice_anomalous: (k,) whether the truth is in the slice.
        subject_score: 99th percentile of the brain.
        healthy_scores: scores in the brain of a control, thinned; None for all others.
        brain_ml: volume of the brain.
        shown: what pictures show of it.
    """

    row: Row
    match: LesionMatch
    slice_scores: Float[np.ndarray, " k"]
    slice_anomalous: Bool[np.ndarray, " k"]
    subject_score: float
    healthy_scores: Float[np.ndarray, " n"] | None
    brain_ml: float
    shown: ShownSlice


@dataclasses.dataclass
class Results:
    """All volumes of an evaluation; `baselines` are the rows of what needs no training."""

    scored: list[Scored] = dataclasses.field(default_factory=list)
    baselines: list[Row] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    calibration: dict[str, Calibration | None] = dataclasses.field(default_factory=dict)  # of each method

    @property
    def rows(self) -> list[Row]:
        """One a volume and method."""
        return [scored.row for scored in self.scored] + self.baselines


def score_cases(
    model: Scorer,
    cases: Sequence[Case],
    settings: Postprocess,
    calibration: Calibration | None,
    masks: Path,
    *,
    method: str,
    baselines: bool = True,
    fuse: bool = False,
    reference: Reference | None = None,
    region: Region = "whole",
) -> Results:
    """Detect in every case, write the detection to `masks`, and score it against the expert's mask.

    A case without a mask counts as healthy where its cohort says so, and is refused elsewhere. Healthy cases come
    first: the thresholds at which they are marked with a given volume apply to the patients after them. Reading and
    segmenting one scan overlaps with scoring the one before it.

    With `fuse` the contrasts of a subject and date are scored together, too, as a volume of the contrast `fused`; as
    `predict` does, a contrast counts less where quality control, for which `reference` is the training cohort, warns.

    Where the experts outlined nothing but what enhances, `region="enhancing"` takes that part of a T1ce scan's mask for
    the mask; the anomaly map, and what ranks its voxels, stays. Such scans are a cohort of their own name. Scans of
    other contrasts are scored whole.

    Raises:
        ScanError: two cases of one cohort share a name.
        StregaError: what else no scan can be blamed for, such as settings that the checkpoint does not allow.
    """
    results = Results(calibration={method: calibration})
    failures = Failures(masks.parent)
    cases = unique_names(cases)
    order = sorted(cases, key=lambda case: not _is_control(case))
    gathering = Gathering(cases if fuse else ())
    stages = _Stages(model, settings, calibration, masks, method, baselines, region, results, gathering, reference)
    done = staged(order, (stages.read, stages.detect, stages.score))
    for case, _, error in tqdm(done, desc=f"evaluating {method}", unit="scan", total=len(order)):
        if error is not None:
            log.error("%s", failures.add(case.image, error))
            result_files(masks, case.name).remove()
    for members in gathering.rest():
        stages.score_fused(members)
    results.failures += failures.messages
    place = {case.name: number for number, case in enumerate(cases)}
    results.scored.sort(key=lambda of: place.get(of.row["case"], len(place)))
    results.baselines.sort(key=lambda row: place[row["case"]])
    return results


@dataclasses.dataclass(frozen=True)
class _Stages:
    """What is done with a case, one step after the other; what comes of it goes to `results`, in order."""

    model: Scorer
    settings: Postprocess
    calibration: Calibration | None
    masks: Path
    method: str
    baselines: bool
    region: Region
    results: Results
    gathering: Gathering
    reference: Reference | None

    def read(self, case: Case) -> tuple[Case, Scan, Bool[np.ndarray, "x y z"], SliceVolume]:
        scan = open_scan(case)
        truth = _truth(case, scan)
        slices = preprocess(scan, self.model.about.preprocess)
        check_truth_in_brain(truth, slices.brain, str(case.mask))
        return case, scan, truth, slices

    def detect(
        self, content: tuple[Case, Scan, Bool[np.ndarray, "x y z"], SliceVolume]
    ) -> tuple[Case, Bool[np.ndarray, "x y z"], Detection]:
        case, scan, truth, slices = content
        return case, truth, detect_slices(self.model, scan, slices, self.settings, self.calibration)

    def score(self, content: tuple[Case, Bool[np.ndarray, "x y z"], Detection]) -> None:
        case, truth, detection = content
        burdens = _thresholds_at_burdens(self.results.scored)
        group, judged = _judged(case, detection, self.region)
        scored = _score(case, group, judged, truth, self.settings, self.method, burdens)
        others = _baselines(detection, truth, scored.row) if self.baselines else []
        write_result(result_files(self.masks, case.name), detection, self.model.source)
        self.results.scored.append(scored)
        self.results.baselines.extend(others)
        if case in self.gathering:
            warnings = detection_warnings(detection, self.model.about.preprocess.contrast, self.reference)
            part = Part(case.name, detection, tuple(warnings))
            self.score_fused(self.gathering.add(Member(case, truth, part)))

    def score_fused(self, members: Sequence[Member]) -> None:
        """Fuse the scans of a session, if there are any, and score what comes of it."""
        if not members:
            return
        name = self.gathering.name(members)
        found = fuse_members(name, members, self.settings, self.calibration)
        if found is None:
            return
        case, detection, truth = found
        self.results.scored.append(
            _score(case, f"{case.cohort} {case.contrast}", detection, truth, self.settings, self.method, {})
        )
        write_result(fused_files(self.masks, case.name), detection, self.model.source)


def _is_control(case: Case) -> bool:
    return case.mask is None and case.healthy is True


def _truth(case: Case, scan: Scan) -> Bool[np.ndarray, "x y z"]:
    if case.mask is not None:
        return read_truth(case, scan)
    if case.healthy:
        return np.zeros(scan.data.shape, bool)
    raise ScanError(f"{case.image}: no lesion mask beside it; evaluation needs one (strega_jax.predict does not)")


def _judged(case: Case, detection: Detection, region: Region) -> tuple[str, Detection]:
    """The name of the cohort, and the detection with the mask that is to be scored."""
    # Contrasts are never pooled: one group of the table each.
    group = f"{case.cohort} {case.contrast}".strip()
    if region == "whole" or detection.enhancing is None:
        return group, detection
    return f"{group} {region}", dataclasses.replace(detection, mask=detection.enhancing)


def _score(
    case: Case,
    group: str,
    detection: Detection,
    truth: Bool[np.ndarray, "x y z"],
    settings: Postprocess,
    method: str,
    burdens: dict[float, float],
) -> Scored:
    scan, brain, score = detection.scan, detection.slices.brain, detection.score
    about = {
        "case": case.name,
        "cohort": group,
        "subject": case.subject,
        "contrast": case.contrast,
        "method": method,
    }
    numbers, match = score_volume_and_lesions(score, detection.mask, truth, brain, scan.spacing_mm)
    at_burdens = {f"dice_at_{ml:g}_ml": dice(score > threshold, truth) for ml, threshold in burdens.items()}
    inside = score[brain]
    slice_scores, slice_anomalous = slice_level_scores(score, brain, truth)
    return Scored(
        row={**about, **numbers, **at_burdens, **dose_of(case.image)},
        match=match,
        slice_scores=slice_scores,
        slice_anomalous=slice_anomalous,
        subject_score=volume_level_score(score, brain),
        healthy_scores=inside[:: max(1, inside.size // KEPT_SCORES)] if _is_control(case) else None,
        brain_ml=float(inside.size * scan.voxel_ml),
        shown=shown_slice(detection, truth, settings),
    )


def _thresholds_at_burdens(scored: Sequence[Scored]) -> dict[float, float]:
    """The thresholds at which the healthy brains scored so far have `BURDENS_ML` above them."""
    healthy = [(of.healthy_scores, of.brain_ml) for of in scored if of.healthy_scores is not None]
    if not healthy:
        return {}
    brain_ml = float(np.mean([ml for _, ml in healthy]))
    return {ml: threshold_at_burden((scores for scores, _ in healthy), brain_ml, ml) for ml in BURDENS_ML}


def _baselines(detection: Detection, truth: Bool[np.ndarray, "x y z"], own: Row) -> list[Row]:
    scan = detection.scan
    about = {name: own[name] for name in ("case", "cohort", "subject", "contrast")}
    masks = {
        **class_masks(detection.slices.tissue),
        "intensity threshold": bright_mask(scan, detection.slices.brain),
    }
    reference_ml = float(truth.sum() * scan.voxel_ml)
    return [
        {
            **about,
            "method": name,
            "dice": dice(mask, truth),
            "reference_ml": reference_ml,
            "marked_ml": float(mask.sum() * scan.voxel_ml),
        }
        for name, mask in masks.items()
    ]
