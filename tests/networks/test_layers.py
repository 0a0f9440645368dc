import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ganjax.networks import layers
from ganjax.types import DiscriminatorOutput, InputError, Network

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)


class Asking(nn.Module):
    """Records what it is given."""

    @nn.compact
    def __call__(self, x, labels=None, train=None):
        self.sow("heard", "labels", labels)
        bias = self.param("bias", nn.initializers.zeros, ())
        return x + bias, labels, train


class OnlyTrain(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(use_running_average=not train)(x)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, **context):
        assert set(context) == {"labels", "train"}
        w = self.param("w", nn.initializers.ones, ())
        noise = jax.random.normal(self.make_rng("noise"), x.shape)
        return nn.Dropout(0.5, deterministic=not context["train"])(w * jnp.ones(1000)), noise


def test_a_network_passes_through():
    network = Network(lambda key, x, labels: {"params": {}}, lambda *a, **k: (0, {}))
    assert layers.as_network(network) is network


def test_a_module_is_given_the_arguments_it_has():
    network = layers.as_network(Asking())
    variables = network.init(KEY, X, jnp.arange(4))
    (_, labels, train), _ = network.apply(variables, X, jnp.arange(4), train=True, key=KEY)
    np.testing.assert_array_equal(labels, np.arange(4))
    assert train is True
    for module in (nn.Dense(2), nn.Sequential([nn.Dense(2), nn.relu, nn.Dense(1)]), OnlyTrain()):
        network = layers.as_network(module)
        variables = network.init(KEY, X, None)
        outputs, _ = network.apply(variables, X, None, train=False, key=None)
        assert outputs.shape[0] == 4


def test_only_training_updates_the_other_collections():
    network = layers.as_network(OnlyTrain())
    variables = network.init(KEY, X)
    _, same = network.apply(variables, X, train=False)
    _, updated = network.apply(variables, X, train=True)
    assert set(same) == set(updated) == {"batch_stats"}
    stats = [v["batch_stats"]["BatchNorm_0"]["mean"] for v in (variables, same, updated)]
    np.testing.assert_array_equal(stats[0], stats[1])
    assert np.abs(stats[2] - stats[1]).max() > 1e-4


def test_random_streams_come_from_the_key():
    network = layers.as_network(Noisy())
    variables = network.init(KEY, X)
    keys = (KEY, KEY, jax.random.key(1))
    drop, noise = zip(
        *(network.apply(variables, X, train=True, key=k)[0] for k in keys), strict=True
    )
    for values in (drop, noise):
        np.testing.assert_array_equal(values[0], values[1])
        assert np.any(values[0] != values[2])
    assert 400 < np.sum(drop[0] == 0) < 600
    kept, _ = network.apply(variables, X, train=False, key=KEY)[0]
    np.testing.assert_array_equal(kept, 1)


def test_anything_else_is_no_network():
    with pytest.raises(ValueError, match=r"expected a Linen module or a ganjax.Network.* got 3"):
        layers.as_network(3)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("wrap", [lambda x: x, DiscriminatorOutput], ids=["array", "output"])
def test_logits_come_out_flat_and_in_single_precision(shape, wrap):
    output = layers.as_output(wrap(jnp.arange(4.0, dtype=jnp.bfloat16).reshape(shape)))
    np.testing.assert_array_equal(output.logits, np.arange(4, dtype=np.float32))
    assert output.logits.dtype == jnp.float32
    assert output.class_logits is None


def test_class_logits_are_kept():
    output = layers.as_output(DiscriminatorOutput(jnp.zeros((4, 1)), jnp.ones((4, 10))))
    assert output.class_logits.shape == (4, 10)


def test_a_discriminator_has_one_logit_an_image():
    with pytest.raises(ValueError, match=r"one logit an image.* got \(4, 2\)"):
        layers.as_output(jnp.zeros((4, 2)))


@pytest.mark.parametrize(("strides", "padding"), [(2, "SAME"), (1, "VALID")])
def test_conv_has_the_parameters_and_results_of_flax(strides, padding):
    x = jax.random.normal(KEY, (2, 7, 6, 3))
    ours = layers.Conv(5, (3, 3), strides, padding)
    theirs = nn.Conv(5, (3, 3), strides, padding)
    variables = jax.tree.map(lambda p: p + 0.1, ours.init(KEY, x))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, jax.eval_shape(theirs.init, KEY, x)
    )
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), atol=1e-5)


