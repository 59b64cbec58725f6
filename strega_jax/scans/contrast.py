"""MR contrasts, a row each: how data sets write them, what BIDS calls them, and what is done with them."""

import dataclasses
from typing import Literal, get_args

from strega_jax.errors import ConfigError

Contrast = Literal["T1w", "T1ce", "T2w", "FLAIR", "PD"]
UNKNOWN = ""  # the contrast of a scan of which nothing tells it
ENHANCED_CONTRAST: Contrast = "T1ce"  # shows what takes up contrast agent


@dataclasses.dataclass(frozen=True)
class ContrastRow:
    """What is known of one contrast.

    Attributes:
        spellings: how data sets write it, in lower case.
        bids: its suffix in BIDS; T1ce is a T1w with the entity `ce-gadolinium`.
        fluid_bright: whether cerebrospinal fluid is the brightest tissue, so that classes are numbered from it on.
        tissues: whether the classes of its segmentation are CSF, grey and white matter.
        grey_from_template: whether its segmentation tells fluid from tissue, but grey from white matter in no order
            that all scanners share, so that a model of another contrast is shown the template's grey and white.
        lesion: what a tumour's oedema does to the intensity, as a share of the brain's range.
    """

    spellings: tuple[str, ...]
    bids: str
    fluid_bright: bool
    tissues: bool
    lesion: float
    grey_from_template: bool = False


CONTRASTS: dict[Contrast, ContrastRow] = {
    "T1w": ContrastRow(("t1w", "t1", "t1n"), "T1w", False, True, -0.6),
    "T1ce": ContrastRow(("t1ce", "t1c", "t1gd", "t1wks", "t1post"), "T1w", False, True, -0.6),
    "T2w": ContrastRow(("t2w", "t2"), "T2w", True, True, 0.6),
    "FLAIR": ContrastRow(("flair", "t2f"), "FLAIR", False, False, 0.6, grey_from_template=True),
    "PD": ContrastRow(("pd", "pdw"), "PDw", False, False, 0.6),
}
NAMES: tuple[Contrast, ...] = get_args(Contrast)
_BY_SPELLING: dict[str, Contrast] = {spelling: name for name, row in CONTRASTS.items() for spelling in row.spellings}


def contrast_named(text: str) -> Contrast | Literal[""]:
    """The contrast that `text` spells, in any case; empty where it spells none."""
    return _BY_SPELLING.get(text.lower(), "")


def require_contrast(text: str) -> Contrast:
    """The contrast that `text` spells. Raises ConfigError where it spells none."""
    name = contrast_named(text)
    if not name:
        raise ConfigError(f"unknown contrast {text!r}; known: {', '.join(NAMES)}")
    return name


def same_brightness_order(contrast: str, other: str) -> bool:
    """Whether tissues are told apart in both contrasts and have one order of brightness; a contrast is like itself."""
    if contrast == other:
        return True
    rows = [CONTRASTS[name] for of in (contrast, other) if (name := contrast_named(of))]
    return len(rows) == 2 and all(row.tissues for row in rows) and rows[0].fluid_bright == rows[1].fluid_bright


def tissue_contrasts() -> tuple[Contrast, ...]:
    """The contrasts whose segmentation tells tissues apart."""
    return tuple(name for name, row in CONTRASTS.items() if row.tissues)
