"""R3GAN in PyTorch: a peer of the benchmarks.

Written from the paper (Huang et al. 2024, arXiv:2501.05441), layer for layer the networks of
`ganjax.networks.r3gan`. Grouped convolutions are PyTorch's own, filters depthwise convolutions.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch_stylegan2 import Filter, block_sizes, upsampling

SLOPE = 0.2


def _conv(inputs: int, outputs: int, size: int = 1, groups: int = 1, gain: float = 1.0):
    """Return a convolution without bias whose weights are N(0, (gain / sqrt(fan-in))^2)."""
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    nn.init.normal_(conv.weight, std=gain / math.sqrt(conv.weight[0].numel()))
    return conv


def _linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=gain / math.sqrt(inputs))
    return linear


class Block(nn.Module):
    """1x1 to twice the width, grouped 3x3, 1x1 back; added to the input."""

    def __init__(self, width, group_width, total_blocks):
        super().__init__()
        inside = 2 * width
        gain = math.sqrt(2 / (1 + SLOPE**2)) * total_blocks**-0.25
        self.conv1 = _conv(width, inside, gain=gain)
        self.conv2 = _conv(inside, inside, 3, groups=max(1, inside // group_width), gain=gain)
        self.conv3 = _conv(inside, width, gain=0.0)
        self.bias1, self.bias2 = (nn.Parameter(torch.zeros(1, inside, 1, 1)) for _ in range(2))

    def forward(self, x):
        y = F.leaky_relu(self.conv1(x) + self.bias1, SLOPE)
        y = F.leaky_relu(self.conv2(y) + self.bias2, SLOPE)
        return x + self.conv3(y)


class Generator(nn.Module):
    """Latents (B, latent_dim) and labels (B,) or None -> images (B, C, H, W)."""

    def __init__(self, shape, widths, blocks, group_width, latent_dim, num_classes, embedding_dim):
        super().__init__()
        *size, channels = shape
        self.embedding = None
        if num_classes:
            self.embedding = nn.Embedding(num_classes, embedding_dim)
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(num_classes))
            latent_dim += embedding_dim
        self.basis = nn.Parameter(torch.randn(widths[0], *block_sizes(tuple(size))[0]))
        self.linear = _linear(latent_dim, widths[0])
        layers = []
        for stage, width in enumerate(widths):
            if stage:
                if width != widths[stage - 1]:
                    layers.append(_conv(widths[stage - 1], width))
                layers.append(upsampling(width))
            layers += [Block(width, group_width, blocks * len(widths)) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, _conv(widths[-1], channels))

    def forward(self, latents, labels=None):
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)
        x = self.basis * self.linear(latents)[:, :, None, None]
        return self.layers(x.contiguous(memory_format=torch.channels_last))


class Discriminator(nn.Module):
    """Images (B, C, H, W) and labels (B,) or None -> logits (B,); labels by projection."""

    def __init__(self, shape, widths, blocks, group_width, num_classes):
        super().__init__()
        *size, channels = shape
        layers = [_conv(channels, widths[-1])]
        for stage in range(len(widths) - 1, -1, -1):
            width = widths[stage]
            layers += [Block(width, group_width, blocks * len(widths)) for _ in range(blocks)]
            if stage:
                layers.append(Filter(width, stride=2, padding=1))
                if widths[stage - 1] != width:
                    layers.append(_conv(width, widths[stage - 1]))
        self.layers = nn.Sequential(*layers)
        smallest = block_sizes(tuple(size))[0]
        std = 1 / math.sqrt(math.prod(smallest))
        self.basis = nn.Parameter(std * torch.randn(widths[0], *smallest))
        features = widths[0] if num_classes else 1
        self.linear = _linear(widths[0], features)
        self.embedding = None
        if num_classes:
            self.embedding = nn.Embedding(num_classes, features)
            std = 1 / math.sqrt(features * num_classes)
            nn.init.normal_(self.embedding.weight, std=std)

    def forward(self, images, labels=None):
        x = self.linear((self.layers(images).float() * self.basis).sum((2, 3)))
        if self.embedding is not None:
            x = x * self.embedding(labels)
        return x.sum(1)


def networks(
    shape, *, width=768, blocks=2, group_width=16, latent_dim=64, num_classes=0, embedding_dim=64
) -> tuple[nn.Module, nn.Module]:
    """Return generator and discriminator for images of `shape` (H, W, C)."""
    stages = len(block_sizes(tuple(shape[:2])))
    widths = [max(1, width // 2 ** max(0, stage - 3)) for stage in range(stages)]
    return (
        Generator(shape, widths, blocks, group_width, latent_dim, num_classes, embedding_dim),
        Discriminator(shape, widths, blocks, group_width, num_classes),
    )
