"""Which DICOM images are anatomical MR of a head, and what the others are."""

import functools
import re

from strega_jax.scans.dicom_frames import Acquisition

IMAGES = ("MR Image Storage", "Enhanced MR Image Storage", "Legacy Converted Enhanced MR Image Storage")
# Of DICOM PS3.16 annex L; the head and no entry at all pass, and so do entries that nobody foresaw.
OTHER_PARTS = ("CHEST", "ABDOMEN", "PELVIS", "KNEE", "SHOULDER", "HEART", "LIVER", "PROSTATE", "BREAST", "ANKLE",
               "FOOT", "HAND", "WRIST", "HIP", "ELBOW", "LEG", "ARM", "KIDNEY", "UTERUS", "EXTREMITY")  # fmt: skip
# Magnetisation is not refocused in a gradient echo: from here on T2* decides, of about 50 ms in tissue at 3 T
# (Wansapura et al., JMRI 1999;9:531).
T2_STAR_TE = 15.0

# Values of ImageType and FrameType → what the image is. Siemens, GE and Philips write them alike or each their own.
TYPES = {
    **dict.fromkeys(("LOCALIZER", "SCOUT", "POSDISP"), "a localiser"),
    **dict.fromkeys(("ADC", "EADC", "FA", "TRACEW", "TENSOR", "TENSOR_B0", "COLFA", "DIFFUSION", "DIFFUSION_ANISO",
                     "AVERAGE DC", "CALC_BVALUE"), "diffusion"),
    **dict.fromkeys(("PERFUSION", "ASL", "RCBF", "RCBV", "RELCBF", "RELCBV", "RELMTT", "MTT", "TTP", "PBP", "GBP",
                     "PERFUSION_ASL"), "perfusion"),
    **dict.fromkeys(("MIP", "MNIP", "MINIP", "MIN IP", "PROJECTION IMAGE", "MAX_IP", "MIN_IP"), "a projection"),
    **dict.fromkeys(("SWI", "SW_M_FFE", "SW_P_FFE", "QSM"), "susceptibility-weighted"),
    **dict.fromkeys(("PHASE", "PHASE MAP", "VELOCITY", "VELOCITY MAP", "V", "PCA"), "a phase or velocity map"),
    **dict.fromkeys(("T1 MAP", "T2 MAP", "T1_MAP", "T2_MAP", "T2_STAR MAP", "T2_STAR_MAP", "T2* MAP", "R2_STAR MAP",
                     "R1 MAP", "R2 MAP", "R1_MAP", "R2_MAP", "R2_STAR_MAP", "DENSITY MAP", "PROTON_DENSITY_MAP",
                     "FIELD_MAP", "FIELD MAP", "B0 MAP", "B1 MAP", "B1"), "a map of a quantity"),
    **dict.fromkeys(("SUBTRACTION", "SUBTRACT", "SUB"), "a subtraction"),
    **dict.fromkeys(("SCREEN SAVE", "CSA REPORT", "SCREENSHOT"), "a picture of a screen"),
    **dict.fromkeys(("FMRI", "T_TEST", "MOSAIC"), "functional or diffusion MRI"),
    **dict.fromkeys(("ANGIO", "TOF", "FLOW_ENCODED"), "angiography"),
}  # fmt: skip

# AcquisitionContrast of enhanced images.
WEIGHTINGS = {"DIFFUSION": "diffusion", "PERFUSION": "perfusion", "FLOW_ENCODED": "angiography", "TOF": "angiography",
              "TAGGING": "tagged", "T2_STAR": "T2*-weighted"}  # fmt: skip

