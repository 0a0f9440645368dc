import json
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ganjax import latents, sharding
from ganjax.networks import conv_vae
from ganjax.types import InputError, Network, Optimizer
from ganjax.vae import (
    LIKELIHOODS,
    Likelihood,
    bernoulli_log_prob,
    gaussian_log_prob,
    kl_divergence,
    negative_elbo,
    reconstruct,
    vae,
)

SHAPE = (8, 8, 1)
METRICS = {
    "loss/negative_elbo",
    "loss/reconstruction",
    "loss/kl",
    "grad_norm/encoder",
    "grad_norm/decoder",
}


class DenseEncoder(nn.Module):
    """What the algorithm's own tests take: it compiles in a fraction of the time."""

    num_classes: int = 0

    @nn.compact
    def __call__(self, images, labels=None):
        x = images.reshape(len(images), -1)
        if self.num_classes:
            x = jnp.concatenate([x, jax.nn.one_hot(labels, self.num_classes)], axis=-1)
        x = nn.tanh(nn.Dense(16)(x))
        return nn.Dense(4)(x), nn.Dense(4)(x)


class DenseDecoder(nn.Module):
    shape: Sequence[int]
    num_classes: int = 0

    @nn.compact
    def __call__(self, z, labels=None):
        if self.num_classes:
            z = jnp.concatenate([z, jax.nn.one_hot(labels, self.num_classes)], axis=-1)
        return nn.Dense(math.prod(self.shape))(nn.tanh(nn.Dense(16)(z))).reshape(-1, *self.shape)


def networks(num_classes=0):
    return {
        "encoder": DenseEncoder(num_classes),
        "decoder": DenseDecoder(SHAPE, num_classes),
        "latents": latents.normal(4),
    }


def batch_of(size=16, shape=SHAPE, num_classes=0, seed=0):
    random = np.random.default_rng(seed)
    batch = {"image": random.integers(0, 256, (size, *shape), dtype=np.uint8)}
    if num_classes:
        batch["label"] = random.integers(0, num_classes, size).astype(np.int32)
    return jax.tree.map(jnp.asarray, batch)


# With an unbounded mean, so that an affine decoder has a posterior in closed form.
PLAIN_GAUSSIAN = Likelihood(gaussian_log_prob, lambda mean: mean, has_stddev=True)


def affine(weight, bias, log_variance=None):
    """Return a network of one affine map; with `log_variance` an encoder."""

    def apply(variables, inputs, labels=None, *, train, key=None):
        del labels, train, key
        outputs = inputs.reshape(len(inputs), -1) @ variables["params"]["weight"] + bias
        if log_variance is None:
            return outputs.reshape(-1, 1, 1, outputs.shape[-1]), {}
        return (outputs, jnp.broadcast_to(log_variance, outputs.shape)), {}

    params = {"params": {"weight": jnp.asarray(weight)}}
    return params, Network(lambda *_: params, apply)


def linear_gaussian(noise_variance, seed=0):
    """Return probabilistic PCA, p(x|z) = N(W z + b, noise_variance), with its exact posterior."""
    random = np.random.default_rng(seed)
    # Orthogonal columns: the true posterior is then diagonal, and the bound is tight.
    basis, _ = np.linalg.qr(random.normal(size=(5, 2)))
    weight = (basis * [1.3, 0.4]).T  # (2, 5)
    bias = random.normal(size=5)
    variance = noise_variance / (np.sum(weight**2, axis=1) + noise_variance)
    to_mean = weight.T * variance / noise_variance  # (5, 2)
    decoder = affine(weight, bias)
    encoder = affine(to_mean, -bias @ to_mean, np.log(variance))
    covariance = weight.T @ weight + noise_variance * np.eye(5)
    images = random.multivariate_normal(bias, covariance, size=7)
    _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
    centered = images - bias
    evidence = -0.5 * (
        np.einsum("ni,ij,nj->n", centered, np.linalg.inv(covariance), centered) + log_determinant
    )
    return encoder, decoder, images, evidence


