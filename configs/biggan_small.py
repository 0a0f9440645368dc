"""BigGAN on built-in Fashion-MNIST: small enough for two CPU cores.

Paper: Brock et al. 2018, arXiv:1809.11096; a sixth of the channels, two discriminator updates, a
  running average with a half-life for a short run.
Command: ganjax train biggan_small
Expected: 9 minutes on two cores of an AMD EPYC (by its first minute: 304 real images/s).
Result: Fréchet distance 3.3, classifier score 7.61 (fashion-mnist-classifier, 1k vs
  held out, seed 0; real images have 0.5 and 8.1).
"""

from ganjax.config import GAN, Config, OptimizerSettings, Train
from ganjax.networks.biggan import BigGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=4e-4, beta1=0.0, beta2=0.999)
    return Config(
        name="biggan_small",
        model=GAN(
            network=BigGAN(
                latent_dim=48,
                generator_width=16,
                discriminator_width=16,
                shared_dim=32,
                attention="14",
            ),
            conditional=True,
            loss="hinge",
            generator=adam,
            discriminator=adam,
            discriminator_steps=2,
            ema_half_life_images=5000.0,
            ema_start_steps=100,
        ),
        train=Train(steps=2500, batch_size=32, sample_every_steps=500),
    )
