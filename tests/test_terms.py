"""Terms that see more than logits, terms that remember, and what changes on a schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ganjax
from ganjax import axes, build, config, latents, losses, penalties, players
from ganjax.networks import dcgan
from ganjax.penalties import Stateful, Term
from ganjax.types import DiscriminatorOutput, InputError, Network, Optimizer

BATCH, DIM, CLASSES = 8, 3, 3
KEY = jax.random.key(0)
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 2, 2, 1)), jnp.float32)
LABELS = jnp.arange(BATCH) % CLASSES


def style_generator():
    """Two styles an image, each a product of latents and weights; images bend with the styles."""

    def init(key, z, labels):
        w, v = jax.random.split(key)
        params = {
            "w": jax.random.normal(w, (z.shape[-1], 2)),
            "v": jax.random.normal(v, (2, 4)),
        }
        return {"params": params, "style_mean": {"mean": jnp.zeros(2)}}

    def map_latents(variables, z, labels, *, train, key, truncation=1.0):
        del labels, key
        mean = variables["style_mean"]["mean"]
        styles = z @ variables["params"]["w"]
        if train:
            mean = mean + 0.1 * (axes.global_mean(jnp.mean(styles, axis=0)) - mean)
        styles = mean + truncation * (styles - mean)
        return jnp.stack([styles, styles], axis=1), {"style_mean": {"mean": mean}}

    def synthesize(variables, styles, *, train, key):
        del train, key
        pixels = jnp.tanh(styles.sum(1) @ variables["params"]["v"]) + styles[:, 0, :1] ** 2
        others = {name: value for name, value in variables.items() if name != "params"}
        return pixels.reshape(-1, 2, 2, 1), others

    def apply(variables, z, labels, *, train, key):
        styles, others = map_latents(variables, z, labels, train=train, key=key)
        return synthesize(variables, styles, train=train, key=key)[0], others

    return Network(init, apply, map_latents, synthesize)


def classifying_critic():
    """Logits and class logits, linear in the image."""

    def init(key, images, labels):
        size = int(np.prod(images.shape[1:]))
        return {"params": {"w": jax.random.normal(key, (size, 1 + CLASSES))}}

    def apply(variables, images, labels, *, train, key):
        del labels, train, key
        out = images.reshape(images.shape[0], -1) @ variables["params"]["w"]
        return DiscriminatorOutput(out[:, 0], out[:, 1:]), {}

    return Network(init, apply)


def training(**options):
    defaults = {
        "latents": latents.normal(DIM),
        "generator_optimizer": optax.sgd(0.1),
        "discriminator_optimizer": optax.sgd(0.1),
    }
    return ganjax.gan(style_generator(), classifying_critic(), **defaults | options)


QUICK = {"xla_backend_optimization_level": 0}


def run(algorithm, steps=1, batch=None, state=None):
    state = algorithm.init(KEY) if state is None else state
    step = jax.jit(algorithm.train_step, compiler_options=QUICK)
    for _ in range(steps):
        state, metrics = step(state, batch or {"image": IMAGES, "label": LABELS})
    return state, metrics


def params(state, name):
    return state.players[name].params


# Terms that remember.


def counting(initial=1.0):
    """The loss moves the memory's multiple of a weight; the memory counts the updates."""

    def apply(memory, discriminate, real_images, fake_images, key):
        values = memory["count"] * discriminate(real_images)
        return values, {"mean": jnp.mean(real_images)}

    def update(memory, noted):
        return {"count": memory["count"] + 1, "seen": noted["mean"]}

    return Stateful(lambda: {"count": jnp.float32(initial), "seen": jnp.float32(0)}, apply, update)


@pytest.mark.parametrize(("interval", "updates"), [(1, 4), (2, 2)])
def test_a_term_finds_what_it_remembered(interval, updates):
    algorithm = training(discriminator_terms=[Term("count", counting(), 1.0, interval)])
    state, metrics = run(algorithm, 4)
    assert state.running["memory/count"]["count"] == 1 + updates
    np.testing.assert_allclose(state.running["memory/count"]["seen"], jnp.mean(IMAGES), rtol=1e-5)
    assert "penalty/count" in metrics
    assert not [name for name in metrics if name.startswith("memory")]


