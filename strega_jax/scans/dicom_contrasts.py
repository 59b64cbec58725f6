"""The contrast of an MR image: by its name, held against what its timing makes of fluid, grey and white matter.

The timing is put into the signal equations of spin echo, inversion recovery and spoiled gradient echo (Haacke et al.,
Magnetic Resonance Imaging, Wiley 1999; Ernst and Anderson, Rev. Sci. Instrum. 1966;37:93) for three tissues; what is
brightest says what the weighting is.
"""

import math
import re

from strega_jax.scans.dicom_frames import Acquisition
from strega_jax.scans.dicom_kinds import plain

# Fluid, grey and white matter at 3 T: proton density relative to water, T1 and T2 in ms. Wansapura et al., JMRI
# 1999;9:531 (grey and white); Rooney et al., MRM 2007;57:308 and Piechnik et al., MRM 2009;61:579 (fluid); densities:
# Whittall et al., MRM 1997;37:34. Other measurements in living brains at 1.5 and 3 T move no decision of a usual
# protocol (tests/test_dicom_contrasts.py).
TISSUES = {"fluid": (1.0, 4300.0, 2000.0), "grey": (0.82, 1331.0, 110.0), "white": (0.70, 832.0, 80.0)}
# In long trains of low refocusing angles the effective TE overstates the T2 weighting: 300 to 400 ms look as 100 to
# 120 do (Mugler, JMRI 2014;39:745).
LONGEST_TE = 120.0
# Inversion times in between null grey or white matter, and what is brightest depends on whether signs were kept.
LEAST_TI, LEAST_FLAIR_TI, STIR_TI = 700.0, 1400.0, 260.0
MPRAGE_TI, MPRAGE_TE = (300.0, 1400.0), 10.0  # Mugler and Brookeman, MRM 1990;15:152
T1_TE = 12.0  # a spoiled gradient echo beyond it is T2*-weighted as well
# Ratios of two signals. Between them a weighting is in the middle, and the timing says nothing.
WHITE_OVER_GREY, FLUID_OVER_GREY, LIKE_GREY, NULLED = 1.05, 1.3, 1.25, 0.5
# Fluid outshines grey matter by long repetition too: only an echo this late, about half of grey matter's T2, makes it
# T2 weighting, and only one earlier than that leaves density.
LEAST_T2_TE, LONGEST_PD_TE = 60.0, 40.0

# What may stand before T1 and T2 without a space: planes, and the letters of Philips and of works in progress.
BEFORE = r"(?<![a-z0-9])(?:[a-z]|o?ax|o?sag|o?cor|tra|wip|[23]d|pd)?"
T1 = BEFORE + r"t1(?![0-9*])|mp ?rage|\bbravo|spgr|\bvibe|\bmdeft|tfl3d|3d ?tfe\b|\buni\b"
T2 = BEFORE + r"t2(?![0-9*])|\bhaste\b"
FLAIR = r"flair|dark ?fl|\bda ?fl\b|t2f\b|fluid ?att"
PD = r"(?<![a-z0-9])[a-z]?pd(w|wi|t2)?(?![a-z0-9])|proton"
TWO_ECHOES = r"\bdual|\bdouble ?(echo|tse|fse)|\bde tse\b|\bt2 de\b"
# Images whose grey values are like those of none of the five contrasts, or that have a sign.
NONE_OF_THEM = r"\bdir\b|double ?inv|\bpsir|\binv ?[12]\b|fiesta|\bciss\b|true ?fisp|\bb ?ffe\b|fgatir|\bmt\b|neuromel"

AGENTS = r"contrast\w*|kontrast\w*|gad\w*|gd|con|ce|c|km|iv\w*"
# English, German, French, Spanish, Portuguese and Italian.
BEFORE_AGENT = (
    rf"\bpre\b(?! ?op)( ?({AGENTS})\b)?|\bpre({AGENTS})\b|\bnon? ?({AGENTS})\b|\bnativ\w*|\bunenh\w*"
    rf"|\b(without|w ?o|wo|ohne|vor|senza|sans|sin|sem)\b( ({AGENTS}|mdc)\b)?"
)
WITH_AGENT = (rf"\+ ?({AGENTS})(?![a-z])|(?<![a-z])c ?\+|\bpos(t|t?({AGENTS}))?\b(?! ?(op|fossa|treat|rt\b|surg))"
              rf"|\bp?gad(o|olin\w*|av\w*|ob\w*|ov\w*)?\b|\b(gd|ce|km|mdc)\b|t1w?({AGENTS})\b|\bt1w? c\b|\bc$"
              r"|\bw ?con\b|\b[ck]ontrast|enhanced|dotarem|multihance")  # fmt: skip
AGREE_WITHOUT_TI = {("FLAIR", "T2w"), ("T1w", "PD")}  # named, timed: an inversion that the header does not mention
WEIGHTINGS = {"T1": "T1w", "T2": "T2w", "FLUID_ATTENUATED": "FLAIR", "PROTON_DENSITY": "PD"}


