"""Who trains, who validates, who tests, and which of several processes does whom: by subject."""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence

from strega_jax.errors import ConfigError, ScanError
from strega_jax.fields import Probability, check_fields
from strega_jax.scans.case import Case
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.participants import Tables, participants

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """How subjects that no `participants.tsv` lists are split. Stores and checkpoints keep it, so that later commands
    hold out whom training held out; the seed of a training is another number."""

    train: Probability = 0.8
    dev: Probability = 0.1
    test: Probability = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "split")

    @property
    def fractions(self) -> dict[str, float]:
        """Share of subjects a split."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


DEFAULT_FRACTIONS = SplitRule().fractions


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


def share_of(cases: Sequence[Case], index: int, count: int) -> list[Case]:
    """The cases of one of `count` shares of the subjects, in order; all dates and contrasts of a subject go together.

    The shares are disjoint, together they are everything, and no two differ by more than one subject. A share is empty
    where there are fewer subjects than shares.

    Args:
        cases: all that were found, the same in every process.
        index: of the share, from 0.
        count: of the shares.
    """
    subjects = set(sorted({case.subject for case in cases})[index::count])
    return [case for case in cases if case.subject in subjects]


def _hashed_split(subject: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = hashlib.blake2b(f"{seed}:{subject}".encode(), digest_size=8).digest()
    position, reached = int.from_bytes(digest) / 2**64, 0.0
    for split, fraction in fractions.items():
        reached += fraction
        if position < reached:
            return split
    return max(fractions, key=lambda split: fractions[split])  # rounding left the sum just below 1


def common_rule(rules: Mapping[str, SplitRule | None]) -> SplitRule:
    """The one rule by which the subjects of all these models were split; the default where no model says.

    Args:
        rules: by the model's name; None of one that does not say.

    Raises:
        ConfigError: they were split in different ways, so that somebody held out by one may have trained another.
    """
    known = {rule for rule in rules.values() if rule is not None}
    if len(known) > 1:
        told = "; ".join(f"{name}: {rule}" for name, rule in rules.items())
        raise ConfigError(
            f"--controls_split: the subjects of these models were split in different ways ({told}); compare those of "
            "one way, or give --controls a folder of subjects that none has seen"
        )
    rule = next(iter(known), SplitRule())
    unknown = [name for name, own in rules.items() if own is None]
    if unknown:
        log.warning("%s: nothing says how its subjects were split; taken is %s", ", ".join(unknown), rule)
    return rule
