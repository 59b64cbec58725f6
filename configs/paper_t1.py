"""The method as described in the paper (Chatterjee et al. 2022), T1 model.

    python -m strega_jax.train --config=configs/paper_t1.py --workdir=runs/paper_t1 --config.data.scans=SCANS

FAST's pveseg normalised to zero mean and unit variance, slices stretched to 256×256, maps 64-128-256 with 3×3
residual blocks, z 256, the unweighted sum of eq. 14, Adam 1e-4, batch 64, 70 epochs; Otsu on every slice,
then area opening. The paper gives no probabilities for its augmentations (0.5 here) and no area threshold (the
released code's 256 pixels here).
"""

from ml_collections import ConfigDict

from strega_jax.config import Augment, Postprocess, Preprocess, Run, Training
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(
        Run(
            model={"block": "basic", "stem_stride": 2, "head": "dense", "objective": "paper", "sign": "positive"},
            preprocess=Preprocess(contrast="T1w", representation="pveseg", grid="stretch", size=256),
            augment=Augment(
                bias_field=0.5,
                noise=0.5,
                gamma=0.5,
                ghosting=0.5,
                flip_left_right=0.5,
                flip_front_back=0.5,
                affine=0.5,
                rotation=0.5,
            ),
            training=Training(batch_size=64, epochs=70),
            postprocess=Postprocess(threshold="otsu", scope="slice", min_area_px=256),
        )
    )
