"""From a configuration to objects: optimizers, freezing, fine-tuning, and what a run gives back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import arrays, assert_same_bits, image_config, ring_config

import ganjax
from ganjax import build, config, loop, optimizers
from ganjax.config import GAN, VAE, OptimizerSettings, Penalty
from ganjax.networks.conv_vae import ConvVAE
from ganjax.networks.mlp import MLP
from ganjax.players import apply_gradients, init_player
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

replace = dataclasses.replace
START = {"w": np.linspace(-1, 1, 6, dtype=np.float32), "b": np.ones(2, np.float32)}


def descend(settings, *, steps=7, total=100):
    """Return the parameters after some updates with growing gradients."""
    optimizer = build.make_optimizer(settings, total)
    player = init_player({"params": START}, optimizer)
    for step in range(steps):
        player = apply_gradients(
            player,
            jax.tree.map(lambda p, step=step: (1 + step) * jnp.sin(p), player.params),
            optimizer,
            learning_rate=jnp.float32(optimizer.learning_rate),
            step=jnp.int32(step),
        )
    return player.params


def descend_with_optax(optimizer, steps=7):
    params = jax.tree.map(jnp.asarray, START)
    state = optimizer.init(params)
    for step in range(steps):
        gradients = jax.tree.map(lambda p, step=step: (1 + step) * jnp.sin(p), params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        (
            OptimizerSettings(learning_rate=0.03, beta1=0.4, beta2=0.9, epsilon=1e-3),
            optax.adam(0.03, b1=0.4, b2=0.9, eps=1e-3),
        ),
        (
            OptimizerSettings(name="rmsprop", learning_rate=0.03, beta2=0.9, epsilon=1e-3),
            optax.rmsprop(0.03, decay=0.9, eps=1e-3, eps_in_sqrt=False),
        ),
        (OptimizerSettings(name="sgd", learning_rate=0.03, beta1=0.0), optax.sgd(0.03)),
        (OptimizerSettings(name="sgd", learning_rate=0.03, beta1=0.7), optax.sgd(0.03, 0.7)),
        (
            OptimizerSettings(name="sgd", learning_rate=0.03, beta1=0.0, clip_norm=0.5),
            optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.03)),
        ),
        (
            OptimizerSettings(learning_rate=0.03, beta1=0.5, warmup_steps=4),
            optax.adam(lambda step: 0.03 * jnp.minimum(1.0, (step + 1) / 4), b1=0.5),
        ),
        (
            OptimizerSettings(learning_rate=0.03, beta1=0.5, schedule="linear"),
            optax.adam(optax.linear_schedule(0.03, 0.0, 100), b1=0.5),
        ),
        (
            OptimizerSettings(learning_rate=0.03, beta1=0.5, schedule="cosine"),
            optax.adam(optax.cosine_decay_schedule(0.03, 100), b1=0.5),
        ),
    ],
)
def test_optimizers_are_those_of_optax(settings, optimizer):
    assert_close(descend(settings), descend_with_optax(optimizer))


def test_clipped_weights():
    params = descend(OptimizerSettings(learning_rate=0.01, clip_weights=0.3), steps=1)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(params)) == np.float32(0.3)


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "factors"),
    [
        ("linear", 0, {0: 1.0, 25: 0.75, 100: 0.0, 150: 0.0}),
        ("cosine", 0, {0: 1.0, 50: 0.5, 100: 0.0, 150: 0.0}),
        ("constant", 10, {0: 0.1, 9: 1.0, 10: 1.0, 100: 1.0}),
        ("linear", 10, {0: 0.1, 4: 0.5, 9: 1.0, 55: 0.5, 100: 0.0}),
    ],
)
def test_schedules(schedule, warmup_steps, factors):
    settings = OptimizerSettings(schedule=schedule, warmup_steps=warmup_steps)
    optimizer = build.make_optimizer(settings, 100)
    for step, factor in factors.items():
        assert float(optimizer.schedule(jnp.int32(step))) == pytest.approx(factor, abs=1e-6)


def test_a_constant_rate_has_no_schedule():
    assert build.make_optimizer(OptimizerSettings(), 100).schedule is None


def test_lazy_correction_has_the_official_numbers():
    # stylegan2-ada, training_loop.py: mb_ratio = 16 / 17; lr * mb_ratio, betas ** mb_ratio.
    settings = OptimizerSettings(learning_rate=0.0025, beta1=0.0, beta2=0.99, epsilon=1e-8)
    corrected = build.lazy_correction(settings, 16)
    assert corrected.learning_rate == pytest.approx(0.002352941176)
    assert corrected.beta1 == 0.0
    assert corrected.beta2 == pytest.approx(0.990585319)
    assert corrected.epsilon == settings.epsilon


def ring_model(**changes):
    settings = ring_config()
    settings = replace(settings, model=replace(settings.model, **changes))
    return build.build_model(settings, (2,), 0)


def initial(model):
    return jax.jit(model.algorithm.init)(jax.random.key(0))


def test_lazy_penalties_correct_the_discriminator_alone():
    state = initial(ring_model(penalties={"r1": Penalty(2.0, 4)}))
    names = ("generator_learning_rate", "discriminator_learning_rate", "r1")
    values = [float(state.hyperparameters[name]) for name in names]
    assert values == pytest.approx([1e-3, 0.8e-3, 2.0])


def test_hyperparameters_of_the_configuration_arrive():
    state = initial(ring_model(penalties={"r1": Penalty(0.5), "r2": Penalty(0.25)}))
    assert float(state.hyperparameters["r2"]) == 0.25
    assert float(state.hyperparameters["ema_half_life_images"]) == 50.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loss": "hnige"}, "hinge"),
        ({"penalties": {"r3": Penalty()}}, "the name of a penalty"),
        ({"augment": "flop"}, "model.augment"),
        ({"penalties": {"r1": Penalty(interval=2), "r2": Penalty(interval=3)}}, r"\[2, 3\]"),
        ({"penalties": {"r1": Penalty(interval=0)}}, "interval"),
        ({"discriminator_steps": 0}, "discriminator_steps has to be 1 or more"),
        ({"share_fakes": True, "loss": "relativistic"}, "share_fakes does not go together"),
        ({"network": ConvVAE()}, "conv_vae"),
        ({"network": MLP(latent_distribution="cauchy")}, "latent_distribution"),
        ({"freeze_discriminator_layers": 2}, "has only 2 layers, of which one has to learn"),
    ],
)
def test_what_cannot_be_built_has_its_sentence(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        ring_model(**changes)


def test_networks_that_do_not_fit_the_data():
    settings = image_config()
    with pytest.raises(InputError, match=r"dcgan makes images of shape .H, W, C., but the data"):
        build.build_model(settings, (2,), 0)
    with pytest.raises(InputError, match="MLP has the networks generator, discriminator, latents"):
        build.build_model(replace(settings, model=VAE(network=MLP())), (4, 4, 1), 0)
    with pytest.raises(InputError, match="one of GAN, VAE, LanguageModel, TextGAN; got DCGAN"):
        build.build_model(replace(settings, model=settings.model.network), (4, 4, 1), 0)


def test_data_that_does_not_do():
    settings = ring_config(batch_size=200_000)
    with pytest.raises(InputError, match="99936 examples to train on, fewer than one batch of 200"):
        build.build(settings)


def test_build():
    experiment = build.build(ring_config())
    assert experiment.train.num_examples == 100_000 - 64
    assert experiment.held_out.num_examples == 64
    assert experiment.model.num_classes == 0
    assert [phase.steps for phase in experiment.phases] == [6]
    assert set(experiment.model.networks) == {"generator", "discriminator"}


# Freezing and fine-tuning.


def train_for(settings, steps=3, state=None):
    experiment = build.build(settings)
    algorithm = experiment.model.algorithm
    if state is None:
        state = initial(experiment.model)
    before = jax.device_get(state)
    after = loop.fit(algorithm, state, experiment.train, steps=steps, batch_size=8)
    return before, jax.device_get(after)


@pytest.mark.slow
def test_frozen_layers_keep_their_bits():
    settings = ring_config()
    network = MLP(latent_dim=4, generator_hidden=(8,), discriminator_hidden=(8, 8))
    model = replace(settings.model, network=network, freeze_discriminator_layers=2)
    before, after = (state.players for state in train_for(replace(settings, model=model)))
    for name in ("Dense_0", "Dense_1"):
        assert_same_bits(after["discriminator"].params[name], before["discriminator"].params[name])
    changed = [after["discriminator"].params["Dense_2"], after["generator"].params]
    unchanged = [before["discriminator"].params["Dense_2"], before["generator"].params]
    for new, old in zip(arrays(changed).values(), arrays(unchanged).values(), strict=True):
        assert not np.array_equal(new, old)


def test_the_first_layers_include_their_norms():
    from ganjax.networks import dcgan

    module = dcgan.Discriminator(width=2, num_classes=3, conditioning="concatenation")
    first = [optimizers.first_layers(module, (28, 28, 1), count, 3) for count in (1, 2)]
    assert first[0] == ["LabelEmbedding_0", "Conv_0"]
    assert first[1] == ["LabelEmbedding_0", "Conv_0", "Conv_1", "BatchNorm_0"]


def test_fine_tuning_starts_from_another_run(ring_run):
    settings = ring_config(init_from=str(ring_run.run), seed=5)
    (phase,) = build.build(settings).phases
    fresh = jax.jit(phase.algorithm.init)(jax.random.key(5))
    state = phase.transfer(fresh, None)
    for name, player in ring_run.state.players.items():
        assert_same_bits(state.players[name].params, player.params)
        assert_same_bits(state.players[name].opt_state, fresh.players[name].opt_state)
    assert_same_bits(state.ema, ring_run.state.ema)
    assert_same_bits([state.step, state.key], [fresh.step, fresh.key])


def test_fine_tuning_has_sentences(ring_run, tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        build.build(ring_config(init_from=str(tmp_path / "none")))
    settings = ring_config(init_from=str(ring_run.run))
    network = MLP(latent_dim=4, generator_hidden=(9,), discriminator_hidden=(8,))
    wider = replace(settings, model=replace(settings.model, network=network))
    (phase,) = build.build(wider).phases
    with pytest.raises(
        InputError, match=r"generator/params/Dense_0/bias is float32\[8\] and float32\[9\]"
    ):
        phase.transfer(phase.algorithm.init(jax.random.key(0)), None)


# Loading a run.


@pytest.fixture(scope="module")
def trained(image_run):
    return ganjax.load(str(image_run.run))


def test_sample_is_the_algorithms(trained, image_run):
    key = jax.random.key(2)
    latents = np.asarray(jax.random.normal(key, (6, 6)))
    labels = np.array([3, 1, 4, 1, 5, 9])
    for ema in (True, False):
        mine = trained.sample(key, 6, labels, latents=latents, ema=ema)
        expected = trained.model.algorithm.sample(
            image_run.state, key, 6, labels, latents=latents, ema=ema
        )
        np.testing.assert_allclose(mine, expected, atol=1e-6)
    assert trained.step == int(trained.state.step) == 4
    assert mine.shape == (6, 12, 12, 1)
    assert mine.dtype == np.float32
    assert np.abs(mine).max() <= 1


def test_the_average_is_sampled_unless_told_otherwise(trained):
    key = jax.random.key(2)
    np.testing.assert_array_equal(trained.sample(key, 3), trained.sample(key, 3, ema=True))
    assert not np.allclose(trained.sample(key, 3), trained.sample(key, 3, ema=False), atol=1e-4)


def test_variables_are_those_of_the_networks(trained):
    latents = np.asarray(jax.random.normal(jax.random.key(1), (2, 6)))
    images = trained.networks["generator"].apply(
        trained.variables["generator"], latents, jnp.array([0, 7])
    )
    expected = trained.sample(jax.random.key(0), 2, [0, 7], latents=latents)
    np.testing.assert_allclose(images, expected, atol=1e-6)
    logits = trained.networks["discriminator"].apply(
        trained.variables["discriminator"], images, jnp.array([0, 7])
    )
    assert logits.logits.shape == (2,)


def test_labels(trained):
    key = jax.random.key(2)
    latents = np.repeat(np.asarray(jax.random.normal(key, (1, 6))), 12, axis=0)
    by_default = trained.sample(key, 12, latents=latents)
    in_turn = trained.sample(key, 12, [*range(10), 0, 1], latents=latents)
    np.testing.assert_array_equal(by_default, in_turn)
    repeated = trained.sample(key, 12, [4, 2], latents=latents)
    np.testing.assert_array_equal(repeated[0::2], repeated[[0] * 6])
    assert not np.array_equal(repeated[0], repeated[1])


@pytest.mark.parametrize("labels", [[10], [-1], [0, 99], [], [1.0], [True], ["shoe"], [[1]]])
def test_labels_out_of_range(trained, labels):
    with pytest.raises(InputError, match=r"labels have to lie between 0 and 9, or .*; got "):
        trained.sample(jax.random.key(0), 4, labels)


def test_truncation(trained):
    key = jax.random.key(2)
    latents = trained.model.latents.sample(key, 5, 0.3)
    assert np.abs(latents).max() <= 0.3
    np.testing.assert_array_equal(
        trained.sample(key, 5, truncation=0.3), trained.sample(key, 5, latents=latents)
    )
    for truncation in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="truncation has to be positive"):
            trained.sample(key, 5, truncation=truncation)


def test_batches_of_sampling_do_not_change_samples(trained):
    key = jax.random.key(2)
    whole = trained.sample(key, 7)
    np.testing.assert_allclose(trained.sample(key, 7, batch_size=3), whole, atol=1e-6)
    np.testing.assert_array_equal(trained.sample(key, 7), whole)


def test_loading_an_earlier_step(image_run):
    assert ganjax.load(str(image_run.run), 2).step == 2
    with pytest.raises(InputError, match=r"a checkpoint of step 3, and there is 2, 4"):
        ganjax.load(str(image_run.run), 3)


def test_a_run_without_classes(ring_run):
    trained = ganjax.load(str(ring_run.run))
    assert trained.sample(jax.random.key(0), 3).shape == (3, 2)
    with pytest.raises(InputError, match="this model was trained without classes"):
        trained.sample(jax.random.key(0), 3, [0])


def test_loading_what_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"holds no run: config.json is missing$"):
        ganjax.load(tmp_path)


def test_describe_data(image_run, trained):
    experiment = build.build(config.from_json(image_run.run.record()["config"]))
    description = build.describe_data(experiment.train, 10)
    assert description == image_run.run.record()["data"]
    assert description["num_examples"] == 10_000 - 32
    assert trained.class_names[9] == "Ankle boot"
    assert isinstance(trained.config.model, GAN)


def test_num_parameters():
    assert build.num_parameters({"a": np.zeros((2, 3)), "b": np.zeros(())}) == 7
