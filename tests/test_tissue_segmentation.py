"""Whole segmentations: real FAST's output, a phantom of the MNI152 tissue maps, invariances, refused input."""

import dataclasses
import itertools
import logging

import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage
from typechecked import unchecked

from strega_jax.errors import ConfigError, ScanError
from strega_jax.programs import Program
from strega_jax.scans.scan import read_scan
from strega_jax.tissue import fields, hmrf, segment
from strega_jax.tissue.files import file_raster

SPACING = (2.0, 2.0, 2.0)
LABELS = ("seg", "pveseg", "mixeltype")


@pytest.fixture(scope="module")
def phantom():
    """T1-like image on the MNI152 tissue maps with 3 % noise and a 20 % bias field, its true fractions, its bias."""
    gm = np.asarray(datasets.load_mni152_gm_template(resolution=2).dataobj)
    wm = np.asarray(datasets.load_mni152_wm_template(resolution=2).dataobj)
    brain = np.asarray(datasets.load_mni152_brain_mask(resolution=2).dataobj) > 0
    # The maps are blurred averages: fluid is what neither claims well, and edges are as sharp as one voxel.
    tissue = np.stack([2 * (1 - gm - wm), gm, wm], axis=-1).argmax(-1)
    truth = np.stack([ndimage.gaussian_filter((tissue == c) * 1.0, 0.4) for c in range(3)], axis=-1)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in brain.shape], indexing="ij"))
    bias = np.exp(0.1 * grid[0] - 0.06 * grid[1] * grid[2] + 0.05 * grid[2] ** 2)
    noise = 90 * np.random.default_rng(0).normal(size=brain.shape)
    image = np.maximum(truth @ np.array([1000.0, 2100.0, 3000.0]) * bias + noise, 1) * brain
    return image.astype(np.float32), truth * brain[..., None], np.where(brain, bias, 1)


@pytest.fixture(scope="module")
def segmented(phantom):
    return {preset: segment(phantom[0], SPACING, preset=preset) for preset in ("fsl", "robust")}


def _dice(labels, truth):
    return [2 * ((labels == c) & (truth == c)).sum() / ((labels == c).sum() + (truth == c).sum()) for c in (1, 2, 3)]


@pytest.mark.parametrize("preset", ["fsl", "robust"])
def test_phantom_tissues_and_bias_are_recovered(phantom, segmented, preset):
    image, truth, bias = phantom
    brain, tissue = image > 0, segmented[preset]
    labels = np.where(brain, truth.argmax(-1) + 1, 0)
    assert min(_dice(tissue.pveseg, labels)) > 0.9
    error = np.log(tissue.bias / bias)[brain]
    assert error.std() < {"fsl": 0.02, "robust": 0.015}[preset]
    assert error.std() < 0.5 * np.log(bias[brain]).std()
    np.testing.assert_allclose(tissue.restored, np.where(brain, image / tissue.bias, 0), rtol=1e-4)


def test_output_is_consistent(phantom, segmented):
    tissue, brain = segmented["fsl"], phantom[0] > 0
    assert all(((getattr(tissue, name) > 0) == brain).all() for name in ("seg", "pveseg"))
    np.testing.assert_allclose(tissue.pve.sum(-1), brain, atol=1e-6)
    assert (
        tissue.pve.max(-1) == np.take_along_axis(tissue.pve, tissue.pveseg[..., None] - (brain[..., None]), -1)[..., 0]
    ).all()
    assert set(np.unique(tissue.mixeltype)) <= set(range(6))
    assert (np.diff(tissue.means) > 0).all()
    assert tissue.pve.dtype == tissue.bias.dtype == tissue.restored.dtype == np.float32


def test_t2_contrast_numbers_the_brightest_class_first(phantom):
    image, truth, _ = phantom
    brain = image > 0
    inverted = np.where(brain, 4200 - image, 0).astype(np.float32)
    tissue = segment(inverted, SPACING, contrast="T2w")
    assert min(_dice(tissue.pveseg, np.where(brain, truth.argmax(-1) + 1, 0))) > 0.85
    assert (np.diff(tissue.means) < 0).all()


@pytest.mark.parametrize("contrast", ["PD", "FLAIR", "T1ce"])
def test_other_contrasts_keep_the_order_of_brightness(phantom, segmented, contrast):
    tissue = segment(phantom[0], SPACING, contrast=contrast)
    np.testing.assert_array_equal(tissue.seg, segmented["fsl"].seg)
    assert (np.diff(tissue.means) > 0).all()


