import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ganjax import players
from ganjax.penalties import Term, clip_weights
from ganjax.types import Optimizer, Player

PARAMS = {"w": jnp.array([[0.5, -1.0], [2.0, 0.3]]), "b": jnp.array([0.1, -0.2])}
X = jnp.array(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)


def assert_trees_close(ours, expected, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, 1e-5), ours, expected)


def forward(params):
    return jnp.tanh(X @ params["w"] + params["b"]), {"n": jnp.int32(3)}


@pytest.mark.parametrize("name", ["generator_learning_rate", "ema_half_life_images"])
def test_a_term_cannot_take_the_name_of_another_hyperparameter(name):
    with pytest.raises(ValueError, match=f"a term cannot be called '{name}'"):
        players.check_terms([Term(name, lambda *_: None, 1.0)])


def test_evaluate_once_gives_outputs_and_gradient_of_one_pass(quick_jit):
    calls = []

    def counted(params):
        calls.append(True)
        return forward(params)

    def once(params):
        outputs, auxiliary, again = players.evaluate_once(counted, params)

        def loss(params):
            return jnp.sum(jnp.sin(3 * again(params)))

        return outputs, auxiliary, jax.value_and_grad(loss)(params)

    outputs, auxiliary, (value, gradient) = quick_jit(once)(PARAMS)
    assert len(calls) == 1
    assert_trees_close((outputs, auxiliary), forward(PARAMS))
    expected, expected_gradient = jax.value_and_grad(
        lambda params: jnp.sum(jnp.sin(3 * forward(params)[0]))
    )(PARAMS)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_trees_close(gradient, expected_gradient)


def test_evaluate_once_inside_a_scan_and_under_vmap(quick_jit):
    def update(params, _):
        _, _, again = players.evaluate_once(forward, params)
        gradient = jax.grad(lambda params: jnp.sum(again(params) ** 2))(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient), None

    def plain(params, _):
        gradient = jax.grad(lambda params: jnp.sum(forward(params)[0] ** 2))(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient), None

    def run(body):
        return jax.vmap(lambda params: jax.lax.scan(body, params, None, length=3)[0])

    many = jax.tree.map(lambda p: jnp.stack([p, -p]), PARAMS)
    ours, expected = quick_jit(lambda many: (run(update)(many), run(plain)(many)))(many)
    assert_trees_close(ours, expected)


def objective(params, variables, batch, key):
    del key
    loss = jnp.mean((batch["x"] @ params["w"] + params["b"]) ** 2 * batch["weight"])
    variables = {"seen": variables["seen"] + batch["x"].shape[0], "last": batch["x"][0, 0]}
    return loss, (variables, {"loss": loss})


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_micro_batches_add_up_to_the_batch(parts):
    batch = {"x": X, "weight": jnp.arange(8.0)[:, None]}
    variables = {"seen": jnp.int32(0), "last": jnp.float32(0)}
    key = jax.random.key(0)
    (loss, (after, metrics)), gradients = jax.jit(players.value_and_grad(objective, parts))(
        PARAMS, variables, batch, key
    )
    (expected, _), expected_gradients = jax.value_and_grad(objective, has_aux=True)(
        PARAMS, variables, batch, key
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert_trees_close(gradients, expected_gradients)
    assert after["seen"] == 8  # variables go through every part, one after another
    assert after["last"] == X[parts - 1, 0]  # every n-th example, not a block


def test_micro_batches_have_keys_of_their_own():
    def random(params, variables, batch, key):
        return jnp.sum(params["b"]), (variables, {"draw": jax.random.uniform(key)})

    _, (_, metrics) = players.value_and_grad(random, 4)(PARAMS, {}, {"x": X}, jax.random.key(0))[0]
    draws = [jax.random.uniform(key) for key in jax.random.split(jax.random.key(0), 4)]
    assert len(set(map(float, draws))) == 4
    np.testing.assert_allclose(metrics["draw"], np.mean(draws), rtol=1e-5)


def test_micro_batches_divide_the_batch():
    with pytest.raises(ValueError, match="8 examples do not divide into 3 micro-batches"):
        players.value_and_grad(objective, 3)(PARAMS, {}, {"x": X}, jax.random.key(0))


def train(optimizer, steps=4, learning_rate=None):
    player = players.init_player({"params": PARAMS, "stats": {"n": jnp.ones(1)}}, optimizer)
    gradients = jax.tree.map(lambda p: jnp.cos(5 * p), PARAMS)
    for step in range(steps):
        player = players.apply_gradients(
            player, gradients, optimizer, learning_rate=learning_rate, step=jnp.int32(step)
        )
    return player


def schedule(step):
    return 1 / (1.0 + step)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (Optimizer(optax.scale_by_adam(b1=0.5), 0.01), optax.adam(0.01, b1=0.5)),
        (
            Optimizer(optax.scale_by_adam(), 0.01, schedule),
            optax.adam(lambda step: 0.01 * schedule(step)),
        ),
        (Optimizer(optax.identity(), 0.1), optax.sgd(0.1)),
        (optax.sgd(0.1), optax.sgd(0.1)),
    ],
)
def test_an_optimizer_is_its_optax_counterpart(ours, expected):
    state = expected.init(PARAMS)
    params = PARAMS
    gradients = jax.tree.map(lambda p: jnp.cos(5 * p), PARAMS)
    for _ in range(4):
        updates, state = expected.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    player = train(ours)
    assert_trees_close(player.params, params)
    assert player.variables == {"stats": {"n": jnp.ones(1)}}


