"""A trained model, loaded from a checkpoint and ready to score slices."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from strega_jax.detectors import build
from strega_jax.detectors.base import Batch, ByContrast, Detector, Judging, Restoring, Variables
from strega_jax.errors import CheckpointError
from strega_jax.forked import require_own_threads
from strega_jax.models.about import About
from strega_jax.models.batches import padded_batches, to_batch
from strega_jax.models.scorer import Scores, joined
from strega_jax.programs import Program
from strega_jax.scans.files import PathLike, absolute
from strega_jax.slices.store import Normalisation

if TYPE_CHECKING:
    from etils import epath

# Slices scored at once; every scan is cut into batches of this size, so that one program serves all.
SCORING_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Model:
    """A detector with its variables and everything it was trained with."""

    detector: Detector
    variables: Variables
    about: About
    source: str  # where it was loaded from
    # Of the detectors for its contrasts; each is compiled once, whichever threads ask for it.
    _programs: dict[Detector, Program] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def _program(self, contrast: str) -> Callable[..., tuple[Array, ...]]:
        """Compiled, for variables, one batch of slices and its number, by which it has its share of random numbers."""
        detector = detector_for(self.detector, self.about, contrast)

        def program(variables: Variables, raw: dict[str, Array], number: Array) -> tuple[Array, ...]:
            key = jax.random.fold_in(jax.random.key(self.about.run.seed), number)
            return score_and_reconstruct(detector, self.about.normalisation, variables, raw, key)

        shapes = {"images": (SCORING_BATCH, *self.about.image_shape), "position": (SCORING_BATCH,)}
        raw = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
        try:
            new = Program(program, about=f"{detector} {self.about.normalisation} {self.about.run.seed}")
            return self._programs.setdefault(detector, new).ready(self.variables, raw, np.int32(0))
        except Exception as error:
            from flax.errors import FlaxError  # loaded by now, if it is one

            if not isinstance(error, (FlaxError, KeyError, TypeError, ValueError)):  # what the detectors say of it
                raise
            raise CheckpointError(
                f"{self.source}: the weights are not those of {self.about.run.detector} with these settings ({error})"
            ) from error

    def prepare(self, contrast: str = "") -> None:
        """Compile the program that scores slices of this contrast, or fetch it from where it is kept.

        Raises:
            CheckpointError: the weights are another model's.
        """
        self._program(contrast)

    def score(
        self, images: Float[np.ndarray, "k h w c"], position: Float[np.ndarray, " k"], contrast: str = ""
    ) -> Scores:
        """What the model says of unnormalised slices; of a scan of this contrast, "": of the training contrast.

        Raises:
            CheckpointError: the slices are not of the shape the model was trained on, or the weights of another one.
            ConfigError: this process was forked after JAX had computed.
        """
        require_own_threads()
        if images.shape[1:] != tuple(self.about.image_shape):
            raise CheckpointError(
                f"{self.source} was trained on slices of {self.about.image_shape}, "
                f"these are {images.shape[1:]}; prepare them with the checkpoint's own settings"
            )
        images, position = images.astype(np.float32, copy=False), position.astype(np.float32, copy=False)
        program, batches = self._program(contrast), []
        for number, (raw, real) in enumerate(padded_batches(images, position, SCORING_BATCH)):
            found = program(self.variables, raw, np.int32(number))
            batches.append([np.asarray(of)[:real] for of in found])
        return joined(batches)

    def fingerprint(self) -> str:
        """A text that changes with the weights and with the settings they were trained with."""
        total = hashlib.sha256(json.dumps(self.about.to_dict(), sort_keys=True).encode())
        for leaf in jax.tree.leaves(self.variables):
            total.update(np.ascontiguousarray(leaf).tobytes())
        return total.hexdigest()


def detector_for(detector: Detector, about: About, contrast: str) -> Detector:
    """The detector for scans of this contrast, "": of the training contrast."""
    trained = about.preprocess.contrast
    return detector.for_contrast(contrast or trained, trained) if isinstance(detector, ByContrast) else detector


def score_and_reconstruct(
    detector: Detector, normalisation: Normalisation, variables: Variables, raw: dict[str, Array], key: Array
) -> tuple[Array, ...]:
    """Stored slices → arrays as in `Scores`, two or, of a detector that judges, three; the program of prediction."""
    batch: Batch = to_batch(raw, normalisation)
    shape = (1, 1, 1, batch["images"].shape[-1])
    std = jnp.reshape(jnp.array(normalisation.std, jnp.float32), shape)
    mean = jnp.reshape(jnp.array(normalisation.mean, jnp.float32), shape)
    expected = detector.reconstruct(variables, batch)
    shown = (expected * std + mean) * batch["brain"][..., None]
    if isinstance(detector, Judging):
        probability = detector.probability(variables, batch)
        return detector.score_of_probability(variables, batch, key, probability), shown, probability
    if isinstance(detector, Restoring):
        return detector.score_of_reconstruction(batch, expected), shown
    return detector.score(variables, batch, key), shown


def load_model(path: PathLike) -> Model:
    """Load a workdir's newest checkpoint, or the one named.

    Raises:
        CheckpointError: there is none, it is damaged or of another network, or it cannot be read now.
    """
    # Orbax takes long to load, and weights that come without a checkpoint do not need it.
    from strega_jax.models.checkpoint import find_step, other_structure, read_about, unreadable

    step = find_step(absolute(path))
    _check_sound(step)
    about = read_about(step)
    run = about.run
    detector = build(run.detector, run.model, run.compute_dtype)
    mutable = dict(jax.eval_shape(lambda: detector.init(jax.random.key(run.seed), about.image_shape)))
    params = mutable.pop("params", {})
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {"params": params, "mutable": mutable}
    if run.optimiser.ema_decay:
        wanted["average"] = params
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), wanted)
    try:
        different = other_structure(step, wanted)
        found = {} if different else _read(step, wanted)
    except Exception as error:  # Orbax raises what its many layers raise
        raise CheckpointError(unreadable(step, error)) from error
    if different:
        raise CheckpointError(
            f"{step}: of another network than this version builds for its {run.detector} ({different}); use it with "
            "the version that trained it"
        )
    variables = {"params": found.get("average", found["params"]), **found["mutable"]}
    return Model(detector, variables, about, str(step))


def _read(step: "epath.Path", wanted: Any) -> Any:
    """The arrays of a step's state that `wanted` names."""
    import orbax.checkpoint as ocp

    restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
    # This process reads for itself, whatever the others of its job do.
    own = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"model{jax.process_index()}",
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=own)
    with ocp.Checkpointer(handler, multiprocessing_options=own) as reader:
        return reader.restore(
            step / "state",
            args=ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True),
        )


def _check_sound(step: "epath.Path") -> None:
    from strega_jax.models.checkpoint import damage, unreadable

    try:
        found = damage(step)
    except OSError as error:
        raise CheckpointError(unreadable(step, error)) from error
    if found:
        raise CheckpointError(
            f"{step}: damaged, {found}; name another step of its folder, or start its training again, which goes on "
            "from the one before"
        )