def expected_elbo(encoder_pair, decoder_pair, images, stddev):
    """Return the bound's expectation over the noise, and the divergence, each (B,).

    The log-likelihood is quadratic in the noise, so the corners of the square give it exactly.
    """
    (encoder_params, encoder), (decoder_params, decoder) = encoder_pair, decoder_pair
    bounds = []
    for corner in [(a, b) for a in (-1.0, 1.0) for b in (-1.0, 1.0)]:
        reconstruction, kl, _ = negative_elbo(
            {"encoder": encoder_params, "decoder": decoder_params},
            jnp.asarray(images, jnp.float32).reshape(-1, 1, 1, 5),
            None,
            jnp.broadcast_to(jnp.array(corner), (len(images), 2)),
            encoder=encoder,
            decoder=decoder,
            likelihood=PLAIN_GAUSSIAN,
            stddev=stddev,
        )
        bounds.append(-(reconstruction + kl))
    return np.mean(bounds, axis=0), kl


@pytest.mark.parametrize("stddev", [0.3, 1.0])
def test_elbo_of_the_exact_posterior_is_the_evidence(stddev):
    encoder, decoder, images, evidence = linear_gaussian(stddev**2)
    bound, _ = expected_elbo(encoder, decoder, images, stddev)
    np.testing.assert_allclose(bound, evidence, rtol=2e-5)


def test_elbo_of_another_posterior_is_below_the_evidence_by_its_divergence():
    (exact, _), decoder, images, evidence = linear_gaussian(1.0)
    # The prior as posterior: the divergence from it is 0, that from the true posterior is not.
    prior = affine(np.zeros((5, 2)), np.zeros(2), np.zeros(2))
    bound, kl = expected_elbo(prior, decoder, images, 1.0)
    np.testing.assert_array_equal(kl, 0)
    params, network = decoder
    variance = 1 / (np.sum(np.square(params["params"]["weight"]), axis=1) + 1)
    bias = np.asarray(network.apply(params, jnp.zeros((1, 2)), train=False)[0]).ravel()
    mean = (images - bias) @ np.asarray(exact["params"]["weight"])
    # KL(N(0, 1) || N(mean, variance)), summed over both latents
    gap = 0.5 * np.sum((1 + mean**2) / variance - 1 + np.log(variance), axis=1)
    np.testing.assert_allclose(bound, evidence - gap, rtol=2e-5)


def test_kl_is_that_of_the_densities():
    mean, log_variance = np.array([[0.7, -1.2]]), np.array([[-0.5, 0.8]])
    # One coordinate at a time, by integration.
    z = np.linspace(-15, 15, 200_001)
    expected = 0.0
    for m, v in zip(mean[0], np.exp(log_variance[0]), strict=True):
        log_q = -0.5 * ((z - m) ** 2 / v + np.log(2 * np.pi * v))
        log_p = -0.5 * (z**2 + np.log(2 * np.pi))
        expected += np.sum(np.exp(log_q) * (log_q - log_p)) * (z[1] - z[0])
    np.testing.assert_allclose(
        kl_divergence(jnp.array(mean), jnp.array(log_variance)), [expected], rtol=1e-5
    )


