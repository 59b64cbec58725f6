"""Alignment to MNI152: known poses are recovered, damage is withstood, nonsense is refused."""

from pathlib import Path

import jax
import numpy as np
import pytest
from make_mni152_tissue import tissue_template
from nibabel.affines import apply_affine, from_matvec
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy import ndimage
from scipy.spatial.transform import Rotation
from typechecked import unchecked

from strega_jax.errors import ScanError
from strega_jax.scans.scan import read_scan
from strega_jax.slices import align, registration
from strega_jax.slices.align import align_to_template
from strega_jax.slices.unseen import unseen_shares


@pytest.fixture(scope="module")
def template() -> tuple[np.ndarray, np.ndarray]:
    stored = np.load(Path(align.__file__).with_name("mni152_tissue.npz"))
    return stored["fractions"].astype(np.float32) / 255, stored["affine"]


def displacement_mm(a: np.ndarray, b: np.ndarray, template: tuple[np.ndarray, np.ndarray]) -> float:
    """Mean over the template's brain of the distance between where two affines put a point."""
    fractions, affine = template
    points = apply_affine(affine, np.argwhere(fractions.sum(axis=-1) > 0.5))
    return float(np.linalg.norm(apply_affine(a, points) - apply_affine(b, points), axis=1).mean())


