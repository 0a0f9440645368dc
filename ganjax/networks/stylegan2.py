"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), in the form of its official PyTorch networks.

Any number of channels, and any height and width that come of doubling a small rectangle: 32x32 and
32x48 do, 28x28 too (from 7x7). Where the paper speaks of a resolution, the smaller side is meant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ganjax import axes, latents, ops
from ganjax.networks.layers import require_choice, require_labels
from ganjax.networks.stylegan2_layers import (
    NOISE_MODES,
    TAPS,
    Conv,
    Dense,
    Mapping,
    StyledConv,
    ToImage,
    block_dtypes,
    block_name,
    block_sizes,
    minibatch_stddev,
    num_channels,
)
from ganjax.types import Array, DiscriminatorOutput, InputError

_LOW_PRECISION_CLAMP = 256.0  # of the official code
ARCHITECTURES = ("skip", "resnet", "orig")
_HALF_POWER = math.sqrt(0.5)  # of each of two branches that are added


class Synthesis(nn.Module):
    """Styles (B, num_styles, w_dim) -> images (B, H, W, C), float32; see `Generator`."""

    image_shape: Sequence[int]
    channel_base: int
    channel_max: int
    architecture: str
    conv_clamp: float | None
    low_precision_resolutions: int
    dtype: Any

    @nn.compact
    def __call__(self, styles: Array, *, noise: str) -> Array:
        *size, channels = self.image_shape
        sizes = block_sizes(size)
        dtypes = block_dtypes(len(sizes), self.low_precision_resolutions, self.dtype)
        widths = [num_channels(s, self.channel_base, self.channel_max) for s in sizes]
        x = self.param(
            f"{block_name(sizes[0])}_const", nn.initializers.normal(1.0), (*sizes[0], widths[0])
        )
        x = jnp.broadcast_to(x, (styles.shape[0], *x.shape))
        image, index = None, 0
        for block, (size, features) in enumerate(zip(sizes, widths, strict=True)):
            name, first, last = block_name(size), block == 0, block == len(sizes) - 1
            residual = self.architecture == "resnet" and not first
            x = x.astype(dtypes[block])
            if residual:
                shortcut = Conv(
                    features, 1, "up", activation=False, gain=_HALF_POWER, name=f"{name}_skip"
                )(x)
            for layer in ("conv1",) if first else ("conv0", "conv1"):
                x = StyledConv(
                    features,
                    "up" if layer == "conv0" else None,
                    _HALF_POWER if residual and layer == "conv1" else 1.0,
                    self.conv_clamp,
                    name=f"{name}_{layer}",
                )(x, styles[:, index], noise=noise)
                index += 1
            if residual:
                x = x + shortcut
            if image is not None:
                image = ops.upsample(image, taps=TAPS)
            if last or self.architecture == "skip":
                # This style is also that of the next block's first layer.
                part = ToImage(channels, self.conv_clamp, name=f"{name}_torgb")(x, styles[:, index])
                image = part if image is None else image + part
        return image


