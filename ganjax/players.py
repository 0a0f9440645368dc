"""What every algorithm does with a trained network: start it, update it, average it."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ganjax import axes
from ganjax.networks.layers import check_labels
from ganjax.penalties import Stateful, Term
from ganjax.types import (
    Array,
    Batch,
    InputError,
    Key,
    Metrics,
    Optimizer,
    Player,
    Variables,
)

AnyOptimizer = Optimizer | optax.GradientTransformation
# (params, variables, batch, key) -> (loss, (variables, metrics)), the loss a mean over the batch.
Objective = Callable[[Any, Any, Batch, Key], tuple[Array, tuple[Any, Metrics]]]


def adam(
    learning_rate: float,
    b1: float = 0.5,
    b2: float | Callable[[Array], Array] = 0.999,
    eps: float = 1e-8,
    *,
    schedule: Callable[[Array], Array] | None = None,
    lazy_interval: int = 1,
) -> Optimizer:
    """Return Adam as an `Optimizer`, whose learning rate is kept in `state.hyperparameters`.

    Args:
      learning_rate: the initial value of the hyper-parameter.
      b1: decay of the mean gradient.
      b2: decay of the squared gradient, or a function of the number of updates done.
      eps: added to the root of the squared gradient.
      schedule: step -> factor on the learning rate, or None.
      lazy_interval: the interval k of the player's lazy terms. Learning rate and betas are then
        corrected by k / (k + 1), so that as much happens in k steps as without the one more update
        (Karras et al. 2020, arXiv:1912.04958, appendix B).

    >>> round(adam(0.0025, 0.0, 0.99, lazy_interval=16).learning_rate, 6)
    0.002353
    """
    if lazy_interval > 1:
        learning_rate, b1, b2 = lazy_correction(learning_rate, b1, b2, lazy_interval)
    return Optimizer(scale_by_adam(b1, b2, eps), learning_rate, schedule)


def scale_by_adam(
    b1: float, b2: float | Callable[[Array], Array], eps: float = 1e-8
) -> optax.GradientTransformation:
    """Return `optax.scale_by_adam` whose second decay may change during a training.

    Args:
      b1: decay of the mean gradient.
      b2: decay of the squared gradient, or a function of the number of updates done (int32). As in
        PyTorch, the correction of the bias takes the present decay.
      eps: added to the root of the squared gradient.
    """
    if not callable(b2):
        return optax.scale_by_adam(b1, b2, eps)

    def update(gradients, state, params=None):
        return optax.scale_by_adam(b1, b2(state.count), eps).update(gradients, state, params)

    return optax.GradientTransformation(optax.scale_by_adam(b1, 0.0, eps).init, update)


def lazy_correction(
    learning_rate: float, b1: float, b2: float, interval: int
) -> tuple[float, float, float]:
    """Return learning rate and betas that make up for one more update every `interval` steps."""
    ratio = interval / (interval + 1)
    return learning_rate * ratio, b1**ratio, b2**ratio


def init_player(variables: Variables, optimizer: AnyOptimizer):
    """Return a player of freshly initialised variables, with arrays of its own."""
    variables = jax.tree.map(jnp.array, dict(variables))  # copies: aliases cannot be donated
    params = variables.pop("params")
    transform = optimizer.transform if isinstance(optimizer, Optimizer) else optimizer
    return Player(params, variables, transform.init(params))


def all_variables(player: Player) -> dict[str, Any]:
    """Return what a network's `apply` takes: parameters and the other collections."""
    return {"params": player.params, **player.variables}


def apply_gradients(
    player: Player,
    gradients: Any,
    optimizer: AnyOptimizer,
    *,
    learning_rate: Array | None,
    step: Array,
) -> Player:
    """Return the player after one optimizer update.

    Args:
      player: its parameters and optimizer state.
      gradients: of the parameters, the same on every device.
      optimizer: a plain transformation owns its learning rate; an `Optimizer` takes it from here.
      learning_rate: scalar, used with an `Optimizer`.
      step: int32 scalar, the position in the schedule of an `Optimizer`.
    """
    if not isinstance(optimizer, Optimizer):
        updates, opt_state = optimizer.update(gradients, player.opt_state, player.params)
        return player.replace(
            params=optax.apply_updates(player.params, updates), opt_state=opt_state
        )
    updates, opt_state = optimizer.transform.update(gradients, player.opt_state, player.params)
    rate = optimizer.learning_rate if learning_rate is None else learning_rate
    if optimizer.schedule is not None:
        rate = rate * optimizer.schedule(step)
    params = jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), player.params, updates)
    if optimizer.constraint is not None:
        params = optimizer.constraint(params)
    return player.replace(params=params, opt_state=opt_state)


