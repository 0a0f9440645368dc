"""Discriminators of token sequences (B, L), integers, or mixtures of tokens (B, L, V), floats.

Labels enter as an inner product with the last features (Miyato and Koyama 2018, arXiv:1802.05637).

References:
  Kim 2014, Convolutional Neural Networks for Sentence Classification, arXiv:1408.5882.
  Yu et al. 2016, SeqGAN, arXiv:1609.05473, appendix A.2.
  Nie et al. 2019, RelGAN, openreview.net/forum?id=rJedV3R5tm, section 3.3.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ganjax.networks import layers
from ganjax.networks.recurrent import Cell, LSTMCell, run
from ganjax.types import Array, DiscriminatorOutput, InputError

# SeqGAN's, for sentences of 20 tokens and more: (length, number).
SEQGAN_FILTERS = (
    *((1, 100), (2, 200), (3, 200), (4, 200), (5, 200), (6, 100), (7, 100), (8, 100), (9, 100)),
    *((10, 100), (15, 160), (20, 160)),
)


def _truncated(shape: Sequence[int]) -> Any:
    return nn.initializers.truncated_normal(1 / math.sqrt(shape[0]))


class ConvDiscriminator(nn.Module):
    """Filters of several lengths, the largest response of each over the sequence, a highway layer.

    Attributes:
      vocab_size: of tokens as integers; of mixtures their length is read.
      filters: (length, number) of each kind; longer ones than a sequence are an error.
      embedding_dim: numbers that stand for a token.
      representations: embeddings are cut into so many parts, each judged on its own by the same
        filters (RelGAN): the logits are (B * representations,).
      hidden: a layer before the logits, or 0 for none.
      dropout: share of features that are dropped while training.
      num_classes: 0 for a discriminator without labels.
    """

    vocab_size: int | None = None
    filters: Sequence[tuple[int, int]] = SEQGAN_FILTERS
    embedding_dim: int = 64
    representations: int = 1
    hidden: int = 0
    dropout: float = 0.25
    num_classes: int = 0

    @nn.compact
    def __call__(
        self, x: Array, labels: Array | None = None, *, train: bool = False
    ) -> DiscriminatorOutput:
        layers.require_labels(labels, self.num_classes)
        x = Embedding(self.vocab_size, self.embedding_dim, name="embedding")(x)
        batch, length, _ = x.shape
        if self.embedding_dim % self.representations:
            raise InputError(
                f"an embedding of {self.embedding_dim} does not divide into {self.representations} "
                "representations"
            )
        longest = max((size for size, _ in self.filters), default=length + 1)
        if longest > length:
            raise InputError(
                f"a filter looks at {longest} tokens, but sequences have {length}: shorten it"
            )
        # (B * R, L, E / R): every representation is a sequence of its own.
        x = x.reshape(batch, length, self.representations, -1).swapaxes(1, 2)
        x = x.reshape(batch * self.representations, length, -1)
        found = []
        for size, count in self.filters:
            # A product with windows: there are few channels, and a scan is around this.
            places = jnp.arange(length - size + 1)[:, None] + jnp.arange(size)
            windows = x[:, places].reshape(x.shape[0], places.shape[0], -1)
            init = _truncated((windows.shape[-1],))
            y = layers.Dense(count, kernel_init=init, name=f"filter{size}")(windows)
            found.append(jnp.max(nn.relu(y), axis=1))
        x = jnp.concatenate(found, axis=-1)
        features = x.shape[-1]
        init = _truncated((features,))
        gate = layers.Dense(features, kernel_init=init, name="gate")(x)
        gate = jax.nn.sigmoid(gate)
        new = nn.relu(layers.Dense(features, kernel_init=init, name="highway")(x))
        x = gate * new + (1 - gate) * x
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        if self.hidden:
            x = layers.Dense(self.hidden, kernel_init=init, name="hidden")(x)
        return DiscriminatorOutput(_logits(x, labels, self.num_classes))


class RecurrentDiscriminator(nn.Module):
    """A cell that reads the sequence; its outputs, averaged over the places, are judged."""

    vocab_size: int | None = None
    cell: Cell = LSTMCell(128)
    embedding_dim: int = 64
    num_classes: int = 0

    @nn.compact
    def __call__(
        self, x: Array, labels: Array | None = None, *, train: bool = False
    ) -> DiscriminatorOutput:
        del train
        layers.require_labels(labels, self.num_classes)
        x = Embedding(self.vocab_size, self.embedding_dim, name="embedding")(x)
        inits = {"zeros": nn.initializers.zeros, "ones": nn.initializers.ones}
        weights = {}
        for name, (shape, kind) in self.cell.parameters(self.embedding_dim).items():
            weights[name] = self.param(name, inits.get(kind) or _truncated(shape), shape)
        y, _ = run(self.cell, weights, self.cell.start(x.shape[0]), x)
        # Of the last output alone the first tokens would learn next to nothing.
        y = jnp.mean(y, axis=1)
        return DiscriminatorOutput(_logits(y, labels, self.num_classes))


def _logits(x: Array, labels: Array | None, num_classes: int) -> Array:
    """Map features (B * R, F) to logits (B * R,), within a module; a class adds its share."""
    init = _truncated((x.shape[-1],))
    logits = layers.Dense(1, kernel_init=init, name="output")(x)[:, 0]
    if num_classes:
        embedding = layers.LabelEmbedding(num_classes, x.shape[-1], stddev=0.02)(labels)
        # The same for every representation of a sequence.
        embedding = jnp.repeat(embedding, x.shape[0] // embedding.shape[0], axis=0)
        logits = logits + jnp.sum(embedding * x, axis=-1)
    return logits


class Embedding(nn.Module):
    """A table that tokens are looked up in, or that mixtures of tokens are multiplied with."""

    vocab_size: int | None
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = self.vocab_size
        if not jnp.issubdtype(x.dtype, jnp.integer):
            size = size or x.shape[-1]
        elif size is None:
            raise ValueError("a discriminator of tokens needs vocab_size")
        # One on average over the features, whatever the vocabulary: what is small cannot be judged.
        init = nn.initializers.normal(1 / math.sqrt(self.features))
        return layers.embed(self.param("tokens", init, (size, self.features)), x)
