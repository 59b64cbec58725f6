"""Every detector at a small, like budget on the tissue of configs/strega.py; docs/detectors.md has the commands.

    python -m strega_jax.train --config=configs/compared.py:NAME --workdir=runs/compared/NAME \\
        --config.data.store=stores/ixi_t1w

NAME is one of `BUDGETS`. Slices (without intensities), augmentation and postprocessing are the default's, and so are
the weights of the residual's channels: only the method differs. `NAME@intensity` is the same detector on restored
intensities of the same grid, with a store of its own. Maps and steps are such that each trains for a few minutes on a
core, which is little: it is a comparison at one budget, not of what each method can reach.
"""

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from strega_jax.config import Optimiser, Postprocess, Run, Training
from strega_jax.run_config import as_config, run_of

SMALL = (16, 32, 64, 128)
# Optimiser steps, and what is smaller than the method's own config.
BUDGETS: dict[str, tuple[int, dict[str, Any]]] = {
    "atlas_judge": (60, {}),
    "cce_vae_judge": (60, {}),
    "cce_vae": (95, {}),
    "vae": (150, {}),
    "ce_vae": (95, {"maps": (16, 32, 64, 256), "latent": 256}),
    "skip_ae": (65, {"maps": SMALL, "bottleneck": 16, "samples": 10}),
    "ss_ae": (120, {}),
    "aae": (150, {}),
    "vq_vae": (
        160,
        {
            "maps": (32, 64, 128),
            "code_width": 64,
            "autoencoder_steps": 80,
            "width": 128,
            "heads": 4,
            "layers": 3,
            "samples": 5,
        },
    ),
    "gm_vae": (200, {"restoration_steps": 100}),
    "dae": (65, {"maps": SMALL}),
    "intensity_threshold": (0, {}),
    "tissue_class": (1, {}),
    "tissue_atlas": (0, {}),
}
# Mean squared error of healthy fractions that reconstruct as well as the mean brain: of a pixel, for those that ask.
VARIANCE = 0.05
WITH_VARIANCE = ("vae", "ce_vae", "vq_vae", "gm_vae")
# These have a residual of their own, or none.
WITH_JUDGE = ("atlas_judge", "cce_vae_judge")
WITHOUT_RESIDUAL = (*WITH_JUDGE, "cce_vae", "intensity_threshold", "tissue_class", "tissue_atlas")
BATCH = 32


def get_config(name: str = "cce_vae") -> ConfigDict:
    """The run of one detector; `NAME@intensity` for the input of its own config."""
    name, _, on = name.partition("@")
    default, with_vae = _run_of("strega"), _run_of("strega_vae")
    healthy = with_vae.model["healthy"]
    own = {"atlas_judge": default, "cce_vae_judge": with_vae, "cce_vae": with_vae}.get(name) or _run_of(name)
    steps, smaller = BUDGETS[name]
    model = {**(healthy if name == "cce_vae" else own.model), **smaller}
    preprocess = own.preprocess if on or name == "intensity_threshold" else with_vae.preprocess
    if name not in WITHOUT_RESIDUAL and not on:
        model["residual"] = {"sign": healthy["sign"], "channel_weights": healthy["channel_weights"]}
    if name in WITH_VARIANCE and not on:
        model["variance"] = VARIANCE
    # A pass over the training slices serves those that only count.
    training = Training(batch_size=BATCH, steps=steps, epochs=1, log_every=10, validate_every=10_000)
    return as_config(
        Run(
            detector=name,
            model=model,
            preprocess=preprocess,
            augment=default.augment if steps > 1 else own.augment,
            optimiser=Optimiser(learning_rate=1e-3, warmup_steps=min(20, steps), decay="cosine", clip_norm=1e4),
            training=dataclasses.replace(training, checkpoint_every=10_000),
            postprocess=_postprocess(name, default, own),
        )
    )


def _postprocess(name: str, default: Run, own: Run) -> Postprocess:
    """The default's; residuals are clipped as its detector does within, a tissue class keeps its own threshold."""
    if name == "tissue_class":
        return own.postprocess
    clip = default.model["residual_scale"] if name == "cce_vae" or name not in WITHOUT_RESIDUAL else 0.0
    sure = default.postprocess.grow_probability if name in WITH_JUDGE else 0.0
    return dataclasses.replace(default.postprocess, clip=clip, grow_probability=sure)


def _run_of(name: str) -> Run:
    return run_of(Path(__file__).with_name(f"{name}.py"))
