import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax import losses

REAL = np.array([-2.0, -0.3, 0.0, 1.0, 4.0], np.float32)
FAKE = np.array([1.5, -1.0, 0.2, -3.0, 0.5], np.float32)


def probability(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


p, q = probability(REAL), probability(FAKE)
CLOSED_FORMS = {
    "minimax": (-np.log(p) - np.log(1 - q), np.log(1 - q)),
    "non_saturating": (-np.log(p) - np.log(1 - q), -np.log(q)),
    "non_saturating_smoothed": (
        -0.9 * np.log(p) - 0.1 * np.log(1 - p) - np.log(1 - q),
        -np.log(q),
    ),
    "hinge": (np.maximum(0, 1 - REAL) + np.maximum(0, 1 + FAKE), -FAKE),
    "wasserstein": (FAKE - REAL, -FAKE),
    "least_squares": (0.5 * (REAL - 1) ** 2 + 0.5 * FAKE**2, 0.5 * (FAKE - 1) ** 2),
    "relativistic": (-np.log(probability(REAL - FAKE)), -np.log(probability(FAKE - REAL))),
}


def test_every_loss_has_a_closed_form_here():
    assert set(CLOSED_FORMS) == set(losses.LOSSES)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_closed_form(name):
    loss = losses.LOSSES[name]
    discriminator, generator = CLOSED_FORMS[name]
    logits = {"real_logits": jnp.asarray(REAL), "fake_logits": jnp.asarray(FAKE)}
    for function, expected in ((loss.discriminator, discriminator), (loss.generator, generator)):
        values = function(**logits)
        assert values.shape == (5,)
        assert values.dtype == jnp.float32
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_players_pull_in_opposite_directions(name):
    loss = losses.LOSSES[name]
    # Between the targets of least squares and inside the margins of hinge.
    logits = jnp.linspace(0.1, 0.9, 5)

    def gradient(function, argument):
        def total(value):
            given = {"real_logits": logits, "fake_logits": logits, argument: value}
            return jnp.sum(function(**given))

        return np.asarray(jax.grad(total)(logits))

    assert (gradient(loss.discriminator, "real_logits") < 0).all()
    assert (gradient(loss.discriminator, "fake_logits") > 0).all()
    assert (gradient(loss.generator, "fake_logits") < 0).all()
    reads_real = gradient(loss.generator, "real_logits").any()
    assert reads_real == loss.generator_needs_real


@pytest.mark.parametrize("name", losses.LOSSES)
def test_large_logits_stay_finite(name):
    loss = losses.LOSSES[name]
    logits = {"real_logits": jnp.array([1e4, -1e4]), "fake_logits": jnp.array([-1e4, 1e4])}
    for function in (loss.discriminator, loss.generator):
        value, gradient = jax.value_and_grad(lambda logits, f=function: jnp.sum(f(**logits)))(
            logits
        )
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_the_generator_without_saturation_learns_where_it_loses_worst():
    far = jnp.array([-20.0])
    slope = {
        name: float(
            jax.grad(
                lambda f, n=name: losses.LOSSES[n].generator(real_logits=None, fake_logits=f)[0]
            )(far)[0]
        )
        for name in ("minimax", "non_saturating")
    }
    assert abs(slope["minimax"]) < 1e-6
    assert slope["non_saturating"] == pytest.approx(-1, abs=1e-6)


def test_smoothing_puts_the_optimum_at_the_target():
    loss = losses.cross_entropy(real_target=0.8, fake_target=0.3)

    def total(logits):
        return loss.discriminator(real_logits=logits[:1], fake_logits=logits[1:])[0]

    best = jnp.log(jnp.array([0.8 / 0.2, 0.3 / 0.7]))
    np.testing.assert_allclose(jax.grad(total)(best), 0, atol=1e-6)
    # One-sided or not, the generator still aims at "real".
    np.testing.assert_allclose(
        loss.generator(real_logits=None, fake_logits=jnp.zeros(1)), np.log(2), rtol=1e-6
    )


@pytest.mark.parametrize("targets", [{"real_target": 1.1}, {"fake_target": -0.1}])
def test_targets_are_probabilities(targets):
    with pytest.raises(ValueError, match=r"targets have to lie in \[0, 1\], got"):
        losses.cross_entropy(**targets)
