"""Find the scans of a cohort: which file is which subject, contrast and lesion label, and who is in which split."""

import dataclasses
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.geometry import check_geometry
from strega_jax.scans.layouts import CONTRASTS, LAYOUTS, Layout
from strega_jax.scans.participants import Tables, participants
from strega_jax.scans.scan import SUFFIXES, Scan, read_scan, stem

DEFAULT_FRACTIONS = {"train": 0.8, "dev": 0.1, "test": 0.1}
# Of several label maps of one scan, the first of these that its path names is the truth.
_LABEL_RANK = ("expert", "consensus", "lesion", "seg", "fused")
# Of several versions of one image, the first of these: brains already extracted before whole heads.
_IMAGE_RANK = ("_desc-brain_", "_desc-preproc_", "/preprocessed/")
_HEALTHY_GROUPS = {"healthy", "control", "controls", "hc"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One image of one subject at one date, with its lesion label if there is one.

    Attributes:
        cohort: name of the data set (for BIDS the folder that holds the `sub-*` folders).
        subject: `sub-…`, as in `participants.tsv`.
        session: `ses-…`, or empty.
        contrast: T1w, T1ce, T2w, FLAIR, PD, or empty where the file's name does not tell.
        image: the scan.
        mask: its lesion label map (label > 0 is lesion), or None.
        name: unique within one search, fit for file names, e.g. `sub-gbm01_ses-pre_T1ce`.
        healthy: True where the cohort vouches for it, False where it is a patient, None where nobody says.
        brain: brain mask that the data set brings along, or None; see `read_image`.
    """

    cohort: str
    subject: str
    session: str
    contrast: str
    image: Path
    mask: Path | None
    name: str
    healthy: bool | None = None
    brain: Path | None = None


def find_cases(folder: str | os.PathLike[str], contrasts: Sequence[str] = (), layout: str = "auto") -> list[Case]:
    """List the scans in a folder, or the one scan that a path names, sorted by cohort and name.

    Args:
        folder: a data set, a folder of images or one image.
        contrasts: keep these only (any spelling in `layouts.CONTRASTS`); empty keeps all. A scan whose name does not
            tell its contrast is always kept.
        layout: a key of `layouts.LAYOUTS`; `auto` takes the first that matches a file.

    Raises:
        ScanError: nothing there, or two files that claim to be the same image.
        ConfigError: unknown layout or contrast.
    """
    root = Path(folder)
    wanted = {_contrast(name) for name in contrasts}
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(f"unknown layout {layout!r}; known: auto, {', '.join(LAYOUTS)}")
    if not root.exists():
        raise ScanError(f"{root}: no such file or folder")
    if root.is_file():
        return [_single(root, layout)]
    files = _image_files(root)
    for name in LAYOUTS if layout == "auto" else (layout,):
        found = _match(root, files, LAYOUTS[name])
        if found:
            kept = [case for case in found if not wanted or case.contrast in wanted or not case.contrast]
            if not kept:
                there = ", ".join(sorted({case.contrast for case in found}))
                raise ScanError(f"{root}: no scan of {', '.join(sorted(wanted))}; found {there}")
            return unique_names(kept)
    raise ScanError(_nothing_found(root, files, layout))


def read_image(case: Case) -> Scan:
    """The scan of a case, 0 outside the brain mask if the case has one.

    Raises:
        ScanError: scan or brain mask cannot be read, or they lie on different voxel grids.
    """
    scan = read_scan(case.image)
    return scan if case.brain is None else cut_out(scan, case.brain)


def cut_out(scan: Scan, brain: Path) -> Scan:
    """The scan, 0 where the brain mask in the file `brain` is.

    Raises:
        ScanError: the mask cannot be read or lies on another voxel grid.
    """
    mask = read_scan(brain, allow_constant=True)
    check_geometry(scan, mask)
    return dataclasses.replace(scan, data=np.where(mask.data > 0, scan.data, np.float32(0)))


def read_truth(case: Case, scan: Scan) -> Bool[np.ndarray, "x y z"]:
    """The lesion label (label > 0) on the canonical grid of `scan`, which must be the case's image.

    A case without a label map, or with an empty one, has no lesion: all False.

    Raises:
        ScanError: the label map cannot be read or lies on another voxel grid.
    """
    if case.mask is None:
        return np.zeros(scan.data.shape, bool)
    label = read_scan(case.mask, allow_constant=True)
    check_geometry(scan, label)
    return label.data > 0


def subject_splits(
    source: str | os.PathLike[str] | Iterable[Case],
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
) -> dict[str, str]:
    """Assign every subject to a split: all its dates and contrasts go together.

    The split is what the nearest `participants.tsv` above the image says (columns `participant_id` and `split`);
    without one, patients are `test`, since nothing here learns from them, and the ids of all others are hashed with
    the seed, so that a subject keeps its split when others come or go.

    Args:
        source: cases, or a folder for `find_cases`.
        fractions: share of subjects a split, summing to 1; used only without `participants.tsv`.
        seed: changes the hash.

    Raises:
        ScanError: a subject that its `participants.tsv` does not list, or lists in two splits.
        ConfigError: fractions that are negative or do not sum to 1.
    """
    cases = find_cases(source) if isinstance(source, str | os.PathLike) else list(source)
    if min(fractions.values(), default=-1) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ConfigError(f"split fractions {dict(fractions)} must be at least 0 and sum to 1")
    patients = {case.subject for case in cases if case.healthy is False}
    tables: Tables = {}
    splits: dict[str, str] = {}
    for case in cases:
        table = participants(case.image, tables)
        if any("split" in row for row in table.values()):
            split = table.get(case.subject, {}).get("split") or ""
            if not split:
                raise ScanError(f"{case.image}: participants.tsv gives no split for {case.subject}; add the line")
        else:
            split = "test" if case.subject in patients else _hashed_split(case.subject, fractions, seed)
        if splits.setdefault(case.subject, split) != split:
            raise ScanError(f"{case.image}: {case.subject} is in the splits {splits[case.subject]} and {split}")
    return splits


def _hashed_split(subject: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = hashlib.blake2b(f"{seed}:{subject}".encode(), digest_size=8).digest()
    position, reached = int.from_bytes(digest) / 2**64, 0.0
    for split, fraction in fractions.items():
        reached += fraction
        if position < reached:
            return split
    return max(fractions, key=lambda split: fractions[split])  # rounding left the sum just below 1


def _contrast(name: str) -> str:
    try:
        return CONTRASTS[name.lower()]
    except KeyError:
        raise ConfigError(f"unknown contrast {name!r}; known: T1w, T1ce, T2w, FLAIR, PD") from None


def _image_files(root: Path) -> list[Path]:
    """Every image below `root`, sorted; hidden folders and files are left out."""
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files += [Path(folder, name) for name in names if name.endswith(SUFFIXES) and name[0] != "."]
    return sorted(files)


def _single(path: Path, layout: str) -> Case:
    """The case of one file, with the label that lies beside it."""
    beside = sorted(p for p in path.parent.iterdir() if p.name.endswith(SUFFIXES) and p.name[0] != ".")
    for name in LAYOUTS if layout == "auto" else (layout,):
        for case in _match(path.parent, beside, LAYOUTS[name]):
            if case.image == path:
                return case
    return Case(path.resolve().parent.name, _label("sub", stem(path)), "", "", path, None, stem(path))


def _match(root: Path, files: list[Path], layout: Layout) -> list[Case]:
    """The cases that `layout` sees in `files`, sorted by cohort and name."""
    images: list[tuple[re.Match[str], Path]] = []
    masks: list[tuple[re.Match[str], Path]] = []
    brains: list[tuple[re.Match[str], Path]] = []
    for path in files:
        if not layout.recursive and path.parent != root:
            continue
        place = f"/{root.resolve().name}/{path.relative_to(root).with_name(stem(path)).as_posix()}"
        if found := _search(layout.masks, place):
            masks.append((found, path))
        elif found := _search(layout.brains, place):
            brains.append((found, path))
        elif found := _search(layout.images, place):
            images.append((found, path))
    labels, brain_masks = _by_scan(masks), _by_scan(brains)
    tables: Tables = {}
    best: dict[tuple[str, str], Case] = {}
    for found, path in images:
        mask, brain = (_label_of(found, of.get(_scan_key(found), [])) for of in (labels, brain_masks))
        brain = None if "_desc-brain_" in path.name else brain
        case = dataclasses.replace(_case(found, path, layout, mask, tables), brain=brain)
        rival = best.setdefault((case.cohort, case.name), case)
        rank, rival_rank = _rank(path, _IMAGE_RANK), _rank(rival.image, _IMAGE_RANK)
        if rival is not case and rank == rival_rank:
            raise ScanError(f"{path} and {rival.image} both claim to be {case.name}; give a folder with one of them")
        if rank < rival_rank:
            best[case.cohort, case.name] = case
    return [best[key] for key in sorted(best)]


def _by_scan(
    found: list[tuple[re.Match[str], Path]],
) -> dict[tuple[str, str, str], list[tuple[set[str], Path]]]:
    grouped = defaultdict(list)
    for match, path in found:
        grouped[_scan_key(match)].append((_versions(match), path))
    return grouped


def _search(patterns: tuple[str, ...], place: str) -> re.Match[str] | None:
    return next((found for pattern in patterns if (found := re.search(pattern, place))), None)


def _group(found: re.Match[str], name: str) -> str:
    return found.groupdict().get(name) or ""


def _scan_key(found: re.Match[str]) -> tuple[str, str, str]:
    """What an image and its label have in common: subject, session and the space they are in."""
    space = re.search(r"_space-[^_]+", _group(found, "entities"))
    return _group(found, "subject"), _group(found, "session"), space[0] if space else ""


def _versions(found: re.Match[str]) -> set[str]:
    """What tells images of one subject, session and space apart, such as `acq-2` or `run-1`."""
    return set(re.findall(r"_((?!space|desc|label|ce)[a-zA-Z]+-[^_]+)", _group(found, "entities")))


def _label_of(image: re.Match[str], labels: list[tuple[set[str], Path]]) -> Path | None:
    """The label that names the most of the image's versions and no other; experts before machines."""
    own = _versions(image)
    fitting = [(-len(theirs), _rank(path, _LABEL_RANK), path) for theirs, path in labels if theirs <= own]
    return min(fitting)[2] if fitting else None


def _rank(path: Path, order: tuple[str, ...]) -> int:
    return next((i for i, word in enumerate(order) if word in path.as_posix()), len(order))


def _label(entity: str, text: str) -> str:
    """A BIDS label: letters and digits only."""
    plain = re.sub(r"[^A-Za-z0-9]", "", text.removeprefix(f"{entity}-"))
    return f"{entity}-{plain}" if plain else ""


def _case(found: re.Match[str], path: Path, layout: Layout, mask: Path | None, tables: Tables) -> Case:
    subject, session = _label("sub", found["subject"]), _label("ses", _group(found, "session"))
    entities = _group(found, "entities")
    contrast = CONTRASTS.get(_group(found, "contrast").lower(), layout.contrast)
    if contrast == "T1w" and "_ce-" in entities:
        contrast = "T1ce"
    varying = re.sub(r"_(?:desc-(?:brain|preproc)|ce-[^_]+)(?=_|$)", "", entities).strip("_")
    name = "_".join(part for part in (subject, session, varying, contrast) if part)
    if not layout.recursive:
        name = stem(path)
    healthy = layout.healthy
    if healthy is None and layout is LAYOUTS["bids"]:
        group = participants(path, tables).get(subject, {}).get("group", "").lower()
        healthy = False if mask else group in _HEALTHY_GROUPS or None
    return Case(layout.cohort or _cohort_folder(path), subject, session, contrast, path, mask, name, healthy)


def _cohort_folder(path: Path) -> str:
    """The folder that holds the `sub-*` folders, or else the one that holds the file."""
    for parent in path.resolve().parents:
        if parent.name.startswith("sub-"):
            return parent.parent.name
    return path.resolve().parent.name


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


def _nothing_found(root: Path, files: list[Path], layout: str) -> str:
    rows = LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]]
    expected = "".join(f"\n  - {row.expected}" for row in rows)
    if files:
        shown = ", ".join(path.relative_to(root).as_posix() for path in files[:3])
        found = f"{len(files)} images that fit none of these, such as {shown}"
    else:
        others = [path for path in sorted(root.rglob("*")) if path.is_file()][:3]
        found = "no image" + (f" but {', '.join(path.name for path in others)}" if others else "")
        if any(path.suffix == ".dcm" for path in others):
            found += " (convert DICOM with dcm2niix)"
    return f"{root}: no scans found. Expected one of:{expected}\nFound {found}."
