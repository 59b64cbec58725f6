"""Compact context-encoding VAE: StRegA's detector (paper, sec. 2.7, 3.2.2 and eqs. 13, 14).

One encoder and one decoder serve two branches. The VAE branch reconstructs the image from a sample of its
posterior; the context-encoding (CE) branch reconstructs the same clean image from the posterior mean of a copy
in which squares inside the brain are hidden. An image's anomaly score is what the reconstruction leaves over.
"""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.augment.context import ContextEncoding, context_mask
from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.layers import Activation, Conv, Norm, ResidualBlock, initialise
from strega_jax.detectors.operations import depth_to_space, space_to_depth
from strega_jax.detectors.tissue_atlas import TissueAtlas
from strega_jax.errors import ConfigError

HEAD_GRID = 8  # dense head: the map is halved until no side is longer than this, …
HEAD_MAPS = 32  # … and squeezed to so many maps before the dense layer
LOG_VARIANCE_LIMIT = 12.0  # soft bound of ±: a first step too long would otherwise overflow exp()
# weights of KL, VAE reconstruction and CE reconstruction; the released code's are (1 − ce)·(0.01, 1) and ce = 0.5
WEIGHTS = {"paper": (1.0, 1.0, 1.0), "released": (0.005, 0.5, 0.5)}


