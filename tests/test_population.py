"""A member of a population is what the algorithm alone makes of its key and its values.

Spreading members over devices needs several, which have to be asked for before JAX starts: this
file runs itself in a process of its own with four virtual ones for that.
"""

import functools
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import start

import ganjax
from ganjax import latents, losses, penalties
from ganjax.data import batch_indices
from ganjax.data.dataset import in_memory
from ganjax.loop import Callback, DivergedError, fit
from ganjax.networks import layers, mlp
from ganjax.penalties import Term
from ganjax.population import population
from ganjax.types import InputError, Optimizer

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH, STEPS, SIZE = 6, 5, 4
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1), dtype=np.uint8)
DEVICE_CASES = (("gan", "devices+vmap"), ("gan", "devices+map"), ("vae", "devices"))


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        x = nn.relu(layers.BatchNorm()(nn.Dense(8, use_bias=False)(z), train=train))
        return jnp.tanh(nn.Dense(16)(x)).reshape(-1, 4, 4, 1)


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = layers.Conv(4, (3, 3), 2, kernel_init=nn.initializers.normal(0.3))(images)
        return nn.Dense(1)(nn.leaky_relu(x).reshape(x.shape[0], -1))


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.tanh(layers.Conv(4, (3, 3), 2)(images)).reshape(images.shape[0], -1)
        # A bias of the mean would be taken out again by batch norm: its gradient is rounding only.
        return nn.Dense(3, use_bias=False)(x), nn.Dense(3)(x)


def lazy_gan():
    return ganjax.gan(
        Generator(),
        Discriminator(),
        latents=latents.normal(3),
        loss=losses.hinge,
        generator_optimizer=Optimizer(optax.identity(), 0.05),
        discriminator_optimizer=Optimizer(optax.trace(0.5), 0.05),
        discriminator_terms=[Term("r1", penalties.r1, 0.1, 2)],
        discriminator_steps=2,
        ema_half_life_images=10.0,
        ema_ramp_up=0.5,
    )


def vae():
    return ganjax.vae(
        Encoder(),
        Generator(),
        latents=latents.normal(3),
        optimizer=Optimizer(optax.identity(), 0.01),
        ema_half_life_images=10.0,
    )


def small_gan(**settings):
    return ganjax.gan(
        mlp.Generator((2,), hidden=(4,)),
        mlp.Discriminator(hidden=(4,)),
        latents=latents.normal(2),
        generator_optimizer=Optimizer(optax.identity(), 0.1),
        discriminator_optimizer=optax.sgd(0.1),
        discriminator_terms=[Term("r1", penalties.r1, 0.1)],
        **settings,
    )


@pytest.fixture(scope="module")
def small():
    """An algorithm that compiles in a moment."""
    return small_gan()


CASES = {
    "gan": (lazy_gan, {"r1": [0.0, 0.1, 1.0, 10.0], "generator_learning_rate": [0.05] * 3 + [0.1]}),
    "vae": (vae, {"beta": [0.0, 0.5, 1.0, 2.0]}),
}


def keys(size=SIZE):
    return jax.random.split(jax.random.key(3), SIZE)[:size]


def batches_of(per_step, seed=0):
    lead = (BATCH,) if per_step == 1 else (per_step, BATCH)
    random = np.random.default_rng(seed)
    return [{"image": IMAGES[random.integers(0, len(IMAGES), lead)]} for _ in range(STEPS)]


def begin(algorithm, key, values):
    state = jax.jit(algorithm.init)(key)
    changed = {name: jnp.float32(value) for name, value in values.items()}
    return state.replace(hyperparameters=state.hyperparameters | changed)


def run(train_step, state, batches):
    step = jax.jit(train_step, donate_argnums=0)
    history = []
    for batch in batches:
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)  # more virtual devices than cores can deadlock
        history.append(jax.device_get(metrics))
    return state, {name: np.stack([m[name] for m in history]) for name in history[0]}


@functools.cache
def alone(case):
    """Return state and metrics of each member, trained by itself."""
    build, values = CASES[case]
    algorithm, batches = build(), batches_of(build().batches_per_step)
    step = jax.jit(algorithm.train_step)
    return [
        run(step, begin(algorithm, keys()[i], {n: v[i] for n, v in values.items()}), batches)
        for i in range(SIZE)
    ]


def leaves(state):
    """Return the arrays of a state, with its key as numbers."""
    return jax.tree.leaves(jax.device_get(state.replace(key=jax.random.key_data(state.key))))


def distance(ours, theirs):
    """Return the largest relative L2 distance between two leaves."""
    return max(
        float(np.linalg.norm(np.asarray(a, np.float64) - b) / (np.linalg.norm(b) + 1e-6))
        for a, b in zip(ours, theirs, strict=True)
    )


