"""How public data sets arrange their files, as a table. To add a cohort, add a row to `LAYOUTS`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a data set arranges its files.

    Patterns are searched in a path without `.nii.gz`, `.nii` or `.mha`, from the name of the given folder on, e.g.
    `/data/sub-01/anat/sub-01_T1w`. Their groups: subject, and where there are any session, entities, contrast.
    """

    expected: str  # what a user should see in the folder
    images: tuple[str, ...]
    masks: tuple[str, ...] = ()
    brains: tuple[str, ...] = ()  # brain masks, for scans of whole heads
    cohort: str = ""  # empty: named after the folder
    contrast: str = ""  # where file names do not tell
    healthy: bool | None = None
    recursive: bool = True


_BIDS = r"(?:^|/)(?P<subject>sub-[^_/]+)(?:_(?P<session>ses-[^_/]+))?(?P<entities>(?:_[a-zA-Z]+-[^_/]+)*)_"
_BRATS = r"(?:^|/)(?P<subject>Bra[Tt][Ss]\d[^/]*?)_"
_BRATS23 = r"(?:^|/)(?P<subject>BraTS-[A-Za-z]+-\d+)-(?P<session>\d+)-"
_VSD = r"(?:VSD\.Brain[^/]*/)?VSD\.Brain[^/]*\."
_BRATS13 = r"(?:^|/)(?P<subject>(?:[HL]G/)?[^/]+)/" + _VSD
_BRATS15 = r"(?:^|/)(?P<subject>(?:[HL]GG/)?brats_[^/]*_pat\d+)_(?P<session>\d+)/" + _VSD
_FLAT = r"/(?P<subject>[^/]+?)(?:[_-](?P<contrast>(?i:T1W?|T1CE|T1C|T1GD|T2W?|FLAIR|PDW?)))?"
_OPENMS = r"(?:^|/)(?P<subject>patient\d+)/(?:[^/]+/)*(?:patient\d+_)?(?:study(?P<session>\d)_)?"

LAYOUTS = {
    "bids": Layout(
        "sub-01/[ses-a/]anat/sub-01_[ses-a_]T1w.nii.gz with labels like sub-01_desc-expert_mask.nii.gz",
        (_BIDS + r"(?P<contrast>T1w|T1ce|T2w|FLAIR|PDw|PD)$",),
        (_BIDS + r"(?:(?<=-expert_)|(?<=-fused_)|(?<=lesion_)|(?<=-tumor_)|(?<=-consensus_))(?:mask|dseg|roi)$",),
        (_BIDS + r"(?<=desc-brain_)mask$",),
    ),
    "brats": Layout(
        "BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii.gz (2017-2021), "
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz (2023), "
        "HG/0001/[VSD.Brain.XX.O.MR_T1c.684/]VSD.Brain.XX.O.MR_T1c.684.mha (2013, 2015)",
        (
            _BRATS + r"(?P<contrast>t1|t1ce|t2|flair)$",
            _BRATS23 + r"(?P<contrast>t1n|t1c|t2w|t2f)$",
            _BRATS15 + r"MR_(?P<contrast>T1c?|T2|Flair)\.\d+$",
            _BRATS13 + r"MR_(?P<contrast>T1c?|T2|Flair)\.\d+$",
        ),
        (
            _BRATS + r"seg$",
            _BRATS23 + r"seg$",
            _BRATS15 + r"OT\.\d+$",
            _BRATS13 + r"OT\.\d+$",
            r"(?:^|/)(?P<subject>BraTS20[^/]*)/[^/]*_Segm$",
        ),
        cohort="BraTS",
        healthy=False,
    ),
    "ixi": Layout(
        "IXI002-Guys-0828-T1.nii.gz (or -T2, -PD)",
        (r"(?:^|/)(?P<subject>IXI\d+)-[A-Za-z]+-\d+-(?P<contrast>T1|T2|PD)$",),
        cohort="IXI",
        healthy=True,
    ),
    "openms": Layout(
        "patient01/[preprocessed/][patient01_]{FLAIR,T1W,T1WKS,T2W,consensus_gt,brainmask}.nii.gz (MSLUB, open MS)",
        (_OPENMS + r"(?P<contrast>FLAIR|T1W?|T1WKS|T1POST|T2W?)(?:_N4_[^/]*)?$",),
        (_OPENMS + r"(?:(?:consensus_)?gt|GOLD_STANDARD[^/]*)$",),
        (_OPENMS + r"brainmask[^/]*$",),
        cohort="MSLUB",
        healthy=False,
    ),
    "mood-toy": Layout(
        "brain_toy/toy/00480_uniform_shift.nii.gz with labels in brain_toy/toy_label/pixel/",
        (r"(?:^|/)toy/(?P<subject>\d+[^/]*)$",),
        (r"(?:^|/)toy_label/pixel/(?P<subject>\d+[^/]*)$",),
        cohort="MOOD",
        contrast="T1w",
    ),
    "mood": Layout(
        "brain_train/00000.nii.gz", (r"brain_train/(?P<subject>\d{5})$",), cohort="MOOD", contrast="T1w", healthy=True
    ),
    "flat": Layout(
        "NIfTI files directly in the folder, labels as NAME_mask.nii.gz or NAME_seg.nii.gz",
        (_FLAT + r"(?<!mask)(?<!seg)(?<!anomalymap)(?<!uncertainty)(?<!roi)$",),
        (_FLAT + r"_(?:desc-(?:expert|fused)_)?(?:mask|d?seg)$",),
        recursive=False,
    ),
}
