"""The adversarial step: one contract for every piece, and steps written out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import ganjax
from ganjax import augment, ema, latents, losses, penalties, types
from ganjax.latents import Latents
from ganjax.networks import dcgan, mlp
from ganjax.penalties import Term
from ganjax.types import DiscriminatorOutput, Network, Optimizer, TrainState

BATCH, DIM, CLASSES = 8, 3, 3
KEY = jax.random.key(0)


def linear_generator(shape=(2,)):
    """A generator without Flax; its other collection counts the training passes."""

    def init(key, z, labels):
        w = 0.5 * jax.random.normal(key, (z.shape[-1], *shape))
        params = {"w": w, "b": jnp.zeros(shape)}
        if labels is not None:
            params["class"] = 0.3 * jax.random.normal(key, (CLASSES, *shape))
        return {"params": params, "passes": {"count": jnp.int32(0)}}

    def apply(variables, z, labels, *, train, key):
        del key
        params = variables["params"]
        images = jnp.tensordot(z, params["w"], 1) + params["b"]
        if labels is not None:
            images = images + params["class"][labels]
        return images, {"passes": {"count": variables["passes"]["count"] + train}}

    return Network(init, apply)


def quadratic_critic():
    """A discriminator without Flax whose logits (B, 1) are quadratic in the image."""

    def init(key, images, labels):
        w, v = 0.5 * jax.random.normal(key, (2, np.prod(images.shape[1:])))
        params = {"w": w, "v": v}
        if labels is not None:
            params["class"] = jax.random.normal(key, (CLASSES, len(w)))
        return {"params": params}

    def apply(variables, images, labels, *, train, key):
        del train, key
        params = variables["params"]
        x = images.reshape(images.shape[0], -1)
        w = params["w"] if labels is None else params["w"] + params["class"][labels]
        logits = jnp.sum(x * w + 0.5 * x**2 * params["v"], axis=1, keepdims=True)
        return logits, {}

    return Network(init, apply)


def fixed_latents(batch=BATCH):
    """The same latents whatever the key: what a step computes can be written out without keys."""
    z = jnp.asarray(np.random.default_rng(7).normal(size=(batch, DIM)), jnp.float32)
    return Latents(DIM, lambda key, n, truncation=None: z[:n], spherical=False)


def hand_written(**options):
    options = {
        "latents": fixed_latents(),
        "generator_optimizer": optax.sgd(0.1),
        "discriminator_optimizer": optax.sgd(0.1),
    } | options
    return ganjax.gan(linear_generator(), quadratic_critic(), **options)


def batch_of(shape=(2,), seed=0, steps=None, labels=False):
    random = np.random.default_rng(seed)
    leading = (BATCH,) if steps is None else (steps, BATCH)
    batch = {"image": jnp.asarray(random.normal(size=(*leading, *shape)), jnp.float32)}
    if labels:
        batch["label"] = jnp.asarray(random.integers(0, CLASSES, leading), jnp.int32)
    return batch


def assert_trees_close(ours, expected, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True
    ):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)


def shapes(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype, getattr(a, "weak_type", False)), tree)


# One contract for every member of every table.

EAGER_AND_LAZY = {
    name: [Term("eager", penalty, 1.0), Term("lazy", penalty, 0.5, 2)]
    for name, penalty in penalties.PENALTIES.items()
}
CONTRACTS = {
    **{f"loss {name}": {"loss": loss} for name, loss in losses.LOSSES.items()},
    **{
        f"loss {name}, r1": {"loss": loss, "discriminator_terms": [Term("r1", penalties.r1, 1.0)]}
        for name, loss in losses.LOSSES.items()
        if name in ("hinge", "wasserstein", "relativistic")
    },
    **{f"penalty {n}": {"discriminator_terms": terms} for n, terms in EAGER_AND_LAZY.items()},
    **{f"augmentation {n}": {"augment": make()} for n, make in augment.AUGMENTATIONS.items()},
    "everything": {
        "augment": augment.horizontal_flip(),
        "discriminator_steps": 2,
        "discriminator_terms": EAGER_AND_LAZY["r1"],
        "generator_terms": [
            Term("size", lambda generate, z, key: jnp.mean(generate(z) ** 2, (1, 2, 3)), 1.0, 2)
        ],
        "micro_batches": 2,
        "num_classes": CLASSES,
        "ema_half_life_images": 100.0,
        "ema_ramp_up": 0.05,
        "loss": losses.relativistic,
        "generator_optimizer": Optimizer(optax.scale_by_adam(), 1e-3),
    },
}


# A few stand for all every day: each loss, penalty and augmentation has tests of its own.
EVERYDAY = {"loss hinge", "penalty r1"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in EVERYDAY else pytest.mark.slow) for n in CONTRACTS],
)
def test_contract_of_a_train_step(name, quick_jit):
    options = CONTRACTS[name]
    shape = (4, 4, 1) if "augment" in options else (2,)
    algorithm = ganjax.gan(
        linear_generator(shape), quadratic_critic(), **{"latents": latents.normal(DIM)} | options
    )
    stacked = algorithm.batches_per_step if algorithm.batches_per_step > 1 else None
    batch = batch_of(shape, steps=stacked, labels="num_classes" in options)
    traces = []

    def step(state, batch):
        traces.append(True)
        return algorithm.train_step(state, batch)

    compiled = quick_jit(step, donate_argnums=0)
    state = first = algorithm.init(KEY)
    before, keys = shapes(state), None
    params = jax.device_get({n: p.params for n, p in first.players.items()})
    for _ in range(4):
        state, metrics = compiled(state, batch)
        assert keys in (None, set(metrics))
        keys = set(metrics)
    assert len(traces) == 1
    assert shapes(state) == before
    assert {m.dtype for m in metrics.values()} == {jnp.dtype(jnp.float32)}
    assert {m.shape for m in metrics.values()} == {()}
    assert keys == {
        "loss/discriminator",
        "loss/generator",
        "logits/real",
        "logits/fake",
        "logits/real_sign",
        "grad_norm/discriminator",
        "grad_norm/generator",
        *(f"penalty/{t.name}" for t in options.get("discriminator_terms", ())),
        *(f"penalty/{t.name}" for t in options.get("generator_terms", ())),
        *(options["augment"].metrics(state.augment) if "augment" in options else ()),
    }
    assert ganjax.axes.all_finite((state, metrics))
    assert state.step == 4
    for player, old in params.items():
        moved = jax.tree.map(lambda a, b: np.any(a != b), old, state.players[player].params)
        assert all(jax.tree.leaves(moved)), (player, moved)

    # Traced only: a scan checks that the state keeps its type, and vmap that nothing is in the way.
    batches = jax.tree.map(lambda a: jnp.stack([a, a]), batch)
    scanned, _ = jax.eval_shape(lambda s, b: jax.lax.scan(step, s, b), state, batches)
    assert shapes(scanned) == before
    many = jax.eval_shape(jax.vmap(algorithm.init), jax.random.split(KEY, 2))
    after, _ = jax.eval_shape(jax.vmap(step, (0, None)), many, batch)
    assert shapes(after) == shapes(many)


# Steps written out by hand.


def sgd(params, gradients, rate=0.1):
    return jax.tree.map(lambda p, g: p - rate * g, params, gradients)


def critic(params, images, labels=None):
    return quadratic_critic().apply({"params": params}, images, labels, train=True, key=None)[0][
        :, 0
    ]


def generated(params, z, labels=None):
    variables = {"params": params, "passes": {"count": 0}}
    return linear_generator().apply(variables, z, labels, train=True, key=None)[0]


def by_hand(state, batch, z, *, discriminator_extra=lambda params, real, fake: 0.0):
    """One non-saturating step of plain gradient descent, and what it reports."""
    generator, discriminator = (state.players[n].params for n in ("generator", "discriminator"))
    real, labels = batch["image"], batch.get("label")
    fake = generated(generator, z, labels)

    def discriminator_loss(params):
        real_logits, fake_logits = critic(params, real, labels), critic(params, fake, labels)
        loss = jnp.mean(jnp.log1p(jnp.exp(-real_logits)) + jnp.log1p(jnp.exp(fake_logits)))
        aux = {
            "loss/discriminator": loss,
            "logits/real": jnp.mean(real_logits),
            "logits/fake": jnp.mean(fake_logits),
            "logits/real_sign": jnp.mean(jnp.sign(real_logits)),
        }
        return loss + discriminator_extra(params, real, fake), aux

    gradient, metrics = jax.grad(discriminator_loss, has_aux=True)(discriminator)
    metrics["grad_norm/discriminator"] = norm(gradient)
    discriminator = sgd(discriminator, gradient)

    def generator_loss(params):
        logits = critic(discriminator, generated(params, z, labels), labels)
        return jnp.mean(jnp.log1p(jnp.exp(-logits)))

    metrics["loss/generator"], gradient = jax.value_and_grad(generator_loss)(generator)
    metrics["grad_norm/generator"] = norm(gradient)
    return {"generator": sgd(generator, gradient), "discriminator": discriminator}, metrics


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def params_of(state):
    return {name: player.params for name, player in state.players.items()}


FIXED = fixed_latents().sample(KEY, BATCH)


@pytest.mark.parametrize(
    "options",
    [{}, {"share_fakes": True}, {"joint_pass": True}, {"micro_batches": 4}],
    ids=str,
)
@pytest.mark.parametrize("labels", [False, True])
def test_a_step_is_what_one_writes_by_hand(options, labels, quick_jit):
    algorithm = hand_written(num_classes=CLASSES if labels else 0, **options)
    state = algorithm.init(KEY)
    batch = batch_of(labels=labels)
    after, metrics = quick_jit(algorithm.train_step)(state, batch)
    params, expected_metrics = by_hand(state, batch, FIXED)
    assert_trees_close(params_of(after), params)
    assert_trees_close(metrics, expected_metrics)
    # The generator's pass for the discriminator leaves no trace; its own goes through each part.
    assert after.players["generator"].variables["passes"]["count"] == options.get(
        "micro_batches", 1
    )
    assert after.players["discriminator"].variables == {}


def test_shared_fakes_are_those_of_the_generators_own_latents(quick_jit):
    """With random latents: both updates see one and the same draw, that of `step_key`."""
    algorithm = hand_written(latents=latents.normal(DIM), share_fakes=True)
    state, batch = algorithm.init(KEY).replace(step=jnp.int32(5)), batch_of()
    after, metrics = quick_jit(algorithm.train_step)(state, batch)
    z = latents.normal(DIM).sample(types.step_key(state, "latents"), BATCH)
    params, expected_metrics = by_hand(state, batch, z)
    assert_trees_close(params_of(after), params)
    assert_trees_close(metrics, expected_metrics)


def test_one_pass_over_both_refuses_to_mix_batch_statistics():
    algorithm = ganjax.gan(
        dcgan.Generator((8, 8, 1), 4),
        dcgan.Discriminator(4),  # one layer, without batch norm
        latents=latents.normal(DIM),
        joint_pass=True,
    )
    state = jax.eval_shape(algorithm.init, KEY)
    jax.eval_shape(algorithm.train_step, state, batch_of((8, 8, 1)))
    algorithm = ganjax.gan(
        dcgan.Generator((16, 16, 1), 4),
        dcgan.Discriminator(4),
        latents=latents.normal(DIM),
        joint_pass=True,
    )
    state = jax.eval_shape(algorithm.init, KEY)
    with pytest.raises(ValueError, match=r"has batch statistics, which that would mix"):
        jax.eval_shape(algorithm.train_step, state, batch_of((16, 16, 1)))


def test_without_sharing_the_two_updates_draw_latents_of_their_own():
    drawn = []

    def sample(key, n, truncation=None):
        drawn.append(jax.random.key_data(key))
        return jax.random.normal(key, (n, DIM))

    def keys_of(step, **options):
        algorithm = hand_written(latents=Latents(DIM, sample, spherical=False), **options)
        state = algorithm.init(KEY).replace(step=jnp.int32(step))
        drawn.clear()
        algorithm.train_step(state, batch_of())
        return [tuple(map(int, key)) for key in drawn]

    assert len(set(keys_of(0))) == len(keys_of(0)) == 2
    assert len(keys_of(0, share_fakes=True)) == 1
    assert not set(keys_of(0)) & set(keys_of(1))
    assert keys_of(3) == keys_of(3)


def test_batch_statistics_see_real_images_then_fakes_and_the_generator_one_batch(quick_jit):
    class Norm(nn.Module):
        features: int

        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            return nn.Dense(self.features)(x)

    algorithm = ganjax.gan(Norm(2), Norm(1), latents=fixed_latents())
    state, batch = quick_jit(algorithm.init)(KEY), batch_of()
    after, _ = quick_jit(algorithm.train_step)(state, batch)
    generator = state.players["generator"]
    fake, _ = Norm(2).apply(
        {"params": generator.params, **generator.variables},
        FIXED,
        train=True,
        mutable="batch_stats",
    )

    def running(*batches):
        mean = np.zeros(batches[0].shape[1])
        for x in batches:
            mean = 0.9 * mean + 0.1 * np.mean(x, axis=0)
        return mean

    for name, expected in {
        "generator": running(FIXED),
        "discriminator": running(batch["image"], fake),
    }.items():
        mean = after.players[name].variables["batch_stats"]["BatchNorm_0"]["mean"]
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


# Terms.


def r1_by_hand(params, real):
    slope = params["w"] + real * params["v"]
    return 0.5 * jnp.mean(jnp.sum(slope**2, axis=1))


def test_an_eager_term_is_part_of_the_loss(quick_jit):
    algorithm = hand_written(discriminator_terms=[Term("r1", penalties.r1, 0.7)])
    state, batch = algorithm.init(KEY), batch_of()
    after, metrics = quick_jit(algorithm.train_step)(state, batch)
    params, _ = by_hand(
        state, batch, FIXED, discriminator_extra=lambda p, real, fake: 0.7 * r1_by_hand(p, real)
    )
    assert_trees_close(params_of(after), params)
    np.testing.assert_allclose(
        metrics["penalty/r1"],
        r1_by_hand(state.players["discriminator"].params, batch["image"]),
        rtol=1e-5,
    )


def test_a_lazy_term_gets_an_update_of_its_own_with_interval_times_the_weight(quick_jit):
    term = Term("r1", penalties.r1, 0.05, 3)
    algorithm = hand_written(discriminator_terms=[term])
    plain = hand_written()
    step, plain_step = quick_jit(algorithm.train_step), quick_jit(plain.train_step)
    state = algorithm.init(KEY)
    expected, last = None, None
    for index in range(5):
        batch = batch_of(seed=index)
        # The adversarial update first, at the same point.
        main, _ = plain_step(plain.init(KEY).replace(players=state.players, step=state.step), batch)
        discriminator = main.players["discriminator"].params
        if index in (0, 3):
            last = r1_by_hand(discriminator, batch["image"])
            gradient = jax.grad(r1_by_hand)(discriminator, batch["image"])
            discriminator = sgd(discriminator, gradient, 0.1 * 3 * 0.05)
        state, metrics = step(state, batch)
        expected = discriminator
        assert_trees_close(state.players["discriminator"].params, expected)
        np.testing.assert_allclose(metrics["penalty/r1"], last, rtol=1e-5)
        np.testing.assert_allclose(state.running["penalty/r1"], last, rtol=1e-5)


@pytest.mark.parametrize("interval", [1, 2])
def test_a_generator_term_sees_the_generators_own_view(interval, quick_jit):
    def size(generate, z, key):
        assert z.shape == (BATCH, DIM)
        return jnp.sum(generate(z) ** 2, axis=1)

    algorithm = hand_written(generator_terms=[Term("size", size, 0.3, interval)])
    state, batch = algorithm.init(KEY), batch_of()
    after, metrics = quick_jit(algorithm.train_step)(state, batch)
    plain, _ = by_hand(state, batch, FIXED)

    def term(params):
        return jnp.mean(jnp.sum(generated(params, FIXED) ** 2, axis=1))

    at = state.players["generator"].params if interval == 1 else plain["generator"]
    value, gradient = jax.value_and_grad(term)(at)
    expected = sgd(plain["generator"], gradient, 0.1 * interval * 0.3)
    assert_trees_close(after.players["generator"].params, expected)
    np.testing.assert_allclose(metrics["penalty/size"], value, rtol=1e-5)


# Several discriminator steps, and losses that compare.


@pytest.mark.parametrize(
    ("loss", "steps", "batches"),
    [(losses.wasserstein, 3, 3), (losses.relativistic, 1, 2), (losses.relativistic, 2, 3)],
    ids=["critic", "relativistic", "both"],
)
def test_batches_are_used_in_order(loss, steps, batches, quick_jit):
    algorithm = hand_written(loss=loss, discriminator_steps=steps)
    assert algorithm.batches_per_step == batches
    state, batch = algorithm.init(KEY), batch_of(steps=batches)
    after, metrics = quick_jit(algorithm.train_step)(state, batch)

    generator = state.players["generator"].params
    player = state.players["discriminator"]
    update = functools.partial(
        ganjax.discriminator_update,
        make_fake=lambda batch: generated(generator, FIXED),
        key=KEY,
        discriminator=quadratic_critic(),
        loss=loss,
        optimizer=optax.sgd(0.1),
    )
    for index in range(steps):
        player, running, expected = update(player, {"image": batch["image"][index]})
        assert running == {}
    generator_player, _, generator_metrics = ganjax.generator_update(
        state.players["generator"],
        {"latents": FIXED, "image": batch["image"][-1]},
        lambda images, labels, key: critic(player.params, images, labels),
        KEY,
        generator=linear_generator(),
        loss=loss,
        optimizer=optax.sgd(0.1),
    )
    assert_trees_close(after.players["discriminator"].params, player.params)
    assert_trees_close(after.players["generator"].params, generator_player.params)
    assert_trees_close(metrics, expected | generator_metrics)


# The state.


def test_one_key_gives_one_training(quick_jit):
    algorithm = hand_written(
        latents=latents.normal(DIM), discriminator_terms=EAGER_AND_LAZY["gradient_penalty"]
    )
    step = quick_jit(algorithm.train_step)

    def run(key, rollbacks=0):
        state = algorithm.init(key).replace(rollbacks=jnp.int32(rollbacks))
        for index in range(3):
            state, _ = step(state, batch_of(seed=index))
        return state

    first = run(KEY)
    assert_trees_close(run(KEY), first, rtol=0, atol=0)
    for other in (run(jax.random.key(1)), run(KEY, rollbacks=1)):
        assert norm(jax.tree.map(jnp.subtract, params_of(first), params_of(other))) > 1e-3


def test_step_keys_differ_by_purpose_step_and_rollback():
    state = hand_written().init(KEY)
    keys = [
        types.step_key(state.replace(step=jnp.int32(s), rollbacks=jnp.int32(r)), name)
        for s in (0, 1)
        for r in (0, 1)
        for name in ("latents", "noise")
    ]
    assert len({tuple(map(int, jax.random.key_data(key))) for key in keys}) == 8


def test_no_two_leaves_of_a_fresh_state_share_memory():
    state = hand_written(
        generator_optimizer=optax.adam(0.1),
        discriminator_terms=EAGER_AND_LAZY["r1"],
        ema_half_life_images=10.0,
    ).init(KEY)
    arrays = [a for a in jax.tree.leaves(state) if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key)]
    assert len({a.unsafe_buffer_pointer() for a in arrays}) == len(arrays)


def test_hyperparameters_in_the_state_change_the_training_and_trace_nothing(quick_jit):
    algorithm = hand_written(
        generator_optimizer=Optimizer(optax.identity(), 0.1),
        discriminator_optimizer=Optimizer(optax.identity(), 0.1),
        discriminator_terms=[Term("r1", penalties.r1, 0.7)],
        ema_half_life_images=50.0,
    )
    state, batch = algorithm.init(KEY), batch_of()
    assert {name: float(v) for name, v in state.hyperparameters.items()} == pytest.approx(
        {
            "r1": 0.7,
            "generator_learning_rate": 0.1,
            "discriminator_learning_rate": 0.1,
            "ema_half_life_images": 50.0,
        }
    )
    traces = []

    def step(state, batch):
        traces.append(True)
        return algorithm.train_step(state, batch)

    step = quick_jit(step)
    base, _ = step(state, batch)
    expected, _ = by_hand(
        state, batch, FIXED, discriminator_extra=lambda p, real, fake: 0.7 * r1_by_hand(p, real)
    )
    assert_trees_close(params_of(base), expected)

    def changed(name, value):
        value = {**state.hyperparameters, name: jnp.float32(value)}
        return step(state.replace(hyperparameters=value), batch)[0]

    expected, _ = by_hand(
        state, batch, FIXED, discriminator_extra=lambda p, real, fake: 5.0 * r1_by_hand(p, real)
    )
    assert_trees_close(params_of(changed("r1", 5.0)), expected)
    still = changed("discriminator_learning_rate", 0.0)
    assert_trees_close(params_of(still)["discriminator"], params_of(state)["discriminator"], 0, 0)
    still = changed("generator_learning_rate", 0.0)
    assert_trees_close(params_of(still)["generator"], params_of(state)["generator"], 0, 0)
    copied = changed("ema_half_life_images", 0.0)
    assert_trees_close(copied.ema["generator"]["params"], params_of(copied)["generator"])
    assert len(traces) == 1


@pytest.mark.parametrize("ramp_up", [None, 0.05])
def test_the_running_average_follows_in_images(ramp_up, quick_jit):
    algorithm = hand_written(ema_half_life_images=40.0, ema_ramp_up=ramp_up)
    step = quick_jit(algorithm.train_step)
    state = algorithm.init(KEY)
    average = state.ema["generator"]["params"]
    for index in range(3):
        state, _ = step(state, batch_of(seed=index))
        keep = ema.decay(40.0, BATCH, index * BATCH, ramp_up)
        average = jax.tree.map(
            lambda a, b, keep=keep: keep * a + (1 - keep) * b,
            average,
            params_of(state)["generator"],
        )
    assert_trees_close(state.ema["generator"]["params"], average)
    assert state.ema["generator"]["passes"]["count"] == 3  # other collections come along


def test_a_scan_over_steps_is_the_loop(quick_jit):
    algorithm = hand_written(
        latents=latents.normal(DIM),
        discriminator_terms=EAGER_AND_LAZY["r1"],
        discriminator_steps=2,
        ema_half_life_images=30.0,
    )
    batches = [batch_of(seed=index, steps=2) for index in range(3)]
    state = algorithm.init(KEY)
    scanned, history = quick_jit(lambda s, b: jax.lax.scan(algorithm.train_step, s, b))(
        state, jax.tree.map(lambda *a: jnp.stack(a), *batches)
    )
    step = quick_jit(algorithm.train_step)
    for index, batch in enumerate(batches):
        state, metrics = step(state, batch)
        assert_trees_close({k: v[index] for k, v in history.items()}, metrics)
    assert_trees_close(scanned, state)


@pytest.mark.slow
def test_a_population_of_seeds_is_its_members(quick_jit):
    algorithm = hand_written(
        latents=latents.normal(DIM), discriminator_terms=[Term("r1", penalties.r1, 0.1, 2)]
    )
    keys = jax.random.split(KEY, 2)
    members = [algorithm.init(key) for key in keys]
    populations = {"own step": jax.tree.map(lambda *a: jnp.stack(a), *members)}
    populations["one step"] = populations["own step"].replace(step=jnp.int32(0))
    axes = {name: jax.tree.map(lambda _: 0, many) for name, many in populations.items()}
    axes["one step"] = axes["one step"].replace(step=None)
    together = {
        name: quick_jit(jax.vmap(algorithm.train_step, (axes[name], None), (axes[name], 0)))
        for name in populations
    }
    alone = quick_jit(algorithm.train_step)
    for index in range(3):
        batch = batch_of(seed=index)
        for name, step in together.items():
            populations[name], metrics = step(populations[name], batch)
        members, each = zip(*(alone(member, batch) for member in members), strict=True)
    assert populations["one step"].step == 3
    populations["one step"] = populations["one step"].replace(step=jnp.full(2, 3))
    for many in populations.values():
        for index, member in enumerate(members):
            assert_trees_close(jax.tree.map(lambda a, i=index: a[i], many), member)
    for index, values in enumerate(each):
        assert_trees_close({name: value[index] for name, value in metrics.items()}, values)


# Augmentation.


def recording(apply):
    return augment.Augment(
        lambda: {"level": jnp.float32(0.5), "images": jnp.int32(0)},
        apply,
        lambda state, metrics, images: {
            "level": metrics["logits/real"],
            "images": state["images"] + images,
        },
    )


def test_the_discriminator_sees_nothing_that_is_not_augmented(quick_jit):
    blind = recording(lambda state, images, key: jnp.full_like(images, state["level"]))
    algorithm = hand_written(augment=blind, discriminator_terms=EAGER_AND_LAZY["r1"])
    state, batch = algorithm.init(KEY), batch_of()
    after, metrics = quick_jit(algorithm.train_step)(state, batch)
    params = params_of(state)["discriminator"]
    seen = critic(params, jnp.full((1, 2), 0.5))[0]
    np.testing.assert_allclose(metrics["logits/real"], seen, rtol=1e-5)
    np.testing.assert_allclose(metrics["logits/fake"], seen, rtol=1e-5)
    assert metrics["grad_norm/generator"] == 0
    assert metrics["grad_norm/discriminator"] > 0
    assert metrics["penalty/eager"] == metrics["penalty/lazy"] == 0
    assert_trees_close(params_of(after)["generator"], params_of(state)["generator"], 0, 0)
    # Its memory: what the step reported, and the images it took.
    assert after.augment["level"] == metrics["logits/real"]
    assert after.augment["images"] == BATCH


def test_gradients_reach_the_generator_through_the_augmentation(quick_jit):
    doubled = recording(lambda state, images, key: 2 * images)
    algorithm = hand_written(augment=doubled)
    state, batch = algorithm.init(KEY), batch_of()
    after, _ = quick_jit(algorithm.train_step)(state, batch)

    def generator_loss(params):
        logits = critic(params_of(after)["discriminator"], 2 * generated(params, FIXED))
        return jnp.mean(jax.nn.softplus(-logits))

    expected = sgd(
        params_of(state)["generator"], jax.grad(generator_loss)(params_of(state)["generator"])
    )
    assert_trees_close(params_of(after)["generator"], expected)


# Samples, and what held-out data says.


def test_samples_come_from_the_average_or_the_raw_weights():
    algorithm = hand_written(ema_half_life_images=100.0)
    state = algorithm.init(KEY)
    state = state.replace(
        ema={
            "generator": {
                **state.ema["generator"],
                "params": jax.tree.map(lambda a: a + 1, state.ema["generator"]["params"]),
            }
        }
    )
    z = jnp.ones((4, DIM))
    raw, averaged = state.players["generator"].params, state.ema["generator"]["params"]
    np.testing.assert_allclose(
        algorithm.sample(state, KEY, 4, latents=z, ema=False), generated(raw, z), rtol=1e-6
    )
    np.testing.assert_allclose(
        algorithm.sample(state, KEY, 4, latents=z), generated(averaged, z), rtol=1e-6
    )
    without = hand_written()
    np.testing.assert_allclose(
        without.sample(without.init(KEY), KEY, 4, latents=z), generated(raw, z), rtol=1e-6
    )


def test_truncation_is_that_of_the_latents():
    algorithm = hand_written(latents=latents.normal(DIM))
    state = algorithm.init(KEY)
    identity = {"w": jnp.eye(DIM)[:, :2], "b": jnp.zeros(2)}
    state.players["generator"] = state.players["generator"].replace(params=identity)
    samples = algorithm.sample(state, KEY, 500, truncation=0.4)
    assert samples.dtype == jnp.float32
    assert 0.39 < np.abs(samples).max() <= 0.4
    assert np.abs(algorithm.sample(state, KEY, 500)).max() > 2
    with pytest.raises(ValueError, match="truncation has to be positive"):
        algorithm.sample(state, KEY, 2, truncation=0.0)


def test_samples_of_each_class():
    algorithm = hand_written(num_classes=CLASSES)
    state = algorithm.init(KEY)
    z = jnp.zeros((5, DIM))
    table = state.players["generator"].params["class"]
    in_turn = algorithm.sample(state, KEY, 5, latents=z)
    np.testing.assert_allclose(in_turn, table[jnp.array([0, 1, 2, 0, 1])])
    chosen = algorithm.sample(state, KEY, 5, [2, 2, 0, 1, 2], latents=z)
    np.testing.assert_allclose(chosen, table[jnp.array([2, 2, 0, 1, 2])])


@pytest.mark.parametrize("labels", [False, True])
def test_evaluate_sums_over_the_batch(labels):
    algorithm = hand_written(num_classes=CLASSES if labels else 0)
    state, batch = algorithm.init(KEY), batch_of(labels=labels)
    label = batch.get("label")
    params = params_of(state)
    real = critic(params["discriminator"], batch["image"], label)
    fake = critic(params["discriminator"], generated(params["generator"], FIXED, label), label)
    assert_trees_close(
        algorithm.evaluate(state, batch, KEY),
        {
            "logits/real": jnp.sum(real),
            "logits/fake": jnp.sum(fake),
            "count": jnp.float32(BATCH),
        },
    )


def test_bytes_are_normalised_on_the_device(quick_jit):
    step = quick_jit(hand_written().train_step)
    state = hand_written().init(KEY)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 2), dtype=np.uint8)
    floats = jnp.asarray(pixels / 127.5 - 1, jnp.float32)
    assert_trees_close(step(state, {"image": pixels})[0], step(state, {"image": floats})[0])
    assert float(types.as_float_images(jnp.array([0, 255], jnp.uint8))[0]) == -1
    assert float(types.as_float_images(jnp.array([0, 255], jnp.uint8))[1]) == 1


# Precision.


@pytest.mark.slow
def test_half_precision_computes_in_it_and_keeps_everything_else_in_single(quick_jit):
    def build(networks, shape, dtype):
        pair = networks.build(shape, 0, dtype)
        terms = [Term("r1", penalties.r1, 1.0)]
        return ganjax.gan(**pair, discriminator_terms=terms, ema_half_life_images=10.0)

    convolutional = dcgan.DCGAN(DIM, generator_width=2, discriminator_width=2)
    algorithm = build(convolutional, (8, 8, 1), jnp.bfloat16)
    state, batch = jax.eval_shape(algorithm.init, KEY), batch_of((8, 8, 1))
    program = jax.make_jaxpr(algorithm.train_step)(state, batch)
    convolutions = [e for e in str(program).splitlines() if "= conv_general_dilated[" in e]
    assert convolutions
    assert all(":bf16[" in line for line in convolutions)
    after, metrics = jax.eval_shape(algorithm.train_step, state, batch)
    floats = [a for a in jax.tree.leaves((after, metrics)) if jnp.issubdtype(a.dtype, jnp.floating)]
    assert {a.dtype for a in floats} == {jnp.dtype(jnp.float32)}

    dense = mlp.MLP(DIM, generator_hidden=(5,), discriminator_hidden=(5,))
    half, full = (build(dense, (2,), dtype) for dtype in (jnp.bfloat16, jnp.float32))
    state, batch = quick_jit(full.init)(KEY), batch_of()
    half, full = (quick_jit(a.train_step)(state, batch)[1] for a in (half, full))
    for name in ("loss/discriminator", "loss/generator", "penalty/r1"):
        np.testing.assert_allclose(half[name], full[name], rtol=0.05, err_msg=name)
        assert half[name] != full[name]


# Whole trainings.


class TwoHeads(nn.Module):
    """A discriminator of one's own that knows neither labels nor train."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(16)(x))
        return DiscriminatorOutput(nn.Dense(1)(x)[:, 0], nn.Dense(3)(x))


