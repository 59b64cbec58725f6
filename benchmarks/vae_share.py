"""What a trained VAE's reconstruction adds to the atlas mean that it starts from: mean squared errors.

    python -m benchmarks.vae_share --checkpoint=runs/strega_vae --scans=ixi/ --every=8
    python -m benchmarks.vae_share --checkpoint=runs/strega_vae --scans=brats/ --contrasts=T1ce

Of detectors with an atlas (`cce_vae` with `atlas_heights`, `cce_vae_judge`). Errors are of the CSF, GM and WM shares,
the mean over pixels of the brain, over the slices of a scan and over scans. Where the reconstruction is the atlas mean,
the network has no part in the residual.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from tqdm import tqdm

from strega_jax.detectors.cce_vae import CceVae
from strega_jax.detectors.cce_vae_judge import CceVaeJudge
from strega_jax.errors import ConfigError
from strega_jax.models.batches import to_batch
from strega_jax.models.model import Model
from strega_jax.models.opening import open_model
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.source import open_scan
from strega_jax.slices.preprocess import preprocess

_SCANS = flags.DEFINE_string("scans", None, "Folder of brain-extracted scans.", required=True)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run, checkpoint or weights.", required=True)
_CONTRASTS = flags.DEFINE_list("contrasts", ["T1w"], "MR contrasts that are used.")
_EVERY = flags.DEFINE_integer("every", 1, "Use every n-th scan.", lower_bound=1)

SHARES = 3  # channels: CSF, GM, WM


def main(_: list[str]) -> None:
    """Print a line a scan, and their mean."""
    model = open_model(_CHECKPOINT.value).model
    if not isinstance(model, Model):
        raise ConfigError("an exported model does not tell its parts apart; give the checkpoint")
    detector, variables = model.detector, model.variables
    if isinstance(detector, CceVaeJudge):
        detector, variables = detector.healthy, {name: part["healthy"] for name, part in variables.items()}
    if not isinstance(detector, CceVae) or not detector.atlas_heights:
        raise ConfigError("this model has no VAE with an atlas")

    @jax.jit
    def errors(raw: dict[str, jax.Array]) -> jax.Array:
        batch = to_batch(raw, model.about.normalisation)
        seen = (batch["images"], detector.reconstruct(variables, batch), detector.atlas_mean(variables, batch))
        image, rebuilt, atlas = (part[..., :SHARES] for part in seen)
        brain = batch["brain"][..., None]
        pairs = ((image, atlas), (image, rebuilt), (rebuilt, atlas))
        return jnp.stack([(jnp.square(a - b) * brain).sum() / (SHARES * brain.sum()) for a, b in pairs])

    found = []
    print("| scan | image, atlas mean | image, reconstruction | reconstruction, atlas mean |\n|---|---|---|---|")
    for case in tqdm(find_cases(_SCANS.value or "", _CONTRASTS.value)[:: _EVERY.value]):
        slices = preprocess(open_scan(case), model.about.preprocess)
        raw = {"images": jnp.asarray(slices.images), "position": jnp.asarray(slices.position)}
        found.append(np.asarray(errors(raw)))
        tqdm.write(f"| {case.name} | {' | '.join(f'{error:.5f}' for error in found[-1])} |")
    print(f"| mean of {len(found)} | {' | '.join(f'{error:.5f}' for error in np.mean(found, axis=0))} |")


if __name__ == "__main__":
    app.run(main)
