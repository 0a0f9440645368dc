"""Recurrent language models: LSTM and GRU.

References:
  Hochreiter and Schmidhuber 1997, Long Short-Term Memory, Neural Computation 9(8).
  Cho et al. 2014, the GRU, arXiv:1406.1078; in cuDNN's form, whose reset gate acts on the product
  with the recurrent weights.
"""

import abc
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from ganjax import axes
from ganjax.networks import layers
from ganjax.types import Array, InputError

Weights = Mapping[str, Array]


class Cell(Protocol):
    """One step of a recurrence as pure functions of its weights.

    Attributes:
      output_dim: length of what a step puts out.
    """

    output_dim: int

    def parameters(self, inputs: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and kind ("kernel", "zeros", "ones") of each weight, by name."""

    def start(self, batch_size: int) -> Any:
        """Return the state before the first step; arrays with the batch as first axis."""

    def project(self, weights: Weights, x: Array) -> Any:
        """Return what the inputs (..., inputs) contribute to a step: of all steps at once."""

    def step(self, weights: Weights, state: Any, projected: Any) -> tuple[Any, Array]:
        """Return the next state and the output (B, output_dim)."""


class GatedCell(abc.ABC):
    """A cell in which `recur`, affine in the weights and in its last output, comes first.

    What then remains of a step, `gate`, has no weights, so that `run` can differentiate faster.
    """

    def step(self, weights: Weights, state: Any, projected: Array) -> tuple[Any, Array]:
        state = self.gate(state, projected, self.recur(weights, self.output(state)))
        return state, self.output(state)

    def recur(self, weights: Weights, output: Array) -> Array:
        """Return what an output (..., output_dim) contributes to the next step, (..., gates)."""
        return output @ weights["recurrent_kernel"]

    @abc.abstractmethod
    def output(self, state: Any) -> Array:
        """Return the output (B, output_dim) that belongs to a state."""

    @abc.abstractmethod
    def gate(self, state: Any, projected: Array, recurrent: Array) -> Any:
        """Return the next state, of what the inputs and the last output contribute (B, gates)."""


@dataclass(frozen=True)
class LSTMCell(GatedCell):
    """Long short-term memory; its state is (cell, output), each (B, width)."""

    width: int

    @property
    def output_dim(self) -> int:
        return self.width

    def parameters(self, inputs: int) -> dict[str, tuple[tuple[int, ...], str]]:
        return {
            "input_kernel": ((inputs, 4 * self.width), "kernel"),
            "recurrent_kernel": ((self.width, 4 * self.width), "kernel"),
            "bias": ((4 * self.width,), "zeros"),
        }

    def start(self, batch_size: int) -> tuple[Array, Array]:
        return jnp.zeros((batch_size, self.width)), jnp.zeros((batch_size, self.width))

    def project(self, weights: Weights, x: Array) -> Array:
        return x @ weights["input_kernel"] + weights["bias"]

    def output(self, state: tuple[Array, Array]) -> Array:
        return state[1]

    def gate(self, state: Any, projected: Array, recurrent: Array) -> tuple[Array, Array]:
        cell, _ = state
        write, keep, new, show = jnp.split(projected + recurrent, 4, axis=-1)
        # One is added to the forget gate: it starts by keeping (Jozefowicz et al. 2015).
        cell = jax.nn.sigmoid(keep + 1.0) * cell + jax.nn.sigmoid(write) * jnp.tanh(new)
        return cell, jax.nn.sigmoid(show) * jnp.tanh(cell)


@dataclass(frozen=True)
class GRUCell(GatedCell):
    """Gated recurrent unit; its state is the output (B, width)."""

    width: int

    @property
    def output_dim(self) -> int:
        return self.width

    def parameters(self, inputs: int) -> dict[str, tuple[tuple[int, ...], str]]:
        return {
            "input_kernel": ((inputs, 3 * self.width), "kernel"),
            "recurrent_kernel": ((self.width, 3 * self.width), "kernel"),
            "bias": ((3 * self.width,), "zeros"),
            "recurrent_bias": ((self.width,), "zeros"),
        }

    def start(self, batch_size: int) -> Array:
        return jnp.zeros((batch_size, self.width))

    def project(self, weights: Weights, x: Array) -> Array:
        return x @ weights["input_kernel"] + weights["bias"]

    def output(self, state: Array) -> Array:
        return state

    def recur(self, weights: Weights, output: Array) -> Array:
        bias = jnp.pad(weights["recurrent_bias"], (2 * self.width, 0))
        return output @ weights["recurrent_kernel"] + bias

    def gate(self, state: Array, projected: Array, recurrent: Array) -> Array:
        reset_in, update_in, new_in = jnp.split(projected, 3, axis=-1)
        reset, update, new = jnp.split(recurrent, 3, axis=-1)
        reset, update = jax.nn.sigmoid(reset_in + reset), jax.nn.sigmoid(update_in + update)
        return update * state + (1.0 - update) * jnp.tanh(new_in + reset * new)


class Recurrent(nn.Module):
    """Tokens (B, S), integers or weights of a mixture (B, S, V), -> logits (B, S, V) of the next.

    An embedding, layers of cells, a linear layer. A class, or any vector (B, num_classes), is
    embedded and added to every token.

    Attributes:
      stddev: of the initial weights, normal; by default one over the root of the number of inputs,
        in a truncated normal, as in RelGAN's code.
      dropout: share of activations that are dropped while training, between layers.
      tied: use the table of tokens for the logits, too; the cells' output has to be as long as an
        embedding.
    """

    vocab_size: int
    cells: Sequence[Cell] = (LSTMCell(256),)
    embedding_dim: int = 256
    stddev: float | None = None
    dropout: float = 0.0
    tied: bool = False
    num_classes: int = 0

    def setup(self):
        self.tokens = self._weight("tokens", (self.vocab_size, self.embedding_dim), "kernel")
        inputs, weights = self.embedding_dim, []
        for index, cell in enumerate(self.cells):
            known = cell.parameters(inputs)
            weights.append(
                {name: self._weight(f"layer{index}_{name}", *known[name]) for name in known}
            )
            inputs = cell.output_dim
        self.weights = weights
        if self.num_classes:
            self.condition = layers.LabelEmbedding(
                self.num_classes, self.embedding_dim, stddev=0.02
            )
        if not self.tied:
            self.output = self._weight("output", (inputs, self.vocab_size), "kernel")
        elif inputs != self.embedding_dim:
            raise InputError(
                f"tied tables need an embedding as long as the output, {inputs}, got "
                f"{self.embedding_dim}"
            )
        self.output_bias = self._weight("output_bias", (self.vocab_size,), "zeros")
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, tokens: Array, labels: Array | None = None, *, train: bool = False) -> Array:
        return self.extend(self.start(tokens.shape[0], 0, labels), tokens, train=train)[0]

    def start(self, batch_size: int, length: int, labels: Array | None = None) -> dict[str, Any]:
        del length  # what it remembers does not grow
        layers.require_labels(labels, self.num_classes)
        return {
            "condition": self.condition(labels)[:, None] if self.num_classes else None,
            "states": [cell.start(batch_size) for cell in self.cells],
        }

    def extend(
        self, cache: dict[str, Any], tokens: Array, *, train: bool = False
    ) -> tuple[Array, dict[str, Any]]:
        x = layers.embed(self.tokens, tokens)
        if cache["condition"] is not None:
            x = x + cache["condition"]
        states = []
        for cell, weights, state in zip(self.cells, self.weights, cache["states"], strict=True):
            x = self.drop(x, deterministic=not train)
            x, state = run(cell, weights, state, x)
            states.append(state)
        x = self.drop(x, deterministic=not train)
        output = self.tokens.T if self.tied else self.output
        return x @ output + self.output_bias, {**cache, "states": states}

    def _weight(self, name, shape, kind):
        inits: dict[str, Callable] = {
            "zeros": nn.initializers.zeros,
            "ones": nn.initializers.ones,
            "kernel": nn.initializers.normal(self.stddev)
            if self.stddev is not None
            else nn.initializers.truncated_normal(1 / math.sqrt(shape[0])),
        }
        return self.param(name, inits[kind], shape)


def run(cell: Cell, weights: Weights, state: Any, x: Array) -> tuple[Array, Any]:
    """Run a cell over inputs (B, S, features); returns outputs (B, S, output_dim) and the state."""
    if x.shape[1] == 1:
        state, y = cell.step(weights, state, cell.project(weights, x[:, 0]))
        return y[:, None], state
    # Time first: a scan runs over the first axis.
    projected = cell.project(weights, x.swapaxes(0, 1))
    scan = _scan_gated if isinstance(cell, GatedCell) else _scan
    state, y = scan(cell, weights, axes.vary(state), projected)
    return y.swapaxes(0, 1), state


def _scan(cell, weights, state, projected):
    return jax.lax.scan(functools.partial(cell.step, weights), state, projected)


_scan_gated = jax.custom_jvp(_scan, nondiff_argnums=(0,))


@_scan_gated.defjvp
def _scan_gated_jvp(cell, primals, tangents):
    """Keep the derivative by the weights out of the loop.

    Every output is known when tangents are asked for, so what their products with the weights'
    tangents contribute to all steps is one product of matrices. Transposed, that is the gradient
    of the weights: JAX by itself would add to an array of their size in every step.
    """
    weights, state, projected = primals
    weights_dot, state_dot, projected_dot = tangents

    def step(state, projected):
        recurrent = cell.recur(weights, cell.output(state))
        after = cell.gate(state, projected, recurrent)
        return after, (state, recurrent, cell.output(after))

    last, (states, recurrent, y) = jax.lax.scan(step, state, projected)
    before = cell.output(states)
    _, recurrent_dot = jax.jvp(lambda w: cell.recur(w, before), (weights,), (weights_dot,))

    def step_dot(state_dot, known):
        (state, projected, recurrent), (projected_dot, recurrent_dot) = known
        recur = functools.partial(cell.recur, weights)
        _, more = jax.jvp(recur, (cell.output(state),), (cell.output(state_dot),))
        dots = state_dot, projected_dot, recurrent_dot + more
        _, after_dot = jax.jvp(cell.gate, (state, projected, recurrent), dots)
        return after_dot, cell.output(after_dot)

    known = (states, projected, recurrent), (projected_dot, recurrent_dot)
    last_dot, y_dot = jax.lax.scan(step_dot, state_dot, known)
    return (last, y), (last_dot, y_dot)


def require_float32(dtype: Any) -> None:
    """Raise an `InputError` for another type."""
    if dtype != jnp.float32:
        raise InputError("recurrent language models compute in float32: leave train.precision")


@dataclass(frozen=True)
class LSTM:
    """A recurrent language model."""

    cell: str = "lstm"
    """lstm or gru."""
    num_layers: int = 1
    """Cells on top of each other."""
    width: int = 256
    """Length of a cell's output."""
    embedding_dim: int = 256
    """Numbers that stand for a token."""
    dropout: float = 0.0
    """Share of activations that are dropped while training."""
    tied: bool = False
    """Use the table of tokens for the logits, too."""
    stddev: float | None = None
    """Of the initial weights; by default by the number of inputs."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return the network for sequences of shape (length, vocabulary size)."""
        require_float32(dtype)
        cells = {"lstm": LSTMCell, "gru": GRUCell}
        layers.require_choice("model.network.cell", self.cell, cells)
        network = Recurrent(
            shape[1],
            tuple(cells[self.cell](self.width) for _ in range(self.num_layers)),
            self.embedding_dim,
            self.stddev,
            self.dropout,
            self.tied,
            num_classes,
        )
        return {"generator": network}