def test_kl_is_zero_at_the_prior_and_exact_near_it():
    tiny = jnp.full((1, 1), 1e-4)
    assert kl_divergence(jnp.zeros((1, 3)), jnp.zeros((1, 3))) == 0
    np.testing.assert_allclose(kl_divergence(tiny, 0 * tiny), [5e-9], rtol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_bernoulli_log_prob_is_the_cross_entropy(size):
    random = np.random.default_rng(0)
    logits = random.normal(size=(size, 4, 3, 2)).astype(np.float32)
    pixels = random.uniform(size=(size, 4, 3, 2))
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = pixels * np.log(probability) + (1 - pixels) * np.log1p(-probability)
    result = bernoulli_log_prob(jnp.array(logits), jnp.array(2 * pixels - 1))
    np.testing.assert_allclose(result, expected.sum(axis=(1, 2, 3)), rtol=1e-5)


def test_bernoulli_log_prob_of_certain_pixels_is_finite():
    images = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    logits = jnp.array([[1e4, -1e4], [1e4, -1e4]])
    np.testing.assert_array_equal(bernoulli_log_prob(logits, images), [0, -2e4])


def test_gaussian_log_prob_is_the_density():
    random = np.random.default_rng(0)
    mean, images = random.normal(size=(2, 3, 4, 5, 1))
    density = np.exp(-0.5 * ((images - mean) / 0.3) ** 2) / np.sqrt(2 * np.pi * 0.3**2)
    result = gaussian_log_prob(jnp.array(mean), jnp.array(images), 0.3)
    np.testing.assert_allclose(result, np.log(density).sum(axis=(1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_is_highest_where_its_mean_is_the_image(name):
    likelihood = LIKELIHOODS[name]
    images = jnp.linspace(-0.9, 0.9, 7).reshape(7, 1)
    candidates = jnp.linspace(-4, 4, 2001)
    values = jax.vmap(lambda c: likelihood.log_prob(jnp.full((7, 1), c), images, 0.2))(candidates)
    best = likelihood.mean(candidates[jnp.argmax(values, axis=0)])
    np.testing.assert_allclose(best, images[:, 0], atol=3e-3)
    assert jnp.all(jnp.abs(likelihood.mean(jnp.array([-9.0, 9.0]))) <= 1)


@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "dtype"),
    [
        pytest.param("bernoulli", (8, 8, 1), 0, "float32", marks=pytest.mark.slow),
        pytest.param("gaussian", (6, 9, 3), 3, "float32", marks=pytest.mark.slow),
        pytest.param("bernoulli", (8, 8, 3), 3, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_training_contract_of_the_convolutional_networks(
    quick_jit, name, shape, num_classes, dtype
):
    config = conv_vae.ConvVAE(latent_dim=4, width=4, hidden=16)
    algorithm = vae(
        **config.build(shape, num_classes, dtype),
        likelihood=name,
        num_classes=num_classes,
        ema_half_life_images=100.0,
        optimizer=Optimizer(optax.scale_by_adam(), 3e-3),
    )
    traces = []

    def counted(state, batch):
        traces.append(1)
        return algorithm.train_step(state, batch)

    step = quick_jit(counted)
    state = quick_jit(algorithm.init)(jax.random.key(0))
    batch = batch_of(shape=shape, num_classes=num_classes)
    tree, history = jax.tree.map(lambda a: (a.shape, a.dtype), state), []
    for _ in range(20):
        state, metrics = step(state, batch)
        history.append(metrics)
    assert len(traces) == 1
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == tree
    for metrics in (history[0], history[-1]):
        assert set(metrics) == METRICS
        assert all(v.shape == () and v.dtype == jnp.float32 for v in metrics.values())
        assert all(np.isfinite(v) for v in metrics.values())
    assert history[-1]["loss/negative_elbo"] < history[0]["loss/negative_elbo"]

    samples = quick_jit(algorithm.sample, static_argnums=2)(state, jax.random.key(1), 5)
    assert samples.shape == (5, *shape)
    assert samples.dtype == jnp.float32
    assert jnp.all(jnp.abs(samples) <= 1)
    sums = quick_jit(algorithm.evaluate)(state, batch, jax.random.key(2))
    assert set(sums) == {"elbo", "reconstruction", "kl", "count"}
    assert sums["count"] == 16
    np.testing.assert_allclose(sums["elbo"], -sums["reconstruction"] - sums["kl"], rtol=1e-5)


@pytest.mark.slow
def test_a_gradient_step_lowers_the_negative_elbo(quick_jit):
    """With the very noise that the gradient was taken with."""
    algorithm = vae(**networks(), optimizer=optax.sgd(1e-4))
    state = algorithm.init(jax.random.key(0))
    batch = batch_of()
    step = quick_jit(algorithm.train_step)
    new, before = step(state, batch)
    _, after = step(state.replace(players=new.players), batch)
    # First order: minus the rate times the squared gradient norm.
    expected = -1e-4 * (before["grad_norm/encoder"] ** 2 + before["grad_norm/decoder"] ** 2)
    change = after["loss/negative_elbo"] - before["loss/negative_elbo"]
    np.testing.assert_allclose(change, expected, rtol=0.2)


@pytest.mark.slow
def test_a_tiny_set_is_learned_and_reconstructed(quick_jit):
    images = np.zeros((2, 8, 8, 1), np.uint8)
    images[0, :4], images[1, :, 4:] = 255, 255
    batch = {"image": jnp.asarray(images.repeat(8, axis=0))}
    pieces = networks()
    algorithm = vae(**pieces, optimizer=optax.adam(1e-2))
    state, history = quick_jit(
        lambda state: jax.lax.scan(lambda s, _: algorithm.train_step(s, batch), state, length=400)
    )(algorithm.init(jax.random.key(0)))
    # Two equally likely images: the evidence cannot be above minus log 2.
    assert math.log(2) < jnp.median(history["loss/negative_elbo"][-50:]) < 2
    arguments = (pieces["encoder"], pieces["decoder"], "bernoulli", state)
    result = reconstruct(*arguments, jnp.asarray(images))
    np.testing.assert_allclose(result, images / 127.5 - 1.0, atol=0.1)
    np.testing.assert_array_equal(result, reconstruct(*arguments, jnp.asarray(images / 127.5 - 1)))


@pytest.mark.slow
def test_beta_weighs_the_divergence_and_can_be_swept(quick_jit):
    algorithm = vae(**networks(), beta=4.0, optimizer=optax.sgd(1e-4))
    state = algorithm.init(jax.random.key(0))
    assert state.hyperparameters == {"beta": 4.0}

    step = quick_jit(algorithm.train_step)

    def update(beta):
        hyperparameters = {"beta": jnp.float32(beta)}
        new, _ = step(state.replace(hyperparameters=hyperparameters), batch_of())
        change = jax.tree.map(jnp.subtract, new.players, state.players)
        return np.concatenate([np.ravel(a) for a in jax.tree.leaves(change)])

    none, one, four = update(0.0), update(1.0), update(4.0)
    assert np.abs(one - none).max() > 1e-5
    np.testing.assert_allclose(four - none, 4 * (one - none), atol=1e-6)


@pytest.mark.slow
def test_hyperparameters_by_name(quick_jit):
    algorithm = vae(
        **networks(),
        likelihood="gaussian",
        stddev=0.5,
        optimizer=Optimizer(optax.identity(), 1e-4),
        ema_half_life_images=50.0,
    )
    state = algorithm.init(jax.random.key(0))
    assert {name: float(value) for name, value in state.hyperparameters.items()} == {
        "beta": 1.0,
        "stddev": 0.5,
        "learning_rate": pytest.approx(1e-4),
        "ema_half_life_images": 50.0,
    }
    frozen = {**state.hyperparameters, "learning_rate": jnp.float32(0)}
    new, _ = quick_jit(algorithm.train_step)(state.replace(hyperparameters=frozen), batch_of())
    for a, b in zip(jax.tree.leaves(new.players), jax.tree.leaves(state.players), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_average_of_both_networks_is_what_sample_evaluate_and_reconstruct_take(quick_jit):
    pieces = networks()
    algorithm = vae(**pieces, ema_half_life_images=16.0, optimizer=optax.adam(1e-2))
    batch = batch_of()
    start = algorithm.init(jax.random.key(0))
    state, _ = quick_jit(algorithm.train_step)(start, batch)
    assert set(state.ema) == {"encoder", "decoder"}
    # The half-life is one batch.
    for name in ("encoder", "decoder"):
        middle = jax.tree.map(
            lambda a, b: 0.5 * (a + b), start.players[name].params, state.players[name].params
        )
        for a, b in zip(
            jax.tree.leaves(state.ema[name]["params"]), jax.tree.leaves(middle), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-6)
    averaged = state.replace(
        players={n: p.replace(params=state.ema[n]["params"]) for n, p in state.players.items()},
        ema={},
    )
    key = jax.random.key(1)
    np.testing.assert_array_equal(
        algorithm.sample(state, key, 3), algorithm.sample(averaged, key, 3, ema=False)
    )
    assert jnp.any(algorithm.sample(state, key, 3) != algorithm.sample(state, key, 3, ema=False))
    assert algorithm.evaluate(state, batch, key) == algorithm.evaluate(averaged, batch, key)
    arguments = (pieces["encoder"], pieces["decoder"], "bernoulli")
    np.testing.assert_array_equal(
        reconstruct(*arguments, state, batch["image"]),
        reconstruct(*arguments, averaged, batch["image"]),
    )


@pytest.mark.slow
def test_sample_takes_latents_labels_and_truncation():
    algorithm = vae(**networks(num_classes=3), num_classes=3)
    state = algorithm.init(jax.random.key(0))
    key = jax.random.key(1)
    z = jax.random.normal(jax.random.key(2), (4, 4))
    every = algorithm.sample(state, key, 4, latents=z)
    np.testing.assert_array_equal(
        every, algorithm.sample(state, jax.random.key(3), 4, jnp.array([0, 1, 2, 0]), latents=z)
    )
    assert jnp.any(every != algorithm.sample(state, key, 4, jnp.array([1, 1, 2, 0]), latents=z))
    typical = algorithm.sample(state, key, 64, jnp.zeros(64, jnp.int32), truncation=0.01)
    spread = algorithm.sample(state, key, 64, jnp.zeros(64, jnp.int32))
    assert jnp.std(typical, axis=0).mean() < 0.1 * jnp.std(spread, axis=0).mean()


@pytest.mark.slow
def test_scan_equals_the_loop(quick_jit):
    algorithm = vae(**networks(), ema_half_life_images=100.0, optimizer=optax.sgd(1e-3))
    batches = jax.tree.map(lambda *a: jnp.stack(a), *(batch_of(seed=i) for i in range(4)))
    start = algorithm.init(jax.random.key(0))
    scanned, stacked = quick_jit(lambda s, b: jax.lax.scan(algorithm.train_step, s, b))(
        start, batches
    )
    looped = start
    step = quick_jit(algorithm.train_step)
    for i in range(4):
        looped, metrics = step(looped, jax.tree.map(lambda a, i=i: a[i], batches))
    for a, b in zip(
        jax.tree.leaves((scanned.players, scanned.ema)),
        jax.tree.leaves((looped.players, looped.ema)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stacked["loss/kl"][-1], metrics["loss/kl"], rtol=1e-5)
    assert scanned.step == 4


@pytest.mark.parametrize("micro_batches", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_micro_batches_equal_the_full_batch(quick_jit, micro_batches):
    batch = batch_of(num_classes=3)
    results = []
    for parts in (1, micro_batches):
        algorithm = vae(
            **networks(num_classes=3),
            num_classes=3,
            optimizer=optax.sgd(1e-3),
            micro_batches=parts,
        )
        results.append(quick_jit(algorithm.train_step)(algorithm.init(jax.random.key(0)), batch))
    (whole, metrics), (parts, other_metrics) = results
    for name in METRICS:
        np.testing.assert_allclose(other_metrics[name], metrics[name], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_each_step_draws_its_own_noise_and_resuming_draws_the_same(quick_jit):
    algorithm = vae(**networks(), optimizer=optax.sgd(0.0))
    step = quick_jit(algorithm.train_step)
    state, first = step(algorithm.init(jax.random.key(0)), batch_of())
    _, second = step(state, batch_of())
    assert first["loss/kl"] == second["loss/kl"]  # no learning, no noise in it
    assert first["loss/reconstruction"] != second["loss/reconstruction"]
    _, again = step(jax.tree.map(jnp.array, state), batch_of())
    assert again == second
    _, other = step(state.replace(rollbacks=jnp.int32(1)), batch_of())
    assert other["loss/reconstruction"] != second["loss/reconstruction"]


def test_the_new_state_can_take_the_memory_of_the_old(quick_jit):
    algorithm = vae(**networks(), ema_half_life_images=100.0)
    state = algorithm.init(jax.random.key(0))
    step = quick_jit(algorithm.train_step, donate_argnums=0)
    for _ in range(2):
        state, _ = step(state, batch_of())


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"likelihood": "poisson"}, InputError, "likelihood has to be one of bernoulli, gaussian"),
        ({"beta": -1.0}, ValueError, "beta has to be 0 or more, got -1.0"),
        ({"stddev": 0.0}, ValueError, "stddev has to be positive, got 0.0"),
        ({"micro_batches": 0}, ValueError, "micro_batches has to be 1 or more, got 0"),
        ({"latents": latents.uniform(4)}, ValueError, "take latents=ganjax.latents.normal.4."),
    ],
)
def test_refused_options(options, kind, message):
    with pytest.raises(kind, match=message):
        vae(**{**networks(), **options})


@pytest.mark.slow
def test_refused_batches_and_networks():
    algorithm = vae(**networks())
    state = algorithm.init(jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"images of shape \(8, 8, 1\), .* images of shape \(8, 9, 1\)"
    ):
        algorithm.train_step(state, batch_of(shape=(8, 9, 1)))
    with pytest.raises(ValueError, match=r"a batch needs the entries \['image'\], got \['x'\]"):
        algorithm.train_step(state, {"x": jnp.zeros((2, *SHAPE))})
    with pytest.raises(ValueError, match=r"needs the entries \['image', 'label'\]"):
        vae(**networks(num_classes=3), num_classes=3).evaluate(state, batch_of(), jax.random.key(0))
    with pytest.raises(InputError, match="labels were given"):
        algorithm.sample(state, jax.random.key(0), 2, jnp.zeros(2, jnp.int32))
    algorithm = vae(**{**networks(), "latents": latents.normal(5)})
    with pytest.raises(ValueError, match=r"of shape \(16, 5\) for latents of length 5"):
        algorithm.train_step(algorithm.init(jax.random.key(0)), batch_of())
    algorithm = vae(**{**networks(), "encoder": DenseDecoder((2, 3))})
    with pytest.raises(ValueError, match=r"return \(mean, log_variance\), .*, got \(\d+, 2, 3\)"):
        algorithm.train_step(algorithm.init(jax.random.key(0)), batch_of())


LAYOUTS_PROGRAM = """
    import json
    import jax, numpy as np, optax
    from ganjax import sharding
    from ganjax.networks import conv_vae
    from ganjax.vae import vae

    algorithm = vae(
        **conv_vae.ConvVAE(latent_dim=4, width=4, hidden=16).build((8, 8, 1), 3, "float32"),
        num_classes=3,
        optimizer=optax.sgd(1e-3),
        ema_half_life_images=100.0,
    )
    start = jax.jit(algorithm.init)(jax.random.key(0))
    random = np.random.default_rng(0)
    batches = [
        {
            "image": random.integers(0, 256, (32, 8, 8, 1), dtype=np.uint8),
            "label": random.integers(0, 3, 32).astype(np.int32),
        }
        for _ in range(5)
    ]

    def flat(state):
        leaves = jax.tree.leaves((state.players, state.ema))
        return np.concatenate([np.ravel(a) for a in leaves])

    def run(num_devices, layout):
        mesh = sharding.make_mesh(jax.devices()[:num_devices])
        step = sharding.train_step(algorithm, mesh, layout, donate=False)
        state = sharding.replicate(start, mesh)
        for batch in batches:
            state, metrics = step(state, sharding.shard_batch(batch, mesh))
            jax.block_until_ready(metrics)
        return flat(state), np.array([metrics[name] for name in sorted(metrics)])

    state, metrics = run(1, "jit")
    moved = np.linalg.norm(state - flat(start))
    results = {}
    for layout in sharding.LAYOUTS:
        other_state, other_metrics = run(8, layout)
        results[layout] = [
            float(np.linalg.norm(other_state - state) / moved),
            float(np.max(np.abs(other_metrics / metrics - 1))),
        ]
    print(json.dumps(results))
"""


@pytest.mark.slow
def test_every_layout_on_eight_devices_computes_what_one_device_does():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LAYOUTS_PROGRAM)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": "64"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    errors = json.loads(result.stdout.splitlines()[-1])
    assert sorted(errors) == sorted(sharding.LAYOUTS)
    for layout, (state_error, metrics_error) in errors.items():
        # The state's is relative to how far training moved it.
        assert state_error < 1e-5, layout
        assert metrics_error < 1e-5, layout