def test_a_learning_rate_that_is_given_replaces_that_of_the_optimizer():
    ours = train(Optimizer(optax.scale_by_adam(), 123.0), learning_rate=jnp.float32(0.01))
    assert_trees_close(ours.params, train(optax.adam(0.01)).params)


def test_a_constraint_holds_after_every_update():
    player = train(Optimizer(optax.identity(), 0.5, constraint=clip_weights(0.3)))
    assert max(float(jnp.abs(p).max()) for p in jax.tree.leaves(player.params)) == np.float32(0.3)


def test_a_player_owns_its_arrays_and_gives_its_variables_back():
    variables = {"params": PARAMS, "batch_stats": {"mean": PARAMS["b"]}}
    player = players.init_player(variables, optax.adam(0.1))
    theirs = {a.unsafe_buffer_pointer() for a in jax.tree.leaves(variables)}
    ours = [a.unsafe_buffer_pointer() for a in jax.tree.leaves(player)]
    assert len(set(ours)) == len(ours)
    assert not theirs & set(ours)
    assert_trees_close(players.all_variables(player), variables)


def test_terms_are_weighed_with_weight_and_interval():
    terms = [Term("a", "a", 2.0), Term("b", "b", 9.0, 4)]
    values = {"a": jnp.array([1.0, 3.0]), "b": jnp.array([0.5, 0.5])}
    total, metrics = players.weigh(
        terms, {"a": jnp.float32(2), "b": jnp.float32(10)}, lambda name, index: values[name]
    )
    assert total == 2 * 2 + 4 * 10 * 0.5
    assert metrics == {"penalty/a": 2.0, "penalty/b": 0.5}


def test_lazy_updates_come_when_the_interval_divides_the_step():
    terms = [Term("eager", None, 1.0), Term("b", None, 1.0, 2), Term("c", None, 1.0, 3)]
    terms.append(Term("d", None, 1.0, 3))

    def update(player, group):
        params = player.params
        for term in group:
            params = params + {"b": 1, "c": 10, "d": 100}[term.name]
        return player.replace(params=params), {f"penalty/{t.name}": params for t in group}

    assert set(players.init_running(terms)) == {"penalty/b", "penalty/c", "penalty/d"}
    expected = {0: 111, 1: 0, 2: 1, 3: 110, 4: 1, 5: 0, 6: 111}
    for step, added in expected.items():
        player, running = players.lazy_updates(
            Player(jnp.float32(0), {}, ()),
            terms,
            {name: jnp.float32(-1) for name in players.init_running(terms)},
            step=jnp.int32(step),
            update=update,
        )
        assert player.params == added
        assert (running["penalty/b"] == -1) == (step % 2 != 0)
        assert (running["penalty/c"] == -1) == (running["penalty/d"] == -1) == (step % 3 != 0)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([Term("a", None, 1.0), Term("a", None, 2.0)], "two terms have the name 'a'"),
        ([Term("a", None, 1.0, 0)], "interval of term 'a' has to be 1 or more, got 0"),
    ],
)
def test_terms_are_checked(terms, message):
    with pytest.raises(ValueError, match=message):
        players.check_terms(terms)
