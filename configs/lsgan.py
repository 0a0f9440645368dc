"""LSGAN on Fashion-MNIST: least squares instead of cross-entropy.

Paper: Mao et al. 2016, arXiv:1611.04076 (targets 0 and 1, equation 9).
Command: ganjax train lsgan
Expected: TIME
Result: RESULT
"""

from ganjax.config import GAN, Config, Train
from ganjax.networks.dcgan import DCGAN


def get_config() -> Config:
    return Config(
        name="lsgan",
        model=GAN(
            network=DCGAN(latent_dim=64),
            loss="least_squares",
            share_fakes=True,
            ema_half_life_images=5_000.0,
            ema_ramp_up=0.05,
        ),
        train=Train(steps=2_000, sample_every_steps=500),
    )