def test_what_is_remembered_enters_the_loss():
    once = training(discriminator_terms=[Term("count", counting(1.0), 1.0)])
    twice = training(discriminator_terms=[Term("count", counting(2.0), 0.5)])
    for ours, theirs in zip(
        jax.tree.leaves(params(run(once)[0], "discriminator")),
        jax.tree.leaves(params(run(twice)[0], "discriminator")),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


# Path length.


def test_path_lengths_of_a_linear_synthesis():
    # J is constant, so that each length is the norm of J^T y, over both styles in the mean.
    a = jax.random.normal(KEY, (2, 4))
    styles = jnp.zeros((3, 2, 2))
    noise = jax.random.normal(jax.random.key(1), (3, 2, 2, 1))

    def synthesize(styles):
        return (styles[:, 0] @ a).reshape(-1, 2, 2, 1)  # the second style does nothing

    lengths = penalties.path_lengths(synthesize, styles, noise)
    flat = noise.reshape(3, 4) @ a.T / 2  # the root of 2 * 2 pixels
    np.testing.assert_allclose(lengths, jnp.sqrt(jnp.sum(flat**2, 1) / 2), rtol=1e-5)


@pytest.mark.slow
def test_the_path_length_term_is_the_official_one():
    """Value and gradient where the running mean is part of what is differentiated."""
    term = penalties.path_length(decay=0.3, batch_shrink=1)
    generator = style_generator()
    z = jax.random.normal(jax.random.key(2), (BATCH, DIM))
    variables = generator.init(KEY, z, None)
    noise_key = jax.random.key(5)

    def view(weights):
        all_variables = {**variables, "params": weights}

        class View:
            labels = None

            def map(self, z, labels):
                return generator.map(all_variables, z, labels, train=False, key=None)[0]

            def synthesize(self, styles):
                return generator.synthesize(all_variables, styles, train=True, key=None)[0]

        return View()

    def official(weights):
        see = view(weights)
        noise = jax.random.normal(noise_key, (BATCH, 2, 2, 1))
        lengths = penalties.path_lengths(see.synthesize, see.map(z, None), noise)
        target = 1.5 + 0.3 * (jnp.mean(lengths) - 1.5)
        return jnp.mean((lengths - target) ** 2), jnp.mean(lengths)

    def ours(weights):
        values, noted = term.apply(jnp.float32(1.5), view(weights), z, noise_key)
        return jnp.mean(values), noted

    (expected, mean), gradient = jax.value_and_grad(official, has_aux=True)(variables["params"])
    (value, noted), own = jax.value_and_grad(ours, has_aux=True)(variables["params"])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(noted, mean, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(term.update(jnp.float32(1.0), jnp.float32(2.0)), 1.3, rtol=1e-6)


def test_path_length_trains_and_tracks_its_mean():
    algorithm = training(
        generator_terms=[Term("path_length", penalties.path_length(), 0.01, 2)],
        generator_optimizer=ganjax.adam(1e-3, lazy_interval=2),
    )
    state, metrics = run(algorithm, 3)
    assert state.running["memory/path_length"] > 0
    assert np.isfinite(metrics["penalty/path_length"])


@pytest.mark.slow
def test_path_length_needs_styles():
    algorithm = ganjax.gan(
        dcgan.Generator((8, 8, 1), width=4),
        dcgan.Discriminator(width=4),
        latents=latents.normal(4),
        generator_terms=[Term("path_length", penalties.path_length(), 1.0)],
    )
    state = algorithm.init(KEY)
    with pytest.raises(ValueError, match="path length is defined for generators with styles"):
        jax.eval_shape(algorithm.train_step, state, {"image": jnp.zeros((4, 8, 8, 1))})


# Auxiliary classification.


@pytest.mark.parametrize("one_hot", [False, True])
def test_auxiliary_classification(one_hot):
    labels = jax.nn.one_hot(LABELS, CLASSES) if one_hot else LABELS
    batch = {"image": IMAGES, "label": labels}
    algorithm = training(
        num_classes=CLASSES,
        discriminator_terms=[Term("real", penalties.classify_real, 1.0)],
        generator_terms=[Term("generated", penalties.classify_generated, 0.1)],
    )
    state = algorithm.init(KEY)
    w = params(state, "discriminator")["w"]
    class_logits = (IMAGES.reshape(BATCH, -1) @ w)[:, 1:]
    expected = optax.softmax_cross_entropy_with_integer_labels(class_logits, LABELS)
    _, metrics = run(algorithm, batch=batch, state=state)
    np.testing.assert_allclose(metrics["penalty/real"], jnp.mean(expected), rtol=1e-5)
    state, later = run(algorithm, 30, batch=batch, state=state)
    assert later["penalty/real"] < metrics["penalty/real"]
    assert np.isfinite(later["penalty/generated"])


def test_real_and_fake_are_classified_as_in_the_paper():
    real = training(
        num_classes=CLASSES, discriminator_terms=[Term("a", penalties.classify_real, 1.0)]
    )
    both = training(
        num_classes=CLASSES,
        discriminator_terms=[Term("a", penalties.classify_real_and_fake, 1.0)],
    )
    assert run(both)[1]["penalty/a"] > run(real)[1]["penalty/a"]


@pytest.mark.slow
def test_a_discriminator_without_class_logits_is_told_so():
    algorithm = ganjax.gan(
        dcgan.Generator((8, 8, 1), width=4, num_classes=CLASSES),
        dcgan.Discriminator(width=4, num_classes=CLASSES),
        latents=latents.normal(4),
        num_classes=CLASSES,
        discriminator_terms=[Term("classes", penalties.classify_real, 1.0)],
    )
    batch = {"image": jnp.zeros((4, 8, 8, 1)), "label": jnp.zeros(4, jnp.int32)}
    with pytest.raises(ValueError, match="needs labels and a discriminator with class logits"):
        jax.eval_shape(algorithm.train_step, algorithm.init(KEY), batch)


# Conditions that are vectors.


@pytest.mark.slow
def test_any_vector_conditions_both_networks():
    condition = jax.random.normal(KEY, (4, 5))
    algorithm = ganjax.gan(
        dcgan.Generator((8, 8, 1), width=4, num_classes=5),
        dcgan.Discriminator(width=4, num_classes=5, batch_norm=False),
        latents=latents.normal(4),
        num_classes=5,
    )
    state = algorithm.init(KEY)
    step = jax.jit(algorithm.train_step)
    state, metrics = step(state, {"image": jnp.zeros((4, 8, 8, 1)), "label": condition})
    assert axes.all_finite((state, metrics))
    samples = [algorithm.sample(state, KEY, 4, labels) for labels in (condition, -condition)]
    assert not np.allclose(*samples)


# Sizes and schedules.


def test_the_generators_batch_may_be_larger():
    seen = []

    def watch(generate, z, key):
        seen.append((z.shape, generate.labels.shape))
        return jnp.zeros(z.shape[0])

    algorithm = training(
        num_classes=CLASSES,
        generator_batch_multiplier=2,
        generator_terms=[Term("watch", watch, 0.0)],
    )
    _, metrics = run(algorithm)
    assert seen[0] == ((2 * BATCH, DIM), (2 * BATCH,))
    assert np.isfinite(metrics["loss/generator"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator_batch_multiplier": 0}, "generator_batch_multiplier has to be 1 or more"),
        ({"generator_batch_multiplier": 2, "share_fakes": True}, "share_fakes does not go"),
        (
            {"generator_batch_multiplier": 2, "loss": losses.relativistic},
            "generator_batch_multiplier has to be 1, got 2",
        ),
    ],
)
def test_sizes_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        training(**options)


def test_a_schedule_is_a_factor_on_a_hyperparameter():
    terms = [Term("r1", penalties.r1, 1.0)]
    scheduled = training(discriminator_terms=terms, schedules={"r1": lambda step: 0.5 * step})
    for step, weight in ((0, 0.0), (3, 1.5)):
        plain = training(discriminator_terms=[Term("r1", penalties.r1, weight)])
        state = plain.init(KEY).replace(step=jnp.int32(step))
        expected, _ = run(plain, state=state)
        ours = scheduled.init(KEY).replace(step=jnp.int32(step))
        np.testing.assert_allclose(
            params(run(scheduled, state=ours)[0], "discriminator")["w"],
            params(expected, "discriminator")["w"],
            rtol=1e-5,
        )


def test_a_schedule_of_nothing_is_refused():
    algorithm = training(schedules={"r3": lambda step: 1.0})
    with pytest.raises(ValueError, match="a schedule for 'r3', which is no hyper-parameter"):
        algorithm.init(KEY)


def test_an_average_that_starts_later_is_a_copy_until_then():
    algorithm = training(
        ema_half_life_images=1000.0,
        schedules={"ema_half_life_images": lambda step: jnp.float32(step >= 2)},
    )
    state = algorithm.init(KEY)
    for step in range(4):
        state, _ = run(algorithm, state=state)
        same = np.allclose(state.ema["generator"]["params"]["w"], params(state, "generator")["w"])
        assert same == (step < 2)


def test_the_average_copies_what_is_no_parameter_and_no_statistic():
    algorithm = training(ema_half_life_images=1000.0)
    state, _ = run(algorithm, 3)
    tracked = state.players["generator"].variables["style_mean"]["mean"]
    np.testing.assert_array_equal(state.ema["generator"]["style_mean"]["mean"], tracked)
    assert not np.allclose(state.ema["generator"]["params"]["w"], params(state, "generator")["w"])


def test_truncation_of_styles_goes_to_their_mean():
    algorithm = training(ema_half_life_images=10.0)
    state, _ = run(algorithm, 3)
    none, half, full = (algorithm.sample(state, KEY, 5, truncation=psi) for psi in (0.0, 0.5, None))
    np.testing.assert_allclose(none, jnp.broadcast_to(none[:1], none.shape), rtol=1e-6)
    assert np.std(none, axis=0).max() < np.std(half, axis=0).max() < np.std(full, axis=0).max()
    np.testing.assert_allclose(algorithm.sample(state, KEY, 5, truncation=1.0), full, rtol=1e-5)


def test_adams_second_decay_may_change():
    decays = [0.9, 0.95, 0.99]
    transform = players.scale_by_adam(0.0, lambda count: jnp.asarray(decays)[count], 1e-8)
    state, nu = transform.init(jnp.zeros(())), 0.0
    for count, gradient in enumerate([1.0, -2.0, 0.5]):
        updates, state = transform.update(jnp.float32(gradient), state)
        nu = decays[count] * nu + (1 - decays[count]) * gradient**2
        corrected = nu / (1 - decays[count] ** (count + 1))
        np.testing.assert_allclose(updates, gradient / np.sqrt(corrected), rtol=1e-5)


# From a configuration.


def model_of(**options):
    network = dcgan.DCGAN(latent_dim=4, generator_width=4, discriminator_width=4)
    settings = config.Config(
        model=config.GAN(network=network, **options), train=config.Train(steps=100)
    )
    return build.build_model(settings, (8, 8, 1), 0)


@pytest.mark.slow
def test_a_configuration_schedules_every_hyperparameter():
    settings = config.OptimizerSettings(
        learning_rate=2e-4,
        beta1=0.0,
        beta2=0.9,
        schedule="cosine",
        final_learning_rate=5e-5,
        final_beta2=0.99,
        schedule_steps=10,
    )
    optimizer = build.make_optimizer(settings, steps=100)
    assert isinstance(optimizer, Optimizer)
    rates = [float(2e-4 * optimizer.schedule(step)) for step in (0, 5, 10, 50)]
    np.testing.assert_allclose(rates, [2e-4, 1.25e-4, 5e-5, 5e-5], rtol=1e-5)
    algorithm = model_of(
        discriminator=settings,
        penalties={"r1": config.Penalty(weight=1.0, final_weight=0.1)},
        ema_half_life_images=100.0,
        ema_burn_in=True,
        burn_in_steps=10,
    ).algorithm
    state = jax.jit(algorithm.init, compiler_options=QUICK)(KEY)
    assert state.hyperparameters["r1"] == 1.0
    step = jax.jit(algorithm.train_step, compiler_options=QUICK)
    after, metrics = step(state, {"image": jnp.zeros((4, 8, 8, 1))})
    assert axes.all_finite((after, metrics))
    # At the first step the half-life is zero: the average is a copy.
    for a, b in zip(
        jax.tree.leaves(after.ema["generator"]["params"]),
        jax.tree.leaves(params(after, "generator")),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_each_network_has_its_own_lazy_interval():
    with pytest.raises(InputError, match="penalties of the discriminator have the intervals"):
        model_of(
            penalties={"r1": config.Penalty(interval=16), "r2": config.Penalty(interval=8)},
        )
    model = model_of(penalties={"r1": config.Penalty(interval=16)}, augment=None)
    state = model.algorithm.init(KEY)
    ratio = 16 / 17
    hyperparameters = state.hyperparameters
    np.testing.assert_allclose(
        hyperparameters["discriminator_learning_rate"] / hyperparameters["generator_learning_rate"],
        ratio,
        rtol=1e-6,
    )


def test_lazy_terms_correct_where_schedules_end():
    settings = config.OptimizerSettings(
        learning_rate=1e-3, beta2=0.9, final_learning_rate=1e-4, final_beta2=0.99
    )
    lazy = build.lazy_correction(settings, 4)
    np.testing.assert_allclose(
        [lazy.learning_rate, lazy.final_learning_rate, lazy.beta2, lazy.final_beta2],
        [0.8e-3, 0.8e-4, 0.9**0.8, 0.99**0.8],
    )


def test_adams_decay_follows_steps_and_not_updates():
    settings = config.OptimizerSettings(beta1=0.0, beta2=0.5, final_beta2=0.9, schedule_steps=2)

    def last_update(updates_per_step, updates):
        transform = build.make_optimizer(settings, 100, updates_per_step).transform
        state = transform.init(jnp.zeros(()))
        for gradient in range(1, updates + 1):
            update, state = transform.update(jnp.float32(gradient), state)
        return float(update)

    # The third of five updates a step is still in the first step: the decay has hardly moved.
    expected = build.make_optimizer(config.OptimizerSettings(beta1=0.0, beta2=0.5), 100).transform
    state = expected.init(jnp.zeros(()))
    for gradient in (1, 2, 3):
        update, state = expected.update(jnp.float32(gradient), state)
    np.testing.assert_allclose(last_update(1e6, 3), update, rtol=1e-4)
    assert abs(last_update(1, 3) - update) > 1e-2
