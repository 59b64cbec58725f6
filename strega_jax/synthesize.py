"""Make a test set whose anomalies are known to the voxel, out of healthy brains.

    python -m strega_jax.synthesize --kind=tumour --healthy=data/ixi --split=dev --donors=data/brats \\
        --donor_contrast=T2w --count=20 --controls=10 --output=sets/tumours

`--kind` says what is added to the (brain-extracted) healthy scans:

  tumour    tumours cut from labelled cases (--donors), superimposed as in the paper's eq. 15
  lesion    blobs of known size and contrast, every --sizes_ml with every --contrasts: dose and response
  spots     twelve small lesions, 0.05 to 1 ml each, in every scan
  rendered  nothing: they are rendered in --as_contrasts, for healthy references of contrasts without a healthy cohort
  local     regions deformed, shifted, mirrored, noised or recoloured, in the manner of the MOOD challenge

The output is a BIDS-like folder of images, masks, a sidecar for each image and provenance.json. The same command
gives the same voxels; started again it goes on where it stopped.
"""

from typing import TYPE_CHECKING

from absl import flags

from strega_jax import command
from strega_jax.errors import ConfigError

if TYPE_CHECKING:
    from strega_jax.scans.case import Case
    from strega_jax.scans.scan import Scan
    from strega_jax.scans.synthetic import Recipe

FLAGS = flags.FLAGS
flags.DEFINE_enum("kind", "tumour", ["tumour", "lesion", "spots", "local", "rendered"], "What is done to the scans.")
flags.DEFINE_string("healthy", None, "Folder of healthy, brain-extracted scans.", required=True)
flags.DEFINE_string("output", None, "Folder for the set.", required=True)
flags.DEFINE_string("contrast", "T1w", "Contrast of the healthy scans.")
flags.DEFINE_string("split", "", "Use the subjects of this split only (participants.tsv); empty: all.")
flags.DEFINE_integer("count", 0, "How many healthy scans get an anomaly; 0: all.", lower_bound=0)
flags.DEFINE_integer("controls", 0, "How many scans are added unchanged.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Of everything random.", lower_bound=0)
flags.DEFINE_string("donors", "", "tumour: folder of labelled cases.")
flags.DEFINE_string("donor_contrast", "", "tumour: contrast of the donors; empty: that of the healthy scans.")
flags.DEFINE_enum("how", "add", ["add", "replace"], "tumour: add to the image (eq. 15) or take the tissue's place.")
flags.DEFINE_list("sizes_ml", ["1", "5", "20", "50"], "lesion: volumes in millilitres.")
flags.DEFINE_list("contrasts", ["-0.2", "-0.4", "-0.6"], "lesion: change of intensity in units of the brain's range.")
flags.DEFINE_float("texture", 0.2, "lesion, spots: SD of the change, as a share of it.", lower_bound=0)
flags.DEFINE_list("as_contrasts", [], "rendered: contrasts that healthy T1w scans are rendered in. Default: all.")
flags.DEFINE_list("anomalies", [], "local: kinds of change. Default: all.")


def main() -> int:
    """Make the set; 0 where it is complete."""
    # What a help text does not need is loaded where the work begins.
    from tqdm import tqdm

    from strega_jax.scans import synthetic

    output = command.output_folder(FLAGS.output)
    recipes = plan(healthy_cases())
    for _ in tqdm(synthetic.make_set(output, recipes, FLAGS.seed, render), total=len(recipes), unit="image"):
        pass
    changed = sum(recipe.kind not in ("control", "rendered") for recipe in recipes)
    print(f"{output}: {changed} images with an anomaly, {len(recipes) - changed} controls")
    return 0


def render(scan: "Scan", contrast: str, seed: int) -> "Scan":
    """The healthy scan in another contrast."""
    # The other kinds do not wait for the segmentation's imports.
    from strega_jax.slices.rendering import render_contrasts

    return render_contrasts(scan, (contrast,), seed)[contrast]


def healthy_cases() -> "list[Case]":
    """The scans to build on: known patients are left out."""
    from strega_jax.scans.cohorts import find_cases
    from strega_jax.scans.splits import subject_splits

    cases = [case for case in find_cases(FLAGS.healthy, (FLAGS.contrast,)) if case.healthy is not False]
    if FLAGS.split:
        splits = subject_splits(cases)
        cases = [case for case in cases if splits[case.subject] == FLAGS.split]
    if not cases:
        raise ConfigError(f"{FLAGS.healthy}: no healthy scan" + (f" in the split {FLAGS.split}" if FLAGS.split else ""))
    return cases


def plan(healthy: "list[Case]") -> "list[Recipe]":
    """What the flags ask for."""
    from strega_jax.scans import synthetic
    from strega_jax.scans.anomalies import ANOMALIES
    from strega_jax.scans.cohorts import find_cases
    from strega_jax.scans.looks import LOOKS

    count, controls, seed = FLAGS.count or len(healthy), FLAGS.controls, FLAGS.seed
    if FLAGS.kind == "lesion":
        sizes, contrasts = numbers("sizes_ml"), numbers("contrasts")
        return synthetic.plan_doses(healthy, sizes, contrasts, FLAGS.texture, count, controls, seed)
    if FLAGS.kind == "spots":
        return synthetic.plan_spots(healthy, FLAGS.texture, count, controls, seed)
    if FLAGS.kind == "rendered":
        if FLAGS.contrast != "T1w":
            raise ConfigError(f"--kind=rendered renders T1w scans, not --contrast={FLAGS.contrast}")
        return synthetic.plan_rendered(healthy, FLAGS.as_contrasts or list(LOOKS), count, seed)
    if FLAGS.kind == "local":
        return synthetic.plan_local(healthy, FLAGS.anomalies or list(ANOMALIES), count, controls, seed)
    if not FLAGS.donors:
        raise ConfigError("--kind=tumour needs --donors, a folder of cases with lesion labels")
    donors = find_cases(FLAGS.donors, (FLAGS.donor_contrast or FLAGS.contrast,))
    return synthetic.plan_tumours(healthy, donors, count, controls, FLAGS.how, seed)


def numbers(flag: str) -> list[float]:
    try:
        return [float(text) for text in FLAGS[flag].value or ()]
    except ValueError:
        raise ConfigError(f"--{flag} must be numbers separated by commas, not {FLAGS[flag].value}") from None


def cli() -> None:
    """Console entry point."""
    command.run(main)


if __name__ == "__main__":
    cli()
