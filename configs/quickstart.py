"""A small DCGAN on built-in Fashion-MNIST, made to show something within minutes."""

from ganjax.config import GAN, Config, Train
from ganjax.networks.dcgan import DCGAN


def get_config() -> Config:
    return Config(
        name="quickstart",
        model=GAN(
            network=DCGAN(latent_dim=64, generator_width=64, discriminator_width=64),
            share_fakes=True,
            ema_half_life_images=2000.0,
            ema_ramp_up=0.05,
        ),
        train=Train(
            steps=2000,
            batch_size=64,
            log_every_steps=50,
            sample_every_steps=250,
            checkpoint_every_steps=1000,
        ),
    )