class Generator(nn.Module):
    """Latents (B, z_dim) and labels -> images (B, H, W, C), about in [-1, 1], not clipped.

    Labels are integers (B,), vectors (B, num_classes), or None. The running mean of the styles is
    in the collection `"style_mean"`, constant noise in `"noise_const"`; random noise, and style
    mixing in training, draw from the stream `"noise"`.

    Attributes:
      image_shape: (H, W, C).
      z_dim: length of a latent.
      w_dim: length of a style.
      mapping_layers: depth of the mapping network.
      channel_base: channels times the smaller side of a feature map.
      channel_max: the most channels.
      architecture: "skip" adds up images of all resolutions, "resnet" has residual blocks, "orig"
        neither.
      conv_clamp: largest magnitude of an activation, or None.
      mixing_probability: in training, how often the later layers get the style of another latent.
      mean_decay: of the running mean of the styles.
      num_classes: 0 for none.
      low_precision_resolutions: how many blocks, from the largest down, compute in `dtype`.
      dtype: of those; all else is float32.
    """

    image_shape: Sequence[int]
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    channel_base: int = 32768
    channel_max: int = 512
    architecture: str = "skip"
    conv_clamp: float | None = None
    mixing_probability: float = 0.9
    mean_decay: float = 0.998
    num_classes: int = 0
    low_precision_resolutions: int = 4
    dtype: Any = jnp.float32

    def setup(self):
        require_choice("architecture", self.architecture, ARCHITECTURES)
        self.mapping = Mapping(self.w_dim, self.mapping_layers, self.num_classes)
        self.synthesis = Synthesis(
            tuple(self.image_shape),
            self.channel_base,
            self.channel_max,
            self.architecture,
            self.conv_clamp,
            self.low_precision_resolutions,
            self.dtype,
        )
        self.style_mean = self.variable("style_mean", "mean", jnp.zeros, (self.w_dim,))

    @property
    def num_styles(self) -> int:
        """Styles of one image: one for each modulated convolution, and one for the last image."""
        return 2 * len(block_sizes(self.image_shape[:2]))

    def __call__(
        self,
        z: Array,
        labels: Array | None = None,
        *,
        train: bool = False,
        truncation: float | Array = 1.0,
        noise: str = "random",
    ) -> Array:
        """Map latents to styles and these to images; see `map` and `synthesize`."""
        styles = self.map(z, labels, truncation=truncation, train=train)
        return self.synthesize(styles, noise=noise)

    def map(
        self,
        z: Array,
        labels: Array | None = None,
        *,
        truncation: float | Array = 1.0,
        truncation_cutoff: int | None = None,
        train: bool = False,
    ) -> Array:
        """Return the styles (B, num_styles, w_dim) of latents (B, z_dim).

        Args:
          z: latents; only their direction counts.
          labels: integers (B,), vectors (B, num_classes), or None.
          truncation: psi; 0 gives the mean style, 1 leaves the styles as they are.
          truncation_cutoff: how many of the styles, from the coarsest on, it changes; None for all.
          train: update the mean style, and mix styles.
        """
        require_labels(labels, self.num_classes)
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"latents have to have shape (B, {self.z_dim}), got {z.shape}")
        labels = labels if self.num_classes else None
        mixing = train and self.mixing_probability > 0
        if mixing:
            styles = self._mixed_styles(z, labels)
        else:
            style = self.mapping(z, labels)
            self._track(style, train)
            styles = jnp.repeat(style[:, None], self.num_styles, axis=1)
        if isinstance(truncation, (int, float)) and truncation == 1:
            return styles
        mean = self.style_mean.value
        truncated = mean + truncation * (styles - mean)
        if truncation_cutoff is None:
            return truncated
        chosen = jnp.arange(self.num_styles) < truncation_cutoff
        return jnp.where(chosen[:, None], truncated, styles)

    def synthesize(self, styles: Array, *, noise: str = "random") -> Array:
        """Return the images (B, H, W, C) of styles (B, num_styles, w_dim).

        Args:
          styles: as `map` gives them.
          noise: "random" for each image, "const" as drawn at the start, or "none".
        """
        require_choice("noise", noise, NOISE_MODES)
        if styles.shape[1:] != (self.num_styles, self.w_dim):
            raise ValueError(
                f"styles have to have shape (B, {self.num_styles}, {self.w_dim}), got "
                f"{styles.shape}"
            )
        return self.synthesis(styles, noise=noise)

    def _mixed_styles(self, z, labels):
        """Give some images another latent's style from a random layer on."""
        if not self.has_rng("noise"):
            raise ValueError(
                'style mixing in training needs a random key, rngs={"noise": key}; pass one, or '
                "set mixing_probability to 0"
            )

        def sample(key, n):
            latent_key, chance_key, layer_key = jax.random.split(key, 3)
            mixed = jax.random.uniform(chance_key, (n,)) < self.mixing_probability
            start = jax.random.randint(layer_key, (n,), 1, self.num_styles)
            return (
                jax.random.normal(latent_key, (n, self.z_dim)),
                jnp.where(mixed, start, self.num_styles),
            )

        other, start = axes.draw(sample, self.make_rng("noise"), z.shape[0])
        # Side by side, not one behind the other: a sharded batch stays where it is.
        both = jnp.stack([z.astype(jnp.float32), other], axis=1).reshape(-1, self.z_dim)
        labels = None if labels is None else jnp.repeat(labels, 2, axis=0)
        style, other = jnp.moveaxis(self.mapping(both, labels).reshape(-1, 2, self.w_dim), 1, 0)
        self._track(style, True)
        late = jnp.arange(self.num_styles) >= start[:, None]
        return jnp.where(late[:, :, None], other[:, None], style[:, None])

    def _track(self, style, train):
        if train and not self.is_initializing() and self.is_mutable_collection("style_mean"):
            mean = axes.global_mean(jnp.mean(lax.stop_gradient(style), axis=0))
            self.style_mean.value = mean + self.mean_decay * (self.style_mean.value - mean)