@dataclasses.dataclass(frozen=True)
class CceVae:
    """Hyperparameters, and the `Detector` made of them. The defaults are compact: 4×4 patches, bottleneck blocks.

    `stem_stride=2, block="basic", head="full_conv"` is the paper's text taken literally, and 202 M parameters.
    """

    maps: tuple[int, ...] = (64, 128, 256)  # feature maps of the encoder's stages; the decoder mirrors them
    latent: int = 256  # dimensions of z
    stem_stride: Literal[2, 4] = 4  # pixels of a patch: resolution of the first stage is size / stem_stride
    block: Literal["basic", "bottleneck"] = "bottleneck"  # residual blocks: 3×3, 3×3 or 1×1, 3×3, 1×1
    blocks: int = 1  # residual blocks a stage
    # dense: halved to ≤ 8×8, 32 maps, dense; full_conv: a convolution as large as the last stage's map
    head: Literal["dense", "full_conv"] = "dense"
    activation: Literal["leaky_relu", "prelu"] = "leaky_relu"
    # paper: eq. 14 unweighted, KL summed over z, reconstruction over pixels and channels; released: the code's
    # 0.5·(0.01·KL + rec) + 0.5·rec_ce, KL averaged over z, reconstruction over pixels and channels
    objective: Literal["paper", "released"] = "paper"
    kl_weight: float = 1.0  # multiplies the objective's own weight of the KL term
    ce_weight: float = 1.0  # multiplies the objective's own weight of the CE branch; 0: a plain VAE
    reconstruction: Literal["l1", "l2"] = "l1"  # absolute or squared difference
    kl_warmup_steps: int = 0  # steps before the KL weight, rising evenly, is full
    context: ContextEncoding = dataclasses.field(default_factory=ContextEncoding)  # what the CE branch does not see
    # > 0: the network sees and reconstructs deviations from the healthy mean of each pixel at so many heights, a
    # running average of the training images (`tissue_atlas`); for slices aligned to a template
    atlas_heights: int = 0
    # the last so many channels are 0 in health: the network does not see them, and reconstructs 0
    empty_channels: int = 0
    # anomaly is image − reconstruction: brighter than healthy (positive), darker, or either, channel by channel;
    # contrast: the channels' weighted sum, which may weigh some against others, where it is above 0
    sign: Literal["positive", "negative", "absolute", "contrast"] = "positive"
    # of the residual's channels in the score; empty: all 1; below 0 with `contrast` alone
    channel_weights: tuple[float, ...] = ()
    samples: int = 0  # latent samples whose mean reconstruction is scored; 0: the posterior mean's
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        for name in ("latent", "blocks"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "≥ 1")
        for name in ("kl_weight", "ce_weight", "kl_warmup_steps", "samples", "atlas_heights", "empty_channels"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "≥ 0")
        lowest = min(self.channel_weights, default=0)
        _require(lowest >= 0 or self.sign == "contrast", "channel_weights", self.channel_weights, "≥ 0")
        _require(len(self.maps) >= 1 and min(self.maps, default=0) >= 2, "maps", self.maps, "one or more numbers ≥ 2")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params` and `batch_stats` for images of (h, w, c).

        Raises ConfigError when the sides are no multiples of what the stages halve.
        """
        step = self.stem_stride * 2 ** (len(self.maps) - 1)
        h, w, c = image_shape
        if h % step or w % step:
            raise ConfigError(f"images of {h}×{w} pixels do not fit cce_vae: both sides must be multiples of {step}")
        if self.channel_weights and len(self.channel_weights) != c:
            raise ConfigError(f"model.channel_weights has {len(self.channel_weights)} values; the images, {c} channels")
        if self.empty_channels >= c:
            raise ConfigError(f"model.empty_channels is {self.empty_channels}; the images have {c} channels in all")
        variables = initialise(self._network(image_shape), key, (h, w, c - self.empty_channels))
        return {**self._atlas.init(key, image_shape), **variables} if self.atlas_heights else variables

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """Eq. 14, averaged over the batch; metrics `kl`, `rec`, `rec_ce` (unweighted, reduced as `objective` says).

        The branches are two passes, each normalised by its own batch statistics; the running averages, which
        inference uses, follow the VAE branch alone, because inference sees whole images.
        """
        network = self._network(batch["images"].shape[1:])
        images = self._deviations(variables, batch)
        mask_key, noise_key = jax.random.split(key)
        (mean, log_variance), variables = _train(network, variables, images, method="encode")
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(noise_key, mean.shape)
        output, renewed = _train(network, variables, z, method="decode")
        seen = images * context_mask(mask_key, batch["brain"], self.context)[..., None]
        (mean_ce, _), variables = _train(network, variables, seen, method="encode")
        output_ce, _ = _train(network, variables, mean_ce, method="decode")

        reduce = jnp.sum if self.objective == "paper" else jnp.mean
        kl = reduce(kl_divergence(mean, log_variance), axis=1).mean()
        rec = reduce(self._difference(images, output), axis=(1, 2, 3)).mean()
        rec_ce = reduce(self._difference(images, output_ce), axis=(1, 2, 3)).mean()
        kl_weight, rec_weight, ce_weight = WEIGHTS[self.objective]
        warm = jnp.minimum(1.0, (step.astype(jnp.float32) + 1) / (self.kl_warmup_steps + 1))
        total = self.kl_weight * kl_weight * warm * kl + rec_weight * rec + self.ce_weight * ce_weight * rec_ce
        mutable = {name: value for name, value in renewed.items() if name != "params"}
        if self.atlas_heights:
            mutable |= self._atlas.loss(variables, batch, key, step)[1].mutable
        return total, Aux({"kl": kl, "rec": rec, "rec_ce": rec_ce}, mutable)

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The decoder's image of the posterior mean, float32."""
        network = self._network(batch["images"].shape[1:])
        mean, _ = _infer(network, variables, self._deviations(variables, batch), method="encode")
        return self._whole(variables, batch, _infer(network, variables, mean, method="decode"))

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Residual of the set sign, weighted over channels; ≥ 0, 0 outside the brain. `key` serves `samples` only."""
        residual = batch["images"] - self._healthy(variables, batch, key)
        parts = {"positive": jax.nn.relu, "negative": lambda r: jax.nn.relu(-r), "absolute": jnp.abs}
        weights = jnp.asarray(self.channel_weights or (1.0,) * residual.shape[-1], jnp.float32)
        if self.sign == "contrast":
            return jax.nn.relu(residual @ weights) * batch["brain"]
        return (parts[self.sign](residual) @ weights) * batch["brain"]

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The config's own."""
        return default

    def _healthy(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w c"]:
        if not self.samples:
            return self.reconstruct(variables, batch)
        network, images = self._network(batch["images"].shape[1:]), self._deviations(variables, batch)
        mean, log_variance = _infer(network, variables, images, method="encode")
        noise = jax.random.normal(key, (self.samples, *mean.shape))

        def add(total: Array, sample: Array) -> tuple[Array, None]:
            z = mean + jnp.exp(0.5 * log_variance) * sample
            return total + _infer(network, variables, z, method="decode"), None

        total, _ = jax.lax.scan(add, jnp.zeros_like(images), noise)
        return self._whole(variables, batch, total / self.samples)

    @property
    def _atlas(self) -> TissueAtlas:
        return TissueAtlas(bins=max(1, self.atlas_heights))

    def atlas_mean(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The healthy mean of each brain pixel; 0 outside the brain, and everywhere without an atlas."""
        if not self.atlas_heights:
            return jnp.zeros_like(batch["images"])
        mean = self._atlas.reconstruct(variables, batch)
        return jax.lax.stop_gradient(mean * batch["brain"][..., None])

    def _deviations(self, variables: Variables, batch: Batch) -> Float[Array, "b h w d"]:
        """What the network is given: the channels it sees, less their healthy mean."""
        deviations = batch["images"] - self.atlas_mean(variables, batch)
        return deviations[..., : deviations.shape[-1] - self.empty_channels]

    def _whole(self, variables: Variables, batch: Batch, output: Float[Array, "b h w d"]) -> Float[Array, "b h w c"]:
        """The network's deviations on top of the healthy mean, empty channels 0."""
        seen = output.shape[-1]
        known = output + self.atlas_mean(variables, batch)[..., :seen]
        return jnp.concatenate([known, jnp.zeros_like(batch["images"][..., seen:])], axis=-1)

    def _difference(self, target: Array, output: Array) -> Array:
        return jnp.abs(target - output) if self.reconstruction == "l1" else jnp.square(target - output)

    def _network(self, image_shape: tuple[int, ...]) -> "Network":
        return Network(self, (*image_shape[:-1], image_shape[-1] - self.empty_channels))


def kl_divergence(mean: Float[Array, "b z"], log_variance: Float[Array, "b z"]) -> Float[Array, "b z"]:
    """KL(N(mean, exp(log_variance)) ‖ N(0, 1)) of each dimension, in nats (Kingma & Welling 2014, app. B)."""
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance)


class Network(nn.Module):
    """Encoder and decoder for images of one shape (h, w, c)."""

    settings: CceVae
    image_shape: tuple[int, ...]

    def setup(self) -> None:
        self.encoder = Encoder(self.settings)
        self.decoder = Decoder(self.settings, self.image_shape)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.decode(self.encode(images)[0])

    def encode(self, images: Array, train: bool = False) -> tuple[Float[Array, "b z"], Float[Array, "b z"]]:
        """Mean and logarithm of the variance of the posterior, float32."""
        return self.encoder(images, train)

    def decode(self, z: Float[Array, "b z"], train: bool = False) -> Float[Array, "b h w c"]:
        """Image, float32."""
        return self.decoder(z, train)


class Encoder(nn.Module):
    settings: CceVae

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], train: bool) -> tuple[Float[Array, "b z"], Float[Array, "b z"]]:
        s = self.settings
        dtype = jnp.dtype(s.compute_dtype)
        x = space_to_depth(images.astype(dtype), s.stem_stride)
        x = _Unit(s, s.maps[0])(x, train)
        for stage, maps in enumerate(s.maps):
            if stage:
                x = _Unit(s, maps)(space_to_depth(x, 2), train)
            x = _Blocks(s)(x, train)
        if s.head == "dense":
            for _ in range(halvings(x.shape[1], x.shape[2])):
                x = _Unit(s, s.maps[-1])(space_to_depth(x, 2), train)
            x = _Unit(s, HEAD_MAPS)(x, train)
        moments = nn.Dense(2 * s.latent)(x.reshape(x.shape[0], -1).astype(jnp.float32))
        mean, log_variance = jnp.split(moments, 2, axis=1)
        return mean, LOG_VARIANCE_LIMIT * jnp.tanh(log_variance / LOG_VARIANCE_LIMIT)


class Decoder(nn.Module):
    settings: CceVae
    image_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, z: Float[Array, "b z"], train: bool) -> Float[Array, "b h w c"]:
        s = self.settings
        dtype = jnp.dtype(s.compute_dtype)
        h, w, channels = self.image_shape
        step = s.stem_stride * 2 ** (len(s.maps) - 1)
        h, w = h // step, w // step
        times = halvings(h, w) if s.head == "dense" else 0
        first = HEAD_MAPS if s.head == "dense" else s.maps[-1]
        h, w = h >> times, w >> times
        x = nn.Dense(h * w * first, dtype=dtype)(z.astype(dtype)).reshape(-1, h, w, first)
        x = _Unit(s, s.maps[-1])(x, train) if s.head == "dense" else x
        for _ in range(times):
            x = _Unit(s, s.maps[-1], up=2)(x, train)
        for stage, maps in enumerate(reversed(s.maps)):
            if stage:
                x = _Unit(s, maps, up=2)(x, train)
            x = _Blocks(s)(x, train)
        x = Conv(s.stem_stride**2 * channels, 3, use_bias=True, dtype=jnp.float32)(x.astype(jnp.float32))
        return depth_to_space(x, s.stem_stride)


class _Unit(nn.Module):
    """1×1 convolution, pixels unfolded from maps (together a transposed convolution of size and stride `up`), norm,
    activation. After `space_to_depth` it is a convolution of that size and stride."""

    settings: CceVae
    features: int
    up: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype = jnp.dtype(self.settings.compute_dtype)
        x = Conv(self.features * self.up**2, dtype=dtype)(x)
        x = Norm(dtype)(depth_to_space(x, self.up), train)
        return Activation(self.settings.activation)(x)


class _Blocks(nn.Module):
    settings: CceVae

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        s = self.settings
        for _ in range(s.blocks):
            x = ResidualBlock(s.block, s.activation, jnp.dtype(s.compute_dtype))(x, train)
        return x


def _train(network: Network, variables: Variables, x: Array, method: str) -> tuple[Any, Variables]:
    """One training pass through half of the network; the output, and the variables with renewed averages."""
    output, renewed = network.apply(variables, x, train=True, method=method, mutable=["batch_stats"])
    return output, {**variables, **renewed}


@functools.partial(jax.jit, static_argnames=("network", "method"))
def _infer(network: Network, variables: Variables, x: Array, method: str) -> Any:
    """One pass through half of the network, normalised by the running averages; the like of it is traced once."""
    return network.apply(variables, x, method=method)


def halvings(h: int, w: int) -> int:
    """How often a map of h × w can be halved until it is no larger than the dense head's grid."""
    count = 0
    while max(h, w) > HEAD_GRID and h % 2 == 0 and w % 2 == 0:
        h, w, count = h // 2, w // 2, count + 1
    return count


def _require(holds: bool, field: str, value: Any, rule: str) -> None:
    if not holds:
        raise ConfigError(f"config field model.{field} is {value!r}; it must be {rule}")


DETECTOR = CceVae