def errors(case, strategy, size=SIZE):
    """Return by how much state and metrics of each member differ from those of the same alone."""
    build, values = CASES[case]
    members = population(
        build(), values={n: v[:size] for n, v in values.items()}, strategy=strategy
    )
    states = jax.jit(members.init)(keys(size))
    states, metrics = run(members.train_step, states, batches_of(members.batches_per_step))
    worst = 0.0
    for index, (state, expected) in enumerate(alone(case)[:size]):
        worst = max(worst, distance(leaves(members.member(states, index)), leaves(state)))
        assert metrics.keys() == expected.keys()
        ours = [metrics[name][:, index] for name in expected]
        worst = max(worst, distance(ours, expected.values()))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [pytest.param("vmap", marks=pytest.mark.slow), "map"])
@pytest.mark.parametrize("case", CASES)
def test_members_train_as_they_would_alone(case, strategy):
    assert errors(case, strategy) < 1e-5


@pytest.mark.slow
def test_members_differ():
    for case in CASES:
        states = [state for state, _ in alone(case)]
        for other in states[1:]:
            assert distance(leaves(states[0]), leaves(other)) > 1e-2


def test_one_member_is_not_a_batch_of_one():
    members = population(lazy_gan(), 1, strategy="vmap")
    states = jax.eval_shape(members.init, keys(1))
    text = str(jax.make_jaxpr(members.train_step)(states, batches_of(2)[0]))
    assert "conv_general_dilated" in text
    assert set(re.findall(r"(?:feature|batch)_group_count=(\d+)", text)) == {"1"}


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_a_lazy_penalty_stays_a_branch(strategy):
    members = population(lazy_gan(), SIZE, strategy=strategy)
    states = jax.eval_shape(members.init, keys())
    assert states.step.shape == states.rollbacks.shape == ()
    branches = str(jax.make_jaxpr(members.train_step)(states, batches_of(2)[0])).count(" cond[")
    plain = lazy_gan()
    state = jax.eval_shape(plain.init, keys()[0])
    assert branches == str(jax.make_jaxpr(plain.train_step)(state, batches_of(2)[0])).count(
        " cond["
    )
    assert branches > 0


@pytest.mark.slow
def test_a_step_is_a_scan_body_and_traced_once(small):
    members = population(small, 3, strategy="vmap")
    points = np.random.default_rng(0).normal(size=(STEPS, BATCH, 2)).astype(np.float32)
    traces = []

    def step(state, batch):
        traces.append(batch["image"].shape)
        return members.train_step(state, batch)

    @jax.jit
    def train(key):
        return jax.lax.scan(step, members.init(key), {"image": points})

    states, metrics = train(keys(3))
    assert traces == [(BATCH, 2)]
    assert metrics["loss/generator"].shape == (STEPS, 3)
    state, _ = run(small.train_step, begin(small, keys()[2], {}), [{"image": p} for p in points])
    assert distance(leaves(members.member(states, 2)), leaves(state)) < 1e-5


@pytest.mark.slow
def test_batches_of_their_own():
    algorithm = small_gan(discriminator_steps=2)
    members = population(algorithm, 2, own_batches=True)
    assert members.batches_per_step == 4
    points = np.random.default_rng(0).normal(size=(3, 2, 2, BATCH, 2)).astype(np.float32)
    together = [{"image": p.reshape(4, BATCH, 2)} for p in points]
    states, _ = run(members.train_step, jax.jit(members.init)(keys(2)), together)
    for index in range(2):
        own = [{"image": p[index]} for p in points]
        state, _ = run(algorithm.train_step, begin(algorithm, keys()[index], {}), own)
        assert distance(leaves(members.member(states, index)), leaves(state)) < 1e-5


def test_one_member_has_the_batch_for_itself(small):
    lone = population(small, 1, own_batches=True)
    assert lone.batches_per_step == 1
    jax.eval_shape(lone.train_step, jax.eval_shape(lone.init, keys(1)), {"image": np.ones((4, 2))})


# Starting.


def kernel_of(state):
    return np.asarray(state.players["generator"].params["Dense_0"]["kernel"])


@pytest.mark.slow
def test_seeds_have_keys_of_their_own(small):
    seeds = population(small, 3)
    init = jax.jit(seeds.init)
    states = init(jax.random.key(1))
    three = jax.random.split(jax.random.key(1), 3)
    for index, key in enumerate(three):
        assert distance(leaves(seeds.member(states, index)), leaves(begin(small, key, {}))) < 1e-6
    assert len(np.unique(kernel_of(states).reshape(3, -1), axis=0)) == 3
    assert states.key.shape == (3,)
    np.testing.assert_array_equal(kernel_of(init(three)), kernel_of(states))


