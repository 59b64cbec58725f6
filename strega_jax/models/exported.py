"""A model as one file, and what runs it: no flax, no orbax, no checkpoint.

The file is a zip archive: `about.json` with the settings of preprocessing and postprocessing, what healthy brains
score in each contrast, and the training cohort in numbers; and `network.stablehlo` or `network.onnx`, the program
from stored slices to scores, reconstructions and, with a judge, probabilities, weights and normalisation inside. Where
scans of other contrasts are scored in another way, `about.json` says which of them by `network_1` and so on.
"""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from strega_jax.config import Preprocess, Run, build_dataclass
from strega_jax.errors import CheckpointError, ConfigError
from strega_jax.forked import require_own_threads
from strega_jax.models.calibration import Calibration
from strega_jax.models.opened import Opened
from strega_jax.models.reference import Reference
from strega_jax.models.scorer import Scores, joined
from strega_jax.scans.files import replacing
from strega_jax.scans.splits import SplitRule

FORMAT = 2
ABOUT = "about.json"
KINDS = ("stablehlo", "onnx")
# Slices scored at once. The program takes any number; one number means one compilation.
BATCH = 16
# Fixed, so that the same model gives the same bytes.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)

Network = Callable[[np.ndarray, np.ndarray, np.ndarray], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class ExportedAbout:
    """What the file says of the model; as `models.about.About`."""

    run: Run
    preprocess: Preprocess
    image_shape: tuple[int, int, int]
    training_scans: int
    training_slices: int
    split: SplitRule | None = None


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A model read from such a file; scores slices as the checkpoint's would."""

    about: ExportedAbout
    source: str
    networks: tuple[Network, ...]
    of_contrast: Mapping[str, int]  # which of them is a contrast's, where it is not the first
    digest: str  # of the file's content

    def prepare(self, contrast: str = "") -> None:
        """Have the runtime compile the network of this contrast."""
        self.score(np.zeros((1, *self.about.image_shape), np.float32), np.zeros(1, np.float32), contrast)

    def score(
        self, images: Float[np.ndarray, "k h w c"], position: Float[np.ndarray, " k"], contrast: str = ""
    ) -> Scores:
        """What the model says of unnormalised slices; of a scan of this contrast, "": of the training contrast.

        Raises:
            CheckpointError: the slices are not of the shape the model was trained on.
            ConfigError: this process was forked after JAX had computed.
        """
        require_own_threads()
        if images.shape[1:] != self.about.image_shape:
            raise CheckpointError(f"{self.source} takes slices of {self.about.image_shape}, not {images.shape[1:]}")
        network, batches = self.networks[self.of_contrast.get(contrast, 0)], []
        for number, start in enumerate(range(0, len(images), BATCH)):
            part, height = images[start : start + BATCH], position[start : start + BATCH]
            missing = BATCH - len(part)
            part = np.pad(part.astype(np.float32), [(0, missing), (0, 0), (0, 0), (0, 0)])
            height = np.pad(height.astype(np.float32), (0, missing))
            found = network(part, height, np.array(number, np.int32))
            batches.append([np.asarray(of)[: BATCH - missing] for of in found])
        return joined(batches)

    def fingerprint(self) -> str:
        """A text that changes with the file's content."""
        return self.digest


def write_exported(path: Path, kind: str, networks: Sequence[bytes], about: dict[str, Any]) -> None:
    """Write the file; `about` holds `run`, `preprocess`, `image_shape`, `training_scans`, `training_slices`,
    `of_contrast`, `split`, `calibration` and `reference` (these three or None)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, "kind": kind, **about}, indent=2)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        programs = ((_member(kind, number), network) for number, network in enumerate(networks))
        for name, content in ((ABOUT, text.encode()), *programs):
            archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), content, zipfile.ZIP_DEFLATED)


def load_exported(path: Path) -> Opened:
    """Read the file.

    Raises:
        CheckpointError: it is missing, damaged, or of another version.
        ConfigError: it is an ONNX file and onnxruntime is not installed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; make it with `python -m strega_jax.export`")
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(ABOUT)
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise CheckpointError(
                    f"{path}: format {fields['format']}, this version reads {FORMAT}; export its checkpoint again"
                )
            kind, of_contrast = fields["kind"], dict(fields.get("of_contrast", {}))
            programs = [
                archive.read(_member(kind, number)) for number in range(1 + max(of_contrast.values(), default=0))
            ]
        about = ExportedAbout(
            Run.from_mapping(fields["run"]),
            build_dataclass(Preprocess, fields["preprocess"], "preprocess"),
            (fields["image_shape"][0], fields["image_shape"][1], fields["image_shape"][2]),
            int(fields["training_scans"]),
            int(fields["training_slices"]),
            build_dataclass(SplitRule, fields["split"], "split") if fields.get("split") else None,
        )
        calibration = Calibration.from_dict(fields["calibration"]) if fields["calibration"] else None
        reference = Reference.from_dict(fields["reference"]) if fields["reference"] else None
        networks = tuple(_stablehlo(program) if kind == "stablehlo" else _onnx(program) for program in programs)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read now ({error})") from error
    except (ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a model of `python -m strega_jax.export`, or damaged ({error})") from error
    digest = hashlib.sha256(b"".join((text, *programs))).hexdigest()
    return Opened(ExportedModel(about, str(path), networks, of_contrast, digest), calibration, reference)


def _member(kind: str, number: int) -> str:
    """The name of a network in the archive. Raises KeyError for a kind that there is none of."""
    if kind not in KINDS:
        raise KeyError(kind)
    return f"network_{number}.{kind}" if number else f"network.{kind}"


def _stablehlo(program: bytes) -> Network:
    import jax
    from jax import export

    return jax.jit(export.deserialize(bytearray(program)).call)


def _onnx(program: bytes) -> Network:
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("an ONNX model needs onnxruntime: pip install 'strega-jax[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # what goes wrong is raised
    session = onnxruntime.InferenceSession(program, options, providers=onnxruntime.get_available_providers())
    names = [given.name for given in session.get_inputs()]

    def run(images: np.ndarray, position: np.ndarray, number: np.ndarray) -> Sequence[np.ndarray]:
        # What the network does not look at is no input of its graph.
        given = dict(zip(("images", "position", "number"), (images, position, number), strict=True))
        return [np.asarray(of) for of in session.run(None, {name: given[name] for name in names})]

    return run