@pytest.mark.parametrize("n_classes", [2, 4])
def test_other_numbers_of_classes(phantom, n_classes):
    tissue = segment(phantom[0], SPACING, n_classes=n_classes)
    assert tissue.pve.shape[-1] == tissue.means.size == tissue.seg.max() == n_classes
    np.testing.assert_allclose(tissue.pve.sum(-1), phantom[0] > 0, atol=1e-6)
    assert tissue.mixeltype.max() == n_classes + n_classes * (n_classes - 1) // 2 - 1


def test_padding_changes_nothing(phantom, segmented):
    padded = segment(np.pad(phantom[0], ((3, 9), (40, 0), (0, 5))), SPACING)
    inner = tuple(slice(a, a + n) for a, n in zip((3, 40, 0), phantom[0].shape, strict=True))
    for name in (*LABELS, "pve"):
        np.testing.assert_array_equal(getattr(padded, name)[inner], getattr(segmented["fsl"], name))


def test_permuting_and_flipping_the_array_changes_no_label(phantom, segmented):
    """With the raster turned as well, all labels agree but for rounding; `seg` does not even need that."""
    turned = np.ascontiguousarray(phantom[0].transpose(2, 0, 1)[:, ::-1])
    for raster, names in (
        (((1, True), (2, False), (0, False)), LABELS),
        (((0, False), (1, False), (2, False)), ("seg",)),
    ):
        tissue = segment(turned, SPACING, raster=raster)
        for name in names:
            back = getattr(tissue, name)[:, ::-1].transpose(1, 2, 0)
            assert (back != getattr(segmented["fsl"], name)).sum() <= 20, (raster, name)


def test_scaling_changes_almost_nothing(phantom, segmented):
    """log(I + 1) is not quite a logarithm: a factor is not quite an offset."""
    tissue, brain = segment(10 * phantom[0], SPACING), phantom[0] > 0
    assert (tissue.seg == segmented["fsl"].seg)[brain].mean() > 0.999
    assert (tissue.pveseg == segmented["fsl"].pveseg)[brain].mean() > 0.999


def test_unit_scaled_and_z_scored_images_give_the_same_tissues(phantom, segmented, caplog):
    image, brain = phantom[0], phantom[0] > 0
    with caplog.at_level(logging.WARNING):
        unit = segment(image / image.max(), SPACING)
    assert "multiplied by" in caplog.text
    z = np.where(brain, (image - image[brain].mean()) / image[brain].std(), 0).astype(np.float32)
    for tissue in (unit, segment(z, SPACING), segment(np.where(brain, z, -9).astype(np.float32), SPACING)):
        assert ((tissue.seg > 0) == brain).all()
        assert min(_dice(tissue.pveseg, segmented["fsl"].pveseg)) > 0.93


def test_bias_and_restored_image_are_left_out_on_request(phantom, segmented):
    tissue = segment(phantom[0], SPACING, restore=False)
    np.testing.assert_array_equal(tissue.pve, segmented["fsl"].pve)
    for left_out in (tissue.bias, tissue.restored):
        assert left_out.shape == tissue.seg.shape
        assert np.isnan(left_out).all()
        assert left_out.strides == (0, 0, 0)  # it takes no memory


def test_mask_selects_the_brain(phantom, segmented):
    image = phantom[0]
    head = np.where(image > 0, image, 500.0 + 100 * np.random.default_rng(1).random(image.shape)).astype(np.float32)
    with pytest.raises(ScanError, match=r"not look brain-extracted.*--brain=PATH.*--brain=given"):
        segment(head, SPACING)
    tissue = segment(head, SPACING, mask=image > 0)
    np.testing.assert_array_equal(tissue.seg, segmented["fsl"].seg)


def test_large_foreground_is_refused_unless_vouched_for():
    image = np.zeros((96, 96, 96), np.float32)
    image[10:-10, 10:-10, 10:-10] = 100 * (1 + np.random.default_rng(0).integers(3, size=(76, 76, 76)))
    image[10:-10, 10:-10, 10:-10] += np.random.default_rng(1).normal(size=(76, 76, 76)) * 9
    with pytest.raises(ScanError, match="3512 ml"):
        segment(image, SPACING)
    assert segment(image, SPACING, assume_stripped=True).seg.max() == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: np.where(x > 2500, np.nan, x), "NaN"),
        (lambda x: np.where(x > 0, 700, 0), "every brain voxel is 700"),
        (lambda x: np.where(x > 0, 100 + 100 * (x > 2000), 0), "fewer than 3 kinds"),
        (lambda x: 0 * x, "no voxel is brain"),
    ],
)
def test_unusable_images_are_refused(phantom, spoil, message):
    with pytest.raises(ScanError, match=message):
        segment(np.asarray(spoil(phantom[0]), np.float32), SPACING)


