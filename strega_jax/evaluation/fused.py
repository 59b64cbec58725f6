"""Sessions in an evaluation: the scans of one subject at one date, fused once all of them are scored."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from strega_jax.config import Postprocess
from strega_jax.detection.found import Detection
from strega_jax.detection.fusion import NothingToFuseError
from strega_jax.detection.session import FUSED, Part, fuse_parts
from strega_jax.models.calibration import Calibration
from strega_jax.scans.case import Case

Key = tuple[str, str, str]


class Member(NamedTuple):
    """One scan of a session."""

    case: Case
    truth: Bool[np.ndarray, "x y z"]
    part: Part


class Gathering:
    """Collects the scans of each session that has two or more contrasts, until it is complete."""

    def __init__(self, cases: Sequence[Case]) -> None:
        contrasts: dict[Key, set[str]] = {}
        for case in cases:
            contrasts.setdefault(_key(case), set()).update([case.contrast] if case.contrast else [])
        self._left = Counter(_key(case) for case in cases if case.contrast and len(contrasts[_key(case)]) > 1)
        self._members: dict[Key, list[Member]] = {}

    def __contains__(self, case: Case) -> bool:
        """Whether the case belongs to such a session."""
        return bool(case.contrast) and _key(case) in self._left

    def add(self, member: Member) -> list[Member]:
        """All scans of the session, where this was the last of them; else none."""
        key = _key(member.case)
        self._left[key] -= 1
        self._members.setdefault(key, []).append(member)
        return self._members.pop(key) if self._left[key] == 0 else []

    def rest(self) -> list[list[Member]]:
        """The scans of the sessions of which others failed."""
        return list(self._members.values())


def _key(case: Case) -> Key:
    return case.cohort, case.subject, case.session


def fuse_members(
    members: Sequence[Member], settings: Postprocess, calibration: Calibration | None
) -> tuple[Case, Detection, Bool[np.ndarray, "x y z"]] | None:
    """The case, the detection and the reference segmentation of a session; None where nothing is left to fuse."""
    if len(members) < 2:
        return None
    try:
        fused = fuse_parts([member.part for member in members], settings, calibration)
    except NothingToFuseError:
        return None
    name = fused.parts[fused.grid].name
    of_grid = next(member for member in members if member.part.name == name)
    called = "_".join(part for part in (of_grid.case.subject, of_grid.case.session) if part)
    case = dataclasses.replace(of_grid.case, contrast=FUSED, name=called)
    return case, fused.detection, of_grid.truth
