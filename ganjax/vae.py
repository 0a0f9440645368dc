"""Variational autoencoders as an `Algorithm`, and the bound that they raise.

Every number is in nats per image: a log-likelihood is a sum over pixels and channels. The bound

    ELBO = E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z)) <= log p(x)

takes one draw of z from the encoder's diagonal normal q; the divergence from the prior p, a
standard normal, is exact.

References:
  Kingma and Welling 2013, Auto-Encoding Variational Bayes, arXiv:1312.6114.
  Higgins et al. 2017, beta-VAE, openreview.net/forum?id=Sy2fzU9gl.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ganjax import axes, ema, players
from ganjax.latents import Latents
from ganjax.networks.layers import as_network, require_choice
from ganjax.types import (
    Algorithm,
    Array,
    Batch,
    Key,
    Metrics,
    Network,
    Optimizer,
    TrainState,
    as_float_images,
    step_key,
)

PLAYERS = ("encoder", "decoder")


class Likelihood(NamedTuple):
    """How a decoder's outputs (B, H, W, C) stand for a distribution of images.

    Attributes:
      log_prob: `(outputs, images, stddev) -> (B,)` in nats, for images in [-1, 1].
      mean: `outputs -> images`, the mean of the distribution, in [-1, 1].
      has_stddev: whether `log_prob` reads `stddev`.
    """

    log_prob: Callable[[Array, Array, Array | None], Array]
    mean: Callable[[Array], Array]
    has_stddev: bool = False


def bernoulli_log_prob(logits: Array, images: Array, stddev: Array | None = None) -> Array:
    """Return minus the cross-entropy between pixels, mapped to [0, 1], and their probabilities.

    The log-likelihood of a coin for black and white pixels. For grey ones it is no density, as in
    most of the literature (Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845), so that its values
    compare with each other but neither with a Gaussian's nor as bits per dimension.

    Args:
      logits: (B, ...).
      images: (B, ...) in [-1, 1].
      stddev: not read.

    Returns:
      (B,), at most 0.
    """
    del stddev
    pixels = 0.5 * (images + 1)
    return _sum_pixels(pixels * logits - jax.nn.softplus(logits))


def gaussian_log_prob(mean: Array, images: Array, stddev: Array) -> Array:
    """Return the log-density of images under a normal with one standard deviation for all pixels.

    A density on [-1, 1]: for 8-bit images the bits per dimension are
    `log2(127.5) - elbo / (H * W * C * log(2))`, where the steps between their grey levels are
    small against `stddev`.

    Args:
      mean: (B, ...).
      images: (B, ...) in [-1, 1].
      stddev: scalar, on the scale of the images.

    Returns:
      (B,).
    """
    log_scale = jnp.log(stddev) + 0.5 * math.log(2 * math.pi)
    return _sum_pixels(-0.5 * jnp.square((images - mean) / stddev) - log_scale)


def _tanh_gaussian_log_prob(outputs, images, stddev):
    return gaussian_log_prob(jnp.tanh(outputs), images, stddev)


# Both squash: an unbounded mean leaves grey mist where images are black.
LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Likelihood(bernoulli_log_prob, lambda logits: 2 * jax.nn.sigmoid(logits) - 1),
    "gaussian": Likelihood(_tanh_gaussian_log_prob, jnp.tanh, has_stddev=True),
}


def kl_divergence(mean: Array, log_variance: Array) -> Array:
    """Return the divergence of diagonal normals from the standard normal.

    Args:
      mean: (B, D).
      log_variance: (B, D).

    Returns:
      (B,) in nats, `0.5 * sum(mean**2 + variance - 1 - log_variance)`.

    >>> kl_divergence(jnp.ones((1, 4)), jnp.zeros((1, 4)))
    Array([2.], dtype=float32)
    """
    # expm1: near the prior the sum would otherwise be the rounding error of exp(0) - 1.
    terms = jnp.square(mean) + jnp.expm1(log_variance) - log_variance
    return 0.5 * jnp.sum(terms, axis=-1)


def negative_elbo(
    variables: Mapping[str, Any],
    images: Array,
    labels: Array | None,
    noise: Array,
    key: Key | None = None,
    *,
    encoder: Network,
    decoder: Network,
    likelihood: Likelihood,
    stddev: Array | float | None = None,
    train: bool = True,
) -> tuple[Array, Array, dict[str, Any]]:
    """Return both parts of minus the bound, image by image.

    Args:
      variables: those of the networks, by the names "encoder" and "decoder".
      images: (B, H, W, C) in [-1, 1].
      labels: (B,) or None.
      noise: (B, D), standard normal; the latents are `mean + exp(log_variance / 2) * noise`.
      key: random key of the networks' own noise, such as dropout.
      encoder: images, labels -> mean, log_variance, each (B, D).
      decoder: latents, labels -> outputs (B, H, W, C) as the likelihood reads them.
      likelihood: of the images.
      stddev: of the likelihood, where it has one.
      train: as in `Network.apply`.

    Returns:
      (reconstruction, kl, variables): minus the log-likelihood (B,), the divergence (B,), and the
      collections but `"params"`, by network.

    Raises:
      ValueError: a network's outputs do not have the shape of the images or of the latents.
    """
    encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)

    def decode(latents):
        return decoder.apply(variables["decoder"], latents, labels, train=train, key=decoder_key)

    made = jax.eval_shape(decode, noise)[0].shape
    if made != images.shape:
        raise ValueError(
            f"the decoder makes images of shape {made[1:]}, the batch holds images of shape "
            f"{images.shape[1:]}; build it for the shape of the data"
        )
    encoded, updated_encoder = encoder.apply(
        variables["encoder"], images, labels, train=train, key=encoder_key
    )
    mean, log_variance = _as_moments(encoded, noise.shape)
    latents = mean + jnp.exp(0.5 * log_variance) * noise
    outputs, updated_decoder = decode(latents)
    reconstruction = -likelihood.log_prob(outputs.astype(jnp.float32), images, stddev)
    updated = {"encoder": updated_encoder, "decoder": updated_decoder}
    return reconstruction, kl_divergence(mean, log_variance), updated


def vae(
    encoder: Any,
    decoder: Any,
    *,
    latents: Latents,
    likelihood: str | Likelihood = "bernoulli",
    stddev: float = 0.2,
    beta: float = 1.0,
    optimizer: players.AnyOptimizer | None = None,
    num_classes: int = 0,
    ema_half_life_images: float | None = None,
    ema_ramp_up: float | None = None,
    micro_batches: int = 1,
) -> Algorithm:
    """Return the training of an encoder and a decoder on the evidence lower bound.

    One step is one update of both networks on `reconstruction + beta * kl`, in nats per image. The
    metrics `loss/reconstruction` and `loss/kl` are its parts, `loss/negative_elbo` their plain sum,
    whatever beta is.

    Args:
      encoder: Linen module or `Network`: images, labels -> mean, log_variance, each (B, D).
      decoder: Linen module or `Network`: latents, labels -> outputs (B, H, W, C) as the likelihood
        reads them: unbounded, for "bernoulli" the logits, for "gaussian" the mean before a tanh.
      latents: the prior, `ganjax.latents.normal(D)`.
      likelihood: a name in `LIKELIHOODS`, or a `Likelihood`.
      stddev: of the Gaussian likelihood, on the scale of images in [-1, 1]; kept in
        `state.hyperparameters["stddev"]`. It weighs errors against the divergence as beta does:
        `beta * stddev ** 2` decides which networks are best. The bound is highest where it equals
        the root mean squared error of the reconstructions (Rybkin et al. 2021, arXiv:2006.13202),
        which the default is about for Fashion-MNIST; a larger one makes for cleaner samples.
      beta: weight of the divergence; kept in `state.hyperparameters["beta"]`.
      optimizer: of both networks, with a state for each: an Optax transformation, or an `Optimizer`
        whose learning rate is kept in `state.hyperparameters["learning_rate"]`. By default Adam,
        1e-3.
      num_classes: 0 for unconditional networks; batches then need no `"label"`.
      ema_half_life_images: half-life of the running average of both networks in images, or None
        for no average; kept in `state.hyperparameters["ema_half_life_images"]`.
      ema_ramp_up: see `ganjax.ema.decay`.
      micro_batches: parts of a batch over which gradients are accumulated.

    Returns:
      An `Algorithm` for batches of `"image"`, and `"label"` int32 (B,) in [0, num_classes). Its
      `sample` returns means of the likelihood, not draws from it. Its `evaluate` returns sums of
      `"elbo"`, `"reconstruction"` (minus the log-likelihood) and `"kl"` over the batch, with one
      draw of the latents for each image; like `sample` it takes the running average where there is
      one.

    Raises:
      InputError: the likelihood has no such name.
      ValueError: a number is out of its range, or the prior is not normal.

    >>> from ganjax import latents
    >>> from ganjax.networks import conv_vae
    >>> networks = conv_vae.ConvVAE(width=4, hidden=8).build((8, 8, 1), 0, jnp.float32)
    >>> algorithm = vae(**networks)
    >>> state = algorithm.init(jax.random.key(0))
    >>> step = jax.jit(algorithm.train_step, donate_argnums=0)
    >>> state, metrics = step(state, {"image": jnp.zeros((16, 8, 8, 1))})
    >>> sorted(metrics)[2:]
    ['loss/kl', 'loss/negative_elbo', 'loss/reconstruction']
    """
    networks = {"encoder": as_network(encoder), "decoder": as_network(decoder)}
    likelihood = _as_likelihood(likelihood)
    optimizer = optimizer or optax.adam(1e-3)
    players.check_positive(micro_batches=micro_batches)
    if beta < 0:
        raise ValueError(f"beta has to be 0 or more, got {beta}")
    if not stddev > 0:
        raise ValueError(f"stddev has to be positive, got {stddev}")
    if not latents.spherical:
        raise ValueError(
            "the prior of a VAE is the standard normal; take latents=ganjax.latents.normal"
            f"({latents.dimension})"
        )
    prior = latents

    def init(key: Key) -> TrainState:
        encoder_key, decoder_key, run_key, latent_key = jax.random.split(key, 4)
        z = prior.sample(latent_key, 2)
        labels = jnp.zeros(2, jnp.int32) if num_classes else None
        variables = {"decoder": networks["decoder"].init(decoder_key, z, labels)}
        images, _ = networks["decoder"].apply(
            variables["decoder"], z, labels, train=True, key=decoder_key
        )
        variables["encoder"] = networks["encoder"].init(
            encoder_key, images.astype(jnp.float32), labels
        )
        hyperparameters = {"beta": jnp.float32(beta)}
        if likelihood.has_stddev:
            hyperparameters["stddev"] = jnp.float32(stddev)
        if isinstance(optimizer, Optimizer):
            hyperparameters["learning_rate"] = jnp.float32(optimizer.learning_rate)
        average = {}
        if ema_half_life_images is not None:
            hyperparameters["ema_half_life_images"] = jnp.float32(ema_half_life_images)
            average = jax.tree.map(jnp.array, {name: dict(variables[name]) for name in PLAYERS})
        return TrainState(
            step=jnp.int32(0),
            rollbacks=jnp.int32(0),
            key=run_key,
            players={name: players.init_player(variables[name], optimizer) for name in PLAYERS},
            ema=average,
            augment=(),
            hyperparameters=hyperparameters,
            running={},
        )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        (batch,) = players.unstack(batch, 1, num_classes)
        num_local = batch["image"].shape[0]
        # Drawn here and not in the objective, so that micro-batches take their share of it.
        noise = axes.draw(prior.sample, step_key(state, "latents"), num_local)

        def objective(params, variables, batch, key):
            reconstruction, kl, updated = negative_elbo(
                {name: {"params": params[name], **variables[name]} for name in PLAYERS},
                as_float_images(batch["image"]),
                batch.get("label"),
                batch["noise"],
                key,
                **networks,
                likelihood=likelihood,
                stddev=state.hyperparameters.get("stddev"),
            )
            metrics = {
                "loss/negative_elbo": jnp.mean(reconstruction + kl),
                "loss/reconstruction": jnp.mean(reconstruction),
                "loss/kl": jnp.mean(kl),
            }
            return jnp.mean(reconstruction + state.hyperparameters["beta"] * kl), (updated, metrics)

        (_, (variables, metrics)), gradients = players.value_and_grad(objective, micro_batches)(
            {name: state.players[name].params for name in PLAYERS},
            {name: state.players[name].variables for name in PLAYERS},
            {**batch, "noise": noise},
            step_key(state, "networks"),
        )
        updated = {}
        for name in PLAYERS:
            metrics[f"grad_norm/{name}"] = optax.tree.norm(gradients[name])
            updated[name] = players.apply_gradients(
                state.players[name],
                gradients[name],
                optimizer,
                learning_rate=state.hyperparameters.get("learning_rate"),
                step=state.step,
            ).replace(variables=variables[name])
        average = state.ema
        if average:
            num_images = num_local * axes.num_shares()
            keep = ema.decay(
                state.hyperparameters["ema_half_life_images"],
                num_images,
                state.step * num_images,
                ema_ramp_up,
            )
            new = {name: players.all_variables(updated[name]) for name in PLAYERS}
            average = ema.update(average, new, keep)
        state = state.replace(step=state.step + 1, players=updated, ema=average)
        return state, axes.global_mean(metrics)

    def sample(
        state: TrainState,
        key: Key,
        num_samples: int,
        labels: Array | None = None,
        *,
        latents: Array | None = None,
        truncation: float | None = None,
        ema: bool = True,
    ) -> Array:
        latent_key, network_key = jax.random.split(key)
        if latents is None:
            latents = prior.sample(latent_key, num_samples, truncation)
        labels = players.default_labels(labels, num_samples, num_classes)
        outputs, _ = networks["decoder"].apply(
            _variables(state, ema)["decoder"], latents, labels, train=False, key=network_key
        )
        return likelihood.mean(outputs.astype(jnp.float32))

    def evaluate(state: TrainState, batch: Batch, key: Key) -> Metrics:
        (batch,) = players.unstack(batch, 1, num_classes)
        count = batch["image"].shape[0]
        latent_key, network_key = jax.random.split(key)
        reconstruction, kl, _ = negative_elbo(
            _variables(state, ema=True),
            as_float_images(batch["image"]),
            batch.get("label"),
            axes.draw(prior.sample, latent_key, count),
            network_key,
            **networks,
            likelihood=likelihood,
            stddev=state.hyperparameters.get("stddev"),
            train=False,
        )
        return {
            "elbo": -jnp.sum(reconstruction + kl),
            "reconstruction": jnp.sum(reconstruction),
            "kl": jnp.sum(kl),
            "count": jnp.float32(count),
        }

    return Algorithm(init, train_step, sample, evaluate)


def reconstruct(
    encoder: Any,
    decoder: Any,
    likelihood: str | Likelihood,
    state: TrainState,
    images: Array,
    labels: Array | None = None,
    *,
    ema: bool = True,
) -> Array:
    """Return what the decoder makes of the mean latent of each image.

    Args:
      encoder: as in `vae`.
      decoder: as in `vae`.
      likelihood: as in `vae`.
      state: of the training.
      images: (B, H, W, C), uint8 or float in [-1, 1].
      labels: (B,) for networks with classes.
      ema: take the running average of the networks where there is one.

    Returns:
      (B, H, W, C), float32 in [-1, 1]; `ganjax.pictures.reconstructions` shows them in pairs.
    """
    encoder, decoder = as_network(encoder), as_network(decoder)
    variables = _variables(state, ema)
    images = as_float_images(jnp.asarray(images))
    (mean, _), _ = encoder.apply(variables["encoder"], images, labels, train=False, key=None)
    outputs, _ = decoder.apply(variables["decoder"], mean, labels, train=False, key=None)
    return _as_likelihood(likelihood).mean(outputs.astype(jnp.float32))


def _variables(state: TrainState, ema: bool) -> Mapping[str, Any]:
    if ema and state.ema:
        return state.ema
    return {name: players.all_variables(state.players[name]) for name in PLAYERS}


def _as_likelihood(likelihood: str | Likelihood) -> Likelihood:
    if isinstance(likelihood, Likelihood):
        return likelihood
    require_choice("likelihood", likelihood, LIKELIHOODS)
    return LIKELIHOODS[likelihood]


def _as_moments(encoded: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return mean and log variance in float32, checked."""
    shapes = [getattr(a, "shape", None) for a in encoded] if isinstance(encoded, tuple) else None
    if shapes != [shape, shape]:
        raise ValueError(
            f"an encoder has to return (mean, log_variance), each of shape {shape} for latents of "
            f"length {shape[-1]}, got {shapes or getattr(encoded, 'shape', encoded)}"
        )
    mean, log_variance = encoded
    return mean.astype(jnp.float32), log_variance.astype(jnp.float32)


def _sum_pixels(values: Array) -> Array:
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))