def decide_contrast(one: Acquisition) -> tuple[str, str]:
    """T1w, T1ce, T2w, FLAIR, PD, or "" where it cannot be known; and why."""
    if re.search(NONE_OF_THEM, plain(one.description or one.protocol)):
        return "", f"{one.description or one.protocol!r} is none of the contrasts that are read"
    name, named = _named(one)
    timed = contrast_by_timing(one)
    if len(named) == 1:
        (weighting,) = named
        if timed in ("", weighting) or (one.ti is None and (weighting, timed) in AGREE_WITHOUT_TI):
            return _with_agent(weighting, one, f"its name, {name!r}")
        return "", f"its name, {name!r}, says {weighting}, its timing {timed}: {timing(one)}"
    if timed:
        return _with_agent(timed, one, f"its timing, {timing(one)}")
    return "", f"neither its name ({name!r}) nor its timing ({timing(one)}) tells"


def timing(one: Acquisition) -> str:
    """The numbers that the timing is judged by, in words."""
    given = {"TR": one.tr, "TE": one.te, "TI": one.ti}
    return ", ".join(f"{name} {value:.4g} ms" for name, value in given.items() if value) or "none is given"


def contrast_by_timing(one: Acquisition) -> str:
    """T1w, T2w, FLAIR or PD by the signals that the timing gives, or "" where they do not tell."""
    if one.tr is None or one.te is None or "MTC" in one.variants or "EP" in one.codes:
        return ""
    if "SE" in one.codes:
        return _by_spin_echo(one.tr, one.te, one.ti, inverted="IR" in one.codes)
    if "GR" in one.codes and one.te <= T1_TE:
        return _by_gradient_echo(one)
    return ""


def _named(one: Acquisition) -> tuple[str, set[str]]:
    """What the names say, the most particular first: the name that says something, and the contrasts in it."""
    for name in (one.description, one.protocol, one.sequence):
        words = plain(name)
        found = {
            c for c, pattern in (("T1w", T1), ("T2w", T2), ("FLAIR", FLAIR), ("PD", PD)) if re.search(pattern, words)
        }
        if re.search(TWO_ECHOES, words):
            return name, {"PD", "T2w"}
        if "FLAIR" in found:
            found -= {"T2w"} if "T1w" not in found else {"FLAIR"}  # T2 FLAIR; T1 FLAIR is a T1w image
        if found:
            return name, found
    weighting = WEIGHTINGS.get(one.weighting, "")
    return one.weighting or one.description, {weighting} if weighting else set()


def _with_agent(weighting: str, one: Acquisition, reason: str) -> tuple[str, str]:
    if weighting != "T1w":
        return weighting, reason
    words = f"{plain(' '.join(one.image_type))} {plain(one.description)}"
    before, after = re.search(BEFORE_AGENT, words), re.search(WITH_AGENT, re.sub(BEFORE_AGENT, " ", words).strip())
    if after and not before:
        return "T1ce", f"{reason}, and contrast agent"
    if one.agent and not (before and not after):
        return "T1ce", f"{reason}, and contrast agent in the header"
    return weighting, reason


def _by_spin_echo(tr: float, te: float, ti: float | None, *, inverted: bool) -> str:
    if inverted and ti is None:
        return ""
    if ti is not None and STIR_TI < ti < LEAST_TI:
        return ""
    fluid, grey, white = (_spin_echo(tissue, tr, min(te, LONGEST_TE), ti) for tissue in TISSUES.values())
    if ti is not None and ti >= LEAST_FLAIR_TI:
        return "FLAIR" if fluid < NULLED * grey else ""
    if white > WHITE_OVER_GREY * grey and white > fluid:
        return "T1w"
    if te >= LEAST_T2_TE and fluid > FLUID_OVER_GREY * grey:
        return "T2w"
    return "PD" if te <= LONGEST_PD_TE and grey > white and fluid < LIKE_GREY * grey and ti is None else ""


def _by_gradient_echo(one: Acquisition) -> str:
    if one.ti is not None or "IR" in one.codes or "MP" in one.variants:
        prepared = one.ti is None or MPRAGE_TI[0] <= one.ti <= MPRAGE_TI[1]
        return "T1w" if prepared and (one.te or 0) <= MPRAGE_TE and one.ti is not None else ""
    if one.flip is None or one.tr is None or ("SS" in one.variants and "SP" not in one.variants):
        return ""
    fluid, grey, white = (_spoiled(tissue, one.tr, one.flip) for tissue in TISSUES.values())
    return "T1w" if white > WHITE_OVER_GREY * grey and white > fluid else ""


def _spin_echo(tissue: tuple[float, float, float], tr: float, te: float, ti: float | None) -> float:
    density, t1, t2 = tissue
    recovered = 1 - math.exp(-tr / t1) if ti is None else abs(1 - 2 * math.exp(-ti / t1) + math.exp(-tr / t1))
    return density * recovered * math.exp(-te / t2)


def _spoiled(tissue: tuple[float, float, float], tr: float, flip: float) -> float:
    density, t1, _ = tissue
    angle, decay = math.radians(flip), math.exp(-tr / t1)
    return density * math.sin(angle) * (1 - decay) / (1 - math.cos(angle) * decay)