# Words of descriptions, in the form that `plain` gives → what the image is; the first that is found counts.
NAMES = [
    (r"local[iy][sz]e?r?|locator|\bloc\b|scout|survey|pilot|\b3 ?pl(ane)?\b|posdisp|plan ?scan|smart ?brain",
     "a localiser"),
    (r"calibration|\bcal\b|\bref(erence)? scan|sense ref|\bshim|prescan", "a calibration"),
    (r"phoenix|report|screen ?s(ave|hot)|screen ?capture|processed images|summary", "a picture of a screen"),
    (r"field ?map|\bb[01]( ?rf)? ?map|gre b0|b1 ?plus", "a field map"),
    (r"\b[de]?adc\b|isoadc|\btrace(w|d)?\b|\bcol ?fa\b|\bfa( map)?\b|tensor|\be?dw[i1]|\bdti|diffu?s|difus|\bep2d diff"
     r"|\bb ?\d{3,4}s?\b|resolve|\bhardi|\bnoddi|\bdki\b|\bivim|\bdsi\b|apparent", "diffusion"),
    (r"perf(usion)?\b|\bpwi\b|\bdsc\b|\bp?c?asl\b|pasl\b|pcasl|\br?(el)?cb[fv]\b|\bmtt\b|\btt[pm]\b|\btmax|\bdce\b"
     r"|\b[pg]bp\b|dynamic", "perfusion"),
    (r"(?<!ven )bold\b|\bfmri|rsfmri|\brest(ing)? ?state|ep2d rest|\btask\b", "functional MRI"),
    (r"spectro|\bmrs\b|\bsvs\b|\bcsi\b|mrsi|probe", "spectroscopy"),
    (r"\bmin? ?ip\b|\bmip\b|\bminip|\bmips\b|projected|projection", "a projection"),
    (r"\btof\b|\bc?e?mr[av]\b|angio|venogra|willis|\bcow\b|motsa|tricks|\btwist|\bpc[av]\b|inhance|\bq ?flow|csf flow"
     r"|phase ?contrast",
     "angiography"),
    (r"\bswi|swan\b|\bswip?\b|suscept|\bqsm\b|ven ?bold|venobold|fsbb|\bmag images|\bpha(se)? (images?|map)|filt pha",
     "susceptibility-weighted"),
    (r"t2 ?(\*|star)|\bt2s\b|\bh[ae]mo\b|\bgre t2\b|\b[es]?t2w? (gre|ffe|fl2d|me2d)\b|\bmedic\b|\bmerge\b",
     "T2*-weighted"),
    (r"\bt[12]( ?w)? ?map|\bt[12] images|mapit|r2 ?(\*|star)|t1 ?rho|relaxo|myelin ?map|\bmtr\b|\bpd map",
     "a map of a quantity"),
    (r"subtract|\bsub\b(?! ?\d)|\bdiff(erence)? image", "a subtraction"),
    (r"[ctl] ?spine|cervical|lumbar|thorac|spine\b|\bknee|shoulder|abdom|prostat|pelvis|cardiac|breast|\bliver",
     "not a head"),
    (r"elasto|\bmre\b|\bcine\b|\bcest\b|\bapt\b|tagg", "not an anatomical image"),
]  # fmt: skip


def plain(words: str) -> str:
    """A description in small letters, with spaces for every mark but + and *."""
    return re.sub(r"\s+", " ", re.sub(r"[^a-z0-9+*äöüéè]", " ", words.lower())).strip()


@functools.lru_cache(maxsize=1024)  # the frames of a file are mostly acquired alike
def why_not_anatomical(one: Acquisition) -> str:
    """Why an image is no anatomical MR of a head, or "" where nothing speaks against it."""
    if one.modality != "MR":
        return f"modality {one.modality}, not MR"
    if one.kind and one.kind not in IMAGES:
        return f"{one.kind}, not an MR image"
    if not one.photometric.startswith("MONO"):
        return "a colour image, not MR intensities" if one.photometric else "no image in it, or cut off"
    if one.photometric != "MONOCHROME2":
        return f"its greys are inverted ({one.photometric})"
    return _by_type(one) or _by_words(one) or _by_physics(one)


def _by_type(one: Acquisition) -> str:
    if one.component not in ("", "MAGNITUDE"):
        return f"the {one.component.lower()} of a complex image, not its magnitude"
    # The first two values say original or derived, primary or secondary.
    found = next((TYPES[word] for word in one.image_type[2:] if word in TYPES), "")
    return f"{found} (by its image type)" if found else ""


def _by_words(one: Acquisition) -> str:
    # On GE scanners the protocol is that of the whole examination: it counts only where nothing else does.
    name = one.description or one.protocol
    found = next((what for pattern, what in NAMES if re.search(pattern, plain(name))), "")
    if found:
        return f"{found} (by its name, {name!r})"
    if one.body_part in OTHER_PARTS or one.body_part.endswith("SPINE"):
        return f"body part {one.body_part}, not a head"
    return ""


def _by_physics(one: Acquisition) -> str:
    if "EP" in one.codes:
        return "echo planar (diffusion, perfusion or functional MRI)"
    if one.b_value:
        return f"diffusion (b = {one.b_value:g} s/mm²)"
    if one.weighting in WEIGHTINGS:
        return f"{WEIGHTINGS[one.weighting]} (by its acquisition contrast)"
    if one.angiography:
        return "angiography (by its flag)"
    if "SE" not in one.codes and "GR" in one.codes and (one.te or 0) >= T2_STAR_TE:
        return f"T2*-weighted (a gradient echo at {one.te:g} ms)"
    return ""