@pytest.mark.parametrize("preset", ["fsl", "robust"])
@pytest.mark.parametrize(("contrast", "intensities"), [("T1w", (1000, 2100, 3000)), ("T2w", (3200, 2100, 1200))])
def test_near_zero_voxels_at_the_rim_take_no_class(phantom, contrast, intensities, preset):
    """A rim of 4.5 % of the brain, as interpolation and brain extraction leave it, changes no other voxel's tissue."""
    rng = np.random.default_rng(2)
    truth, brain = phantom[1], phantom[0] > 0
    image = np.maximum(truth @ np.array(intensities) + 90 * rng.normal(size=brain.shape), 1) * brain
    rim = brain & ~ndimage.binary_erosion(brain) & (rng.random(brain.shape) < 0.6)
    image = np.where(rim, image * rng.random(brain.shape) ** 2 / 2 + 1, image).astype(np.float32)
    tissue = segment(image, SPACING, contrast=contrast, preset=preset)
    labels = np.where(brain & ~rim, truth.argmax(-1) + 1, 0)
    assert min(_dice(np.where(rim, 0, tissue.pveseg), labels)) > 0.98


@pytest.mark.parametrize("preset", ["fsl", "robust"])
def test_saturated_and_hot_voxels_take_no_class(phantom, segmented, preset):
    """The brightest third at one value, as a narrow window leaves it; and 50 voxels a thousand times as bright."""
    image, brain = phantom[0], phantom[0] > 0
    spoilt = np.minimum(image, np.percentile(image[brain], 67))
    spoilt[tuple(np.argwhere(brain)[::5000].T)] *= 1000
    tissue = segment(spoilt, SPACING, preset=preset)
    assert min(_dice(tissue.pveseg, segmented[preset].pveseg)) > 0.95
    assert np.isfinite(tissue.restored).all()
    assert (np.diff(tissue.means) > 0).all()


def test_a_fit_that_loses_a_class_starts_again(phantom, segmented, monkeypatch):
    """A first start with a class that takes no voxel, before the usual one; and alone."""
    usual = hmrf.starts

    def after_a_lost_class(y, n_classes, rounds):
        (good, *_) = usual(y, n_classes, rounds)
        yield dataclasses.replace(good, means=good.means * np.float32([np.nan, 1, 1]))
        yield good

    monkeypatch.setattr(hmrf, "starts", after_a_lost_class)
    np.testing.assert_array_equal(segment(phantom[0], SPACING).seg, segmented["fsl"].seg)
    monkeypatch.setattr(hmrf, "starts", lambda *a: itertools.islice(after_a_lost_class(*a), 1))
    with pytest.raises(ScanError, match="fewer than 3 kinds"):
        segment(phantom[0], SPACING)


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_what_is_compiled_ahead_are_the_programs_that_run(phantom, n_classes, monkeypatch):
    """And what is to be done meanwhile is done once, when that of the partial volumes is compiled."""
    fresh = [Program(program._function) for program in (fields.expectation_maximisation, fields.partial_volumes)]
    monkeypatch.setattr(fields, "expectation_maximisation", fresh[0])
    monkeypatch.setattr(fields, "partial_volumes", fresh[1])
    seen = []
    segment(phantom[0], SPACING, n_classes=n_classes, meanwhile=lambda: seen.append(len(fresh[1]._compiled)))
    assert seen == [1]
    assert [len(program._compiled) for program in fresh] == [1, 1]


def test_unknown_settings_and_wrong_masks_are_refused(phantom):
    image = phantom[0]
    for settings in ({"contrast": "CT"}, {"preset": "fast"}, {"n_classes": 5}):
        with pytest.raises(ConfigError, match="is one of"):
            unchecked(segment)(image, SPACING, **settings)
    with pytest.raises(ScanError, match="shape"):
        unchecked(segment)(image, SPACING, mask=np.ones((2, 2, 2), bool))
    with pytest.raises(ScanError, match="no voxel"):
        segment(image, SPACING, mask=image < 0)


def test_thick_slices_are_remarked_on(phantom, caplog):
    with caplog.at_level(logging.WARNING):
        segment(phantom[0][:, :, ::4], (2.0, 2.0, 8.0))
    assert "8 mm" in caplog.text


