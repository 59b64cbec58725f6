"""Results as BIDS derivatives: names, folders and the description of the data set."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strega_jax.failures import LOG
from strega_jax.output.files import GROUP_TABLE, ResultFiles, bids_files
from strega_jax.scans.contrast import CONTRASTS, contrast_named
from strega_jax.scans.files import replacing, write_json

if TYPE_CHECKING:
    from strega_jax.scans.case import Case

BIDS_VERSION = "1.10.0"
LEVELS = ("participant", "group")
# What BIDS has no name for: pages, component tables, boxes, DICOM and maps of several contrasts.
IGNORED = f"*.html\n*_boxes.json\n*_components.csv\n*_seg.dcm\n*_desc-fusedanomalymap.*\n{GROUP_TABLE}\n{LOG}\n"


def derivative_paths(output: Path, case: "Case") -> ResultFiles:
    """Where the results of a BIDS scan go: beside one another in `sub-…/[ses-…/]anat`."""
    name = contrast_named(case.contrast)
    suffix = CONTRASTS[name].bids if name else "T1w"
    entities = re.findall(r"(?:^|_)((?!sub-|ses-|desc-)[A-Za-z]+-[A-Za-z0-9]+)(?=_)", f"{case.name}_")
    if case.contrast == "T1ce":
        entities.append("ce-gadolinium")
    entities.sort(key=lambda entity: _ORDER.index(key) if (key := entity.split("-")[0]) in _ORDER else len(_ORDER))
    stem = "_".join(part for part in (case.subject, case.session, *entities) if part)
    return bids_files(output / case.subject / case.session / "anat", stem, suffix)


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


def app_arguments(plain: Sequence[str], labels: Sequence[str]) -> tuple[dict[str, Any], Sequence[str]]:
    """The command line of a BIDS app, `bids_dir output_dir analysis_level [--participant-label 01 02]`, as flags.

    Args:
        plain: the arguments that are no flags; labels after the first are among them.
        labels: those that `--participant_label` took.

    Returns:
        Values of flags, none where it is no BIDS app's command line; and the arguments that have no meaning.
    """
    if len(plain) < 3 or plain[2] not in LEVELS:
        return {}, plain
    values: dict[str, Any] = dict(zip(("input", "output", "analysis_level"), plain[:3], strict=True))
    if not labels:
        return values, plain[3:]
    return values | {"participant_label": [*labels, *plain[3:]]}, []
