"""LSGAN on Fashion-MNIST: least squares instead of cross-entropy.

Paper: Mao et al. 2016, arXiv:1611.04076 (targets 0 and 1, equation 9).
Command: ganjax train lsgan
Expected: under 3 minutes on two cores of an AMD EPYC (763 real images/s).
Result: Fréchet distance 11.3, classifier score 4.26 (fashion-mnist-classifier, 1k vs
  held out, seed 0; real images have 0.5 and 8.1).
"""

from ganjax.config import GAN, Config, OptimizerSettings, Train
from ganjax.networks.dcgan import DCGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=5e-4)
    return Config(
        name="lsgan",
        model=GAN(
            network=DCGAN(latent_dim=64),
            generator=adam,
            discriminator=adam,
            loss="least_squares",
            share_fakes=True,
            ema_half_life_images=5_000.0,
            ema_ramp_up=0.05,
        ),
        train=Train(steps=2_600, batch_size=32, sample_every_steps=500),
    )
