"""The relational memory core: a recurrence whose state attends to itself.

References:
  Santoro et al. 2018, Relational recurrent neural networks, arXiv:1806.01822.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ganjax.networks.pointwise import standardize
from ganjax.networks.recurrent import Weights
from ganjax.types import Array


@dataclass(frozen=True)
class RelationalMemoryCell:
    """Memory slots that attend to each other and to the input, with gates for each number.

    The state is (B, slots, heads * head_dim), at first rows of the unit matrix; the output is all
    of it.
    """

    slots: int = 1
    heads: int = 2
    head_dim: int = 256
    forget_bias: float = 1.0
    input_bias: float = 0.0

    @property
    def memory_dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def output_dim(self) -> int:
        return self.slots * self.memory_dim

    def parameters(self, inputs: int) -> dict[str, tuple[tuple[int, ...], str]]:
        size = self.memory_dim
        kernels = {
            "input": (inputs, size),
            "attention": (size, 3 * size),
            "mlp0": (size, size),
            "mlp1": (size, size),
            "gates_input": (size, 2 * size),
            "gates_memory": (size, 2 * size),
        }
        table: dict[str, tuple[tuple[int, ...], str]] = {}
        for name, shape in kernels.items():
            table[f"{name}_kernel"] = (shape, "kernel")
            table[f"{name}_bias"] = (shape[1:], "zeros")
        for name, length in (("attention", 3 * size), ("norm0", size), ("norm1", size)):
            table[f"{name}_scale"] = ((length,), "ones")
            table[f"{name}_shift"] = ((length,), "zeros")
        return table

    def start(self, batch_size: int) -> Array:
        rows = jnp.eye(self.slots, self.memory_dim)
        return jnp.broadcast_to(rows, (batch_size, *rows.shape))

    def project(self, weights: Weights, x: Array) -> tuple[Array, Array]:
        x = _linear(weights, "input", x)
        return x, _linear(weights, "gates_input", x)

    def step(self, weights: Weights, state: Array, projected: Any) -> tuple[Array, Array]:
        inputs, gates = projected
        seen = jnp.concatenate([state, inputs[:, None]], axis=1)
        memory = _norm(weights, "norm0", seen + self._attend(weights, seen))
        mlp = jax.nn.relu(_linear(weights, "mlp0", memory))
        mlp = _linear(weights, "mlp1", mlp)
        memory = _norm(weights, "norm1", memory + mlp)[:, : self.slots]
        gates = gates[:, None] + _linear(weights, "gates_memory", jnp.tanh(state))
        write, keep = jnp.split(gates, 2, axis=-1)
        state = jax.nn.sigmoid(write + self.input_bias) * jnp.tanh(memory) + (
            jax.nn.sigmoid(keep + self.forget_bias) * state
        )
        return state, state.reshape(state.shape[0], -1)

    def _attend(self, weights, x):
        mixed = _norm(weights, "attention", _linear(weights, "attention", x))
        mixed = mixed.reshape(*x.shape[:2], self.heads, 3, self.head_dim)
        queries, keys, values = jnp.moveaxis(mixed, 3, 0)
        # A handful of slots: sums of products, which need no batched matrix product.
        scores = jnp.sum(queries[:, :, None] * keys[:, None], axis=-1) / math.sqrt(self.head_dim)
        weights = jax.nn.softmax(scores, axis=2)[..., None]
        return jnp.sum(weights * values[:, None], axis=2).reshape(x.shape)


def _linear(weights, name, x):
    return x @ weights[f"{name}_kernel"] + weights[f"{name}_bias"]


def _norm(weights, name, x):
    return standardize(x) * weights[f"{name}_scale"] + weights[f"{name}_shift"]
