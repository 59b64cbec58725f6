"""What a BIDS `participants.tsv` says about a subject."""

import csv
from pathlib import Path

from strega_jax.errors import ScanError

Tables = dict[Path, dict[str, dict[str, str]]]
"""Folder → the rows of its participants.tsv by participant; a cache for one search."""


def participants(image: Path, tables: Tables) -> dict[str, dict[str, str]]:
    """Rows of the nearest participants.tsv above a file, by participant; empty without one.

    Raises:
        ScanError: a table without the column `participant_id`.
    """
    for folder in image.parents[:6]:
        if folder not in tables:
            path = folder / "participants.tsv"
            tables[folder] = {}
            if path.is_file():
                with path.open(encoding="utf-8-sig", newline="") as file:
                    rows = list(csv.DictReader(file, delimiter="\t"))
                if rows and "participant_id" not in rows[0]:
                    raise ScanError(f"{path}: no column participant_id; is it separated by tabs?")
                tables[folder] = {row["participant_id"]: row for row in rows}
        if tables[folder]:
            return tables[folder]
    return {}
