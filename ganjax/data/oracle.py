"""The synthetic oracle: an LSTM with random weights whose sequences are to be imitated.

What writes them also tells how likely it finds the imitations, so that text models can be compared
without people to judge. The score depends on the oracle that was drawn: compare only models of one
oracle, and give its own score beside theirs.

References:
  Yu et al. 2016, SeqGAN, arXiv:1609.05473, section 4.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ganjax import generation
from ganjax.autoregressive import log_probabilities
from ganjax.networks.recurrent import LSTMCell, Recurrent
from ganjax.types import Array

_PART = 1000  # sequences at a time


@dataclasses.dataclass(frozen=True)
class Oracle:
    """A random LSTM language model: embeddings and outputs of 32, all weights from N(0, 1).

    Attributes:
      length: of its sequences.
      seed: of its weights.
      vocab_size: number of tokens.
      width: of embedding and cell.
      start_token: in front of every sequence.

    >>> oracle = Oracle(length=5, vocab_size=20)
    >>> tokens = oracle.sample(3, seed=1)
    >>> tokens.shape, bool(oracle.negative_log_likelihood(tokens) > 0)
    ((3, 5), True)
    """

    length: int = 20
    seed: int = 0
    vocab_size: int = 5000
    width: int = 32
    start_token: int = 0

    @functools.cached_property
    def network(self) -> Recurrent:
        return Recurrent(self.vocab_size, (LSTMCell(self.width),), self.width)

    @functools.cached_property
    def variables(self) -> dict[str, dict[str, Array]]:
        shapes = jax.eval_shape(self.network.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))[
            "params"
        ]
        key = jax.random.key(self.seed)
        params = {
            name: jax.random.normal(jax.random.fold_in(key, index), shapes[name].shape)
            for index, name in enumerate(sorted(shapes))
        }
        # Our cell adds one to its forget gate; the oracle's does not.
        bias = params["layer0_bias"]
        params["layer0_bias"] = bias.at[self.width : 2 * self.width].add(-1.0)
        return {"params": params}

    def sample(self, count: int, *, seed: int = 0) -> np.ndarray:
        """Return sequences (count, length) int32."""
        parts = []
        for start in range(0, count, _PART):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), start)
            tokens = generation.sequences(
                self.network,
                self.variables,
                _PART,
                self.length,
                start_token=self.start_token,
                key=key,
            )
            parts.append(np.asarray(tokens[: count - start]))
        return np.concatenate(parts)

    def negative_log_likelihood(self, tokens: np.ndarray) -> float:
        """Return how unlikely it finds sequences (N, length), in nats a token."""
        tokens = np.asarray(tokens, np.int32)
        total = 0.0
        for start in range(0, len(tokens), _PART):
            index = np.minimum(np.arange(start, start + _PART), len(tokens) - 1)
            found = np.asarray(self._score(tokens[index]), np.float64)
            total -= float(found[: len(tokens) - start].sum())
        return total / tokens.size

    @functools.cached_property
    def _score(self):
        return jax.jit(
            lambda tokens: log_probabilities(
                self.network, self.variables, tokens, start_token=self.start_token
            )[0]
        )
