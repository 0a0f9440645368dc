"""The original WGAN on Fashion-MNIST: five critic updates, clipped weights, RMSProp.

Paper: Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1 (learning rate 5e-5, clipping at 0.01,
  batch 64, five critic updates).
Command: ganjax train wgan
Expected: some 15 minutes on two CPU cores (an estimate).
Result: not trained to its end so far.
"""

from ganjax.config import GAN, Config, OptimizerSettings, Train
from ganjax.networks.dcgan import DCGAN


def get_config() -> Config:
    rmsprop = OptimizerSettings(name="rmsprop", learning_rate=5e-5, beta2=0.99)
    critic = OptimizerSettings(name="rmsprop", learning_rate=5e-5, beta2=0.99, clip_weights=0.01)
    return Config(
        name="wgan",
        model=GAN(
            network=DCGAN(latent_dim=64),
            loss="wasserstein",
            generator=rmsprop,
            discriminator=critic,
            discriminator_steps=5,
            ema_half_life_images=5_000.0,
            ema_ramp_up=0.05,
        ),
        train=Train(steps=600, sample_every_steps=200),
    )