def pose(seed: int, degrees: float = 20.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turn = Rotation.from_euler("xyz", rng.uniform(-degrees, degrees, 3), degrees=True).as_matrix()
    return from_matvec(turn @ np.diag(rng.uniform(0.9, 1.15, 3)), rng.uniform(-30, 30, 3))


def scanned(
    template: tuple[np.ndarray, np.ndarray], world: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The template's brain moved by `world`, sampled anew on an upright grid of 256 mm."""
    fractions, affine = template
    shape = tuple(int(256 / mm) for mm in spacing_mm)
    grid = from_matvec(np.diag(spacing_mm), np.array([-127.0, -145.0, -118.0]) + world[:3, 3])
    to_index = np.linalg.inv(world @ affine) @ grid
    maps = [ndimage.affine_transform(fractions[..., c], to_index, output_shape=shape, order=1) for c in range(3)]
    return np.stack(maps, axis=-1), grid


def test_packaged_template_is_what_its_maker_makes(template):
    fractions, affine = tissue_template()
    np.testing.assert_array_equal(np.rint(template[0] * 255).astype(np.uint8), fractions)
    np.testing.assert_array_equal(template[1], affine)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing_mm", [(3.0, 3.0, 3.0), (2.0, 2.0, 6.5)])
def test_known_affines_are_recovered(template, seed, spacing_mm):
    world = pose(seed, degrees=20)
    found = align_to_template(*scanned(template, world, spacing_mm))
    assert found.dtype == np.float64
    assert displacement_mm(found, world, template) < 0.5


def test_rotations_of_thirty_degrees_are_recovered(template):
    for axis in "xyz":
        for degrees in (-30, 30):
            world = from_matvec(Rotation.from_euler(axis, degrees, degrees=True).as_matrix())
            assert displacement_mm(align_to_template(template[0], world @ template[1]), world, template) < 0.5


def test_rigid_finds_rotation_and_keeps_size(template):
    world = from_matvec(Rotation.from_euler("xyz", [12, -9, 15], degrees=True).as_matrix(), [9, 4, -7])
    found = align_to_template(*scanned(template, world, (3.0, 3.0, 3.0)), kind="rigid")
    np.testing.assert_allclose(found[:3, :3].T @ found[:3, :3], np.eye(3), atol=1e-5)
    assert displacement_mm(found, world, template) < 0.5


def test_flipped_permuted_and_far_away_copies_end_in_one_pose(template):
    fractions, affine = scanned(template, pose(5), (2.0, 3.0, 4.0))
    found = align_to_template(fractions, affine)
    for orientation in ("PSR", "LPS", "ILA"):
        change = ornt_transform(io_orientation(affine), axcodes2ornt(orientation))
        turned = apply_orientation(fractions, change)
        back = affine @ inv_ornt_aff(change, fractions.shape[:3])
        assert displacement_mm(align_to_template(turned, back), found, template) < 0.1
    away = from_matvec(np.eye(3), [5000, -3000, 900])
    assert displacement_mm(align_to_template(fractions, away @ affine), away @ found, template) < 0.1


def test_an_oblique_header_moves_the_pose_and_nothing_else(template):
    fractions, affine = scanned(template, pose(2, degrees=5), (3.0, 3.0, 3.0))
    straight = align_to_template(fractions, affine)
    turn = from_matvec(Rotation.from_euler("xyz", [15, -10, 20], degrees=True).as_matrix(), [5.0, 0.0, -9.0])
    assert displacement_mm(align_to_template(fractions, turn @ affine), turn @ straight, template) < 0.02


def test_every_spacing_gives_one_pose(template):
    """Spacings on either side of the working grid's halves: averaging voxels must not shift them."""
    world = pose(6)
    for mm in (1.9, 2.1, 4.1):
        found = align_to_template(*scanned(template, world, (mm, mm, mm)))
        assert displacement_mm(found, world, template) < 0.5, mm


def test_same_scan_gives_the_same_bits(template):
    scan = scanned(template, pose(7), (3.0, 3.0, 3.0))
    np.testing.assert_array_equal(align_to_template(*scan), align_to_template(*scan))


def test_one_compiled_program_serves_every_level_start_and_prior(template, caplog):
    registration._minimise._compiled.clear()
    with jax.log_compiles():
        align_to_template(*scanned(template, pose(3), (3.0, 3.0, 3.0)))
        align_to_template(*cropped(*scanned(template, np.eye(4), (4.0, 4.0, 4.0)), "top", 0.35), kind="rigid")
    compiled = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling ")]
    assert len(compiled) == 1, compiled


def test_parameters_of_a_rotation_are_scipys_rotation():
    for seed in range(5):
        turn = Rotation.from_euler("xyz", np.random.default_rng(seed).uniform(-80, 80, 3), degrees=True).as_matrix()
        parameters = np.zeros(12)
        parameters[3:6] = registration.cayley(turn)
        np.testing.assert_allclose(registration.matrix(parameters)[:, :3], turn, atol=1e-12)


@pytest.mark.parametrize("tissue", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_tumour_of_an_eighth_of_the_brain_drags_little(template, tissue):
    world = pose(8, degrees=10)
    fractions, affine = scanned(template, world, (3.0, 3.0, 3.0))
    voxels = np.count_nonzero(fractions.sum(axis=-1) > 0.5)
    radius_mm = np.cbrt(0.125 * voxels * 27 * 3 / 4 / np.pi)
    middle = apply_affine(world, [38.0, -10.0, 25.0])
    at = apply_affine(affine, np.moveaxis(np.indices(fractions.shape[:3]), 0, -1))
    tumour = (np.linalg.norm(at - middle, axis=-1) < radius_mm) & (fractions.sum(axis=-1) > 0.5)
    assert np.count_nonzero(tumour) > 0.08 * voxels
    fractions[tumour] = tissue
    assert displacement_mm(align_to_template(fractions, affine), world, template) < 1.5


FACES = {"left": (0, 0), "right": (0, 1), "back": (1, 0), "front": (1, 1), "bottom": (2, 0), "top": (2, 1)}


def cropped(fractions: np.ndarray, affine: np.ndarray, side: str, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The array without a share of the brain's extent on one side."""
    axis, end = FACES[side]
    held = np.flatnonzero(fractions.any(axis=tuple({0, 1, 2, 3} - {axis})))
    lost = round(share * (held[-1] + 1 - held[0]))
    first, last = (0, held[-1] + 1 - lost) if end else (held[0] + lost, fractions.shape[axis])
    kept = [slice(None)] * 3
    kept[axis] = slice(first, last)
    corner = [first if a == axis else 0 for a in range(3)]
    return fractions[tuple(kept)], affine @ from_matvec(np.eye(3), corner)


@pytest.mark.parametrize("side", FACES)
def test_a_brain_cut_off_at_any_side_ends_in_the_pose_of_the_whole(template, side):
    world = pose(9, degrees=8)
    whole = scanned(template, world, (3.0, 3.0, 3.0))
    assert displacement_mm(align_to_template(*cropped(*whole, side, 0.35)), world, template) < 2.0


def test_a_slab_cut_at_both_ends_ends_in_the_pose_of_the_whole(template):
    fractions, affine = scanned(template, np.eye(4), (3.0, 3.0, 3.0))
    slab = cropped(*cropped(fractions, affine, "top", 0.2), "bottom", 0.2)
    assert displacement_mm(align_to_template(*slab), np.eye(4), template) < 2.0


def test_where_a_brain_is_cut_by_zeros_it_is_as_where_the_array_ends(template):
    fractions, affine = scanned(template, np.eye(4), (3.0, 3.0, 3.0))
    cut, moved = cropped(fractions, affine, "left", 0.3)
    zeroed = np.pad(cut, [(5, 0), (0, 0), (0, 0), (0, 0)])
    back = moved @ from_matvec(np.eye(3), [-5, 0, 0])
    np.testing.assert_allclose(align_to_template(zeroed, back), align_to_template(cut, moved), atol=1e-3)


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda maps: maps[:, ::-1], "front-back reversed"),
        (lambda maps: maps[:, :, ::-1], "top-bottom reversed"),
        (lambda maps: maps.transpose(0, 2, 1, 3), "top-bottom taken for front-back"),
    ],
)
def test_a_cut_brain_under_a_wrong_header_is_refused_with_what_is_wrong(template, turn, words):
    fractions, affine = scanned(template, np.eye(4), (3.0, 3.0, 3.0))
    cut, moved = cropped(np.ascontiguousarray(turn(fractions)), affine, "left", 0.25)
    with pytest.raises(ScanError, match=words):
        align_to_template(cut, moved)


@pytest.mark.parametrize("size", [0.7, 0.55])
def test_a_childs_brain_is_found(template, size):
    world = from_matvec(np.eye(3) * size) @ pose(3, degrees=10)
    found = align_to_template(template[0], world @ template[1])
    assert displacement_mm(found, world, template) < 1.0


def test_a_brain_without_a_frontal_lobe_and_with_huge_ventricles_is_found(template):
    fractions, affine = scanned(template, np.eye(4), (3.0, 3.0, 3.0))
    at = apply_affine(affine, np.moveaxis(np.indices(fractions.shape[:3]), 0, -1))
    fractions[np.linalg.norm(at - [35.0, 45.0, 10.0], axis=-1) < 45] = 0
    ventricles = np.linalg.norm((at - [0.0, -10.0, 15.0]) / [1.0, 1.6, 0.9], axis=-1) < 35
    fractions[ventricles & (fractions.sum(axis=-1) > 0.5)] = (1, 0, 0)
    assert displacement_mm(align_to_template(fractions, affine), np.eye(4), template) < 2.0


def test_unseen_shares_are_what_was_cropped(template):
    fractions, affine = template
    brain = fractions.sum(axis=-1) > 0.5
    assert unseen_shares(brain, affine, np.eye(4)).sum() == 0
    for side, (axis, end) in FACES.items():
        kept, moved = cropped(fractions, affine, side, 0.3)
        left = kept.sum(axis=-1) > 0.5
        shares = unseen_shares(left, moved, np.eye(4))
        assert shares[axis, end] == pytest.approx(1 - left.sum() / brain.sum(), abs=1e-9)
        assert shares.sum() == shares[axis, end]


def test_nonsense_is_refused_with_a_way_out(template):
    fractions, affine = template
    slab = fractions * (np.arange(fractions.shape[2]) < 15)[:, None]
    box = np.full((40, 40, 40, 3), 1 / 3, np.float32)
    radius = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0)
    ball = (radius < 17)[..., None] * np.random.default_rng(0).dirichlet(np.ones(3), radius.shape).astype(np.float32)
    for wrong in (box, ball, slab, fractions[:, :, ::-1]):
        with pytest.raises(ScanError, match="choose a grid other than"):
            align_to_template(wrong, affine)
    with pytest.raises(ScanError, match="no brain"):
        align_to_template(np.zeros_like(fractions), affine)


