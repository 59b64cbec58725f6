"""Input checks: each fires on a scan that was spoilt in its way, and none on a good one."""

import dataclasses
import re

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from small_workdir import small_scan, small_workdir

from strega_jax.detection.ghosting import strongest_ghost
from strega_jax.detection.pose import fit_pose
from strega_jax.detection.quality import QualityWarning, noise_share, reference_warnings, scan_warnings
from strega_jax.inference.batch import Settings, detect_all
from strega_jax.inference.jobs import make_jobs
from strega_jax.models.opening import open_model
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.scan import Scan
from strega_jax.scans.source import open_scan
from strega_jax.slices.align import align_to_template
from strega_jax.slices.preprocess import preprocess

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")


@pytest.fixture(scope="module")
def opened():
    return open_model(small_workdir())


@pytest.fixture(scope="module")
def prepared(opened):
    scan = open_scan(small_scan(), "T1w")
    return scan, preprocess(scan, opened.model.about.preprocess)


def turned(scan, axcodes):
    """The scan's voxels in another order, under the header of the first."""
    order = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(("R", "A", "S")), nib.orientations.axcodes2ornt(axcodes)
    )
    return nib.orientations.apply_orientation(scan, order)


@pytest.mark.parametrize(("axcodes", "doubt"), [("RPS", True), ("RAI", True), ("ASR", True), ("LAS", False)])
def test_a_header_that_names_the_wrong_axes_is_doubted(prepared, axcodes, doubt):
    slices = prepared[1]
    pve = turned(slices.tissue.pve, tuple(axcodes))
    pose = fit_pose(pve, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert (pose.best > pose.upright + 0.3) == doubt
    assert bool(pose.orientation) == doubt


def ghosted(data: np.ndarray, axis: int, every: int, strength: float) -> np.ndarray:
    """Every so many-th line of the spectrum weakened, the middle one kept; what lies outside the brain cut off."""
    lines = np.arange(data.shape[axis]) - data.shape[axis] // 2
    weight = np.where((lines % every == 0) & (lines != 0), 1 - strength, 1.0)
    shape = [-1 if a == axis else 1 for a in range(3)]
    spectrum = np.fft.fft(data, axis=axis) * np.fft.ifftshift(weight).reshape(shape)
    image = np.fft.ifft(spectrum, axis=axis).real
    return np.where(data > 0, np.maximum(image, 1), 0).astype(np.float32)


@pytest.mark.parametrize(("axis", "every"), [(0, 4), (1, 4), (1, 6), (2, 5)])
def test_a_ghost_is_found_along_its_axis_at_its_distance(prepared, axis, every):
    scan, slices = prepared
    data = ghosted(scan.data, axis, every, 0.8)
    ghost = strongest_ghost(data, slices.brain, scan.spacing_mm)
    assert ghost.axis == axis
    # Weakening every n-th line puts copies at multiples of the field of view over n.
    period = data.shape[axis] * scan.spacing_mm[axis] / every
    assert abs(ghost.shift_mm / period - round(ghost.shift_mm / period)) * period <= 2 * scan.spacing_mm[axis]
    assert ghost.strength > 2 * strongest_ghost(scan.data, slices.brain, scan.spacing_mm).strength
    assert checks(dataclasses.replace(scan, data=data), slices) == {"ghosting"}


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_noise_is_measured_and_much_of_it_doubted(prepared, share):
    scan, slices = prepared
    rng = np.random.default_rng(0)
    noise = rng.normal(0, share * scan.data[slices.brain].mean(), scan.data.shape).astype(np.float32)
    noisy = np.where(slices.brain, scan.data + noise, 0)
    before = noise_share(scan.data, slices.brain, scan.spacing_mm)
    measured = noise_share(noisy, slices.brain, scan.spacing_mm)
    assert measured == pytest.approx(np.hypot(share, before), rel=0.1)
    # Across thick slices anatomy would count as noise: there nothing is measured.
    thick, spacing = noisy[:, :, ::2], (*scan.spacing_mm[:2], 2 * scan.spacing_mm[2])
    assert noise_share(thick, thick > 0, spacing) == pytest.approx(measured, rel=0.1)
    wanted = {"noise"} if share == 0.2 else set()
    assert checks(dataclasses.replace(scan, data=noisy), slices) & {"noise"} == wanted
    assert noise_share(noisy, np.zeros_like(slices.brain), scan.spacing_mm) == 0


def test_contrasts_without_tissue_classes_are_doubted(prepared):
    scan, slices = prepared
    flair = dataclasses.replace(scan, contrast="FLAIR")
    assert {flag.check for flag in scan_warnings(flair, slices, "T1w")} == {"contrast"}
    assert scan_warnings(flair, slices, "FLAIR") == []
    (unknown,) = scan_warnings(dataclasses.replace(scan, contrast=""), slices, "T1w")
    assert unknown.check == "contrast"
    assert "--contrast" in unknown.reason


@pytest.mark.parametrize(("order", "told"), [((0, 1, 2), True), ((0, 2, 1), False)])
def test_a_flair_whose_white_matter_is_the_brighter_tissue_is_told(prepared, order, told):
    scan, slices = prepared
    alignment = align_to_template(slices.tissue.pve, scan.affine)
    by_brightness = changed(slices, pve=np.ascontiguousarray(slices.tissue.pve[..., order]))
    read = dataclasses.replace(by_brightness, alignment=alignment, grey_from_template=True)
    found = scan_warnings(dataclasses.replace(scan, contrast="FLAIR"), read, "T1w")
    assert [flag.check for flag in found] == ["contrast"] * told
    assert all("white matter is brighter" in flag.reason for flag in found)


def test_a_tissue_map_like_no_brain_is_doubted(prepared):
    scan, slices = prepared
    rng = np.random.default_rng(0)
    pve = rng.dirichlet(np.ones(3), slices.brain.shape).astype(np.float32) * slices.brain[..., None]
    assert checks(scan, changed(slices, pve=pve)) == {"tissue"}


def test_numbers_unlike_training_are_doubted(opened):
    reference = opened.reference
    usual = {name: spread.mean for name, spread in reference.numbers.items()}
    assert reference_warnings(usual, reference) == []
    assert reference_warnings({**usual, "wm": 0.0}, None) == []
    for name, value, check in (
        ("wm", usual["wm"] + 0.3, "tissue"),
        ("brain_ml", usual["brain_ml"] / 2, "tissue"),
        ("error", usual["error"] * 2.1, "reconstruction"),
    ):
        (flag,) = reference_warnings({**usual, name: value}, reference)
        assert isinstance(flag, QualityWarning)
        assert flag.check == check


def changed(slices, **tissue):
    return dataclasses.replace(slices, tissue=dataclasses.replace(slices.tissue, **tissue))


def checks(scan, slices) -> set[str]:
    return {flag.check for flag in scan_warnings(scan, slices, "T1w")}


def test_a_good_scan_raises_no_doubt_and_a_bad_one_does(prepared):
    scan, slices = prepared
    assert checks(scan, slices) == set()
    exchanged = changed(slices, pve=np.ascontiguousarray(slices.tissue.pve[..., ::-1]))
    assert checks(scan, exchanged) == {"contrast"}
    brain, data = slices.brain.copy(), scan.data.copy()
    middle = brain.shape[2] // 2
    brain[:, :, middle] = False
    assert checks(scan, dataclasses.replace(slices, brain=brain)) == {"slices"}
    data[:, :, middle] *= 0.3
    assert checks(dataclasses.replace(scan, data=data), slices) == {"slices"}
    data = scan.data.copy()
    data[:, :, middle + 1] = data[:, :, middle]
    assert checks(dataclasses.replace(scan, data=data), slices) == {"slices"}
    cut = dataclasses.replace(slices, brain=slices.brain[:, :, :middle])
    assert checks(dataclasses.replace(scan, data=scan.data[:, :, :middle]), cut) == {"field of view"}


@pytest.mark.parametrize(
    ("every", "told"),
    [((4, 1, 1), True), ((2, 1, 1), True), ((1, 4, 1), False), ((1, 1, 4), False), ((2, 2, 2), False)],
)
def test_thick_sagittal_slices_are_told(prepared, every, told):
    scan, slices = prepared  # 2 mm
    part = tuple(slice(None, None, step) for step in every)
    data, matrix = np.ascontiguousarray(scan.data[part]), scan.affine @ np.diag([*every, 1.0])
    thick = dataclasses.replace(Scan.from_array(data, matrix, scan.path), contrast="T1w", forms=scan.forms)
    volumes = {name: of[part] for name, of in vars(slices.tissue).items() if np.ndim(of) >= 3}
    own = dataclasses.replace(changed(slices, **volumes), brain=slices.brain[part])
    reasons = [flag.reason for flag in scan_warnings(thick, own, "T1w") if flag.check == "slices"]
    assert [reason.split(":")[0] for reason in reasons] == [f"sagittal slices of {2 * every[0]:.1f} mm"] * told


def test_a_cut_brain_is_flagged_with_the_side_and_the_share_that_was_not_seen(prepared):
    scan, slices = prepared
    pose = align_to_template(slices.tissue.pve, scan.affine)
    middle = slices.brain.shape[2] // 2
    volumes = {name: of for name, of in vars(slices.tissue).items() if of.ndim > 1}
    lower = changed(slices, **{name: np.ascontiguousarray(of[:, :, :middle]) for name, of in volumes.items()})
    cut = dataclasses.replace(lower, brain=slices.brain[:, :, :middle], alignment=pose)
    (flag,) = scan_warnings(dataclasses.replace(scan, data=scan.data[:, :, :middle]), cut, "T1w")
    assert flag.check == "field of view"
    assert "cuts the brain off at the top: " in flag.reason
    lost = slices.brain[:, :, middle:].sum() / slices.brain.sum()
    said = float(flag.reason.split("about ")[1].split("%")[0]) / 100
    assert said == pytest.approx(lost, abs=0.05)
    # Aligned, a whole brain is as quiet as before.
    assert checks(scan, dataclasses.replace(slices, alignment=pose)) == set()


def test_a_zeroed_part_of_the_brain_is_flagged_with_its_size_and_place(prepared):
    scan, slices = prepared
    at = apply_affine(scan.affine, np.moveaxis(np.indices(scan.data.shape), 0, -1))
    centre = apply_affine(scan.affine, np.argwhere(slices.brain).mean(axis=0)) + np.array([25, 0, 15])
    hole = (np.linalg.norm(at - centre, axis=-1) < 15) & slices.brain
    brain, data = slices.brain & ~hole, np.where(hole, 0, scan.data)
    pve = slices.tissue.pve * brain[..., None]
    flags = scan_warnings(
        dataclasses.replace(scan, data=data), dataclasses.replace(changed(slices, pve=pve), brain=brain), "T1w"
    )
    (flag,) = (flag for flag in flags if flag.check == "brain hole")
    ml, *place = (float(number) for number in re.findall(r"-?\d+", flag.reason)[:4])
    assert ml == pytest.approx(hole.sum() * scan.voxel_ml, rel=0.1, abs=1)
    np.testing.assert_allclose(place, centre, atol=2)


def test_headers_without_orientation_are_doubted(opened, tmp_path):
    image = nib.load(small_scan())
    image.set_sform(None, code=0)
    image.set_qform(image.affine, code=0)
    nib.save(image, tmp_path / "scan.nii")
    done = next(
        detect_all(
            make_jobs(find_cases(tmp_path), tmp_path / "out"), opened, Settings(opened.model.about.run.postprocess)
        )
    )
    assert any(flag.check == "orientation" and "sform" in flag.reason for flag in done.warnings)


def test_noise_is_told_where_five_voxels_of_brain_lie_in_a_row_alone():
    rng = np.random.default_rng(0)
    brain = np.zeros((60, 60, 60), bool)
    for start in range(0, 60, 10):  # sheets, most rows of five across them end outside
        brain[start : start + 6] = True
    image = np.where(brain, 100 + 3 * rng.standard_normal(brain.shape), 0).astype(np.float32)
    assert noise_share(image, brain, (1.0, 2.0, 2.0)) == pytest.approx(0.03, rel=0.05)
