"""StyleGAN2-ADA on CIFAR-10, as published (configuration "cifar").

Paper: Karras et al. 2020, arXiv:2006.06676 (batches of 64, mapping of two layers, discriminator of
  the "orig" form, no path length and no style mixing, R1 0.01 every 16 steps, Adam 2.5e-3 with
  betas 0 and 0.99, average with a half-life of 500,000 images, 100 million images).
Command: ganjax data prepare cifar10 && ganjax train cifar10_stylegan2_ada
Published: FID 2.42, inception score 10.14 (conditional, against the training images).
Result: not trained here to its end; stylegan2_small is the version for a CPU.
"""

from ganjax.config import GAN, Config, Data, OptimizerSettings, Penalty, Train
from ganjax.networks.stylegan2 import StyleGAN2


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=2.5e-3, beta1=0.0, beta2=0.99)
    return Config(
        name="cifar10_stylegan2_ada",
        data=Data(source="tfds:cifar10"),
        model=GAN(
            network=StyleGAN2(
                mapping_layers=2,
                d_architecture="orig",
                mbstd_group_size=32,
                mixing_probability=0.0,
            ),
            conditional=True,
            generator=adam,
            discriminator=adam,
            penalties={"r1": Penalty(weight=0.01, interval=16)},
            ema_half_life_images=500_000.0,
            ema_ramp_up=0.05,
            augment="ada",
        ),
        train=Train(steps=1_562_500, batch_size=64, checkpoint_every_steps=5000),
    )
