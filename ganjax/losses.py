"""Adversarial losses: pairs of functions on logits, without any reduction.

Each function takes `real_logits` and `fake_logits`, both (B,), by keyword and returns (B,) losses
to be minimised. `LOSSES` names them for configurations.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ganjax.types import Array


class AdversarialLoss(NamedTuple):
    """The two objectives of the game.

    Attributes:
      discriminator: `(*, real_logits, fake_logits) -> (B,)`.
      generator: `(*, real_logits, fake_logits) -> (B,)`.
      generator_needs_real: whether `generator` reads `real_logits`; a train step then draws a batch
        of real images for the generator update too.
    """

    discriminator: Callable[..., Array]
    generator: Callable[..., Array]
    generator_needs_real: bool = False


def cross_entropy(
    *, real_target: float = 1.0, fake_target: float = 0.0, saturating: bool = False
) -> AdversarialLoss:
    """Binary cross-entropy between the discriminator's verdict and the truth.

    Args:
      real_target: probability that the discriminator should give real images; 0.9 is one-sided
        label smoothing (Salimans et al. 2016, arXiv:1606.03498).
      fake_target: the same for fake images.
      saturating: whether the generator minimises log(1 - D(fake)) (the minimax game) and not
        -log D(fake).

    Raises:
      ValueError: a target lies outside [0, 1].

    References:
      Goodfellow et al. 2014, Generative Adversarial Networks, arXiv:1406.2661.

    >>> loss = cross_entropy(real_target=0.9)
    >>> float(loss.generator(real_logits=None, fake_logits=jnp.zeros(1))[0])  # log 2
    0.693...
    """
    if not (0 <= real_target <= 1 and 0 <= fake_target <= 1):
        raise ValueError(f"targets have to lie in [0, 1], got {real_target} and {fake_target}")

    def discriminator(*, real_logits, fake_logits):
        return _bce(real_logits, real_target) + _bce(fake_logits, fake_target)

    def generator(*, real_logits, fake_logits):
        del real_logits
        return -_bce(fake_logits, 0.0) if saturating else _bce(fake_logits, 1.0)

    return AdversarialLoss(discriminator, generator)


def _bce(logits, target):
    return target * jax.nn.softplus(-logits) + (1 - target) * jax.nn.softplus(logits)


minimax = cross_entropy(saturating=True)
"""The saturating game of Goodfellow et al. 2014."""

non_saturating = cross_entropy()
"""The non-saturating game of Goodfellow et al. 2014, section 3."""


def _hinge_discriminator(*, real_logits, fake_logits):
    return jax.nn.relu(1 - real_logits) + jax.nn.relu(1 + fake_logits)


def _minus_fake(*, real_logits, fake_logits):
    del real_logits
    return -fake_logits


hinge = AdversarialLoss(_hinge_discriminator, _minus_fake)
"""Hinge loss (Lim and Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957)."""


def _wasserstein_discriminator(*, real_logits, fake_logits):
    return fake_logits - real_logits


wasserstein = AdversarialLoss(_wasserstein_discriminator, _minus_fake)
"""Wasserstein loss; the discriminator is the critic (Arjovsky et al. 2017, arXiv:1701.07875)."""


def _least_squares_discriminator(*, real_logits, fake_logits):
    return 0.5 * (jnp.square(real_logits - 1) + jnp.square(fake_logits))


def _least_squares_generator(*, real_logits, fake_logits):
    del real_logits
    return 0.5 * jnp.square(fake_logits - 1)


least_squares = AdversarialLoss(_least_squares_discriminator, _least_squares_generator)
"""Least squares with targets 0 and 1 (Mao et al. 2016, arXiv:1611.04076, equation 9)."""


def _relativistic_discriminator(*, real_logits, fake_logits):
    return jax.nn.softplus(fake_logits - real_logits)


def _relativistic_generator(*, real_logits, fake_logits):
    return jax.nn.softplus(real_logits - fake_logits)


relativistic = AdversarialLoss(
    _relativistic_discriminator, _relativistic_generator, generator_needs_real=True
)
"""Relativistic pairing loss (Jolicoeur-Martineau 2018, arXiv:1807.00734; as in R3GAN,
arXiv:2501.05441)."""


LOSSES: dict[str, AdversarialLoss] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
    "non_saturating_smoothed": cross_entropy(real_target=0.9),
    "hinge": hinge,
    "wasserstein": wasserstein,
    "least_squares": least_squares,
    "relativistic": relativistic,
}
