"""The shapes that everything else is made of: `Algorithm`, `TrainState`, `Network`.

Arrays are `jax.Array`. A batch is a dict such as ``{"image": (B, H, W, C), "label": (B,)}`` with
images in uint8 or in float [-1, 1]; metrics are a flat dict of float32 scalars.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Key = jax.Array
Batch = Mapping[str, Array]
Metrics = dict[str, Array]
Variables = Mapping[str, Any]


class InputError(ValueError):
    """Bad input from outside: one sentence that says what came, what was expected, what to do.

    The command line prints it without a traceback and exits with 2.
    """


class Algorithm(NamedTuple):
    """A way to train generative networks, as pure functions.

    What `optax.GradientTransformation` is to an optimizer: the loop, sharding, checkpoints,
    evaluation and command line know this shape and nothing else of a model family.

    Attributes:
      init: `(key) -> TrainState`.
      train_step: `(state, batch) -> (state, metrics)`; pure, not jitted, a valid body of
        `lax.scan`. With `batches_per_step = k > 1` every leaf of the batch has a leading axis k.
      sample: `(state, key, num_samples, labels=None, *, latents=None, truncation=None, ema=True)
        -> samples`; images are float32 (N, H, W, C) in [-1, 1].
      evaluate: `(state, batch, key) -> metrics`, sums over the batch of what held-out data can
        say, and `"count"`, the number of examples in it.
      batches_per_step: how many batches one step consumes.
    """

    init: Callable[[Key], "TrainState"]
    train_step: Callable[["TrainState", Batch], tuple["TrainState", Metrics]]
    sample: Callable[..., Array]
    evaluate: Callable[["TrainState", Batch, Key], Metrics]
    batches_per_step: int = 1


class Network(NamedTuple):
    """A network as a pair of pure functions; Linen modules are turned into one on the way in.

    Attributes:
      init: `(key, inputs, labels) -> variables`, a mapping of collections with at least
        `"params"`.
      apply: `(variables, inputs, labels, *, train, key) -> (outputs, variables)`; the second
        result holds every collection but `"params"`, updated where `train` is true. `labels` and
        `key` may be None.
      map: of a generator with styles, the first half of `apply`: `(variables, latents, labels, *,
        train, key, truncation=1.0) -> (styles, variables)`; otherwise None.
      synthesize: the second half, `(variables, styles, *, train, key) -> (images, variables)`.
      start: of a language model: `(variables, batch_size, length, labels) -> cache`, what it knows
        of no tokens yet, with room for `length` of them. Arrays in a cache have the batch as their
        first axis; scalars are shared.
      extend: `(variables, cache, tokens, *, train, key) -> (logits, cache)`: the logits (B, S, V)
        of what follows each of the next tokens (B, S).
      context: of a language model that cannot look further back: how many tokens it sees.
      vocab_size: of a language model: tokens are below it. Where it is None, those that are given
        to write on from are not checked.
      num_classes: of a language model: 0 for one without labels. Where it is None, labels are not
        checked.
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Any, Variables]]
    map: Callable[..., tuple[Any, Variables]] | None = None
    synthesize: Callable[..., tuple[Any, Variables]] | None = None
    start: Callable[..., Any] | None = None
    extend: Callable[..., tuple[Array, Any]] | None = None
    context: int | None = None
    vocab_size: int | None = None
    num_classes: int | None = None


@struct.dataclass
class DiscriminatorOutput:
    """What a discriminator says of a batch.

    Attributes:
      logits: (B,), higher where an image looks real. For Wasserstein losses the critic's value.
      class_logits: (B, num_classes) of an auxiliary classifier, or None.
    """

    logits: Array
    class_logits: Array | None = None


@struct.dataclass
class Player:
    """One trained network.

    Attributes:
      params: its trainable parameters.
      variables: its other collections, such as `{"batch_stats": ...}`.
      opt_state: the state of its optimizer.
    """

    params: Any
    variables: Any
    opt_state: Any


@struct.dataclass
class TrainState:
    """Everything a training needs to go on; arrays only, so that equal states are equal trees.

    Attributes:
      step: int32 scalar, completed train steps.
      rollbacks: int32 scalar, folded into every random key: a training that was set back to an
        earlier checkpoint continues with other random numbers.
      key: the typed key of the run; constant.
      players: one `Player` per network, by name.
      ema: running averages by player's name, each a `{"params": ..., **variables}` mapping.
      augment: the state of the augmentation.
      hyperparameters: float32 scalars that people sweep, by name.
      running: any other running quantity, such as the last value of a lazy penalty.
    """

    step: Array
    rollbacks: Array
    key: Key
    players: dict[str, Player]
    ema: dict[str, Variables]
    augment: Any
    hyperparameters: dict[str, Array]
    running: dict[str, Array]


class Optimizer(NamedTuple):
    """An Optax transformation whose learning rate is kept in `state.hyperparameters`.

    So one compiled program trains with many learning rates. `gan` and `vae` also take a plain
    Optax transformation, which then owns its learning rate.

    Attributes:
      transform: a transformation without learning rate, such as `optax.scale_by_adam()`; its
        result is multiplied by minus the learning rate.
      learning_rate: the initial value of the hyper-parameter.
      schedule: step -> factor on the learning rate, or None.
      constraint: params -> params, applied after each update, such as weight clipping, or None.
    """

    transform: Any
    learning_rate: float
    schedule: Callable[[Array], Array] | None = None
    constraint: Callable[[Any], Any] | None = None


def step_key(state: TrainState, name: str) -> Key:
    """Return the random key of the current step for one named purpose.

    A pure function of the state, so that a resumed run draws what the uninterrupted one would
    have drawn.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.rollbacks), state.step)
    # Not hash(): that differs between processes.
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def as_float_images(images: Array) -> Array:
    """Return images as float32 in [-1, 1]: uint8 is mapped linearly from [0, 255]."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1.0
    return images.astype(jnp.float32)
