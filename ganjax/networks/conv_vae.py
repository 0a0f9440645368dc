"""The convolutional encoder and decoder of a variational autoencoder.

The encoder halves the image until its smaller side is at most 7 and the decoder starts at that
size, so that any height, width and number of channels go in and come out. There is no batch norm:
the noise of its statistics would come on top of that of the latents, and without it the bound of an
image does not depend on the other images of its batch.

References:
  Kingma and Welling 2013, Auto-Encoding Variational Bayes, arXiv:1312.6114.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ganjax import latents
from ganjax.networks import layers
from ganjax.types import Array

SMALLEST_SIDE = 7

# He et al. 2015, arXiv:1502.01852: keeps the scale through ReLU layers that nothing normalises.
he_init = nn.initializers.he_normal()


class Encoder(nn.Module):
    """Images (B, H, W, C) in [-1, 1] and labels (B,) or None -> mean, log variance of the latents.

    Both results are (B, latent_dim). Labels are embedded and join the last features.
    """

    latent_dim: int
    width: int = 32
    hidden: int = 256
    kernel_size: int = 4
    num_classes: int = 0
    embedding_dim: int = 50
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, labels: Array | None = None) -> tuple[Array, Array]:
        layers.require_labels(labels, self.num_classes)
        x = images.astype(self.dtype)
        num_layers = max(1, len(layers.halved_sizes(x.shape[1:3], SMALLEST_SIDE)) - 1)
        for layer in range(num_layers):
            x = layers.Conv(
                self.width * 2**layer,
                (self.kernel_size,) * 2,
                strides=2,
                dtype=self.dtype,
                kernel_init=he_init,
            )(x)
            x = nn.relu(x)
        x = x.reshape(x.shape[0], -1)
        if self.num_classes:
            embedding = layers.LabelEmbedding(self.num_classes, self.embedding_dim)(labels)
            x = jnp.concatenate([x, embedding.astype(self.dtype)], axis=-1)
        x = nn.relu(nn.Dense(self.hidden, kernel_init=he_init, dtype=self.dtype)(x))
        # In float32: the bound takes the exponential of the log variance.
        x = nn.Dense(2 * self.latent_dim)(x.astype(jnp.float32))
        mean, log_variance = jnp.split(x, 2, axis=-1)
        return mean, log_variance


class Decoder(nn.Module):
    """Latents (B, latent_dim) and labels (B,) or None -> (B, H, W, C), float32 and unbounded.

    What the outputs mean is the likelihood's choice: for "bernoulli" the logits, for "gaussian" the
    mean before a tanh. Labels are embedded and join the latents.
    """

    image_shape: Sequence[int]
    width: int = 32
    hidden: int = 256
    kernel_size: int = 4
    num_classes: int = 0
    embedding_dim: int = 50
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: Array, labels: Array | None = None) -> Array:
        layers.require_labels(labels, self.num_classes)
        *size, channels = self.image_shape
        sizes = layers.halved_sizes(size, SMALLEST_SIDE)[::-1]
        x = latents
        if self.num_classes:
            embedding = layers.LabelEmbedding(self.num_classes, self.embedding_dim)(labels)
            x = jnp.concatenate([x, embedding], axis=-1)
        features = self.width * 2 ** max(0, len(sizes) - 2)
        for units in (self.hidden, sizes[0][0] * sizes[0][1] * features):
            x = nn.relu(nn.Dense(units, kernel_init=he_init, dtype=self.dtype)(x))
        x = x.reshape(-1, *sizes[0], features)
        for larger in sizes[1:]:
            last = larger == sizes[-1]
            features = channels if last else features // 2
            x = layers.ConvTranspose(
                features,
                (self.kernel_size,) * 2,
                strides=2,
                output_size=larger,
                dtype=self.dtype,
                kernel_init=layers.normal_init if last else he_init,
            )(x)
            if not last:
                x = nn.relu(x)
        if len(sizes) == 1:
            x = layers.Conv(channels, (3, 3), dtype=self.dtype)(x)
        return x.astype(jnp.float32)


@dataclass(frozen=True)
class ConvVAE:
    """A convolutional variational autoencoder (Kingma and Welling 2013, arXiv:1312.6114)."""

    latent_dim: int = 32
    """Length of the latent."""
    width: int = 32
    """Channels of the layers next to the image; each layer further in has twice as many."""
    hidden: int = 256
    """Units of the fully connected layer between convolutions and latent, in both networks."""
    kernel_size: int = 4
    """Height and width of every strided kernel."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return `encoder`, `decoder` and `latents` for images of `shape` (H, W, C).

        >>> sorted(ConvVAE().build((28, 28, 1), 0, jnp.float32))
        ['decoder', 'encoder', 'latents']
        """
        if len(shape) != 3:
            raise ValueError(
                f"conv_vae makes images of shape (H, W, C), but the data has shape {tuple(shape)}"
            )
        common = {
            "width": self.width,
            "hidden": self.hidden,
            "kernel_size": self.kernel_size,
            "num_classes": num_classes,
            "dtype": dtype,
        }
        return {
            "encoder": Encoder(self.latent_dim, **common),
            "decoder": Decoder(tuple(shape), **common),
            "latents": latents.normal(self.latent_dim),
        }
