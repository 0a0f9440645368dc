"""Finding the latent whose image is nearest to a given one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ganjax.types import Array, InputError, Key, as_float_images


class Projection(NamedTuple):
    """What came of a projection.

    Attributes:
      points: (B, ...) where the images are.
      images: (B, H, W, C) float32 in [-1, 1], what the generator makes there.
      distances: (num_steps + 1, B), on the way and at the end.
    """

    points: Array
    images: Array
    distances: Array


def mean_squared_distance(features: Array, others: Array) -> Array:
    """Return the mean squared difference of each pair, (B,)."""
    return jnp.mean(jnp.square(features - others), axis=tuple(range(1, features.ndim)))


def project(
    generate: Callable[[Array], Array],
    images: Array | np.ndarray,
    start: Array,
    *,
    features: Callable[[Array], Array] | None = None,
    num_steps: int = 500,
    learning_rate: float = 0.1,
    spread: Array | float = 1.0,
    exploration: float = 0.05,
    key: Key | None = None,
) -> Projection:
    """Move points of a latent space until their images are near to given ones.

    Adam, whose learning rate rises over the first twentieth and falls over the last quarter; the
    points are shaken while they move, less and less over the first three quarters, as in the
    official projector of StyleGAN2. All images are projected at once, each by itself.

    Args:
      generate: points (B, ...) -> images (B, H, W, C) in [-1, 1], pure and differentiable.
      images: (B, H, W, C), uint8 or float in [-1, 1].
      start: (B, ...) points to start from.
      features: images (B, H, W, C) -> an array (B, ...) in whose mean squared difference images are
        compared, such as activations of a network; by default their pixels.
      num_steps: updates.
      learning_rate: of Adam at its highest.
      spread: standard deviation of the points of the space, in which `exploration` counts.
      exploration: standard deviation of the shaking at the beginning.
      key: of the shaking; by default `jax.random.key(0)`.

    Raises:
      ValueError: the images are not of the shape that `generate` makes.

    References:
      Karras et al. 2020, arXiv:1912.04958, appendix D.

    >>> found = project(lambda z: z.reshape(-1, 2, 2, 1), jnp.full((3, 2, 2, 1), 0.5),
    ...                 jnp.zeros((3, 4)), num_steps=200)
    >>> bool(jnp.allclose(found.points, 0.5, atol=1e-2))
    True
    """
    if num_steps < 1 or not learning_rate > 0:
        raise ValueError(
            f"a projection takes 1 step or more and a positive learning rate, got {num_steps} and "
            f"{learning_rate}"
        )
    target = as_float_images(jnp.asarray(images))
    made = jax.eval_shape(generate, start)
    if made.shape != target.shape:
        raise ValueError(
            f"the generator makes images of shape {made.shape} from these points, the images to "
            f"project have the shape {target.shape}"
        )
    features = features or (lambda images: images)
    key = jax.random.key(0) if key is None else key
    adam = optax.scale_by_adam(0.9, 0.999)

    @jax.jit
    def run(start, target, key):
        wanted = features(target)

        def distances(points):
            return mean_squared_distance(features(generate(points)), wanted)

        def step(carry, index):
            points, opt_state = carry
            done = index / num_steps
            shake = spread * exploration * jnp.maximum(0.0, 1 - done / 0.75) ** 2
            noise = jax.random.normal(jax.random.fold_in(key, index), points.shape)

            def loss(points):
                each = distances(points + shake * noise)
                return jnp.sum(each), each

            (_, each), gradient = jax.value_and_grad(loss, has_aux=True)(points)
            update, opt_state = adam.update(gradient, opt_state)
            fall = 0.5 - 0.5 * jnp.cos(jnp.pi * jnp.minimum(1.0, (1 - done) / 0.25))
            rate = learning_rate * fall * jnp.minimum(1.0, (index + 1) / max(1, num_steps // 20))
            return (points - rate * update, opt_state), each

        carry = start, adam.init(start)
        (points, _), way = jax.lax.scan(step, carry, jnp.arange(num_steps))
        return points, generate(points), jnp.concatenate([way, distances(points)[None]])

    found = Projection(*run(start, target, key))
    if not bool(jnp.all(jnp.isfinite(found.distances[-1]))):
        raise InputError("the projection diverged; lower the learning rate")
    return found
