"""Find the scans of a cohort: every file that looks like one is a case, or is named."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.case import Case
from strega_jax.scans.contrast import require_contrast
from strega_jax.scans.files import walk_files
from strega_jax.scans.layouts import LAYOUTS
from strega_jax.scans.matching import match_layout
from strega_jax.scans.scan import SUFFIXES, stem

if TYPE_CHECKING:
    from strega_jax.scans.dicom import Series

SHOWN_FILES = 5  # of those that fit no layout


def find_cases(folder: str | os.PathLike[str], contrasts: Sequence[str] = (), layout: str = "auto") -> list[Case]:
    """List the scans in a folder, or the one scan that a path names, sorted by cohort and name.

    Links to folders are followed. Images that fit no layout are named in a warning.

    Args:
        folder: a data set, a folder of images or one image.
        contrasts: keep these only (any spelling in `contrast.CONTRASTS`); empty keeps all. A scan whose name does not
            tell its contrast is always kept.
        layout: a key of `layouts.LAYOUTS`; `auto` lets each layout in turn read what those before it left.

    Raises:
        ScanError: nothing there, or two files that claim to be the same image.
        ConfigError: unknown layout or contrast.
    """
    root = Path(folder)
    wanted = [require_contrast(name) for name in contrasts]
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(f"unknown layout {layout!r}; known: auto, {', '.join(LAYOUTS)}")
    if not root.exists():
        raise ScanError(f"{root}: no such file or folder")
    if root.is_file():
        found = _of_file(root, layout)
        # Of a file that is named, what is asked for counts more than what its name tells.
        return found if len(found) == 1 else _keep(root, found, wanted)
    every = walk_files(root)
    files = [path for path in every if _is_image(path)]
    found, left = _match(root, files, layout)
    if layout == "auto":
        found += _dicom_cases(root, [path for path in every if not _is_image(path)], alone=not found)
    if not found:
        raise ScanError(_nothing_found(root, files, layout))
    if left:
        shown = ", ".join(path.relative_to(root).as_posix() for path in left[:SHOWN_FILES])
        more = f" and {len(left) - SHOWN_FILES} more" if len(left) > SHOWN_FILES else ""
        logging.warning("%s: %d images fit no layout and are left out: %s%s", root, len(left), shown, more)
    return unique_names(_keep(root, found, wanted))


def case_of_series(series: "Series") -> Case:
    """The case of one DICOM series: its patient is the subject, its study the session."""
    session = f"ses-{series.patient}" if series.patient else ""
    subject = f"sub-{series.patient or series.name}"
    return Case(series.folder.name, subject, session, series.contrast, series.folder, None, series.name, series=series)


def _of_file(path: Path, layout: str) -> list[Case]:
    if _is_image(path):
        return [case_of_file(path, layout)]
    from strega_jax.scans.dicom import find_series, is_dicom

    if not is_dicom(path):
        return [case_of_file(path, layout)]  # its reader says what is wrong
    series = find_series(path.parent)
    return [case_of_series(one) for one in series if path.name == "DICOMDIR" or path in one.files]


def _keep(root: Path, found: list[Case], wanted: Sequence[str]) -> list[Case]:
    kept = [case for case in found if not wanted or case.contrast in wanted or not case.contrast]
    if not kept:
        there = ", ".join(sorted({case.contrast for case in found}))
        raise ScanError(f"{root}: no scan of {', '.join(wanted)}; found {there}")
    return kept


def _dicom_cases(root: Path, files: Sequence[Path], *, alone: bool) -> list[Case]:
    """The DICOM series of a folder; a BIDS data set's own images are meant, not what they were made from."""
    from strega_jax.scans.dicom import find_series, is_dicom

    if (root / "dataset_description.json").is_file() or not any(is_dicom(path) for path in files):
        return []
    try:
        return [case_of_series(series) for series in find_series(root)]
    except ScanError as error:
        if alone:
            raise
        logging.warning("%s", error)  # other scans are there, and not to blame
        return []


def case_of_file(path: Path, layout: str = "auto") -> Case:
    """The case of one file, with the label and the brain mask that lie beside it."""
    beside = sorted(p for p in path.parent.iterdir() if _is_image(p) and p.name[0] != ".") if path.is_file() else []
    for name in LAYOUTS if layout == "auto" else (layout,):
        for case in match_layout(path.parent, beside, LAYOUTS[name]).cases:
            if case.image == path:
                return case
    plain = "".join(letter for letter in stem(path) if letter.isascii() and letter.isalnum())
    return Case(path.resolve().parent.name, f"sub-{plain}" if plain else "", "", "", path, None, stem(path))


def _match(root: Path, files: Sequence[Path], layout: str) -> tuple[list[Case], list[Path]]:
    """The cases of all layouts, each from the files that those before it left, and what is left in the end."""
    cases: list[Case] = []
    left = list(files)
    for name in LAYOUTS if layout == "auto" else (layout,):
        matched = match_layout(root, left, LAYOUTS[name])
        # Labels alone may be another layout's.
        if matched.cases:
            cases += matched.cases
            left = [path for path in left if path not in matched.known]
    return sorted(cases, key=lambda case: (case.cohort, case.name)), left


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def unique_names(cases: Sequence[Case]) -> list[Case]:
    """The cases, with the cohort before names that two cohorts share.

    Raises:
        ScanError: two cases of one cohort share a name.
    """
    count = Counter(case.name for case in cases)
    renamed = [
        dataclasses.replace(case, name=f"{case.cohort}_{case.name}") if count[case.name] > 1 else case for case in cases
    ]
    known: dict[str, Case] = {}
    for case in renamed:
        if case.name in known:
            raise ScanError(f"{known[case.name].image} and {case.image} are both called {case.name}; rename a folder")
        known[case.name] = case
    return renamed


def session_names(cases: Sequence[Case]) -> dict[tuple[str, str, str], str]:
    """`Case.date` → subject and session, after the cohort where two cohorts share them; empty without a subject."""
    names = {case.date: "_".join(part for part in (case.subject, case.session) if part) for case in cases}
    count = Counter(names.values())
    return {date: f"{date[0]}_{name}" if name and count[name] > 1 else name for date, name in names.items()}


def _nothing_found(root: Path, files: list[Path], layout: str) -> str:
    rows = LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]]
    expected = "".join(f"\n  - {row.expected}" for row in rows)
    if files:
        shown = ", ".join(path.relative_to(root).as_posix() for path in files[:3])
        found = f"{len(files)} images that fit none of these, such as {shown}"
    else:
        others = walk_files(root)[:3]
        found = "no image" + (f" but {', '.join(path.name for path in others)}" if others else "")
    return f"{root}: no scans found. Expected one of:{expected}\nFound {found}."
