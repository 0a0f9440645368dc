"""Writing with a language model: one compiled loop with a cache. For beam search see `beams`.

A language model is a `Network` with `start` and `extend`, or a Linen module with these methods.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ganjax import axes
from ganjax.networks.layers import as_network, check_labels
from ganjax.types import Array, InputError, Key, Network, Variables


@struct.dataclass
class Sampling:
    """How the next token is chosen; what is None is not done.

    In this order: repetition penalty, temperature, top-k, top-p, min-p. A field that is None or not
    is part of a compiled program, its number is not.

    Attributes:
      temperature: logits are divided by it; 0 takes the likeliest token.
      top_k: keep the k likeliest tokens.
      top_p: keep the likeliest tokens that together have this probability (Holtzman et al. 2019,
        arXiv:1904.09751).
      min_p: keep tokens with at least this share of the likeliest one's probability (Nguyen et al.
        2024, arXiv:2407.01082).
      repetition_penalty: positive logits of tokens that are there already are divided by it,
        negative ones multiplied (Keskar et al. 2019, arXiv:1909.05858).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def check(self) -> None:
        """Raise an `InputError` for a number that is out of its range."""
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature has to be 0 or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k has to be 1 or more, got {self.top_k}")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise InputError(f"{name} has to lie above 0 and up to 1, got {value}")
        if self.repetition_penalty is not None and not self.repetition_penalty > 0:
            raise InputError(f"repetition_penalty has to be above 0, got {self.repetition_penalty}")


GREEDY = Sampling(temperature=0.0)


def next_logits(logits: Array, sampling: Sampling, seen: Array | None = None) -> Array:
    """Return logits (B, V) to draw from, -inf where a token is ruled out.

    Args:
      logits: (B, V) of the model.
      sampling: what to do with them; a temperature of 0 is left to `choose`.
      seen: (B, V), true for tokens that are there already; read for a repetition penalty.
    """
    if sampling.repetition_penalty is not None:
        penalty = sampling.repetition_penalty
        logits = jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
    temperature = jnp.asarray(sampling.temperature, logits.dtype)
    logits = logits / jnp.where(temperature > 0, temperature, 1.0)
    if sampling.top_k is not None:
        falling = -jnp.sort(-logits, axis=-1)
        last = jnp.clip(sampling.top_k, 1, logits.shape[-1]) - 1
        logits = jnp.where(logits < jnp.take(falling, last, axis=-1)[:, None], -jnp.inf, logits)
    if sampling.top_p is not None:
        order = jnp.argsort(-logits, axis=-1)
        chances = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
        # A token stays while those before it have less than top_p: the first always does.
        stays = jnp.cumsum(chances, axis=-1) - chances < sampling.top_p
        rows = jnp.arange(logits.shape[0])[:, None]
        kept = jnp.zeros_like(stays).at[rows, order].set(stays)
        logits = jnp.where(kept, logits, -jnp.inf)
    if sampling.min_p is not None:
        least = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(sampling.min_p)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def choose(logits: Array, sampling: Sampling, key: Key, seen: Array | None = None) -> Array:
    """Return the next tokens (B,) int32, drawn from logits (B, V) as `sampling` says."""
    logits = next_logits(logits, sampling, seen)
    drawn = draw(key, logits)
    greedy = jnp.asarray(sampling.temperature) == 0
    return jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


