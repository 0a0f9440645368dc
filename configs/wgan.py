"""The original WGAN on Fashion-MNIST: five critic updates, clipped weights, RMSProp.

Paper: Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1 (learning rate 5e-5, clipping at 0.01,
  batch 64, five critic updates).
Command: ganjax train wgan
Expected: under 5 minutes on two cores of an AMD EPYC (717 real images/s).
Result: Fréchet distance 22.5, classifier score 2.57 (fashion-mnist-classifier, 1k vs
  held out, seed 0; real images have 0.5 and 8.1).
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
