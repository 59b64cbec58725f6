"""What a user says of contrasts: which to read, and which scan has another than its file tells."""

import dataclasses
from collections.abc import Sequence

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.case import Case
from strega_jax.scans.contrast import NAMES, contrast_named


def choose_contrasts(cases: Sequence[Case], chosen: Sequence[str]) -> list[Case]:
    """Keep the contrasts that are asked for, and give scans the contrast that a user knows better.

    Args:
        cases: what was found.
        chosen: contrasts to keep, and "SCAN=T1ce" each for a scan of another contrast.

    Raises:
        ConfigError: no such contrast, no such scan, or several such scans; all that is wrong is listed.
        ScanError: no scan is left.
    """
    wrong = [item for item in chosen if not contrast_named(item.rpartition("=")[2].strip())]
    told = [f"{item}: none of {', '.join(NAMES)}" for item in wrong]
    contrasts: dict[str, str] = {}
    for item in chosen:
        which, separator, written = item.rpartition("=")
        meant = [case for case in cases if _is_called(case, which.strip())]
        if item in wrong or not separator:
            continue
        if len(meant) != 1:
            names = ", ".join(case.name for case in meant or cases[:8])
            told.append(f"{item}: {'several such scans' if meant else 'no such scan'}; there are: {names}")
        else:
            contrasts[meant[0].name] = contrast_named(written.strip())
    if told:
        raise ConfigError(f"--contrast: {'; '.join(told)}")
    cases = [dataclasses.replace(case, contrast=contrasts.get(case.name, case.contrast)) for case in cases]
    wanted = [contrast_named(item) for item in chosen if "=" not in item]
    return _kept(cases, wanted) if wanted else cases


def _kept(cases: Sequence[Case], wanted: Sequence[str]) -> list[Case]:
    # Of a scan that is named, what is asked for counts more than what its name tells.
    alone = len(cases) == len(wanted) == 1
    kept = [case for case in cases if alone or case.contrast in wanted or not case.contrast]
    if not kept:
        there = ", ".join(sorted({case.contrast for case in cases}))
        raise ScanError(f"--contrast: no scan of {', '.join(wanted)}; found {there}")
    if len(wanted) > 1:
        return kept
    return [dataclasses.replace(case, contrast=wanted[0]) for case in kept]


def _is_called(case: Case, which: str) -> bool:
    if which == case.name:
        return True
    series = case.series
    return series is not None and (which == series.description or (which.isdecimal() and series.number == int(which)))
