"""StyleGAN2 in PyTorch without kernels of its own: a peer of the benchmarks.

Written from the paper (Karras et al. 2020, arXiv:1912.04958), layer for layer the networks of
`ganjax.networks.stylegan2`: skip generator, residual discriminator. Modulation scales activations,
so that one convolution serves all examples; filters are depthwise convolutions.
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

SMALLEST_SIDE = 4
TAPS = (1.0, 3.0, 3.0, 1.0)


def block_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the sizes of the blocks, smallest first."""
    sizes = [tuple(size)]
    while min(sizes[0]) >= 2 * SMALLEST_SIDE and not any(n % 2 for n in sizes[0]):
        sizes.insert(0, tuple(n // 2 for n in sizes[0]))
    return sizes


def activate(x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
    """Apply a leaky ReLU that keeps the variance."""
    return F.leaky_relu(x, 0.2) * (math.sqrt(2) * gain)


def normalise(x: torch.Tensor) -> torch.Tensor:
    """Scale vectors to a mean square of one."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Filter(nn.Module):
    """A low-pass filter of each channel with [1, 3, 3, 1] along both dimensions."""

    def __init__(self, channels, gain=1.0, stride=1, padding=0, transposed=False):
        super().__init__()
        taps = torch.tensor(TAPS) / sum(TAPS)
        taps = (torch.outer(taps, taps) * gain).expand(channels, 1, 4, 4)
        self.register_buffer("taps", taps.contiguous(memory_format=torch.channels_last))
        self.options = {"stride": stride, "padding": padding, "groups": channels}
        self.transposed = transposed

    def forward(self, x):
        function = F.conv_transpose2d if self.transposed else F.conv2d
        return function(x, self.taps.to(x.dtype), **self.options)


def upsampling(channels: int) -> Filter:
    """Return what doubles an image."""
    return Filter(channels, gain=4.0, stride=2, padding=1, transposed=True)


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate."""

    def __init__(self, inputs, outputs, activation=False, bias=0.0, slower=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / slower)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.scale, self.slower, self.activation = slower / math.sqrt(inputs), slower, activation

    def forward(self, x):
        x = F.linear(x, self.weight * self.scale, self.bias * self.slower)
        return activate(x) if self.activation else x


class Conv(nn.Module):
    """Convolution with equalised learning rate, optionally after a filter and with stride 2."""

    def __init__(self, inputs, outputs, size=3, down=False, activation=True, gain=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if activation else None
        self.scale, self.gain = 1 / math.sqrt(inputs * size * size), gain
        self.filter, self.options = None, {"padding": size // 2}
        if down and size == 1:
            self.filter = Filter(inputs, stride=2, padding=1)
        elif down:
            self.filter, self.options = Filter(inputs, padding=2), {"stride": 2}

    def forward(self, x):
        if self.filter is not None:
            x = self.filter(x)
        if self.bias is None:
            return F.conv2d(x, self.weight * (self.scale * self.gain), **self.options)
        x = F.conv2d(x, self.weight * self.scale, self.bias, **self.options)
        return activate(x, self.gain)


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias and leaky ReLU."""

    def __init__(self, inputs, outputs, w_dim, up=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.filter = Filter(outputs, gain=4.0, padding=1) if up else None

    def forward(self, x, style):
        scales = self.affine(style)
        x = x * scales[:, :, None, None].to(x.dtype)
        if self.filter is None:
            x = F.conv2d(x, self.weight, padding=1)
        else:
            x = self.filter(F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2))
        energy = scales.square() @ self.weight.square().sum((2, 3)).T
        demodulation = (energy + 1e-8).rsqrt()[:, :, None, None].to(x.dtype)
        noise = torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device, dtype=x.dtype)
        shift = noise * self.strength.to(x.dtype) + self.bias[:, None, None].to(x.dtype)
        return activate(torch.addcmul(shift, x, demodulation))


class ToImage(nn.Module):
    """Modulated 1x1 convolution without demodulation."""

    def __init__(self, inputs, outputs, w_dim):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x, style):
        scales = (self.affine(style) * self.scale)[:, :, None, None].to(x.dtype)
        return F.conv2d(x * scales, self.weight, self.bias).float()


class Mapping(nn.Module):
    """Latents -> styles."""

    def __init__(self, z_dim, w_dim, num_layers):
        super().__init__()
        sizes = [z_dim, *[w_dim] * num_layers]
        layers = [Dense(a, b, True, slower=0.01) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z):
        return self.layers(normalise(z))


class Generator(nn.Module):
    """Styles (B, num_styles, w_dim) -> images (B, C, H, W), by `synthesize`; latents by `map`."""

    def __init__(
        self,
        shape,
        z_dim=512,
        w_dim=512,
        mapping_layers=8,
        channel_base=32768,
        channel_max=512,
        mixing_probability=0.0,
    ):
        super().__init__()
        *size, channels = shape
        sizes = block_sizes(size)
        widths = [min(channel_base // min(s), channel_max) for s in sizes]
        self.z_dim, self.num_styles = z_dim, 2 * len(sizes)
        self.mixing_probability = mixing_probability
        self.mapping = Mapping(z_dim, w_dim, mapping_layers)
        self.register_buffer("style_mean", torch.zeros(w_dim))
        self.const = nn.Parameter(torch.randn(widths[0], *sizes[0]))
        convs = [StyledConv(widths[0], widths[0], w_dim)]
        for before, after in itertools.pairwise(widths):
            convs.append(StyledConv(before, after, w_dim, up=True))
            convs.append(StyledConv(after, after, w_dim))
        to_images = [ToImage(width, channels, w_dim) for width in widths]
        self.convs, self.to_images = nn.ModuleList(convs), nn.ModuleList(to_images)
        self.up = upsampling(channels)

    def map(self, z):
        style = self.mapping(z)
        with torch.no_grad():
            self.style_mean.lerp_(style.mean(0), 0.002)
        if not self.mixing_probability:
            return style[:, None].expand(-1, self.num_styles, -1)
        other = self.mapping(torch.randn_like(z))
        start = torch.randint(1, self.num_styles, (z.shape[0], 1), device=z.device)
        mixed = torch.rand(z.shape[0], 1, device=z.device) < self.mixing_probability
        late = (torch.arange(self.num_styles, device=z.device) >= start) & mixed
        return torch.where(late[:, :, None], other[:, None], style[:, None])

    def synthesize(self, styles):
        x = self.const.expand(styles.shape[0], -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        image = None
        for index, conv in enumerate(self.convs):
            x = conv(x, styles[:, index])
            if index % 2 == 0:
                part = self.to_images[index // 2](x, styles[:, index + 1])
                image = part if image is None else self.up(image) + part
        return image

    def forward(self, z):
        return self.synthesize(self.map(z))


class Block(nn.Module):
    """A residual block that halves height and width."""

    def __init__(self, inputs, outputs):
        super().__init__()
        half = math.sqrt(0.5)
        self.skip = Conv(inputs, outputs, 1, down=True, activation=False, gain=half)
        self.conv0 = Conv(inputs, inputs)
        self.conv1 = Conv(inputs, outputs, down=True, gain=half)

    def forward(self, x):
        return self.conv1(self.conv0(x)) + self.skip(x)


class Discriminator(nn.Module):
    """Images (B, C, H, W) -> logits (B,)."""

    def __init__(self, shape, channel_base=32768, channel_max=512, group_size=4):
        super().__init__()
        *size, channels = shape
        sizes = block_sizes(size)
        widths = [min(channel_base // min(s), channel_max) for s in sizes]
        self.group_size = group_size
        self.from_image = Conv(channels, widths[-1], 1)
        pairs = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.blocks = nn.Sequential(*[Block(a, b) for a, b in pairs])
        self.conv = Conv(widths[0] + 1, widths[0])
        self.dense = Dense(widths[0] * sizes[0][0] * sizes[0][1], widths[0], True)
        self.out = Dense(widths[0], 1)

    def forward(self, images):
        x = self.blocks(self.from_image(images)).float()
        batch, _, height, width = x.shape
        groups = x.reshape(min(self.group_size, batch), -1, *x.shape[1:])
        stddev = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        plane = stddev.repeat(groups.shape[0])[:, None, None, None].expand(-1, 1, height, width)
        x = self.conv(torch.cat([x, plane], 1))
        return self.out(self.dense(x.flatten(1)))[:, 0]


def networks(shape: tuple[int, int, int], **options) -> tuple[Generator, Discriminator]:
    """Return both networks for images of `shape` (H, W, C).

    Args:
      shape: of the images.
      options: of `Generator`; the channels are those of both.
    """
    widths = {k: v for k, v in options.items() if k.startswith("channel")}
    return Generator(shape, **options), Discriminator(shape, **widths)