@pytest.mark.slow
def test_conv_transpose_has_the_parameters_and_results_of_flax():
    x = jax.random.normal(KEY, (2, 4, 3, 3))
    ours = layers.ConvTranspose(5, (4, 4), 2)
    theirs = nn.ConvTranspose(5, (4, 4), (2, 2), padding="SAME", transpose_kernel=True)
    variables = jax.tree.map(lambda p: p + 0.1, ours.init(KEY, x))
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (4, 4, 3, 5)
    flax_params = {**variables["params"], "kernel": jnp.swapaxes(kernel, -1, -2)}
    y = ours.apply(variables, x)
    np.testing.assert_allclose(y, theirs.apply({"params": flax_params}, x), atol=1e-5)
    assert layers.ConvTranspose(5, (4, 4), 2, output_size=(7, 6)).apply(variables, x).shape == (
        2,
        7,
        6,
        5,
    )


@pytest.mark.parametrize("layer", [layers.Conv, layers.ConvTranspose])
def test_half_precision_layers_keep_single_precision_parameters(layer):
    module = layer(2, (3, 3), dtype=jnp.bfloat16)
    y, variables = jax.eval_shape(lambda: module.init_with_output(KEY, jnp.ones((1, 4, 4, 2))))
    assert y.dtype == jnp.bfloat16
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    bare = jax.eval_shape(layer(2, (3, 3), use_bias=False).init, KEY, jnp.ones((1, 4, 4, 2)))
    assert set(bare["params"]) == {"kernel"}


def test_batch_norm_normalises_and_keeps_running_statistics():
    x = 3 + 2 * jax.random.normal(KEY, (16, 3, 2, 4))
    module = layers.BatchNorm()
    variables = module.init(KEY, x, train=True)
    scale = variables["params"]["BatchNorm_0"]["scale"]
    assert 0 < np.abs(scale - 1).max() < 0.1  # N(1, 0.02)
    variables["params"]["BatchNorm_0"]["scale"] = jnp.full(4, 2.0)
    y, updated = module.apply(variables, x, train=True, mutable="batch_stats")
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 2, rtol=1e-4)
    stats = updated["batch_stats"]["BatchNorm_0"]
    mean, variance = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * variance, rtol=1e-4)
    # Outside training the running ones are used, for any batch.
    y = module.apply({**variables, **updated}, x[:1], train=False)
    expected = 2 * (x[:1] - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_statistics_are_in_single_precision():
    x = 100 + jax.random.normal(KEY, (512, 2)).astype(jnp.bfloat16)
    module = layers.BatchNorm(jnp.bfloat16)
    y, variables = module.init_with_output(KEY, x, train=True)
    assert y.dtype == jnp.bfloat16
    assert variables["batch_stats"]["BatchNorm_0"]["mean"].dtype == jnp.float32


def test_labels_are_rows_of_a_table_or_mixtures_of_them():
    module = layers.LabelEmbedding(3, 5)
    labels = jnp.array([2, 0, 1])
    rows, variables = module.init_with_output(KEY, labels)
    table = variables["params"]["embedding"]
    assert table.shape == (3, 5)
    np.testing.assert_array_equal(rows, table[labels])
    np.testing.assert_allclose(module.apply(variables, jax.nn.one_hot(labels, 3)), rows)
    half = module.apply(variables, jnp.array([[0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(half[0], (table[0] + table[1]) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "smallest", "expected"),
    [
        ((32, 32), 7, [(32, 32), (16, 16), (8, 8), (4, 4)]),
        ((30, 22), 7, [(30, 22), (15, 11), (8, 6)]),
        ((64, 16), 7, [(64, 16), (32, 8), (16, 4)]),
        ((7, 5), 7, [(7, 5)]),
    ],
)
def test_sizes_are_halved_and_rounded_up(size, smallest, expected):
    assert layers.halved_sizes(size, smallest) == expected


def test_sentences():
    with pytest.raises(ValueError, match="a network with 10 classes needs labels"):
        layers.require_labels(None, 10)
    layers.require_labels(None, 0)
    with pytest.raises(InputError, match="color has to be one of red, blue; got 'grey'"):
        layers.require_choice("color", "grey", ("red", "blue"))
