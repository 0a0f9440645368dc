"""ganjax: generative adversarial networks in JAX, as pure functions.

>>> import ganjax, jax
>>> from ganjax.networks import mlp
>>> algorithm = ganjax.gan(
...     generator=mlp.Generator((2,)),
...     discriminator=mlp.Discriminator(),
...     latents=ganjax.latents.normal(8),
...     loss=ganjax.losses.non_saturating,
... )
>>> state = algorithm.init(jax.random.key(0))
>>> train_step = jax.jit(algorithm.train_step, donate_argnums=0)
>>> state, metrics = train_step(state, {"image": jax.numpy.zeros((16, 2))})
>>> algorithm.sample(state, jax.random.key(1), 4).shape
(4, 2)
"""

from ganjax import (
    augment,
    axes,
    cost,
    ema,
    evaluation,
    generation,
    interop,
    latents,
    losses,
    networks,
    ops,
    penalties,
    sharding,
    views,
)
from ganjax.autoregressive import autoregressive
from ganjax.gan import gan
from ganjax.loop import fit
from ganjax.networks.layers import as_network
from ganjax.penalties import Term
from ganjax.players import adam, all_variables, init_player
from ganjax.population import population
from ganjax.safeguard import skip_non_finite
from ganjax.seqgan import seqgan
from ganjax.text_gan import text_gan
from ganjax.trained import load
from ganjax.types import (
    Algorithm,
    DiscriminatorOutput,
    InputError,
    Network,
    Optimizer,
    Player,
    TrainState,
    step_key,
)
from ganjax.updates import (
    discriminator_loss,
    discriminator_update,
    generator_loss,
    generator_update,
    judge,
)
from ganjax.vae import vae

__all__ = [
    "Algorithm",
    "DiscriminatorOutput",
    "InputError",
    "Network",
    "Optimizer",
    "Player",
    "Term",
    "TrainState",
    "adam",
    "all_variables",
    "as_network",
    "augment",
    "autoregressive",
    "axes",
    "cost",
    "discriminator_loss",
    "discriminator_update",
    "ema",
    "evaluation",
    "fit",
    "gan",
    "generation",
    "generator_loss",
    "generator_update",
    "init_player",
    "interop",
    "judge",
    "latents",
    "load",
    "losses",
    "networks",
    "ops",
    "penalties",
    "population",
    "seqgan",
    "sharding",
    "skip_non_finite",
    "step_key",
    "text_gan",
    "vae",
    "views",
]
