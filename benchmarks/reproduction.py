"""The tables and pictures of docs/reproduction.md, from stored results alone.

    python -m benchmarks.reproduction --keep=results --training=runs/paper_t1   # take over what was run
    python -m benchmarks.reproduction --page=docs/reproduction.md               # put the tables in their places

--keep names a folder with a folder NAME for each run, as `strega_jax.train --evaluate` (as --workdir) or
`strega_jax.compare` (as --output) wrote it; the names that count are the first column of the tables. Their numbers
are kept in benchmarks/reproduction_results/NAME; runs that are not there stay as they were kept. What was never kept is
"not run". --training names workdirs of trainings, finished or not; that of configs/paper_t1.py is called paper_t1. With
--page the tables are put in their places in that file, and the pictures into images/ beside it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from benchmarks.kept import KEEP, STORED, evaluation_file, keep_evaluation
from benchmarks.marked import PAGE, put
from benchmarks.reproduction_evaluation import CONTROLS, NOT_RUN, Evaluation
from benchmarks.reproduction_steps import FULL, PAPER_T1, SHORT, STEPS
from benchmarks.reproduction_training import Training, curves_picture, curves_table
from strega_jax import command
from strega_jax.errors import ConfigError, StregaError
from strega_jax.evaluation.figures import png_bytes
from strega_jax.scans.files import replacing, write_json

KEPT = Path(__file__).parent / "reproduction_results"
TRAINING = flags.DEFINE_list("training", [], "Workdirs of trainings to take over.")

MARKED = "marked in a healthy brain, ml: mean, median, range | healthy brains with a mark"
# Chatterjee et al. 2022, Dice, mean ± SD: tables 1 and 2; CSF class: section 4.2. "T1" of its BraTS is T1ce.
COLUMNS = ("mood_toy T1w", "eq15 T1w", "brats T1ce", "mood_toy T2w", "eq15 T2w", "brats T2w")
TOLD = (*COLUMNS, *CONTROLS)
HEADINGS = ("MOOD toy, T1", "synthetic, T1", "BraTS T1ce", "MOOD toy, T2", "synthetic, T2", "BraTS T2w")
PAPER = {
    "SkipAE": ("0.443 ± 0.136", "0.498 ± 0.164", "0.209 ± 0.113", "0.517 ± 0.145", "0.498 ± 0.173", "0.221 ± 0.101"),
    "GMVAE": ("0.657 ± 0.121", "0.711 ± 0.105", "0.337 ± 0.124", "0.699 ± 0.121", "0.701 ± 0.121", "0.340 ± 0.167"),
    "ceVAE": ("0.633 ± 0.145", "0.690 ± 0.164", "0.356 ± 0.132", "0.724 ± 0.145", "0.712 ± 0.132", "0.350 ± 0.071"),
    "ceVAE (with StRegA preprocessing)": (
        "0.724 ± 0.132", "0.710 ± 0.111", "0.520 ± 0.108", "0.797 ± 0.099", "0.783 ± 0.111", "0.522 ± 0.135"
    ),
    "StRegA": ("0.737 ± 0.098", "0.723 ± 0.134", "0.531 ± 0.112", "0.856 ± 0.098", "0.859 ± 0.112", "0.642 ± 0.101"),
    "CSF class of the tissue map alone": ("–", "–", "0.196 ± 0.116", "–", "–", "0.202 ± 0.137"),
}  # fmt: skip
# Where ours are looked for, a line each: the folder for the T1 columns and that for the T2 columns.
RUNS = {
    "SkipAE": {"here": ("skip_ae", "skip_ae_t2")},
    "GMVAE": {"here": ("gm_vae", "gm_vae_t2")},
    "ceVAE": {"here": ("ce_vae", "ce_vae_t2")},
    "ceVAE (with StRegA preprocessing)": {"here": ("ce_vae_strega", "ce_vae_strega_t2")},
    "StRegA": {
        "here": (FULL, "paper_t2"),
        "here, reconstruction − input": (f"{FULL}_negative", "paper_t2_full_negative"),
        "here, 600 steps": (SHORT, "paper_t2_short"),
        "here, 600 steps, reconstruction − input": ("short_negative", "paper_t2_negative"),
    },
    "CSF class of the tissue map alone": {"here": ("ce_vae_strega", "paper_t2_short")},
}
CSF = "tissue class CSF"
# How a model trained here is told: the threshold, the end of the folder's name, and what counts.
THRESHOLDS = (("Otsu", "", "dice"), ("healthy", "_healthy", "dice"), ("each volume's best", "", "best_dice"))
SHORTENED = "--config.data.scans=ixi/ --config.training.steps=600 --config.training.validate_every=100"
# The models trained here for the comparison, each with Otsu and, as NAME_healthy, a threshold from healthy voxels.
TRAINED = (
    *("skip_ae", "gm_vae", "ce_vae", "ce_vae_strega"),
    *(FULL, f"{FULL}_negative", SHORT, "short_negative"),
)
# Of these baselines there are two more trainings, with seeds 1 and 2.
SEEDED = ("ce_vae", "skip_ae")
TRAINED_T2 = (
    *("skip_ae_t2", "gm_vae_t2", "ce_vae_t2", "ce_vae_strega_t2"),
    *("paper_t2", "paper_t2_full_negative", "paper_t2_short", "paper_t2_negative"),
)


def read(folder: Path) -> Evaluation | None:
    """The results under a workdir or a folder of `compare`; None where there are none.

    Raises:
        StregaError: they were made with another postprocessing than the row of that name is about.
    """
    path = evaluation_file(folder)
    if path is None:
        return None
    found = Evaluation(json.loads(path.read_text(encoding="utf-8")), path.parent / "masks")
    step = STEPS.get(folder.name)
    for name, wanted in ((step and step.settings) or {}).items():
        used = found.results["about"].get(f"postprocess.{name}")
        if used != wanted:
            raise StregaError(f"{path}: made with postprocess.{name}={used}, its row is of {wanted}; evaluate again")
    return found


def paper_table(runs: Mapping[str, Evaluation | None]) -> list[str]:
    """The paper's tables, ours under each line."""
    lines = [f"| | | {' | '.join(HEADINGS)} |", "|---" * (len(HEADINGS) + 2) + "|"]
    for model, values in PAPER.items():
        lines.append(f"| {model} | paper | {' | '.join(values)} |")
        method = CSF if model.startswith("CSF") else ""
        for label, pair in RUNS[model].items():
            found = [runs.get(pair[i // 3]) for i in range(6)]
            ours = [run.dice(cohort, method) if run else NOT_RUN for run, cohort in zip(found, COLUMNS, strict=True)]
            lines.append(f"| | {label} | {' | '.join(ours)} |")
    return lines


def trained_table(runs: Mapping[str, Evaluation | None]) -> list[str]:
    """The models trained here: with the paper's threshold, one from healthy voxels, and the best."""
    headings = ("MOOD-like", "eq. 15", "T1ce", "T2w")
    lines = [f"| run | threshold | {' | '.join(headings)} | {MARKED} |", "|---" * (len(headings) + 4) + "|"]
    for name in (*TRAINED, *TRAINED_T2):
        own = "T2w" if name in TRAINED_T2 else "T1w"
        for label, end, metric in THRESHOLDS:
            run = runs.get(name + end)
            marked = run.marked()[:2] if run and metric == "dice" else ["–" if run else NOT_RUN] * 2
            lines.append(f"| `{name}` | {label} | {' | '.join([*_cells(run, own, metric=metric), *marked])} |")
    (segmented,) = RUNS["CSF class of the tissue map alone"].values()
    for name, own in zip(segmented, ("T1w", "T2w"), strict=True):
        lines.append(f"| CSF class, {own} | – | {' | '.join(_cells(runs.get(name), own, CSF))} | – | – |")
    return lines


def seeds_table(runs: Mapping[str, Evaluation | None]) -> list[str]:
    """Of baselines with three trainings: mean Dice of each, their mean ± SD."""
    cohorts = ("mood_toy T1w", "eq15 T1w", "brats T1ce", "brats T2w")
    lines = ["| | threshold | MOOD-like | eq. 15 | T1ce | T2w | marked in a healthy brain, ml |", "|---" * 7 + "|"]
    for name in SEEDED:
        for label, end, metric in THRESHOLDS:
            found = [runs.get(seed + end) for seed in _seeds(name)]
            trainings = [run for run in found if run]
            if len(trainings) < len(found):
                lines.append(f"| `{name}` | {label} |" + f" {NOT_RUN} |" * 5)
                continue
            cells = [_over_trainings([run.numbers(cohort, metric) for run in trainings]) for cohort in cohorts]
            marked = _over_trainings([run.controls_ml() for run in trainings], ".1f") if metric == "dice" else "–"
            lines.append(f"| `{name}` | {label} | {' | '.join([*cells, marked])} |")
    return lines


def _seeds(name: str) -> tuple[str, str, str]:
    """The runs of three trainings that differ in their seed."""
    return name, f"{name}_seed1", f"{name}_seed2"


def _over_trainings(values: Sequence[Sequence[float]], form: str = ".3f") -> str:
    means = [np.mean(of) for of in values if of]
    return f"{np.mean(means):{form}} ± {np.std(means, ddof=1):{form}}" if len(means) == len(values) else NOT_RUN


def _cells(run: Evaluation | None, own: str, method: str = "", metric: str = "dice") -> list[str]:
    """Of the synthetic sets of a model's own contrast, and of the patients; one of T2w has nothing to say of T1ce."""
    patients = {"T1w": ("brats T1ce", "brats T2w"), "T2w": ("", "brats T2w")}[own]
    cohorts = (f"mood_toy {own}", f"eq15 {own}", *patients)
    return [(run.dice(cohort, method, metric) if run else NOT_RUN) if cohort else "–" for cohort in cohorts]


def steps_table(runs: Mapping[str, Evaluation | None]) -> list[str]:
    """From the paper as described to the default, one change a row."""
    lines = [
        f"| run | what is new in this row | BraTS T1ce | BraTS T2w | {MARKED} | their slices with a mark |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, step in STEPS.items():
        run = runs.get(name)
        cells = [run.dice("brats T1ce"), run.dice("brats T2w"), *run.marked()] if run else [NOT_RUN] * 5
        lines.append(f"| `{name}` | {step.what} | {' | '.join(cells)} |")
    return lines


def commands() -> list[str]:
    """What made the rows of the packaged weights, and those of the short training."""
    places = (
        "    --config.data.lesions=\"('brats/',)\" --config.data.contrasts=\"('T1ce','T2w')\" \\\n"
        "    --config.data.scans=ixi/ --config.data.controls=20 --workdir=results/NAME FLAGS"
    )
    packaged = "--config=configs/strega.py --checkpoint=strega_jax/weights"
    paper = (
        "--config=configs/paper_t1.py --checkpoint=runs/WORKDIR --config.data.store=runs/WORKDIR/store \\\n"
        "    --config.preprocess.size=64 --config.model.block=bottleneck --config.model.stem_stride=4"
    )
    judged = "--config=configs/strega.py --checkpoint=runs/WORKDIR --config.data.store=runs/WORKDIR/store NETWORK"
    lines = ["```bash"]
    for weights, told in (
        (packaged, lambda step: not step.workdir),
        (paper, lambda step: step.settings and step.workdir and not step.network),
        (f"{paper} NETWORK", lambda step: step.network and step.config == "paper_t1"),
        (judged, lambda step: step.config == "strega"),
    ):
        lines.append(f"python -m strega_jax.train --evaluate {weights} \\\n{places}")
        for name, step in STEPS.items():
            if told(step):
                where = f"WORKDIR={step.workdir} " if step.workdir else ""
                where += f'NETWORK="{step.network}" ' if step.network else ""
                lines.append(f"# {name}: {where}{step.flags() or 'no flags'}")
    lines.append("# those with NETWORK were trained with")
    for weights in (f"{paper} NETWORK", judged):
        training = weights.replace("--checkpoint", "--workdir")
        training = training.replace("--config.data.store=runs/WORKDIR/store", SHORTENED)
        lines.append(f"python -m strega_jax.train {training}")
    return [*lines, "```"]


def healthy_picture(runs: Mapping[str, Evaluation | None]) -> Figure | None:
    """One point a healthy brain: what each postprocessing marks; None without a run."""
    shown = {name: run.controls_ml() for name, run in runs.items() if run and name in STEPS}
    shown = {name: ml for name, ml in shown.items() if ml}
    if not shown:
        return None
    figure = Figure(figsize=(6.5, 0.5 + 0.4 * len(shown)), layout="constrained")
    axis = figure.subplots()
    for row, ml in enumerate(shown.values()):
        axis.plot(ml, row + np.linspace(-0.2, 0.2, len(ml)), ".", color="#0072B2", markersize=4)
        axis.plot([np.median(ml)] * 2, [row - 0.35, row + 0.35], color="#D55E00")
    axis.set(yticks=range(len(shown)), yticklabels=list(shown), xlabel="marked in a healthy brain, ml; line: median")
    axis.set_xscale("symlog", linthresh=1)
    axis.set(xlim=(-0.2, 2 * max(map(max, shown.values())) + 1), xticks=(0, 1, 10, 100), xticklabels=(0, 1, 10, 100))
    axis.invert_yaxis()
    return figure


def keep(fresh: Path, stored: Path) -> None:
    """Take over the numbers of the runs that are there. Raises ConfigError where there are none."""
    found = {name: run for name in names() if (run := read(fresh / name))}
    if not found:
        raise ConfigError(f"--keep={fresh}: no results of {', '.join(names())}")
    for name, run in found.items():
        path = evaluation_file(fresh / name)
        assert path is not None
        told = {run.method, CSF}
        keep_evaluation(
            path,
            stored / name / path.name,
            lambda row, told=told: row["method"] in told and row["cohort"] in TOLD,
            marked_slices=run.marked_slices(),
        )


def names() -> list[str]:
    """Of all runs, those of the steps first."""
    pairs = (pair for lines in RUNS.values() for pair in lines.values())
    seeds = [seed for name in SEEDED for seed in _seeds(name)]
    healthy = (f"{name}_healthy" for name in (*TRAINED, *TRAINED_T2, *seeds))
    return list(dict.fromkeys([*STEPS, *(name for pair in pairs for name in pair), *seeds, *healthy]))


def main() -> int:
    """Take over fresh results if asked to, print all tables; with --page write them and the pictures."""
    root = Path(STORED.value or KEPT)
    if KEEP.value:
        keep(Path(KEEP.value), root)
    (root / "training").mkdir(parents=True, exist_ok=True)
    for workdir in map(Path, TRAINING.value):
        write_json(root / "training" / f"{workdir.name}.json", dataclasses.asdict(Training.read(workdir)))
    runs = {name: read(root / name) for name in names()}
    logs = {path.stem: Training(**json.loads(path.read_text())) for path in sorted((root / "training").glob("*.json"))}
    training = logs.pop(PAPER_T1, None)
    tables = {
        "paper": paper_table(runs),
        "trained": trained_table(runs),
        "seeds": seeds_table(runs),
        "steps": steps_table(runs),
        "commands": commands(),
        "training": training.lines() if training else [f"{NOT_RUN}."],
        "curves": curves_table(logs),
    }
    for name, lines in tables.items():
        print(f"## {name}\n\n" + "\n".join(lines) + "\n")
    if PAGE.value:
        pictures = {
            "healthy": healthy_picture(runs),
            "training": training.picture() if training else None,
            "curves": curves_picture(logs),
        }
        write_page(Path(PAGE.value), tables, pictures)
    return 0


def write_page(page: Path, tables: Mapping[str, Sequence[str]], pictures: Mapping[str, Figure | None]) -> None:
    """Put the tables in their places, and the pictures beside the page."""
    text = put(page.read_text(encoding="utf-8"), tables)
    for name, figure in pictures.items():
        if figure:
            with replacing(page.parent / "images" / f"reproduction_{name}.png") as temporary:
                temporary.write_bytes(png_bytes(figure, dpi=100))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    command.run(main)
