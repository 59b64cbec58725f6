"""What the paper's released code does, where it differs from the paper's text.

    python -m strega_jax.train --config=configs/released.py --workdir=runs/released --config.data.scans=SCANS

Maps 16-64-256-1024 without normalisation of the weights of eq. 14: 0.5·(0.01·KL + L1) + 0.5·L1 of the context-
encoding branch, z drawn anew when scoring, tissue labels scaled to 0–1, no augmentation; reconstruction − input
as the residual, Otsu over the volume, area opening of 256 pixels.
"""

from ml_collections import ConfigDict

from strega_jax.config import Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            model={
                "maps": (16, 64, 256, 1024),
                "latent": 1024,
                "block": "basic",
                "stem_stride": 2,
                "activation": "prelu",
                "objective": "released",
                "sign": "negative",
                "samples": 1,
            },
            preprocess=Preprocess(representation="pveseg", grid="pad", size=256, normalise="unit"),
            training=Training(batch_size=64, epochs=70),
            postprocess=Postprocess(threshold="otsu", scope="volume", min_area_px=256),
        )
    )
