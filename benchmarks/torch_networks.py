"""DCGAN in PyTorch, a peer of the benchmarks.

Written from the papers, layer for layer the networks of `ganjax.networks.dcgan` in its 4x4 form.
"""

import torch
from torch import nn

SMALLEST_SIDE = 7


def halved_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return `size` and its halves until the smaller side is at most 7."""
    sizes = [tuple(size)]
    while min(sizes[-1]) > SMALLEST_SIDE:
        sizes.append(tuple(-(-n // 2) for n in sizes[-1]))
    return sizes


def _normal(module: nn.Module) -> nn.Module:
    nn.init.normal_(module.weight, std=0.02)
    return module


class Generator(nn.Module):
    """Latents (B, latent_dim) and labels (B,) or None -> images (B, C, H, W) in [-1, 1]."""

    def __init__(self, shape, width=64, latent_dim=64, num_classes=0, embedding_dim=50):
        super().__init__()
        *size, channels = shape
        sizes = halved_sizes(size)[::-1]
        features = width * 2 ** (len(sizes) - 2)
        self.start = (features, *sizes[0])
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes else None
        inputs = latent_dim + (embedding_dim if num_classes else 0)
        self.dense = _normal(nn.Linear(inputs, features * sizes[0][0] * sizes[0][1], bias=False))
        layers = [nn.BatchNorm2d(features), nn.ReLU(inplace=True)]
        for larger in sizes[1:]:
            last = larger == sizes[-1]
            outputs = channels if last else features // 2
            layers.append(_normal(nn.ConvTranspose2d(features, outputs, 4, 2, 1, bias=last)))
            if not last:
                layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            features = outputs
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latents, labels=None):
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)
        x = self.dense(latents).reshape(-1, *self.start)
        return self.layers(x.contiguous(memory_format=torch.channels_last))


class Discriminator(nn.Module):
    """Images (B, C, H, W) and labels (B,) or None -> logits (B,); labels by projection."""

    def __init__(self, shape, width=64, batch_norm=True, num_classes=0):
        super().__init__()
        *size, channels = shape
        sizes = halved_sizes(size)
        layers = []
        for layer in range(len(sizes) - 1):
            norm, outputs = batch_norm and layer > 0, width * 2**layer
            layers.append(_normal(nn.Conv2d(channels, outputs, 4, 2, 1, bias=not norm)))
            if norm:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            channels = outputs
        self.layers = nn.Sequential(*layers)
        features = channels * sizes[-1][0] * sizes[-1][1]
        self.dense = _normal(nn.Linear(features, 1))
        self.embedding = _normal(nn.Embedding(num_classes, features)) if num_classes else None

    def forward(self, images, labels=None):
        x = self.layers(images).flatten(1)
        logits = self.dense(x)[:, 0]
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * x).sum(1)
        return logits
