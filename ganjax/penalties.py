"""Penalties and other terms of the losses, per example and without weight.

A penalty is `(discriminate, real_images, fake_images, key) -> (B,)`, where `discriminate` maps
images to logits (B,). Per-example gradients are taken as the gradient of the summed logits, which
is exact as long as the discriminator does not mix examples; with batch norm or minibatch statistics
it also holds what one example does to the logits of the others.

`Term` adds a weight and an interval; `PENALTIES` names the penalties, and for
configurations `DISCRIMINATOR_TERMS` and `GENERATOR_TERMS` name what may be added to either loss.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ganjax import axes
from ganjax.types import Array, Key

Discriminate = Callable[[Array], Array]


class Stateful(NamedTuple):
    """The function of a term that remembers something between steps.

    Attributes:
      init: `() -> memory`, a tree of arrays, kept in `TrainState.running`.
      apply: `(memory, *arguments) -> (values (B,), noted)`, with the arguments of a term without
        memory; `noted` is a tree of means over the local batch.
      update: `(memory, noted) -> memory`, after the term's update; `noted` are means over the
        global batch.
    """

    init: Callable[[], Any]
    apply: Callable[..., tuple[Array, Any]]
    update: Callable[[Any, Any], Any]


class Term(NamedTuple):
    """A weighted addition to a player's loss.

    Attributes:
      name: its key in `state.hyperparameters`, where the weight is read each step, and in the
        metrics as `penalty/<name>`.
      function: for the discriminator a penalty; for the generator
        `(generate, latents, key) -> (B,)`; or a `Stateful` of one. `discriminate` and `generate`
        are the views of `ganjax.views`, which hold labels and class logits as well.
      weight: the initial weight.
      interval: 1 adds the term to the loss of every step. A larger one makes it lazy: every
        `interval` steps it gets an update of its own with `interval` times the weight (Karras et
        al. 2020, arXiv:1912.04958, appendix B); `ganjax.adam` corrects the optimizer for
        it.
    """

    name: str
    function: Callable[..., Array] | Stateful
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
    # In a train step the very pass over fake images that the loss makes; a plain function has one.
    discriminate = getattr(discriminate, "on_fake", discriminate)
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


def classify_real(discriminate: Any, real_images: Array, fake_images: Array, key: Key) -> Array:
    """Cross-entropy of an auxiliary classifier on real images, for the discriminator.

    References:
      Odena et al. 2017, AC-GAN, arXiv:1610.09585; Gulrajani et al. 2017, arXiv:1704.00028, weigh it
      by 1 here and by 0.1 in the generator.
    """
    del fake_images, key
    return _cross_entropy(discriminate.output(real_images), discriminate.labels)


def classify_real_and_fake(
    discriminate: Any, real_images: Array, fake_images: Array, key: Key
) -> Array:
    """Cross-entropy of an auxiliary classifier on real and fake images, as in AC-GAN's paper.

    References:
      Odena et al. 2017, arXiv:1610.09585, section 3.
    """
    real = classify_real(discriminate, real_images, fake_images, key)
    return real + _cross_entropy(discriminate.fake_output(fake_images), discriminate.labels)


def classify_generated(generate: Any, latents: Array, key: Key) -> Array:
    """Cross-entropy of the discriminator's auxiliary classifier, for the generator.

    References:
      Odena et al. 2017, arXiv:1610.09585.
    """
    del key
    return _cross_entropy(generate.discriminate(generate(latents)), generate.labels)


def _cross_entropy(output, labels):
    if output.class_logits is None or labels is None:
        raise ValueError(
            "an auxiliary classification needs labels and a discriminator with class logits: set "
            "num_classes, and conditioning='auxiliary' where the network offers it"
        )
    log_probabilities = jax.nn.log_softmax(output.class_logits.astype(jnp.float32))
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    return -jnp.sum(labels * log_probabilities, axis=1)


def path_lengths(synthesize: Callable[[Array], Array], styles: Array, noise: Array) -> Array:
    """Return how far each image moves for a unit step of its styles.

    Args:
      synthesize: `(styles) -> images (B, H, W, C)`.
      styles: (B, num_styles, dimension).
      noise: of the images' shape, standard normal: the direction in image space.

    Returns:
      (B,), norms of the Jacobian's transpose times the noise, over pixels, as a root mean square
      over the styles.

    References:
      Karras et al. 2020, arXiv:1912.04958, equation 4.
    """
    scale = math.sqrt(noise.shape[1] * noise.shape[2])
    gradients = jax.grad(lambda styles: jnp.sum(synthesize(styles) * noise) / scale)(styles)
    # The epsilon keeps the gradient of the root finite where nothing depends on the styles.
    return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(gradients), axis=2), axis=1) + 1e-16)


def path_length(decay: float = 0.01, batch_shrink: int = 2) -> Stateful:
    """Squared distance of path lengths from their running mean, for a generator with styles.

    Args:
      decay: share of the batch in the running mean.
      batch_shrink: take every n-th example only, to save memory.

    References:
      Karras et al. 2020, arXiv:1912.04958, section 3.2 (weight 2, interval 4, decay 0.01).
    """

    def apply(mean, generate, latents, key):
        if generate.map is None:
            raise ValueError("path length is defined for generators with styles, such as StyleGAN2")
        labels = generate.labels
        styles = generate.map(
            latents[::batch_shrink], None if labels is None else labels[::batch_shrink]
        )
        shape = jax.eval_shape(generate.synthesize, styles).shape
        noise = axes.draw(lambda key, n: jax.random.normal(key, (n, *shape[1:])), key, shape[0])
        lengths = path_lengths(generate.synthesize, styles, noise)
        fixed = jax.lax.stop_gradient(lengths)
        batch_mean = axes.global_mean(jnp.mean(fixed))
        target = mean + decay * (batch_mean - mean)
        # The official target moves with the weights by its share of the batch. Written per example
        # that is a term without value, whose gradient is the same in every layout.
        moving = 2 * decay * (batch_mean - target) * (lengths - fixed)
        return jnp.square(lengths - target) - moving, batch_mean

    def update(mean, batch_mean):
        return mean + decay * (batch_mean - mean)

    return Stateful(lambda: jnp.float32(0), apply, update)


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
DISCRIMINATOR_TERMS: dict[str, Callable[..., Array] | Stateful] = {
    **PENALTIES,
    "classify_real": classify_real,
    "classify_real_and_fake": classify_real_and_fake,
}
GENERATOR_TERMS: dict[str, Callable[..., Array] | Stateful] = {
    "path_length": path_length(),
    "classify_generated": classify_generated,
}
