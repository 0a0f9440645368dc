"""Pairs of a language model and a discriminator, as the papers of text GANs have them.

References:
  Yu et al. 2016, SeqGAN, arXiv:1609.05473.
  Nie et al. 2019, RelGAN, openreview.net/forum?id=rJedV3R5tm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ganjax.networks.recurrent import LSTMCell, Recurrent, require_float32
from ganjax.networks.relational_memory import RelationalMemoryCell
from ganjax.networks.text_discriminators import (
    SEQGAN_FILTERS,
    ConvDiscriminator,
    RecurrentDiscriminator,
)


@dataclass(frozen=True)
class SeqGAN:
    """An LSTM and a convolutional discriminator; the defaults are those of the paper's code."""

    width: int = 32
    """Length of the LSTM's output."""
    embedding_dim: int = 32
    """Numbers that stand for a token in the generator."""
    stddev: float = 0.1
    """Of the generator's initial weights."""
    discriminator_embedding_dim: int = 64
    """Numbers that stand for a token in the discriminator."""
    filters: tuple[tuple[int, int], ...] = SEQGAN_FILTERS
    """Length and number of each kind of filter; those longer than the sequences are left out."""
    dropout: float = 0.25
    """Share of the discriminator's features that are dropped while training."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return both networks for sequences of shape (length, V)."""
        require_float32(dtype)
        length, vocab_size = shape
        filters = tuple(f for f in self.filters if f[0] <= length)
        return {
            "generator": Recurrent(
                vocab_size,
                (LSTMCell(self.width),),
                self.embedding_dim,
                self.stddev,
                num_classes=num_classes,
            ),
            "discriminator": ConvDiscriminator(
                vocab_size,
                filters,
                self.discriminator_embedding_dim,
                dropout=self.dropout,
                num_classes=num_classes,
            ),
        }


@dataclass(frozen=True)
class RelGAN:
    """A relational memory and a discriminator with many representations; the paper's defaults."""

    slots: int = 1
    """Slots of the memory."""
    heads: int = 2
    """Heads of its attention."""
    head_dim: int = 256
    """Numbers of a head."""
    embedding_dim: int = 32
    """Numbers that stand for a token in the generator."""
    representations: int = 64
    """Embedded representations in the discriminator."""
    discriminator_embedding_dim: int = 64
    """Numbers that stand for a token in the discriminator, over all representations."""
    filters: tuple[tuple[int, int], ...] = ((2, 300), (3, 300), (4, 300), (5, 300))
    """Length and number of each kind of filter."""
    hidden: int = 100
    """Size of the discriminator's last hidden layer."""
    dropout: float = 0.25
    """Share of the discriminator's features that are dropped while training."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return both networks for sequences of shape (length, V)."""
        require_float32(dtype)
        cell = RelationalMemoryCell(self.slots, self.heads, self.head_dim)
        return {
            "generator": Recurrent(shape[1], (cell,), self.embedding_dim, num_classes=num_classes),
            "discriminator": ConvDiscriminator(
                shape[1],
                self.filters,
                self.discriminator_embedding_dim,
                self.representations,
                self.hidden,
                self.dropout,
                num_classes,
            ),
        }


@dataclass(frozen=True)
class LSTMPair:
    """Embedding, LSTM, linear layer; and an LSTM that judges."""

    width: int = 128
    """Length of the generator's LSTM."""
    embedding_dim: int = 64
    """Numbers that stand for a token in the generator."""
    discriminator_width: int = 128
    """Length of the discriminator's LSTM."""
    discriminator_embedding_dim: int = 64
    """Numbers that stand for a token in the discriminator."""

    def build(self, shape: Sequence[int], num_classes: int, dtype: Any) -> dict[str, Any]:
        """Return both networks for sequences of shape (length, V)."""
        require_float32(dtype)
        return {
            "generator": Recurrent(
                shape[1], (LSTMCell(self.width),), self.embedding_dim, num_classes=num_classes
            ),
            "discriminator": RecurrentDiscriminator(
                shape[1],
                LSTMCell(self.discriminator_width),
                self.discriminator_embedding_dim,
                num_classes,
            ),
        }