def value_and_grad(objective: Objective, micro_batches: int = 1) -> Callable[..., Any]:
    """Differentiate an objective over a batch, in one pass or accumulated over micro-batches.

    Args:
      objective: what to differentiate.
      micro_batches: n > 1 takes every n-th example into a micro-batch, one after another, and
        averages gradients and metrics; batch statistics are then those of a micro-batch.

    Returns:
      `(params, variables, batch, key) -> ((loss, (variables, metrics)), gradients)`.
    """
    if micro_batches == 1:
        return axes.value_and_grad(objective)
    differentiate = jax.value_and_grad(objective, has_aux=True)

    def accumulate(params, variables, batch, key):
        parts = jax.tree.map(lambda a: _interleave(a, micro_batches), batch)
        keys = jax.random.split(key, micro_batches)

        own = axes.with_own_gradients(params, batch)

        def body(carry, part):
            variables, total = carry
            (loss, (variables, metrics)), gradients = differentiate(own, variables, *part)
            return (variables, jax.tree.map(jnp.add, total, gradients)), (loss, metrics)

        nothing = jax.tree.map(jnp.zeros_like, own)
        (variables, total), stacked = jax.lax.scan(body, (variables, nothing), (parts, keys))
        loss, metrics = jax.tree.map(lambda a: jnp.mean(a, axis=0), stacked)
        gradients = jax.tree.map(lambda a: a / micro_batches, total)
        # Over the devices once, not for each part.
        loss, gradients = axes.global_mean((loss, gradients))
        return (loss, (variables, metrics)), gradients

    return accumulate


def _interleave(array, parts):
    # Every n-th example, not n blocks: the same examples then meet in every layout, and a batch
    # that is sharded over its first axis is split without moving data.
    if array.shape[0] % parts:
        raise ValueError(f"{array.shape[0]} examples do not divide into {parts} micro-batches")
    return array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1)


def evaluate_once(
    function: Callable[[Any], tuple[Array, Any]], params: Any
) -> tuple[Array, Any, Callable[[Any], Array]]:
    """Run a forward pass that is looked at now and differentiated later.

    Args:
      function: params -> (outputs, auxiliary).
      params: where to evaluate it.

    Returns:
      (outputs, auxiliary, again); `again(params)` returns the same outputs at no cost and
      differentiates once, through the pass that was made here.
    """
    outputs, pullback, auxiliary = jax.vjp(function, params, has_aux=True)

    @jax.custom_vjp
    def again(params, outputs, pullback):
        del params, pullback
        return outputs

    def forward(params, outputs, pullback):
        return outputs, (outputs, pullback)

    def backward(saved, cotangent):
        return (*saved[1](cotangent), *jax.tree.map(_no_gradient, saved))

    again.defvjp(forward, backward)
    return outputs, auxiliary, lambda params: again(params, outputs, pullback)


def _no_gradient(array):
    if jnp.issubdtype(array.dtype, jnp.inexact):
        return jnp.zeros_like(array)
    return np.zeros(array.shape, jax.dtypes.float0)


def weigh(
    terms: Sequence[Term],
    weights: Mapping[str, Array] | None,
    value: Callable[[Callable[..., Any], int], Any],
    running: Mapping[str, Any] | None = None,
) -> tuple[Array, Metrics]:
    """Add up terms of one interval.

    Args:
      terms: the terms.
      weights: their weights by name; by default those they were made with.
      value: `(function, index) -> (B,)`, which calls a term's function with its arguments.
      running: where terms with a memory find it; by default their initial one.

    Returns:
      The sum of interval times weight times mean, and as metrics the plain means and what terms
      with a memory want to remember, `memory/<name>`.
    """
    weights = init_weights(terms) if weights is None else weights
    running = init_running(terms) if running is None else running
    total, metrics = jnp.float32(0), {}
    for index, term in enumerate(terms):
        if isinstance(term.function, Stateful):
            memory = running[f"memory/{term.name}"]
            values, noted = value(functools.partial(term.function.apply, memory), index)
            metrics[f"memory/{term.name}"] = noted
        else:
            values = value(term.function, index)
        mean = jnp.mean(values)
        total = total + term.interval * weights[term.name] * mean
        metrics[f"penalty/{term.name}"] = mean
    return total, metrics


def remember(terms: Sequence[Term], running: Mapping[str, Any], metrics: Metrics) -> dict[str, Any]:
    """Take what terms want to remember out of `metrics` and return their new memories."""
    new = {}
    for term in terms:
        if isinstance(term.function, Stateful):
            name = f"memory/{term.name}"
            new[name] = term.function.update(running[name], axes.global_mean(metrics.pop(name)))
    return new


