"""The derivative of gated cells, which is written by hand, against the one of a plain scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.networks import recurrent
from ganjax.networks.recurrent import GRUCell, LSTMCell

X = jax.random.normal(jax.random.key(0), (7, 3, 5))  # time, batch, features


def value(scan, cell, weights, x):
    state, y = scan(cell, weights, cell.start(3), cell.project(weights, x))
    return jnp.sum(jnp.sin(y)) + sum(jnp.sum(part**2) for part in jax.tree.leaves(state))


def gradients(scan, cell, weights):
    return jax.grad(functools.partial(value, scan, cell), (0, 1))(weights, X)


def gradients_of_a_penalty(scan, cell, weights):
    def penalty(weights):
        return jnp.sum(jax.grad(functools.partial(value, scan, cell), 1)(weights, X) ** 2)

    return jax.grad(penalty)(weights)


def tangents(scan, cell, weights):
    return jax.jvp(functools.partial(value, scan, cell), (weights, X), (weights, X))


@pytest.mark.parametrize("cell", [LSTMCell(4), GRUCell(4)], ids=["lstm", "gru"])
@pytest.mark.parametrize("derivative", [gradients, gradients_of_a_penalty, tangents])
def test_derivatives_are_those_of_the_loop(cell, derivative):
    weights = {
        name: 0.5 * jax.random.normal(jax.random.key(index), shape)
        for index, (name, (shape, _)) in enumerate(cell.parameters(5).items(), 1)
    }
    found, plain = (
        jax.jit(derivative, static_argnums=(0, 1))(scan, cell, weights)
        for scan in (recurrent._scan_gated, recurrent._scan)
    )
    assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, plain)
