"""ADA's colour transforms: one random affine map of colour space an image.

References:
  Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, arXiv:2006.06676,
  appendix B.
"""

import math

import jax.numpy as jnp
import numpy as np

from ganjax.augment.matrices import product
from ganjax.augment.numbers import Numbers
from ganjax.augment.pipes import Pipe
from ganjax.types import Array

_IDENTITY = np.eye(3, dtype=np.float32)
# Projection on the axis of greys, (1, 1, 1) / sqrt(3), and the cross product with it.
_LUMA = np.full((3, 3), 1 / 3, np.float32)
_CROSS = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.float32(math.sqrt(3))


def transform(images: Array, numbers: Numbers, pipe: Pipe) -> Array:
    """Change the colours of each image.

    Args:
      images: (B, H, W, C), of three channels (red, green, blue) or one.
      numbers: random numbers of the batch.
      pipe: which transforms there are; at least one of colours.

    Raises:
      ValueError: for another number of channels.
    """
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise ValueError(
            f"ADA's colour transforms know images of 1 or 3 channels, got {channels}; take a pipe "
            'without them, such as "bg"'
        )
    linear, offset = _maps(numbers, pipe, chromatic=channels == 3)
    linear, offset = linear.astype(images.dtype), offset.astype(images.dtype)
    if channels == 1:
        # The mean over three channels of what happens to a grey.
        gain, shift = jnp.sum(linear, axis=(1, 2)) / 3, jnp.mean(offset, axis=1)
        return images * gain[:, None, None, None] + shift[:, None, None, None]
    mixed = sum(images[..., i, None] * linear[:, None, None, :, i] for i in range(3))
    return mixed + offset[:, None, None]


def _maps(numbers: Numbers, pipe: Pipe, chromatic: bool) -> tuple[Array, Array]:
    """Return the linear parts (B, 3, 3) and offsets (B, 3) of the maps."""
    batch = len(numbers.values["hue"])
    linear, offset = jnp.broadcast_to(_IDENTITY, (batch, 3, 3)), jnp.zeros((batch, 3))

    def pick(name, value, identity):
        return numbers.pick(name, getattr(pipe, name), value, identity)[..., None]  # (B, 1, 1)

    if pipe.brightness:
        shift = pick("brightness", numbers.values["brightness"] * pipe.brightness_std, 0.0)
        offset = offset + shift[..., 0]
    changes = []
    if pipe.contrast:
        gain = jnp.exp2(numbers.values["contrast"] * pipe.contrast_std)
        changes.append(_IDENTITY * pick("contrast", gain, 1.0))
    if pipe.lumaflip:
        flip = pick("lumaflip", jnp.floor(2 * numbers.values["lumaflip"]), 0.0)
        changes.append(_IDENTITY - 2 * flip * _LUMA)
    if pipe.hue and chromatic:
        angle = pick("hue", (2 * numbers.values["hue"] - 1) * (math.pi * pipe.hue_max), 0.0)
        # Rodrigues' formula for the rotation around the axis of greys.
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        changes.append(cosine * _IDENTITY + sine * _CROSS + (1 - cosine) * _LUMA)
    if pipe.saturation and chromatic:
        gain = jnp.exp2(numbers.values["saturation"] * pipe.saturation_std)
        changes.append(_LUMA + (_IDENTITY - _LUMA) * pick("saturation", gain, 1.0))
    for change in changes:
        linear, offset = product(change, linear), product(change, offset[..., None])[..., 0]
    return linear, offset