def test_wrong_arguments_are_refused(template):
    with pytest.raises(ValueError, match="shape"):
        unchecked(align_to_template)(template[0][..., :2], template[1])
    with pytest.raises(ValueError, match="neither"):
        unchecked(align_to_template)(*template, kind="similarity")


@pytest.mark.data
def test_real_brain_in_another_pose_ends_in_that_pose(test_data, template):
    scan = read_scan(sorted(test_data.glob("ixi/sub-*/anat/*_T1w.nii.gz"))[0])
    low, middle, high = np.percentile(scan.data[scan.data > 0], [5, 45, 85])
    shares = [np.interp(scan.data, [low, middle, high], peak).astype(np.float32) for peak in np.eye(3)]
    fractions = np.stack(shares, axis=-1) * (scan.data > 0)[..., None]
    at_rest = align_to_template(fractions, scan.affine)
    for seed in range(3):
        world = pose(seed)
        assert displacement_mm(align_to_template(fractions, world @ scan.affine), world @ at_rest, template) < 1.5


@pytest.mark.data
def test_a_real_brain_cut_off_is_found_and_under_a_wrong_header_it_is_not(test_data, template):
    scan = read_scan(sorted(test_data.glob("oasis/sub-*/anat/*_T1w.nii.gz"))[0])
    low, middle, high = np.percentile(scan.data[scan.data > 0], [5, 45, 85])
    shares = [np.interp(scan.data, [low, middle, high], peak).astype(np.float32) for peak in np.eye(3)]
    fractions = np.stack(shares, axis=-1) * (scan.data > 0)[..., None]
    whole = align_to_template(fractions, scan.affine)
    for side in ("top", "back"):
        found = align_to_template(*cropped(fractions, scan.affine, side, 0.3))
        assert displacement_mm(found, whole, template) < 4.0
    with pytest.raises(ScanError, match="front-back reversed"):
        align_to_template(*cropped(np.ascontiguousarray(fractions[:, ::-1]), scan.affine, "top", 0.25))


def test_what_is_prepared_is_the_program_that_aligns(template):
    align.prepare()
    compiled = set(registration._minimise._compiled)
    align_to_template(*template)
    assert set(registration._minimise._compiled) == compiled
