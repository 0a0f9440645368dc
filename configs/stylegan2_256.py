"""StyleGAN2-ADA at 256x256 on a folder of images, as published (configuration "paper256").

Papers: Karras et al. 2020, arXiv:1912.04958 and arXiv:2006.06676 (batches of 64, half the channels,
  R1 1 every 16 steps, path length 2 every 4, style mixing 0.9, Adam 2.5e-3 with betas 0 and 0.99,
  average with a half-life of 20,000 images, 25 million images).
Command: ganjax train stylegan2_256 --data.source DIR (or a .zip)
Published: 1 day 6 hours on eight V100 with 4.4 to 5.5 seconds for 1,000 images; the scores depend
  on the set.
Result: not trained here; stylegan2_small is the version for a CPU.
"""

from ganjax.config import GAN, Config, Data, OptimizerSettings, Penalty, Train
from ganjax.networks.stylegan2 import StyleGAN2


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=2.5e-3, beta1=0.0, beta2=0.99)
    return Config(
        name="stylegan2_256",
        data=Data(source="images", image_size=(256, 256), channels=3, held_out=1000),
        model=GAN(
            network=StyleGAN2(channel_base=16384, mbstd_group_size=8),
            generator=adam,
            discriminator=adam,
            penalties={
                "r1": Penalty(weight=1.0, interval=16),
                "path_length": Penalty(weight=2.0, interval=4),
            },
            ema_half_life_images=20_000.0,
            augment="ada",
        ),
        train=Train(
            steps=390_625, batch_size=64, precision="bfloat16", checkpoint_every_steps=5000
        ),
    )
