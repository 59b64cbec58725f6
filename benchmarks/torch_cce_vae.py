"""The network and loss of `strega_jax.detectors.cce_vae` in PyTorch, layer for layer, for speed comparison."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from strega_jax.detectors.cce_vae import HEAD_MAPS, LOG_VARIANCE_LIMIT, halvings


def unit(inputs: int, maps: int, settings: Any, size: int = 1, up: int = 1) -> list[nn.Module]:
    """Convolution, pixel shuffle by `up`, batch norm, activation."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, maps * up * up, size, padding=size // 2, bias=False)]
    if up > 1:
        layers.append(nn.PixelShuffle(up))
    return [*layers, nn.BatchNorm2d(maps), activation(settings)]


def activation(settings: Any) -> nn.Module:
    """LeakyReLU or PReLU with one slope."""
    return nn.LeakyReLU(0.01, inplace=True) if settings.activation == "leaky_relu" else nn.PReLU()


class ResidualBlock(nn.Module):
    """Basic or bottleneck."""

    def __init__(self, maps: int, settings: Any) -> None:
        super().__init__()
        inner = maps // 4
        if settings.block == "basic":
            layers = [*unit(maps, maps, settings, 3), nn.Conv2d(maps, maps, 3, padding=1, bias=False)]
        else:
            first, second = unit(maps, inner, settings), unit(inner, inner, settings, 3)
            layers = [*first, *second, nn.Conv2d(inner, maps, 1, bias=False)]
        self.branch = nn.Sequential(*layers, nn.BatchNorm2d(maps))
        self.activation = activation(settings)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(x + self.branch(x))


class TorchCceVae(nn.Module):
    """Calling it gives the "paper" objective of images and of their copies with hidden regions."""

    def __init__(self, settings: Any, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        s, maps = settings, settings.maps
        side, channels = image_shape[0] // (s.stem_stride * 2 ** (len(maps) - 1)), image_shape[-1]
        times = halvings(side, side) if s.head == "dense" else 0
        side, first = side >> times, HEAD_MAPS if s.head == "dense" else maps[-1]
        down = [nn.PixelUnshuffle(s.stem_stride), *unit(channels * s.stem_stride**2, maps[0], s)]
        up: list[nn.Module] = unit(first, maps[-1], s) if s.head == "dense" else []
        for _ in range(times):
            up += unit(maps[-1], maps[-1], s, up=2)
        for stage in range(len(maps)):
            if stage:
                down += [nn.PixelUnshuffle(2), *unit(4 * maps[stage - 1], maps[stage], s)]
                up += unit(maps[-stage], maps[-stage - 1], s, up=2)
            down += [ResidualBlock(maps[stage], s) for _ in range(s.blocks)]
            up += [ResidualBlock(maps[-stage - 1], s) for _ in range(s.blocks)]
        for _ in range(times):
            down += [nn.PixelUnshuffle(2), *unit(4 * maps[-1], maps[-1], s)]
        down += unit(maps[-1], first, s) if s.head == "dense" else []
        up += [nn.Conv2d(maps[0], channels * s.stem_stride**2, 3, padding=1), nn.PixelShuffle(s.stem_stride)]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(side * side * first, 2 * s.latent))
        self.expand = nn.Sequential(nn.Linear(s.latent, side * side * first), nn.Unflatten(1, (first, side, side)))
        self.decoder = nn.Sequential(*up)

    def forward(self, images: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        mean, raw = self.encoder(images).float().chunk(2, 1)
        log_variance = LOG_VARIANCE_LIMIT * torch.tanh(raw / LOG_VARIANCE_LIMIT)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        rec = self._distance(images, z)
        return kl + rec + self._distance(images, self.encoder(seen).float().chunk(2, 1)[0])

    def _distance(self, images: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        x = self.expand(z).contiguous(memory_format=torch.channels_last)
        return functional.l1_loss(self.decoder(x).float(), images, reduction="sum") / len(images)