def _halved(image):
    """Pairs of slices averaged, and which of the new voxels lie wholly in the brain."""
    pairs = image[:, :, : image.shape[2] // 2 * 2].reshape(*image.shape[:2], -1, 2)
    full = (pairs > 0).all(-1)
    return np.where(full, pairs.mean(-1), 0).astype(np.float32), full


def _shares(pve, full):
    """Share of each class in the voxels of `full`, of twice as many slices too."""
    if pve.shape[2] != full.shape[2]:
        pve = pve[:, :, : 2 * full.shape[2]].reshape(*full.shape, 2, 3)
    return pve[full].reshape(-1, 3).mean(0)


def test_thick_slices_keep_the_volumes(phantom, segmented):
    """On the coarse phantom, slices of 4 mm: class volumes within 3 % of the brain."""
    coarse, full = _halved(phantom[0])
    tissue = segment(coarse, (2.0, 2.0, 4.0))
    np.testing.assert_allclose(_shares(tissue.pve, full), _shares(segmented["fsl"].pve, full), atol=0.03)


@pytest.mark.data
@pytest.mark.parametrize("preset", ["fsl", "robust"])
@pytest.mark.parametrize(("name", "contrast"), [("fast_mni2mm", "T1w"), ("phantom_colt2_pn3_rf20", "T2w")])
def test_halved_resolution_keeps_the_volumes_of_a_brain(test_data, name, contrast, preset):
    """Class volumes within 2 % of the brain."""
    scan = read_scan(test_data / "tissue" / f"{name}.nii.gz")
    coarse, full = _halved(scan.data)
    x, y, z = scan.spacing_mm
    fine = segment(scan.data, (x, y, z), contrast=contrast, preset=preset)
    thick = segment(coarse, (x, y, 2 * z), contrast=contrast, preset=preset)
    np.testing.assert_allclose(_shares(thick.pve, full), _shares(fine.pve, full), atol=0.02)


@pytest.mark.data
def test_agrees_with_what_fast_wrote(test_data):
    scan = read_scan(test_data / "tissue" / "fast_mni2mm.nii.gz")
    tissue = segment(scan.data, scan.spacing_mm, raster=file_raster(scan))
    brain = scan.data > 0
    for name, bar in zip(LABELS, (0.9995, 0.999, 0.999), strict=True):
        fast = read_scan(test_data / "tissue" / f"fast_mni2mm_{name}.nii.gz").data
        assert (getattr(tissue, name) == fast)[brain].mean() >= bar, name
    for c in range(3):
        fast = read_scan(test_data / "tissue" / f"fast_mni2mm_pve_{c}.nii.gz").data
        assert np.abs(tissue.pve[..., c] - fast)[brain].mean() <= 1e-3


@pytest.mark.data
@pytest.mark.parametrize(("contrast", "scans"), [("T1ce", 7), ("T2w", 4)])
def test_tumours_fall_into_the_fluid_class_as_with_fast(test_data, contrast, scans):
    """Without any windowing. FAST's own fluid class is reported with a mean Dice of 0.20 with the tumours of BraTS."""
    found = []
    for path in sorted(test_data.glob(f"brats/*/anat/*_{contrast}.nii.gz")):
        scan = read_scan(path)
        (truth,) = path.parent.glob("*_dseg.nii.gz")
        tissue = segment(scan.data, scan.spacing_mm, contrast=contrast)
        share = [(tissue.seg == c).sum() / (tissue.seg > 0).sum() for c in (1, 2, 3)]
        assert min(share) > 0.08, (path.name, share)
        fluid, tumour = tissue.pveseg == 1, read_scan(truth).data > 0
        found.append(2 * (fluid & tumour).sum() / (fluid.sum() + tumour.sum()))
    assert len(found) == scans
    assert np.mean(found) >= 0.15, found


@pytest.mark.data
def test_a_brain_cut_by_the_field_of_view_is_no_head(test_data):
    """2.6 % of its border is brainstem; of the same person's whole head 62 % is."""
    brain = read_scan(next(test_data.glob("othersite/sub-niivueT2/anat/*_T2w.nii.gz")))
    assert segment(brain.data, brain.spacing_mm, contrast="T2w").seg.max() == 3
    head = read_scan(next(test_data.glob("heads/sub-niivueT2/anat/*_T2w.nii.gz")))
    with pytest.raises(ScanError, match="does not look brain-extracted"):
        segment(head.data, head.spacing_mm, contrast="T2w")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "contrast", "preset", "output", "bar"),
    [
        ("colt1_pn3_rf40", "T1w", "fsl", "pveseg", 0.974),
        ("colt1_pn3_rf40", "T1w", "robust", "seg", 0.975),
        ("colt1_pn9_rf20", "T1w", "robust", "seg", 0.95),
        ("colt2_pn3_rf20", "T2w", "robust", "seg", 0.968),
        ("colt2_pn3_rf20", "T2w", "fsl", "pveseg", 0.96),
    ],
)
def test_phantoms_with_known_tissue(test_data, name, contrast, preset, output, bar):
    truth = read_scan(test_data / "tissue" / "phantom_col_truth.nii.gz").data
    scan = read_scan(test_data / "tissue" / f"phantom_{name}.nii.gz")
    tissue = segment(scan.data, scan.spacing_mm, contrast=contrast, preset=preset)
    assert np.mean(_dice(getattr(tissue, output), truth)) >= bar
