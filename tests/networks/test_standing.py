"""Batch statistics that are gathered anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import run_cli

import ganjax
from ganjax import build
from ganjax.networks import dcgan
from ganjax.networks.layers import as_network
from ganjax.networks.normalization import ConditionalBatchNorm
from ganjax.networks.standing import standing_statistics
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


@pytest.mark.parametrize("num_batches", [1, 16])
def test_statistics_are_those_of_the_batches(num_batches):
    network = as_network(ConditionalBatchNorm())

    def inputs(key):
        return 3.0 + 2.0 * jax.random.normal(key, (512, 4)), None

    variables = network.init(KEY, jnp.zeros((2, 4)))
    variables["batch_stats"] = jax.tree.map(lambda a: a + 7.0, variables["batch_stats"])
    standing = standing_statistics(network, variables, inputs, KEY, num_batches)
    np.testing.assert_allclose(standing["batch_stats"]["mean"], 3.0, atol=0.4)
    np.testing.assert_allclose(standing["batch_stats"]["var"], 4.0, rtol=0.2)
    assert standing["params"] is variables["params"]
    if num_batches == 1:
        input_key, _ = jax.random.split(jax.random.split(KEY, 1)[0])
        batch = inputs(input_key)[0]
        np.testing.assert_allclose(standing["batch_stats"]["mean"], batch.mean(0), rtol=1e-5)
        np.testing.assert_allclose(
            standing["batch_stats"]["var"], jnp.var(batch, 0, ddof=1), rtol=1e-4
        )


def test_a_network_without_batch_norm_has_none():
    network = as_network(dcgan.Generator((8, 8, 1), width=2, batch_norm=False))
    variables = network.init(KEY, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="for a generator with batch norm; this one has none"):
        standing_statistics(network, variables, lambda key: (jnp.zeros((2, 4)), None), KEY)


def test_samples_and_scores_say_so(image_run, tmp_path, capsys):
    trained = ganjax.load(str(image_run.run))
    standing = trained.with_standing_statistics(4, batch_size=16)
    for which in ("players", "ema"):
        before, after = getattr(trained.state, which), getattr(standing.state, which)
        before, after = before["generator"], after["generator"]
        if which == "players":
            before, after = before.variables, after.variables
        for old, new in zip(
            jax.tree.leaves(before["batch_stats"]),
            jax.tree.leaves(after["batch_stats"]),
            strict=True,
        ):
            assert not np.allclose(old, new)
    assert not np.allclose(trained.sample(KEY, 4), standing.sample(KEY, 4))
    out = tmp_path / "samples.npz"
    arguments = ("--standing-batches", 4, "--num", 4, "--out", out)
    assert run_cli("sample", image_run.run, *arguments) == 0
    assert out.exists()


def test_a_generator_without_batch_norm_is_told_so(ring_run):
    trained = ganjax.load(str(ring_run.run))
    with pytest.raises(InputError, match="standing statistics need a generator with batch norm"):
        build.with_standing_statistics(trained.model, trained.state, 4)
