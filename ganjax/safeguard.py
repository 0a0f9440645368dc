"""Steps that change nothing where their result would not be finite."""

import jax
import jax.numpy as jnp

from ganjax import axes
from ganjax.types import Algorithm, Batch, Metrics, TrainState

# What a step says of itself; `ganjax.fit` leaves such steps out of the means that it logs, and
# counts them.
SKIPPED = "skipped_steps"


def skip_non_finite(algorithm: Algorithm) -> Algorithm:
    """Return the algorithm with steps that are left out where anything in them is not finite.

    Looks at the new weights, optimizer states, running averages and every metric, the losses and
    the norms of gradients among them. One that is NaN or infinite leaves the whole state as it was,
    running averages included, but for the step counter: the next step has another batch and other
    random numbers. The metric `skipped_steps` is 1 then, else 0.

    The old state has to live until the step has ended, which takes the memory of a second one.

    Args:
      algorithm: any algorithm, as `population` takes it as well: members skip for themselves.

    >>> from ganjax import gan, latents
    >>> from ganjax.networks import mlp
    >>> algorithm = gan(mlp.Generator((2,)), mlp.Discriminator(), latents=latents.normal(8))
    >>> algorithm = skip_non_finite(algorithm)
    >>> state = algorithm.init(jax.random.key(0))
    >>> state, metrics = jax.jit(algorithm.train_step)(state, {"image": jnp.full((4, 2), jnp.nan)})
    >>> int(state.step), float(metrics["skipped_steps"])
    (1, 1.0)
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        after, metrics = algorithm.train_step(state, batch)
        changes = (after.players, after.ema, after.augment, after.running)
        sound = axes.all_finite((changes, metrics))
        before = (state.players, state.ema, state.augment, state.running)
        players, ema, augment, running = jax.tree.map(
            lambda new, old: jnp.where(sound, new, old), changes, before
        )
        after = after.replace(players=players, ema=ema, augment=augment, running=running)
        return after, {**metrics, SKIPPED: 1.0 - sound.astype(jnp.float32)}

    return algorithm._replace(train_step=train_step)