@pytest.mark.parametrize(
    ("generator", "discriminator"),
    [
        (mlp.Generator((2,), (16,)), mlp.Discriminator((16,))),
        (nn.Dense(2), TwoHeads()),
        (linear_generator(), nn.Sequential([nn.Dense(16), nn.leaky_relu, nn.Dense(1)])),
    ],
    ids=["mlp", "own modules", "functions against a module"],
)
def test_training_finds_the_data(generator, discriminator, quick_jit):
    algorithm = ganjax.gan(
        generator,
        discriminator,
        latents=latents.normal(DIM),
        generator_optimizer=optax.adam(0.01, b1=0.5),
        discriminator_optimizer=optax.adam(0.01, b1=0.5),
        discriminator_terms=[Term("r1", penalties.r1, 0.3)],
        ema_half_life_images=2000.0,
    )
    random = np.random.default_rng(0)
    center = np.array([2.0, -1.0])
    images = center + 0.5 * random.normal(size=(600, 64, 2))
    state = quick_jit(algorithm.init)(KEY)
    sample = quick_jit(lambda state: jnp.mean(algorithm.sample(state, KEY, 500), axis=0))
    far = np.linalg.norm(sample(state) - center)
    state, metrics = quick_jit(lambda s, b: jax.lax.scan(algorithm.train_step, s, b))(
        state, {"image": jnp.asarray(images, jnp.float32)}
    )
    assert ganjax.axes.all_finite((state, metrics))
    near = np.linalg.norm(sample(state) - center)
    assert near < 0.35 < far


