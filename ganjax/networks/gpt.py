"""The transformer language model of GPT-2.

References:
  Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762.
  Radford et al. 2019, Language Models are Unsupervised Multitask Learners.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ganjax.networks import layers, pointwise
from ganjax.types import Array, InputError


class Attention(nn.Module):
    """Causal attention of several heads over (B, S, width), with or without a cache.

    A cache is a pair of keys and values (B, heads, length, width // heads), of which the first
    `position` are known.
    """

    heads: int
    dropout: float = 0.0
    use_bias: bool = True
    output_stddev: float = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        cache: tuple[Array, Array] | None = None,
        position: Array | int = 0,
        *,
        train: bool = False,
    ) -> tuple[Array, tuple[Array, Array] | None]:
        batch, length, width = x.shape
        mixed = layers.Dense(3 * width, self.use_bias, self.dtype, name="inputs")(x)
        # (3, B, heads, S, D): what the products below take without moving data again.
        mixed = mixed.reshape(batch, length, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        queries, keys, values = mixed
        if cache is not None:
            at = (0, 0, position, 0)
            keys = jax.lax.dynamic_update_slice(cache[0], keys.astype(cache[0].dtype), at)
            values = jax.lax.dynamic_update_slice(cache[1], values.astype(cache[1].dtype), at)
            cache = keys, values
        scores = jnp.einsum("bhqd,bhkd->bhqk", queries, keys).astype(jnp.float32)
        scores = scores / math.sqrt(width // self.heads)
        seen = jnp.arange(keys.shape[2]) <= position + jnp.arange(length)[:, None]
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1).astype(self.dtype)
        weights = nn.Dropout(self.dropout)(weights, deterministic=not train)
        x = jnp.einsum("bhqk,bhkd->bhqd", weights, values)
        x = x.transpose(0, 2, 1, 3).reshape(batch, length, width)
        init = nn.initializers.normal(self.output_stddev)
        x = layers.Dense(width, self.use_bias, self.dtype, init, name="output")(x)
        return nn.Dropout(self.dropout)(x, deterministic=not train), cache


class Block(nn.Module):
    """Attention and a two-layer perceptron, each on normalised inputs and added to them."""

    heads: int
    dropout: float = 0.0
    use_bias: bool = True
    output_stddev: float = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        cache: tuple[Array, Array] | None = None,
        position: Array | int = 0,
        *,
        train: bool = False,
    ) -> tuple[Array, tuple[Array, Array] | None]:
        width = x.shape[-1]
        attention = Attention(
            self.heads, self.dropout, self.use_bias, self.output_stddev, self.dtype
        )
        attended, cache = attention(self._norm("norm1")(x), cache, position, train=train)
        x = x + attended
        y = layers.Dense(4 * width, self.use_bias, self.dtype, name="hidden")(
            self._norm("norm2")(x)
        )
        y = pointwise.gelu(y)
        init = nn.initializers.normal(self.output_stddev)
        y = layers.Dense(width, self.use_bias, self.dtype, init, name="output")(y)
        return x + nn.Dropout(self.dropout)(y, deterministic=not train), cache

    def _norm(self, name):
        return LayerNorm(self.use_bias, self.dtype, name=name)


class Transformer(nn.Module):
    """Tokens (B, S), integers or weights of a mixture (B, S, V), -> logits (B, S, V) of the next.

    Logits at a place depend on the tokens up to it. A class, or any vector (B, num_classes), is
    embedded and added to every token.

    Attributes:
      context: the most tokens it can look at.
      tied: use the table of tokens for the logits, too.
    """

    vocab_size: int
    context: int = 1024
    num_layers: int = 12
    heads: int = 12
    width: int = 768
    dropout: float = 0.0
    use_bias: bool = True
    tied: bool = True
    num_classes: int = 0
    dtype: Any = jnp.float32

    def setup(self):
        if self.width % self.heads:
            raise InputError(f"a width of {self.width} does not divide into {self.heads} heads")
        self.tokens = self.param("tokens", layers.normal_init, (self.vocab_size, self.width))
        self.positions = self.param("positions", layers.normal_init, (self.context, self.width))
        # Residual branches add up: GPT-2 starts them smaller the more there are.
        stddev = 0.02 / math.sqrt(2 * self.num_layers)
        self.blocks = [
            Block(self.heads, self.dropout, self.use_bias, stddev, self.dtype)
            for _ in range(self.num_layers)
        ]
        self.final_norm = LayerNorm(self.use_bias, self.dtype)
        self.embedding_dropout = nn.Dropout(self.dropout)
        if self.num_classes:
            self.condition = layers.LabelEmbedding(self.num_classes, self.width, stddev=0.02)
        if not self.tied:
            shape = (self.width, self.vocab_size)
            self.output = self.param("output", layers.normal_init, shape)

    def __call__(self, tokens: Array, labels: Array | None = None, *, train: bool = False) -> Array:
        layers.require_labels(labels, self.num_classes)
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(
                f"this model looks at {self.context} tokens, a batch has sequences of {length}; "
                "shorten them, or build it with a larger context"
            )
        x = self._embed(tokens, self.positions[:length], self._condition(labels), train)
        for block in self.blocks:
            x, _ = block(x, train=train)
        return self._logits(x)

    def start(self, batch_size: int, length: int, labels: Array | None = None) -> dict[str, Any]:
        layers.require_labels(labels, self.num_classes)
        if length > self.context:
            raise ValueError(f"this model looks at {self.context} tokens, not at {length}")
        nothing = jnp.zeros((batch_size, self.heads, length, self.width // self.heads), self.dtype)
        return {
            "position": jnp.int32(0),
            "condition": self._condition(labels),
            "blocks": [(nothing, nothing) for _ in range(self.num_layers)],
        }

    def extend(
        self, cache: dict[str, Any], tokens: Array, *, train: bool = False
    ) -> tuple[Array, dict[str, Any]]:
        position, length = cache["position"], tokens.shape[1]
        positions = jax.lax.dynamic_slice_in_dim(self.positions, position, length)
        x = self._embed(tokens, positions, cache["condition"], train)
        blocks = []
        for block, known in zip(self.blocks, cache["blocks"], strict=True):
            x, known = block(x, known, position, train=train)
            blocks.append(known)
        return self._logits(x), {**cache, "position": position + length, "blocks": blocks}

    def _condition(self, labels):
        return self.condition(labels)[:, None] if self.num_classes else None

    def _embed(self, tokens, positions, condition, train):
        x = layers.embed(self.tokens, tokens) + positions
        if condition is not None:
            x = x + condition
        return self.embedding_dropout(x.astype(self.dtype), deterministic=not train)

    def _logits(self, x):
        output = self.tokens.T if self.tied else self.output
        return (self.final_norm(x) @ output.astype(self.dtype)).astype(jnp.float32)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (Ba et al. 2016, arXiv:1607.06450)."""

    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        features = (x.shape[-1],)
        x = pointwise.standardize(x) * self.param("scale", nn.initializers.ones, features)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, features)
        return x.astype(self.dtype)


@dataclass(frozen=True)
class GPT:
    """A transformer of GPT-2's form; the defaults are those of nanoGPT on one CPU."""

    num_layers: int = 4
    """Blocks of attention and perceptron."""
    heads: int = 4
    """Heads of attention in each."""
    width: int = 128
    """Numbers that stand for a token on its way."""
    dropout: float = 0.0
    """Share of activations that are dropped while training."""
    use_bias: bool = False
    """Biases in linear layers and norms, as GPT-2 has them."""
    tied: bool = True
    """Use the table of tokens for the logits, too."""
    context: int | None = None
    """The most tokens it can look at; by default as many as it is trained on at once."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return the network for sequences of shape (length, vocabulary size)."""
        length, vocab_size = shape
        context = self.context or length
        if context < length:
            raise InputError(
                f"model.network.context is {context}, but the sequences have {length} tokens; "
                "leave it out, or lower data.text.length"
            )
        network = Transformer(
            vocab_size,
            context,
            self.num_layers,
            self.heads,
            self.width,
            self.dropout,
            self.use_bias,
            self.tied,
            num_classes,
            dtype,
        )
        return {"generator": network}