class Discriminator(nn.Module):
    """Images (B, H, W, C) in [-1, 1] and labels -> `DiscriminatorOutput`.

    Labels, as of `Generator`, are projected (Miyato and Koyama 2018, arXiv:1802.05637).

    Attributes:
      channel_base: channels times the smaller side of a feature map.
      channel_max: the most channels.
      architecture: "resnet", "skip" (the image enters at every resolution) or "orig".
      mapping_layers: depth of the network that maps labels.
      mbstd_group_size: images whose variation is measured together; 0 for no such measure.
      conv_clamp: largest magnitude of an activation, or None.
      num_classes: 0 for none.
      low_precision_resolutions: how many blocks, from the largest down, compute in `dtype`.
      dtype: of those; all else is float32.
    """

    channel_base: int = 32768
    channel_max: int = 512
    architecture: str = "resnet"
    mapping_layers: int = 8
    mbstd_group_size: int = 4
    conv_clamp: float | None = None
    num_classes: int = 0
    low_precision_resolutions: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, labels: Array | None = None, *, train: bool = False
    ) -> DiscriminatorOutput:
        require_choice("architecture", self.architecture, ARCHITECTURES)
        require_labels(labels, self.num_classes)
        images = images.astype(jnp.float32)
        sizes = block_sizes(images.shape[1:3])
        dtypes = block_dtypes(len(sizes), self.low_precision_resolutions, self.dtype)
        widths = [num_channels(s, self.channel_base, self.channel_max) for s in sizes]

        def conv(features, name, **options):
            return Conv(features, clamp=self.conv_clamp, name=name, **options)

        x = None
        for block in range(len(sizes) - 1, 0, -1):
            name, features = block_name(sizes[block]), widths[block]
            residual = self.architecture == "resnet"
            if x is None or self.architecture == "skip":
                seen = images.astype(dtypes[block])
                seen = conv(features, f"{name}_fromrgb", kernel_size=1)(seen)
                x = seen if x is None else x.astype(dtypes[block]) + seen
            if self.architecture == "skip":
                images = ops.downsample(images, taps=TAPS)
            x = x.astype(dtypes[block])
            gain = _HALF_POWER if residual else 1.0
            if residual:
                shortcut = Conv(
                    widths[block - 1], 1, "down", activation=False, gain=gain, name=f"{name}_skip"
                )(x)
            x = conv(features, f"{name}_conv0")(x)
            x = conv(widths[block - 1], f"{name}_conv1", resample="down", gain=gain)(x)
            if residual:
                x = x + shortcut

        x, name, features = x.astype(jnp.float32), block_name(sizes[0]), widths[0]
        if self.architecture == "skip":
            x = x + conv(features, f"{name}_fromrgb", kernel_size=1)(images)
        if self.mbstd_group_size:
            x = minibatch_stddev(x, self.mbstd_group_size, train=train)
        x = conv(features, f"{name}_conv")(x)
        x = Dense(features, activation=True, name=f"{name}_fc")(x.reshape(x.shape[0], -1))
        x = Dense(features if self.num_classes else 1, name=f"{name}_out")(x)
        if not self.num_classes:
            return DiscriminatorOutput(x[:, 0])
        mapped = Mapping(features, self.mapping_layers, self.num_classes, name="mapping")
        return DiscriminatorOutput(jnp.sum(x * mapped(None, labels), axis=-1) / math.sqrt(features))


@dataclass(frozen=True)
class StyleGAN2:
    """StyleGAN2's networks (Karras et al. 2020, arXiv:1912.04958), with the official options."""

    z_dim: int = 512
    """Length of the latent."""
    w_dim: int = 512
    """Length of a style."""
    mapping_layers: int = 8
    """Depth of the mapping network."""
    channel_base: int = 32768
    """Channels are this over the smaller side of a feature map, in both networks."""
    channel_max: int = 512
    """The most channels."""
    architecture: str = "skip"
    """Form of the generator: skip, resnet or orig."""
    d_architecture: str = "resnet"
    """Form of the discriminator: resnet, skip or orig."""
    mbstd_group_size: int = 4
    """Images whose variation the discriminator measures together; 0 for no such measure."""
    mixing_probability: float = 0.9
    """In training, how often later layers get the style of another latent; 0 for never."""
    mean_decay: float = 0.998
    """Decay of the running mean of the styles, for truncation."""
    low_precision_resolutions: int = 4
    """How many blocks, from the largest down, compute in the run's precision."""
    conv_clamp: float | None = None
    """Largest magnitude of an activation; by default 256 where the run's precision is not float32,
    and none where it is."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return `generator`, `discriminator` and `latents` for images of `shape` (H, W, C).

        >>> networks = StyleGAN2(channel_max=64).build((32, 48, 3), 0, jnp.float32)
        >>> networks["generator"].num_styles
        8
        """
        if len(shape) != 3:
            raise InputError(
                f"stylegan2 makes images of shape (H, W, C), but the data has shape {tuple(shape)};"
                " take the mlp"
            )
        require_choice("architecture", self.architecture, ARCHITECTURES)
        require_choice("d_architecture", self.d_architecture, ARCHITECTURES)
        if not 0 <= self.mixing_probability <= 1:
            raise InputError(f"mixing_probability lies in [0, 1], got {self.mixing_probability}")
        block_sizes(shape[:2])
        clamp = self.conv_clamp
        if clamp is None and dtype != jnp.float32:
            clamp = _LOW_PRECISION_CLAMP
        common = {
            "channel_base": self.channel_base,
            "channel_max": self.channel_max,
            "conv_clamp": clamp,
            "num_classes": num_classes,
            "low_precision_resolutions": self.low_precision_resolutions,
            "dtype": dtype,
        }
        return {
            "generator": Generator(
                tuple(shape),
                self.z_dim,
                self.w_dim,
                self.mapping_layers,
                architecture=self.architecture,
                mixing_probability=self.mixing_probability,
                mean_decay=self.mean_decay,
                **common,
            ),
            "discriminator": Discriminator(
                architecture=self.d_architecture,
                mbstd_group_size=self.mbstd_group_size,
                **common,
            ),
            "latents": latents.normal(self.z_dim),
        }