@pytest.mark.slow
def test_values_start_from_one_key(small):
    settings = population(small, values={"r1": [0.5, 1.0]})
    init = jax.jit(settings.init)
    states = init(jax.random.key(1))
    assert states.hyperparameters["r1"].tolist() == [0.5, 1.0]
    assert states.hyperparameters["generator_learning_rate"].tolist() == [np.float32(0.1)] * 2
    np.testing.assert_array_equal(kernel_of(states)[0], kernel_of(states)[1])
    np.testing.assert_array_equal(
        kernel_of(states)[0], kernel_of(begin(small, jax.random.key(1), {}))
    )
    both = init(jax.random.split(jax.random.key(1)))
    assert np.abs(kernel_of(both)[0] - kernel_of(both)[1]).max() > 1e-3


@pytest.mark.slow
def test_a_donated_state_takes_nothing_with_it(small):
    settings = population(small, values={"r1": jnp.array([0.5, 1.0])})
    key = jax.random.key(1)
    for _ in range(2):
        states = settings.init(key)
        step = jax.jit(settings.train_step, donate_argnums=0)
        step(states, {"image": jnp.zeros((4, 2))})
        assert states.hyperparameters["r1"].is_deleted()


@pytest.mark.slow
def test_samples_and_held_out_sums_of_each_member(small):
    seeds = population(small, 3, strategy="map")
    states = jax.jit(seeds.init)(jax.random.key(1))
    samples = seeds.sample(states, jax.random.key(2), 5)
    sums = seeds.evaluate(states, {"image": jnp.ones((7, 2))}, jax.random.key(2))
    z = jnp.ones((2, 2))
    given = seeds.sample(states, jax.random.key(2), 2, latents=z)
    assert samples.shape == (3, 5, 2)
    for index in range(3):
        state = seeds.member(states, index)
        np.testing.assert_allclose(
            samples[index], small.sample(state, jax.random.key(2), 5), rtol=1e-6
        )
        np.testing.assert_allclose(
            given[index], small.sample(state, jax.random.key(0), 2, latents=z), rtol=1e-6
        )
        expected = small.evaluate(state, {"image": jnp.ones((7, 2))}, jax.random.key(2))
        assert expected.keys() == sums.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(sums[name][index], value, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"values": {"r2": [1.0]}}, "no hyper-parameter 'r2'; did you mean 'r1'"),
        (
            {"values": {"generator_learning_rat": [1.0]}},
            "did you mean 'generator_learning_rate'",
        ),
        ({"values": {"zzz": [1.0]}}, "this algorithm has: generator_learning_rate, r1"),
        ({"values": {"r1": 1.0}}, r"'r1' have to be one number a member, got shape \(\)"),
        ({"size": 3, "values": {"r1": [1.0]}}, "'r1' has 1 values, but there are 3 members"),
        ({"values": {"r1": []}}, "at least one member, got 0"),
        ({}, "at least one member, got None"),
        ({"size": 0}, "at least one member, got 0"),
        ({"size": 2, "strategy": "vmpa"}, "strategy is 'vmpa', expected .*did you mean vmap"),
    ],
)
def test_what_cannot_be_meant(small, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        population(small, **arguments)


def test_keys_are_counted(small):
    with pytest.raises(InputError, match=r"one key or 3, one a member; got \(2,\)"):
        population(small, 3).init(jax.random.split(jax.random.key(0)))


def test_a_cpu_takes_convolutions_one_after_another(small):
    assert population(small, 2).strategy == "vmap"
    assert population(lazy_gan(), 2).strategy == "map"
    on_one = population(vae(), 2, strategy="devices", devices=jax.devices()[:1])
    assert on_one.strategy == "devices+map"
    assert on_one.mesh.size == 1


# In the loop.

RING = in_memory("points", "train", {"image": np.float32(IMAGES.reshape(60, -1)[:, :2]) / 255})


def fitted(algorithm, state, **how):
    """Return the final state and the metrics that were logged, by step."""
    logged = {}

    def log(progress):
        logged[progress.step] = dict(progress.metrics)

    how = {"steps": STEPS, "batch_size": BATCH, "log_every_steps": 2, **how}
    state = fit(algorithm, state, RING, callbacks=[Callback(log)], **how)
    return state, logged


@pytest.mark.slow
def test_fit_trains_each_member_as_it_would_alone(small):
    rates = [0.1, np.inf, 0.2]
    members = population(small, values={"generator_learning_rate": rates})
    saved = []
    states, logged = fitted(
        members, jax.jit(members.init)(keys()[0]), save=lambda step, state: saved.append(step)
    )
    for index in (0, 2):
        state = begin(small, keys()[0], {"generator_learning_rate": rates[index]})
        state, expected = fitted(small, state)
        assert distance(leaves(members.member(states, index)), leaves(state)) < 1e-5
        for step, metrics in expected.items():
            for name, value in metrics.items():
                np.testing.assert_allclose(logged[step][name][index], value, rtol=1e-4)
    # The lost member is seen, and stops nobody.
    assert np.isnan(logged[STEPS]["loss/generator"][1])
    assert saved == [STEPS]


@pytest.mark.slow
def test_fit_ends_when_every_member_is_lost(small):
    members = population(small, values={"generator_learning_rate": [np.inf, np.inf]})
    states = jax.jit(members.init)(keys()[0])
    with pytest.raises(DivergedError, match=r"loss/generator .*not finite at step 2; before it: "):
        fitted(members, states)


@pytest.mark.slow
def test_fit_saves_while_a_member_is_sound():
    members = population(small_gan(ema_half_life_images=10.0), 2)
    saved = []

    def train(*bad):  # averages that no metric shows
        states = jax.jit(members.init)(keys(2))
        lost = jnp.isin(jnp.arange(2), jnp.array(bad))
        average = jax.tree.map(
            lambda leaf: jnp.where(lost.reshape(2, *[1] * (leaf.ndim - 1)), jnp.nan, leaf),
            states.ema,
        )
        fitted(members, states.replace(ema=average), save=lambda step, state: saved.append(bad))

    train(1)
    assert saved == [(1,)]
    with pytest.raises(DivergedError, match="weights that are not finite at step 5"):
        train(0, 1)
    assert saved == [(1,)]


@pytest.mark.slow
def test_fit_gives_members_batches_of_their_own(small):
    members = population(small, 2, own_batches=True)
    states, _ = fitted(members, jax.jit(members.init)(keys(2)))
    batches = [RING.batch(rows) for rows in order_of(2 * STEPS)]
    for index in range(2):
        state, _ = run(small.train_step, begin(small, keys()[index], {}), batches[index::2])
        assert distance(leaves(members.member(states, index)), leaves(state)) < 1e-5


def order_of(num_batches):
    return batch_indices(60, seed=0, first_batch=0, num_batches=num_batches, batch_size=BATCH)


# On several devices, in a process of its own.


def members_held(states):
    """How many members lie on the first device."""
    kernels = states.players["generator"].params["Dense_0"]["kernel"]
    return kernels.addressable_shards[0].data.shape[0]


def main():
    jax.config.update("jax_num_cpu_devices", 2)
    results = {f"{case} {strategy}": errors(case, strategy) for case, strategy in DEVICE_CASES}
    algorithm = small_gan()
    members = population(algorithm, 2)
    states = jax.jit(members.init)(keys(2))
    before = members_held(states)
    samples = jax.eval_shape(lambda s: members.sample(s, jax.random.key(0), 3), states)
    states, logged = fitted(members, states)
    shares = [before, members_held(states)]
    state, expected = fitted(algorithm, begin(algorithm, keys()[1], {}))
    ours = [metrics["loss/generator"][1] for metrics in logged.values()]
    theirs = [metrics["loss/generator"] for metrics in expected.values()]
    results["fit"] = distance(leaves(members.member(states, 1)), leaves(state))
    results["fit metrics"] = distance(ours, theirs)
    try:
        population(algorithm, 5, strategy="devices")
    except InputError as error:
        sentence = str(error)
    results = {
        "errors": results,
        "strategies": [population(algorithm, size).strategy for size in (1, 2, 3, 4)],
        "shares": shares,
        "step": states.step.sharding.is_fully_replicated,
        "samples": samples.shape,
        "sentence": sentence,
    }
    print(json.dumps(results))


@pytest.fixture(scope="module")
def process(quick_compilation, tmp_path_factory):
    """The process on two devices."""
    process = start([__file__], tmp_path_factory.mktemp("devices"), NPROC="64", JAX_PLATFORMS="cpu")
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def on_devices(process):
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_members_on_devices_train_as_they_would_alone(on_devices):
    assert len(on_devices["errors"]) == len(DEVICE_CASES) + 2
    for name, error in on_devices["errors"].items():
        assert error < 1e-5, name


@pytest.mark.slow
def test_members_stay_where_they_are(on_devices):
    assert on_devices["shares"] == [1, 1]
    assert on_devices["step"]
    assert on_devices["samples"] == [2, 3, 2]


@pytest.mark.slow
def test_members_are_spread_where_they_divide(on_devices):
    # One member and three do not divide over two devices.
    assert on_devices["strategies"] == ["vmap", "devices+vmap", "vmap", "devices+vmap"]
    assert on_devices["sentence"] == (
        "5 members do not divide over 2 devices; take 4 members, or give it fewer devices"
    )


if __name__ == "__main__":
    main()
