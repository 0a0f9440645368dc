"""StyleGAN2 on built-in Fashion-MNIST: small enough for two CPU cores.

Paper: Karras et al. 2020, arXiv:1912.04958; few channels, mapping of two layers, everything else
  as published: lazy R1 and path length, style mixing, minibatch deviation.
Command: ganjax train stylegan2_small
Expected: 10 minutes on two cores of an AMD EPYC (by its first minute: 226 real images/s).
Result: Fréchet distance 9.7, classifier score 5.25 (fashion-mnist-classifier, 1k vs
  held out, seed 0; real images have 0.5 and 8.1).
"""

from ganjax.config import GAN, Config, OptimizerSettings, Penalty, Train
from ganjax.networks.stylegan2 import StyleGAN2


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=2.5e-3, beta1=0.0, beta2=0.99)
    return Config(
        name="stylegan2_small",
        model=GAN(
            network=StyleGAN2(
                z_dim=64, w_dim=64, mapping_layers=2, channel_base=1024, channel_max=64
            ),
            generator=adam,
            discriminator=adam,
            penalties={
                "r1": Penalty(weight=0.2, interval=16),
                "path_length": Penalty(weight=2.0, interval=4),
            },
            ema_half_life_images=5000.0,
            ema_ramp_up=0.05,
        ),
        train=Train(steps=4000, batch_size=32, sample_every_steps=500),
    )
