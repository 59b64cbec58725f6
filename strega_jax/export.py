"""Put a trained model into one file that needs no checkpoint, no flax and no orbax to run, or its weights in a folder.

    python -m strega_jax.export --checkpoint=runs/ixi_t1 --output=ixi_t1.zip
    python -m strega_jax.export --checkpoint=runs/ixi_t1 --format=weights --output=weights/
    python -m strega_jax.predict --checkpoint=ixi_t1.zip --input=patient.nii.gz --output=found/

The file holds the network with its weights and normalisation (twice where contrasts are scored in two ways), the
settings of pre- and postprocessing, what healthy brains score, and the training cohort in numbers for the input
checks. Formats: stablehlo (any batch size; CPU, CUDA and TPU; run by JAX) and onnx (run by onnxruntime; needs
pip install 'strega-jax[onnx]' to write and to run). Segmentation into tissues is JAX in both. The format weights
is a folder with a safetensors file, a fraction of a checkpoint's size.
"""

from pathlib import Path

from absl import flags

from strega_jax import command
from strega_jax.errors import ConfigError

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Workdir of a training run, or one checkpoint. Default: the package's own weights."
)
_OUTPUT = flags.DEFINE_string("output", None, "The file to write, NAME.zip; for weights, the folder.", required=True)
_FORMAT = flags.DEFINE_enum("format", "stablehlo", ["stablehlo", "onnx", "weights"], "Of the network.")


def main() -> int:
    """Export one checkpoint."""
    # What a help text does not need is loaded where the work begins.
    from strega_jax.models.exporting import export_model
    from strega_jax.models.opened import EXPORTED, SHIPPED
    from strega_jax.models.opening import open_model
    from strega_jax.models.weights import save_weights

    output = Path(_OUTPUT.value or "")
    if _FORMAT.value == "weights":
        save_weights(open_model(_CHECKPOINT.value or SHIPPED), output)
        print(f"{output}: {sum(file.stat().st_size for file in output.iterdir()) / 1e6:.1f} MB")
        return 0
    if output.suffix != EXPORTED:
        raise ConfigError(f"--output={output}: the name must end in {EXPORTED}")
    export_model(open_model(_CHECKPOINT.value or SHIPPED), output, _FORMAT.value or "stablehlo")
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {_FORMAT.value}")
    return 0


def cli() -> None:
    """Console entry point."""
    command.run(main)


if __name__ == "__main__":
    cli()