def lazy_updates(
    player: Player,
    terms: Sequence[Term],
    running: dict[str, Array],
    *,
    step: Array,
    update: Callable[[Player, Sequence[Term]], tuple[Player, dict[str, Array]]],
) -> tuple[Player, dict[str, Array]]:
    """Give each group of lazy terms with one interval an update of its own when it is due.

    Args:
      player: whose terms they are.
      terms: all terms; those of interval 1 are passed over.
      running: the last value of each lazy term by metric name.
      step: int32 scalar.
      update: does one update from the given terms and returns their values by metric name.

    Returns:
      The player, and `running` with the new values.
    """
    for interval in sorted({term.interval for term in terms} - {1}):
        group = [term for term in terms if term.interval == interval]

        def due(operands, group=group):
            player, running = operands
            player, values = update(player, group)
            return player, {**running, **values}

        player, running = jax.lax.cond(
            step % interval == 0, due, lambda operands: operands, (player, running)
        )
    return player, running


def eager(terms: Sequence[Term]) -> list[Term]:
    """Return the terms that are part of every step's loss."""
    return [term for term in terms if term.interval == 1]


def init_running(terms: Sequence[Term]) -> dict[str, Any]:
    """Return the last value of each lazy term, `penalty/<name>`, and each term's memory."""
    running = {f"penalty/{term.name}": jnp.float32(0) for term in terms if term.interval > 1}
    for term in terms:
        if isinstance(term.function, Stateful):
            running[f"memory/{term.name}"] = jax.tree.map(jnp.array, term.function.init())
    return running


def init_weights(terms: Sequence[Term]) -> dict[str, Array]:
    """Return the initial weight of each term by name."""
    return {term.name: jnp.float32(term.weight) for term in terms}


def check_terms(terms: Sequence[Term]) -> None:
    """Raise where a name is taken or an interval is not positive."""
    names = [term.name for term in terms]
    for term in terms:
        if term.name == "ema_half_life_images" or term.name.endswith("learning_rate"):
            raise ValueError(f"a term cannot be called {term.name!r}, a hyper-parameter of its own")
        if names.count(term.name) > 1:
            raise ValueError(f"two terms have the name {term.name!r}; a weight is kept by name")
        if term.interval < 1:
            raise ValueError(
                f"the interval of term {term.name!r} has to be 1 or more, got {term.interval}"
            )


def default_labels(labels: Array | None, num_samples: int, num_classes: int) -> Array | None:
    """Return the labels to sample: those given, or every class in turn, or None without classes.

    Raises:
      InputError: those given do not fit, see `ganjax.networks.layers.check_labels`.
    """
    if labels is not None:
        return check_labels(labels, num_classes, num_samples)
    return jnp.arange(num_samples) % num_classes if num_classes else None


def labels_in_turn(
    labels: Any, count: int, num_classes: int, class_names: Sequence[str] = ()
) -> np.ndarray | None:
    """Return classes (count,) int32: those given, again and again, or every class in turn.

    Args:
      labels: classes by number or name, or None. What is both is a name.
      count: how many are needed.
      num_classes: 0 for a model without classes, for which there are none.
      class_names: one a class, may be empty.

    Raises:
      InputError: a class does not exist.
    """
    if labels is None:
        return np.arange(count, dtype=np.int32) % num_classes if num_classes else None
    if not num_classes:
        raise InputError("labels were given, but this model was trained without classes")
    names = list(class_names)
    some = [*names[:5], "..."] if len(names) > 6 else names
    known = f", or be a name: {', '.join(some)}" if names else ""
    found = []
    if hasattr(labels, "dtype") or isinstance(labels, (int, str)):
        labels = np.atleast_1d(labels).tolist()
    for label in labels:
        try:
            number = names.index(label) if label in names else _number_of(label)
        except (TypeError, ValueError):
            number = -1
        if not 0 <= number < num_classes:
            raise InputError(
                f"labels have to lie between 0 and {num_classes - 1}{known}; got {label!r}"
            )
        found.append(number)
    if not found:
        raise InputError(f"labels have to lie between 0 and {num_classes - 1}{known}; got none")
    return np.resize(np.array(found, np.int32), count)


def _number_of(label: Any) -> int:
    """Return a class by its number, which may be written out; raise where it is something else."""
    if isinstance(label, str):
        return int(label)
    if isinstance(label, bool):
        raise TypeError
    return operator.index(label)


def unstack(batch: Batch, batches_per_step: int, num_classes: int) -> list[dict[str, Array]]:
    """Return the batches of one step, checked and without what the networks do not read."""
    expected = {"image", "label"} if num_classes else {"image"}
    if not expected <= set(batch):
        raise ValueError(
            f"a batch needs the entries {sorted(expected)}, got {sorted(batch)}"
            + ("; set num_classes=0 for a model without labels" if num_classes else "")
        )
    batch = {name: jnp.asarray(batch[name]) for name in expected}
    if batches_per_step == 1:
        return [batch]
    for name, array in batch.items():
        if array.shape[0] != batches_per_step:
            raise ValueError(
                f"one step consumes {batches_per_step} batches, stacked on a leading axis, but "
                f"{name!r} has shape {array.shape}"
            )
    return [{name: array[i] for name, array in batch.items()} for i in range(batches_per_step)]


def check_positive(**values: int) -> None:
    """Raise where a named number is below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} has to be 1 or more, got {value}")
