"""Penalties on the discriminator, per example and without weight.

A penalty is `(discriminate, real_images, fake_images, key) -> (B,)`, where `discriminate` maps
images to logits (B,). Per-example gradients are taken as the gradient of the summed logits, which
is exact as long as the discriminator does not mix examples; with batch norm or minibatch statistics
it also holds what one example does to the logits of the others.

`Term` adds a weight and an interval; `PENALTIES` names the penalties for configurations.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ganjax import axes
from ganjax.types import Array, Key

Discriminate = Callable[[Array], Array]


class Term(NamedTuple):
    """A weighted addition to a player's loss.

    Attributes:
      name: its key in `state.hyperparameters`, where the weight is read each step, and in the
        metrics as `penalty/<name>`.
      function: for the discriminator a penalty; for the generator
        `(generate, latents, key) -> (B,)`.
      weight: the initial weight.
      interval: 1 adds the term to the loss of every step. A larger one makes it lazy: every
        `interval` steps it gets an update of its own with `interval` times the weight (Karras et
        al. 2020, arXiv:1912.04958, appendix B); `ganjax.adam` corrects the optimizer for
        it.
    """

    name: str
    function: Callable[..., Array]
    weight: float
    interval: int = 1


def r1(discriminate: Discriminate, real_images: Array, fake_images: Array, key: Key) -> Array:
    """Half the squared gradient norm at real images; the weight is the paper's gamma.

    References:
      Mescheder et al. 2018, arXiv:1801.04406, equation 9.
    """
    del fake_images, key
    return 0.5 * _squared_norm(_image_gradients(discriminate, real_images))


def r2(discriminate: Discriminate, real_images: Array, fake_images: Array, key: Key) -> Array:
    """Half the squared gradient norm at fake images; the weight is the paper's gamma.

    References:
      Mescheder et al. 2018, arXiv:1801.04406, equation 10.
    """
    del real_images, key
    return 0.5 * _squared_norm(_image_gradients(discriminate, fake_images))


def gradient_penalty(
    discriminate: Discriminate, real_images: Array, fake_images: Array, key: Key
) -> Array:
    """Squared distance of the gradient norm from 1, between real and fake; the weight is lambda.

    The gradient is taken at points drawn uniformly from the lines that join each real image with a
    fake one.

    References:
      Gulrajani et al. 2017, arXiv:1704.00028, equation 3 (lambda = 10).
    """
    batch = real_images.shape[0]
    shape = (1,) * (real_images.ndim - 1)
    mix = axes.draw(lambda key, n: jax.random.uniform(key, (n, *shape)), key, batch)
    between = real_images + mix * (fake_images - real_images)
    # The epsilon keeps the gradient of the root finite where a gradient vanishes.
    norm = jnp.sqrt(_squared_norm(_image_gradients(discriminate, between)) + 1e-12)
    return jnp.square(norm - 1)


def _image_gradients(discriminate, images):
    return jax.grad(lambda images: jnp.sum(discriminate(images)))(images)


def _squared_norm(gradients):
    gradients = gradients.astype(jnp.promote_types(gradients.dtype, jnp.float32))
    return jnp.sum(jnp.square(gradients), axis=tuple(range(1, gradients.ndim)))


def clip_weights(limit: float) -> Callable:
    """Return the projection of parameters onto [-limit, limit], for `Optimizer.constraint`.

    References:
      Arjovsky et al. 2017, Wasserstein GAN, arXiv:1701.07875 (limit = 0.01).

    >>> float(clip_weights(0.25)({"w": jnp.ones(())})["w"])
    0.25
    """
    if limit <= 0:
        raise ValueError(f"the limit of weight clipping has to be positive, got {limit}")
    return lambda params: jax.tree.map(lambda w: jnp.clip(w, -limit, limit), params)


PENALTIES: dict[str, Callable[..., Array]] = {
    "r1": r1,
    "r2": r2,
    "gradient_penalty": gradient_penalty,
}