def draw(key: Key, logits: Array) -> Array:
    """Return draws (B,) from the softmax of logits (B, V), with one random number a row.

    `jax.random.categorical` takes V of them, which on a CPU is most of the work for a large
    vocabulary. Every layout of the batch over devices draws the same.
    """
    batch, size = logits.shape
    width = math.isqrt(size - 1) + 1  # two sums over a root of V each, instead of one over all
    logits = logits.astype(jnp.float32)
    chances = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    blocks = -(-size // width)
    chances = jnp.pad(chances, ((0, 0), (0, blocks * width - size)))
    chances = chances.reshape(batch, blocks, width)
    uniform = axes.draw(lambda key, count: jax.random.uniform(key, (count,)), key, batch)
    rows = jnp.arange(batch)

    def first_above(weights, target):
        """Return where the running sum passes the target, and the rest of it there."""
        sums = jnp.cumsum(weights, axis=1)
        passed = (sums > target[:, None]) & (weights > 0)
        # Rounding must lead neither beyond the end nor to what has no chance.
        index = jnp.where(passed.any(axis=1), jnp.argmax(passed, axis=1), jnp.argmax(weights, 1))
        before = jnp.where(index > 0, sums[rows, index - 1], 0.0)
        return index, target - before

    weights = jnp.sum(chances, axis=2)
    block, rest = first_above(weights, uniform * jnp.sum(weights, axis=1))
    index, _ = first_above(chances[rows, block], rest)
    return block * width + index


def gumbel(key: Key, shape: Sequence[int]) -> Array:
    """Return Gumbel noise (B, V): the largest of logits and this is a draw from their softmax.

    Every layout of the batch over devices has the same.
    """
    return axes.draw(lambda key, count: jax.random.gumbel(key, (count, *shape[1:])), key, shape[0])


@struct.dataclass
class Writing:
    """Sequences that are being written.

    Attributes:
      tokens: (B, L) int32, beginning with the prompts; what is not written yet is padding.
      prompt_lengths: (B,) int32.
      position: int32 scalar: how many tokens of every row are there.
      cache: what the model knows of all of these but the last.
      cached: int32 scalar: how many that are.
      finished: (B,), true where a row has its stop token or its last token.
      seen: (B, V), which tokens a row has; None where no one asks.
      key: random key; the token at a position depends on it and the position alone.
    """

    tokens: Array
    prompt_lengths: Array
    position: Array
    cache: Any
    cached: Array
    finished: Array
    seen: Array | None
    key: Key


def begin(
    network: Any,
    variables: Variables,
    prompts: Array,
    prompt_lengths: Array,
    length: int,
    key: Key,
    *,
    known: int = 1,
    labels: Array | None = None,
    vocab_size: int | None = None,
    pad_token: int = 0,
) -> Writing:
    """Return sequences of `length` tokens with their prompts, and what the model knows of these.

    Args:
      network: Linen module or `Network`.
      variables: its weights.
      prompts: (B, P) int32, P at least 1.
      prompt_lengths: (B,) int32: how many tokens of each row are its prompt.
      length: of the whole sequences.
      key: random key.
      known: tokens that every prompt has; they are read at once.
      labels: classes or vectors for a conditional model.
      vocab_size: needed for a repetition penalty.
      pad_token: stands where nothing has been written.
    """
    network = as_network(network)
    batch, width = prompts.shape
    tokens = jnp.full((batch, length), pad_token, jnp.int32).at[:, :width].set(prompts)
    cache, cached = read(network, variables, tokens, known - 1, length, labels)
    seen = None
    if vocab_size is not None:
        there = jnp.arange(width) < prompt_lengths[:, None]
        there = jnp.where(there, prompts, vocab_size)  # out of range: dropped
        rows = jnp.arange(batch)[:, None]
        seen = jnp.zeros((batch, vocab_size), bool).at[rows, there].set(True, mode="drop")
    return Writing(
        tokens=tokens,
        prompt_lengths=prompt_lengths,
        position=jnp.int32(known),
        cache=cache,
        cached=jnp.int32(cached),
        finished=jnp.zeros(batch, bool),
        seen=seen,
        key=key,
    )


def advance(
    network: Any,
    variables: Variables,
    writing: Writing,
    until: Array | int,
    *,
    max_new_tokens: Array | int,
    sampling: Sampling = Sampling(),  # noqa: B008 it is frozen
    labels: Array | None = None,
    stop_token: int | None = None,
    pad_token: int = 0,
) -> Writing:
    """Write on until every row has `until` tokens, or all are finished.

    A model with a limited context that has filled it forgets the older half of it and reads the
    newer half again.
    """
    network = as_network(network)
    length = writing.tokens.shape[1]
    room = _room(network, length)
    ends = writing.prompt_lengths + max_new_tokens
    # Where no token is to be written, a row is finished before the first step.
    writing = writing.replace(finished=writing.finished | (writing.position >= ends))

    def unfinished(writing):
        return (writing.position < until) & ~jnp.all(writing.finished)

    def write(writing):
        if room < length - 1:
            writing = jax.lax.cond(writing.cached == room, reread, lambda w: w, writing)
        position = writing.position
        last = jax.lax.dynamic_slice_in_dim(writing.tokens, position - 1, 1, axis=1)
        logits, cache = network.extend(variables, writing.cache, last)
        key = jax.random.fold_in(writing.key, position)
        tokens = choose(logits[:, 0], sampling, key, writing.seen)
        tokens = jnp.where(writing.finished, pad_token, tokens)
        given = jax.lax.dynamic_index_in_dim(writing.tokens, position, 1, keepdims=False)
        in_prompt = position < writing.prompt_lengths
        tokens = jnp.where(in_prompt, given, tokens)
        finished = writing.finished | (position + 1 >= ends)
        if stop_token is not None:
            finished |= ~in_prompt & (tokens == stop_token)
        seen = writing.seen
        if seen is not None:
            seen = seen.at[jnp.arange(len(tokens)), tokens].set(True)
        return writing.replace(
            tokens=writing.tokens.at[:, position].set(tokens),
            position=position + 1,
            cache=cache,
            cached=writing.cached + 1,
            finished=finished,
            seen=seen,
        )

    def reread(writing):
        half = room // 2
        start = writing.position - 1 - half
        recent = jax.lax.dynamic_slice_in_dim(writing.tokens, start, half, axis=1)
        cache = network.start(variables, writing.tokens.shape[0], room, labels)
        if half:
            _, cache = network.extend(variables, cache, recent)
        return writing.replace(cache=cache, cached=jnp.int32(half))

    # Zeros that the loop fills with what differs between devices have to be said to differ.
    return jax.lax.while_loop(unfinished, write, axes.vary(writing))


def _room(network: Network, length: int) -> int:
    """Return how many tokens a cache holds: all that are read, or what the model can look at."""
    return min(max(length - 1, 1), network.context or length)


def read(network, variables, tokens, count, length, labels):
    """Return a cache that knows the first `count` tokens, or the last of them that find room."""
    room = _room(network, length)
    cache = network.start(variables, tokens.shape[0], room, labels)
    first = 0 if count < room else count - room // 2
    if count > first:
        _, cache = network.extend(variables, cache, tokens[:, first:count])
    return cache, count - first


@functools.partial(
    jax.jit,
    static_argnames=("network", "length", "known", "vocab_size", "stop_token", "pad_token"),
)
def _generate(
    network, variables, prompts, prompt_lengths, key, labels, sampling, max_new_tokens, *,
    length, known, vocab_size, stop_token, pad_token,
):  # fmt: skip
    writing = begin(
        network,
        variables,
        prompts,
        prompt_lengths,
        length,
        key,
        known=known,
        labels=labels,
        vocab_size=vocab_size,
        pad_token=pad_token,
    )
    return advance(
        network,
        variables,
        writing,
        length,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        labels=labels,
        stop_token=stop_token,
        pad_token=pad_token,
    ).tokens


def generate(
    network: Any,
    variables: Variables,
    prompts: Any,
    max_new_tokens: int,
    *,
    key: Key,
    sampling: Sampling = Sampling(),  # noqa: B008 it is frozen
    labels: Array | None = None,
    stop_token: int | None = None,
    pad_token: int = 0,
    vocab_size: int | None = None,
) -> Array:
    """Write on from prompts.

    Args:
      network: Linen module or `Network` with `start` and `extend`.
      variables: its weights.
      prompts: (B, P) integers, or B sequences of different lengths, of one token or more.
      max_new_tokens: for each prompt.
      key: random key.
      sampling: how a token is chosen.
      labels: (B,) classes, or (B, num_classes) vectors, for a conditional model.
      stop_token: a row ends with it.
      pad_token: what follows the end of a row.
      vocab_size: needed for a repetition penalty.

    Returns:
      (B, P + max_new_tokens) int32, with the longest prompt's P: each row its prompt and what was
      written, padded.

    Raises:
      InputError: a prompt is empty, a number is out of its range, or the labels do not fit.

    >>> from ganjax.networks.recurrent import LSTMCell, Recurrent
    >>> network = Recurrent(vocab_size=11, cells=(LSTMCell(8),), embedding_dim=4)
    >>> variables = network.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    >>> generate(network, variables, [[1, 2], [3]], 4, key=jax.random.key(1)).shape
    (2, 6)
    """
    sampling.check()
    if max_new_tokens < 0:
        raise InputError(f"max_new_tokens has to be 0 or more, got {max_new_tokens}")
    if sampling.repetition_penalty is not None and vocab_size is None:
        raise InputError("a repetition penalty needs vocab_size")
    padded, lengths, labels = checked(network, prompts, labels, pad_token)
    return _generate(
        network,
        variables,
        padded,
        lengths,
        key,
        labels,
        sampling,
        max_new_tokens,
        length=padded.shape[1] + max_new_tokens,
        known=int(lengths.min()),
        vocab_size=vocab_size if sampling.repetition_penalty is not None else None,
        stop_token=stop_token,
        pad_token=pad_token,
    )


def sequences(
    network: Any,
    variables: Variables,
    count: int,
    length: int,
    *,
    start_token: int,
    pad_token: int | None = None,
    **settings: Any,
) -> Array:
    """Return sequences (count, length) int32 that begin after a start token, which is left out.

    Args:
      network: as in `generate`.
      variables: its weights.
      count: how many.
      length: of each.
      start_token: in front of them.
      pad_token: what follows an end; 0 where it is None.
      settings: the others of `generate`.
    """
    if count < 1:
        raise InputError(f"the number of sequences has to be 1 or more, got {count}")
    first = np.full((count, 1), start_token)
    pad_token = pad_token or 0
    return generate(network, variables, first, length, pad_token=pad_token, **settings)[:, 1:]


def pad(
    prompts: Any, pad_token: int = 0, vocab_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return prompts as (B, P) int32 and their lengths (B,).

    Args:
      prompts: (B, P) integers, or B sequences of different lengths.
      pad_token: what follows the end of a prompt.
      vocab_size: tokens have to be below it; None where that is not known.

    Raises:
      InputError: there is no prompt, one is empty, or a token is out of its range.
    """
    rows = prompts if isinstance(prompts, Sequence) else np.atleast_1d(np.asarray(prompts))
    prompts = [np.asarray(row) for row in rows]
    if not prompts:
        raise InputError("there is no prompt: give a list of one or more")
    for prompt in prompts:
        if prompt.ndim == 1 and not prompt.size:
            raise InputError("a prompt has to have one token or more: begin with the start token")
        if prompt.ndim != 1:
            shape = (len(prompts), *prompt.shape)
            raise InputError(
                f"prompts have the shape {shape}, expected (B, P): a list of prompts, also of one, "
                "and each a list of tokens"
            )
    check_tokens(np.concatenate(prompts), vocab_size)
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    padded = np.full((len(prompts), lengths.max()), pad_token, np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    return padded, lengths


def checked(
    network: Any, prompts: Any, labels: Any, pad_token: int
) -> tuple[np.ndarray, np.ndarray, Array | None]:
    """Return padded prompts, their lengths, and labels, where a network can take them.

    Raises:
      InputError: it cannot.
    """
    network = as_network(network)
    padded, lengths = pad(prompts, pad_token, network.vocab_size)
    if labels is not None and network.num_classes is not None:
        labels = check_labels(labels, network.num_classes, len(padded))
    return padded, lengths, labels


def check_tokens(tokens: np.ndarray, vocab_size: int | None) -> None:
    """Raise an `InputError` where tokens, one or more, are no integers from 0 to vocab_size - 1."""
    if tokens.dtype.kind not in "iu":
        raise InputError(f"tokens are whole numbers, got {tokens.ravel().tolist()[0]!r}")
    # A gather would take the last token for one that is too large, and say nothing.
    low, high = int(tokens.min()), int(tokens.max())
    if vocab_size is not None and (low < 0 or high >= vocab_size):
        raise InputError(f"tokens lie between {low} and {high}, expected 0 to {vocab_size - 1}")
