"""Sessions in an evaluation: the scans of one subject at one date, fused once all of them are scored."""

import dataclasses
import logging
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
from strega_jax.scans.cohorts import session_names

log = logging.getLogger(__name__)


class Member(NamedTuple):
    """One scan of a session."""

    case: Case
    truth: Bool[np.ndarray, "x y z"]
    part: Part


class Gathering:
    """Collects the scans of each session that has two or more contrasts, until it is complete."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._names = session_names(cases)
        known = [case for case in cases if case.contrast and self._names[case.date]]
        contrasts: dict[str, set[str]] = {}
        for case in known:
            contrasts.setdefault(self._names[case.date], set()).add(case.contrast)
        names = [self._names[case.date] for case in known]
        self._left = Counter(name for name in names if len(contrasts[name]) > 1)
        self._members: dict[str, list[Member]] = {}

    def __contains__(self, case: Case) -> bool:
        """Whether the case belongs to such a session."""
        return bool(case.contrast) and self._names.get(case.date) in self._left

    def add(self, member: Member) -> list[Member]:
        """All scans of the session, where this was the last of them; else none."""
        name = self._names[member.case.date]
        self._left[name] -= 1
        self._members.setdefault(name, []).append(member)
        return self._members.pop(name) if self._left[name] == 0 else []

    def name(self, members: Sequence[Member]) -> str:
        """What the session of these scans is called."""
        return self._names[members[0].case.date]

    def rest(self) -> list[list[Member]]:
        """The scans of the sessions of which others failed."""
        return list(self._members.values())


def fuse_members(
    called: str, members: Sequence[Member], settings: Postprocess, calibration: Calibration | None
) -> tuple[Case, Detection, Bool[np.ndarray, "x y z"]] | None:
    """Case, detection and reference segmentation of a session; None, and a warning, with nothing to fuse."""
    try:
        fused = fuse_parts([member.part for member in members], settings, calibration)
    except NothingToFuseError as error:
        log.warning("%s: not fused: %s", called, error)
        return None
    name = fused.parts[fused.grid].name
    of_grid = next(member for member in members if member.part.name == name)
    case = dataclasses.replace(of_grid.case, contrast=FUSED, name=called)
    return case, fused.detection, of_grid.truth
