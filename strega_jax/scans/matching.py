"""Which file of a folder is which subject, contrast and label, by one layout."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from absl import logging

from strega_jax.errors import ScanError
from strega_jax.scans.case import Case
from strega_jax.scans.contrast import contrast_named
from strega_jax.scans.layouts import LAYOUTS, Layout
from strega_jax.scans.participants import Tables, participants
from strega_jax.scans.scan import stem

# Of several label maps of one scan, the first of these that its path names is the reference segmentation.
_LABEL_RANK = ("expert", "consensus", "lesion", "seg", "fused")
# Of several versions of one image, the first of these: brains already extracted before whole heads.
_IMAGE_RANK = ("_desc-brain_", "_desc-preproc_", "/preprocessed/")
_HEALTHY_GROUPS = {"healthy", "control", "controls", "hc"}

Found = list[tuple[re.Match[str], Path]]


@dataclasses.dataclass
class Matched:
    """What a layout sees in a folder: its cases, sorted by cohort and name, and all files that it knows the use of."""

    cases: list[Case]
    known: set[Path]


def match_layout(root: Path, files: Iterable[Path], layout: Layout) -> Matched:
    """Read the files below `root` by `layout`.

    Raises:
        ScanError: two files claim to be the same image.
    """
    kinds: dict[str, Found] = {"masks": [], "brains": [], "images": []}
    known = set()
    for path in files:
        if not layout.recursive and path.parent != root:
            continue
        place = f"/{root.resolve().name}/{path.relative_to(root).with_name(stem(path)).as_posix()}"
        for kind, found in kinds.items():
            if matched := _search(getattr(layout, kind), place):
                found.append((matched, path))
                known.add(path)
                break
    labels, brain_masks = _by_scan(kinds["masks"]), _by_scan(kinds["brains"])
    subjects = _subjects(kinds["images"])
    tables: Tables = {}
    best: dict[tuple[str, str], Case] = {}
    for found, path in kinds["images"]:
        mask, brain = (_label_of(found, of.get(_scan_key(found), [])) for of in (labels, brain_masks))
        brain = None if "_desc-brain_" in path.name else brain
        case = _case(found, path, layout, subjects[found["subject"]], mask, tables)
        _keep_best(best, dataclasses.replace(case, brain=brain))
    return Matched([best[key] for key in sorted(best)], known)


def _keep_best(best: dict[tuple[str, str], Case], case: Case) -> None:
    rival = best.setdefault((case.cohort, case.name), case)
    rank, rival_rank = _rank(case.image, _IMAGE_RANK), _rank(rival.image, _IMAGE_RANK)
    if rival is not case and rank == rival_rank:
        raise ScanError(f"{case.image} and {rival.image} both claim to be {case.name}; give a folder with one of them")
    if rank < rival_rank:
        best[case.cohort, case.name] = case


def _subjects(images: Found) -> dict[str, str]:
    """What a file calls its subject → the label of that subject, its own for each."""
    spelt: dict[str, list[str]] = defaultdict(list)
    for raw in sorted({found["subject"] for found, _ in images}):
        spelt[_label("sub", raw)].append(raw)
    labels = {raws[0]: label for label, raws in spelt.items() if len(raws) == 1}
    for label, raws in spelt.items():
        for raw in raws if len(raws) > 1 else ():
            labels[raw] = "sub-" + re.sub(r"[^A-Za-z0-9]", "x", raw.removeprefix("sub-"))
            logging.warning("%s is not the only subject that would be called %s: called %s", raw, label, labels[raw])
    return labels


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


def _case(found: re.Match[str], path: Path, layout: Layout, subject: str, mask: Path | None, tables: Tables) -> Case:
    session = _label("ses", _group(found, "session"))
    entities = _group(found, "entities")
    contrast = contrast_named(_group(found, "contrast")) or layout.contrast
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
    for parent in path.absolute().parents:
        if parent.name.startswith("sub-"):
            return parent.parent.name
    return path.absolute().parent.name
