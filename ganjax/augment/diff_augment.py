"""DiffAugment: three simple augmentations that always happen, to real and generated images alike.

References:
  Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training, arXiv:2006.10738.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ganjax import axes
from ganjax.augment.base import Augment, memoryless
from ganjax.types import Array, InputError, Key

_TRANSLATION = 1 / 8
_CUTOUT = 0.5


def diff_augment(policy: str = "color,translation,cutout") -> Augment:
    """Augment every image by each policy named, in that order.

    "color" adds a brightness of U(-0.5, 0.5), scales what differs from the pixel's grey by U(0, 2)
    (saturation; nothing to scale in one channel) and what differs from the image's mean by
    U(0.5, 1.5) (contrast). "translation" moves by up to an eighth of the size, with zeros (grey)
    coming in. "cutout" sets a rectangle of half the size to zero, centred anywhere.

    Args:
      policy: names joined by commas.

    Raises:
      InputError: for a name that is none of the three.

    >>> augment = diff_augment("translation,cutout")
    >>> augment.apply((), jnp.ones((2, 8, 12, 3)), jax.random.key(0)).shape
    (2, 8, 12, 3)
    """
    names = [name.strip() for name in policy.split(",")]
    for name in names:
        if name not in _POLICIES:
            raise InputError(
                f"a policy of DiffAugment is one or several of {', '.join(_POLICIES)}, joined by "
                f"commas; got {name!r} in {policy!r}"
            )

    def apply(images, key):
        for index, name in enumerate(names):
            images = _POLICIES[name](images, jax.random.fold_in(key, index))
        return images

    return memoryless(apply)


def _color(images: Array, key: Key) -> Array:
    numbers = axes.draw(lambda key, n: jax.random.uniform(key, (n, 3)), key, images.shape[0])
    numbers = numbers.astype(images.dtype)[..., None, None, None]
    brightness, saturation, contrast = numbers[:, 0], numbers[:, 1], numbers[:, 2]
    images = images + (brightness - 0.5)
    grey = jnp.mean(images, axis=3, keepdims=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    return (images - mean) * (contrast + 0.5) + mean


def _translation(images: Array, key: Key) -> Array:
    reach = [int(size * _TRANSLATION + 0.5) for size in images.shape[1:3]]

    def sample(key, n):
        keys = jax.random.split(key)
        pairs = zip(keys, reach, strict=True)
        return jnp.stack([jax.random.randint(k, (n,), 0, 2 * most + 1) for k, most in pairs], -1)

    starts = axes.draw(sample, key, images.shape[0])
    padded = jnp.pad(images, ((0, 0), *((most, most) for most in reach), (0, 0)))

    def crop(image, start):
        return lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, starts)


def _cutout(images: Array, key: Key) -> Array:
    sizes = images.shape[1:3]
    cuts = [int(size * _CUTOUT + 0.5) for size in sizes]

    def sample(key, n):
        keys = jax.random.split(key)
        # The centre; an even rectangle may lie wholly on either side of a pixel's edge.
        ends = [size + 1 - cut % 2 for size, cut in zip(sizes, cuts, strict=True)]
        pairs = zip(keys, ends, strict=True)
        return jnp.stack([jax.random.randint(k, (n,), 0, end) for k, end in pairs], -1)

    starts = axes.draw(sample, key, images.shape[0]) - jnp.array([cut // 2 for cut in cuts])

    def inside(axis):
        distance = jnp.arange(sizes[axis]) - starts[:, axis, None]
        return (distance >= 0) & (distance < cuts[axis])

    cut = inside(0)[:, :, None, None] & inside(1)[:, None, :, None]
    return jnp.where(cut, jnp.zeros((), images.dtype), images)


_POLICIES: dict[str, Callable[[Array, Key], Array]] = {
    "color": _color,
    "translation": _translation,
    "cutout": _cutout,
}
