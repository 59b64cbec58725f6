"""configs/strega.py with the paper's VAE in place of the healthy mean.

    python -m strega_jax.train --config=configs/strega_vae.py --workdir=runs/strega_vae --config.data.scans=IXI

The VAE models deviations from the healthy mean of each place. In trainings of 2,400 steps its decoder learnt to put out
nothing, and the masks were those of the default (RESULTS.md; `benchmarks/vae_share.py` measures it); these had no
rendered contrasts (`--config.data.rendered='()'`). There is no judge of intensities here: slices show tissue alone. It
is here for those who want to find a VAE that does better.
"""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from strega_jax.run_config import as_config, run_of


def get_config() -> ConfigDict:
    """See the module's docstring."""
    run = run_of(Path(__file__).with_name("strega.py"))
    model = dict(run.model)
    residual = model.pop("residual")
    del model["intensity_share"]
    healthy = {name: model.pop(name) for name in ("atlas_heights", "empty_channels")}
    model["healthy"] = {**healthy, **residual, "reconstruction": "l2", "kl_weight": 0.1}
    preprocess = dataclasses.replace(run.preprocess, representation="fractions_excess")
    return as_config(dataclasses.replace(run, detector="cce_vae_judge", model=model, preprocess=preprocess))
