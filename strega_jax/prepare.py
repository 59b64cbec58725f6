"""Turn scans into a slice store: the first step before training.

Each scan is brought into RAS order, segmented into tissue, cut into axial slices and written to the store,
with a manifest. What is already there, made from the same file with the same settings, is skipped; a scan
that fails is reported at the end and the others are done. Exit code 1 if any scan failed.

    python -m strega_jax.prepare --input=ixi/ --output=stores/ixi_t1
    python -m strega_jax.prepare --input=ixi/ --output=stores/ixi_t1 --config=configs/strega.py \\
        --config.preprocess.size=128

Scans must be brain-extracted, or come with brain masks (--brain): a BIDS-like tree, a known data set, or a flat
folder. The settings are the `preprocess` part of the config, and `data.rendered`: contrasts that T1w training scans
are rendered in as well. Splits go by subject: from a participants.tsv (columns participant_id, split) where there is
one, else by --split.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from strega_jax import command
from strega_jax.config import Run
from strega_jax.config_help import config_help
from strega_jax.errors import ConfigError
from strega_jax.run_config import as_run
from strega_jax.scans.options import AUTO, BRAIN_HELP

_INPUT = flags.DEFINE_string("input", None, "Folder with the scans, or one scan.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the slice store; made if need be.", required=True)
# A default is loaded with its detector, at once: only fields that are overridden need it.
_OVERRIDDEN = any(argument.lstrip("-").startswith("config.") for argument in sys.argv)
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    str(Path(__file__).parent / "default_config.py") if _OVERRIDDEN else None,
    "Run config whose `preprocess` part and `data.rendered` are used. Default: every setting's own.",
)
_CONTRASTS = flags.DEFINE_list("contrasts", [], "Prepare these contrasts only, e.g. T1w,T2w. Default: the config's.")
_SPLIT = flags.DEFINE_list("split", ["0.8", "0.1", "0.1"], "Shares of train, dev and test subjects.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides which subject falls into which split.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Scans in flight at once.", lower_bound=1)
_BRAIN = flags.DEFINE_string("brain", AUTO, BRAIN_HELP)
_SHARD = flags.DEFINE_string("shard", None, command.SHARD_HELP)


def main() -> int:
    """Prepare, report, and say by the exit code whether every scan succeeded."""
    # What a help text does not need is loaded where the work begins.
    from strega_jax.scans.cohorts import find_cases
    from strega_jax.scans.splits import SplitRule, subject_splits
    from strega_jax.slices.cohort import prepare_cohort

    run = Run() if _CONFIG.value is None else as_run(_CONFIG.value)
    settings = run.preprocess
    output = command.output_folder(_OUTPUT.value)
    cases = find_cases(_INPUT.value, _CONTRASTS.value or [settings.contrast])
    rule = SplitRule(**_fractions(_SPLIT.value), seed=_SEED.value)
    splits = subject_splits(cases, rule.fractions, rule.seed)
    index, count = command.share(_SHARD.value)
    outcome = prepare_cohort(
        cases,
        splits,
        output,
        settings,
        rule=rule,
        rendered=run.data.rendered,
        workers=_WORKERS.value,
        brain=_BRAIN.value,
        process_index=index,
        process_count=count,
    )
    print(outcome.describe(output))
    return 1 if outcome.failures else 0


def _fractions(values: list[str]) -> dict[str, float]:
    try:
        shares = [float(value) for value in values]
    except ValueError as error:
        raise ConfigError(f"--split={','.join(values)}: three numbers are wanted, e.g. 0.8,0.1,0.1") from error
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(f"--split={','.join(values)}: three shares that sum to 1 are wanted, e.g. 0.8,0.1,0.1")
    return dict(zip(("train", "dev", "test"), shares, strict=True))


def _fields() -> str:
    return config_help("preprocess")


def cli() -> None:
    """Console entry point."""
    command.run(main, more_help=_fields)


if __name__ == "__main__":
    cli()
