"""Results as BIDS derivatives: names, folders and the description of the data set."""

import re
from collections.abc import Container, Sequence
from pathlib import Path

from strega_jax.output.write import Written
from strega_jax.scans.case import Case
from strega_jax.scans.contrast import CONTRASTS, contrast_named
from strega_jax.scans.files import replacing, write_json

BIDS_VERSION = "1.10.0"
LEVELS = ("participant", "group")
# What BIDS has no name for: pages, component tables and boxes.
IGNORED = "*.html\n*_boxes.json\n*_components.csv\ngroup.tsv\n"


def derivative_paths(output: Path, case: Case) -> Written:
    """Where the results of a BIDS scan go: beside one another in `sub-…/[ses-…/]anat`."""
    name = contrast_named(case.contrast)
    suffix = CONTRASTS[name].bids if name else "T1w"
    entities = re.findall(r"(?:^|_)((?!sub-|ses-|desc-)[A-Za-z]+-[A-Za-z0-9]+)(?=_)", f"{case.name}_")
    if case.contrast == "T1ce":
        entities.append("ce-gadolinium")
    entities.sort(key=lambda entity: _ORDER.index(key) if (key := entity.split("-")[0]) in _ORDER else len(_ORDER))
    stem = "_".join(part for part in (case.subject, case.session, *entities) if part)
    folder = output / case.subject / case.session / "anat"
    return Written(
        # Several contrasts of one subject may share all entities: the label tells them apart.
        mask=folder / f"{stem}_desc-anomaly{suffix}_mask.nii.gz",
        anomaly_map=folder / f"{stem}_desc-anomalymap_{suffix}.nii.gz",
        uncertainty=folder / f"{stem}_desc-uncertainty_{suffix}.nii.gz",
        components=folder / f"{stem}_{suffix}_components.csv",
        page=folder / f"{stem}_{suffix}.html",
        boxes=folder / f"{stem}_{suffix}_boxes.json",
    )


_ORDER = ("task", "acq", "ce", "rec", "dir", "run", "mod", "echo", "part", "space", "res")


def describe_data_set(output: Path) -> None:
    """Write `dataset_description.json`, `README` and `.bidsignore`, which make the folder a BIDS derivative."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(
        output / "dataset_description.json",
        {
            "Name": "Anomalies marked by StRegA-JAX",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": "as the source data",
            "GeneratedBy": [{"Name": "strega-jax", "Description": "unsupervised anomaly detection in brain MRI"}],
        },
    )
    text = {
        "README": "Anomalies that an unsupervised model marked in brain MRI, unconfirmed. Masks and score maps lie on "
        "the grid of the scan that they are named after. Research use only: not a medical device.\n",
        ".bidsignore": IGNORED,
    }
    for name, content in text.items():
        with replacing(output / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def as_flags(arguments: Sequence[str], valued: Container[str]) -> list[str]:
    """The command line of a BIDS app, `bids_dir output_dir level [--participant-label 01 02]`, as flags.

    Args:
        arguments: the command line; where it is not a BIDS app's it is returned as it is.
        valued: names of the flags that take a value, which may stand after them without an equals sign.
    """
    plain: list[str] = []
    labels: list[str] = []
    others: list[str] = []
    takes: list[str] | None = None  # where the next plain argument goes, if not to `plain`
    for argument in arguments:
        name = argument.removeprefix("--")
        if name in ("participant-label", "participant_label"):
            takes = labels
        elif argument.startswith("-"):
            others.append(argument)
            takes = others if name in valued else None
        else:
            (plain if takes is None else takes).append(argument)
            takes = labels if takes is labels else None
    if len(plain) != 3 or plain[2] not in LEVELS:
        return list(arguments)
    named = [f"--{name}={value}" for name, value in zip(("input", "output", "level"), plain, strict=True)]
    return others + named + ([f"--participant_label={','.join(labels)}"] if labels else [])
