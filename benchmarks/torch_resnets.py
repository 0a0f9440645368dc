"""WGAN-GP's residual networks, SNGAN and BigGAN for 32x32 in PyTorch: the peers of the benchmarks.

Written from the papers, layer for layer the networks of `ganjax.networks` at their published CIFAR
widths or any other. Spectral normalisation is PyTorch's own. Shortcuts are computed at the small
size, as they are in ganjax.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

GLOROT, GLOROT_RELU = 1.0, 2.0**0.5


def _init(module: nn.Module, gain: float | None, spectral: bool) -> nn.Module:
    if gain is None:
        nn.init.orthogonal_(module.weight)
    else:
        nn.init.xavier_uniform_(module.weight, gain)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)
    return spectral_norm(module, eps=1e-12) if spectral else module


class Norm(nn.Module):
    """Batch norm with one scale and shift, or with those that labels choose."""

    def __init__(self, features, num_classes=0, orthogonal=False):
        super().__init__()
        self.norm = nn.BatchNorm2d(features, affine=not num_classes)
        self.tables = None
        if num_classes:
            self.tables = nn.ModuleList([nn.Embedding(num_classes, features) for _ in range(2)])
            for table in self.tables:
                init = nn.init.orthogonal_ if orthogonal else nn.init.zeros_
                init(table.weight)

    def forward(self, x, labels):
        x = self.norm(x)
        if self.tables is None:
            return x
        gain, bias = (table(labels)[:, :, None, None] for table in self.tables)
        return torch.addcmul(bias, x, 1 + gain)


class GeneratorBlock(nn.Module):
    """A residual block that doubles its map."""

    def __init__(self, features, num_classes, spectral, orthogonal):
        super().__init__()

        def conv(size, gain):
            module = nn.Conv2d(features, features, size, padding=size // 2)
            return _init(module, None if orthogonal else gain, spectral)

        self.norm1 = Norm(features, num_classes, orthogonal)
        self.norm2 = Norm(features, num_classes, orthogonal)
        self.conv1, self.conv2 = conv(3, GLOROT_RELU), conv(3, GLOROT_RELU)
        self.shortcut = conv(1, GLOROT)

    def forward(self, x, labels):
        y = F.interpolate(F.relu(self.norm1(x, labels)), scale_factor=2)
        y = self.conv2(F.relu(self.norm2(self.conv1(y), labels)))
        return y + F.interpolate(self.shortcut(x), scale_factor=2)


class Generator(nn.Module):
    """Latents (B, latent_dim) and labels (B,) or None -> images (B, C, H, W) in [-1, 1]."""

    def __init__(
        self, shape, features, latent_dim=128, num_classes=0, *, spectral=False, orthogonal=False
    ):
        super().__init__()
        height, width, channels = shape
        blocks = (min(height, width) // 4).bit_length() - 1
        self.start = (features, height >> blocks, width >> blocks)
        gain = None if orthogonal else GLOROT
        dense = nn.Linear(latent_dim, features * self.start[1] * self.start[2])
        self.dense = _init(dense, gain, spectral)
        self.blocks = nn.ModuleList(
            [GeneratorBlock(features, num_classes, spectral, orthogonal) for _ in range(blocks)]
        )
        self.norm = Norm(features)
        self.conv = _init(nn.Conv2d(features, channels, 3, padding=1), gain, spectral)

    def forward(self, latents, labels=None):
        x = self.dense(latents).reshape(-1, *self.start)
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x, labels)
        return torch.tanh(self.conv(F.relu(self.norm(x, labels))))


class DiscriminatorBlock(nn.Module):
    """A residual block that may halve its map."""

    def __init__(self, inputs, features, first, halve, spectral, orthogonal):
        super().__init__()

        def conv(inputs, size, gain):
            module = nn.Conv2d(inputs, features, size, padding=size // 2)
            return _init(module, None if orthogonal else gain, spectral)

        self.first, self.halve = first, halve
        self.conv1, self.conv2 = conv(inputs, 3, GLOROT_RELU), conv(features, 3, GLOROT_RELU)
        self.shortcut = conv(inputs, 1, GLOROT) if halve else None

    def forward(self, x):
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if not self.halve:
            return y + x
        return F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))


class Discriminator(nn.Module):
    """Images (B, C, H, W) and labels (B,) or None -> logits (B,); labels by projection."""

    def __init__(
        self, shape, features, num_classes=0, *, spectral=True, orthogonal=False, mean_pool=False
    ):
        super().__init__()
        inputs = shape[2]
        blocks = []
        for index in range(4):
            block = (inputs, features, index == 0, index < 2, spectral, orthogonal)
            blocks.append(DiscriminatorBlock(*block))
            inputs = features
        self.blocks = nn.Sequential(*blocks)
        self.mean_pool = mean_pool
        gain = None if orthogonal else GLOROT
        self.dense = _init(nn.Linear(features, 1), gain, spectral)
        self.embedding = None
        if num_classes:
            self.embedding = _init(nn.Embedding(num_classes, features), gain, spectral)

    def forward(self, images, labels=None):
        x = F.relu(self.blocks(images)).float()
        x = x.mean((2, 3)) if self.mean_pool else x.sum((2, 3))
        logits = self.dense(x)[:, 0]
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * x).sum(1)
        return logits


def wgan_gp(shape, width=64, num_classes=0, latent_dim=128) -> tuple[nn.Module, nn.Module]:
    """Return WGAN-GP's two networks; labels enter by projection, not by a classifier."""
    generator = Generator(shape, 2 * width, latent_dim, num_classes)
    discriminator = Discriminator(shape, 2 * width, num_classes, spectral=False, mean_pool=True)
    return generator, discriminator


def sngan(shape, width=64, num_classes=0, latent_dim=128) -> tuple[nn.Module, nn.Module]:
    """Return SNGAN's two networks."""
    generator = Generator(shape, 4 * width, latent_dim, num_classes)
    return generator, Discriminator(shape, 2 * width, num_classes)


def biggan(shape, width=64, num_classes=0, latent_dim=128) -> tuple[nn.Module, nn.Module]:
    """Return BigGAN's two networks in their form for CIFAR-10, with a table in each batch norm."""
    form = {"spectral": True, "orthogonal": True}
    generator = Generator(shape, 4 * width, latent_dim, num_classes, **form)
    return generator, Discriminator(shape, 4 * width, num_classes, **form)


NETWORKS = {"wgan_gp": wgan_gp, "sngan": sngan, "biggan": biggan}