# Sentences.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discriminator_steps": 0}, "discriminator_steps has to be 1 or more, got 0"),
        ({"micro_batches": 0}, "micro_batches has to be 1 or more, got 0"),
        ({"share_fakes": True, "micro_batches": 2}, "share_fakes does not go together"),
        ({"share_fakes": True, "loss": losses.relativistic}, "share_fakes does not go together"),
        ({"discriminator_terms": [Term("a", penalties.r1, 1.0)] * 2}, "two terms have the name"),
        (
            {
                "discriminator_terms": [Term("a", penalties.r1, 1.0)],
                "generator_terms": [Term("a", penalties.r1, 1.0)],
            },
            "two terms have the name",
        ),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        hand_written(**options)


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({}, {"picture": jnp.ones((8, 2))}, r"needs the entries \['image'\], got \['picture'\]"),
        (
            {"num_classes": 3},
            {"image": jnp.ones((8, 2))},
            r"needs the entries \['image', 'label'\], got \['image'\]; set num_classes=0",
        ),
        (
            {"discriminator_steps": 2},
            {"image": jnp.ones((8, 2))},
            r"one step consumes 2 batches, stacked on a leading axis, but 'image' has shape \(8, 2",
        ),
        ({"micro_batches": 3}, {"image": jnp.ones((8, 2))}, "8 examples do not divide into 3"),
    ],
)
def test_batches_are_checked(options, batch, message):
    algorithm = hand_written(**options)
    state = jax.eval_shape(algorithm.init, KEY)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(algorithm.train_step, state, batch)


def test_labels_need_classes():
    algorithm = hand_written()
    with pytest.raises(types.InputError, match="this model was trained without classes"):
        algorithm.sample(algorithm.init(KEY), KEY, 2, [0, 1])


def test_labels_in_a_batch_without_classes_are_left_alone(quick_jit):
    algorithm = hand_written()
    state, batch = algorithm.init(KEY), batch_of()
    step = quick_jit(algorithm.train_step)
    text = {**batch, "label": jnp.zeros(BATCH, jnp.int32)}
    assert_trees_close(step(state, text)[0], step(state, batch)[0], 0, 0)


def test_a_state_is_made_of_arrays():
    state = hand_written(augment=augment.horizontal_flip()).init(KEY)
    assert isinstance(state, TrainState)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert jax.tree.structure(state) == jax.tree.structure(hand_written().init(KEY))
