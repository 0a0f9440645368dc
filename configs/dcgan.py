"""DCGAN on Fashion-MNIST at full width.

Paper: Radford et al. 2015, arXiv:1511.06434 (Adam 2e-4, beta1 0.5, batch 128, uniform latents of
  100, width 128). Departures: kernels of 4x4, and a running average of the generator.
Command: ganjax train dcgan
Expected: some 2 hours on two CPU cores, minutes on a GPU (estimates).
Result: not trained to its end so far; `quickstart` is the short version.
"""

from ganjax.config import GAN, Config, Train
from ganjax.networks.dcgan import DCGAN


def get_config() -> Config:
    return Config(
        name="dcgan",
        model=GAN(
            network=DCGAN(
                latent_dim=100,
                latent_distribution="uniform",
                generator_width=128,
                discriminator_width=128,
            ),
            share_fakes=True,
            ema_half_life_images=10_000.0,
            ema_ramp_up=0.05,
        ),
        train=Train(steps=10_000, batch_size=128),
    )
