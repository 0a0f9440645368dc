"""DCGAN on Fashion-MNIST at full width.

Paper: Radford et al. 2015, arXiv:1511.06434 (Adam 2e-4, beta1 0.5, batch 128, uniform latents of
  100, width 128). Departures: kernels of 4x4, and a running average of the generator.
Command: ganjax train dcgan
Expected: under 50 minutes on two busy cores of an AMD EPYC (28 epochs; the paper trains for 25).
Result: Fréchet distance 9.5, classifier score 4.60 (fashion-mnist-classifier, 1k vs
  held out, seed 0; real images have 0.5 and 8.1). `quickstart` gets further in less time: batches
  of 128 are few updates.
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
        train=Train(steps=2_000, batch_size=128, sample_every_steps=500),
    )
