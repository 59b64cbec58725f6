"""What the columns of results are called in print, and what they mean."""

COLUMNS = {
    "dice": ("Dice", "2|A∩B| / (|A|+|B|) of the mask, at a threshold that was not fitted on these cases"),
    "lesion_wise_dice": (
        "lesion-wise Dice",
        "BraTS 2023: mean over lesions above 50 mm³, parts whose dilations by 3 mm touch being one; detections away "
        "from all lesions count as 0",
    ),
    "best_dice": (
        "best Dice",
        "at the threshold that fits each volume's own reference segmentation best: an upper bound, no result",
    ),
    "best_dice_threshold": ("best threshold", "the threshold of the best Dice"),
    "dice_at_1_ml": ("Dice at 1 ml", "of the plain score at the threshold at which controls have 1 ml above it"),
    "dice_at_5_ml": ("Dice at 5 ml", "the same for 5 ml"),
    "dice_at_10_ml": ("Dice at 10 ml", "the same for 10 ml"),
    "voxel_sensitivity": ("sensitivity", "share of the reference segmentation's voxels that is detected"),
    "voxel_precision": ("precision", "share of detected voxels that lies in the reference segmentation"),
    "reference_ml": ("reference, ml", "volume of the reference segmentation"),
    "marked_ml": ("marked, ml", "volume of the mask"),
    "false_positive_ml": ("false, ml", "detected volume outside the reference segmentation"),
    "auprc": (
        "AUPRC",
        "average precision over the voxels of brain and reference segmentation; the chance level is the prevalence",
    ),
    "prevalence": ("prevalence", "share of positives among what is ranked"),
    "auroc": ("AUROC", "area under the ROC curve over the voxels of brain and reference segmentation"),
    "hd95_mm": ("HD95, mm", "larger of the directed 95th percentiles of surface distances; empty mask: the diagonal"),
    "surface_dice": ("surface Dice", "share of both surfaces within 1 mm of the other; empty mask: 0"),
    "lesions": ("lesions", "26-connected components of the reference segmentation"),
    "lesion_sensitivity": ("lesion sensitivity", "share of lesions of which at least a tenth is marked"),
    "lesion_precision": ("lesion precision", "share of detections of which at least a tenth lies in lesions"),
    "lesion_f1": ("lesion F1", "2 found / (2 found + missed + false positives)"),
    "false_lesions": ("false positives", "detections, 26-connected, of which less than a tenth lies in lesions"),
    "box_iou": ("box IoU", "mean over the reference's boxes, slice by slice, of the best intersection over union"),
    "box_hit_rate": ("box hit rate", "share of the reference's boxes met by a detected box with an IoU of 0.1 or more"),
    "false_boxes": ("false boxes", "detected boxes that meet no box of the reference"),
    "dose_ml": ("lesion, ml", "size of the planted lesion"),
    "dose_contrast": ("contrast", "of the planted lesion, in units of the brain's range of intensities"),
}
"""Name → what it is called, and what it means."""

SUMMARY_METRICS = ("dice", "lesion_wise_dice", "best_dice", "dice_at_5_ml", "auprc", "auroc", "lesion_sensitivity",
                   "lesion_f1", "false_lesions", "marked_ml", "false_positive_ml", "hd95_mm", "surface_dice", "box_iou",
                   "box_hit_rate")  # fmt: skip


def called(name: str) -> str:
    """What a column is called in print; its own name if it has no other."""
    return COLUMNS[name][0] if name in COLUMNS else name.replace("_", " ")


def shown(name: str, value: float) -> str:
    """A number with as many digits as its unit deserves."""
    tenths = name.endswith(("_ml", "_mm")) and not name.startswith("dice_at")
    tenths |= name in ("lesions", "false_lesions", "false_boxes")
    return f"{value:.1f}" if tenths else f"{value:.3f}"
