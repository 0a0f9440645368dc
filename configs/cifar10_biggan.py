"""BigGAN on CIFAR-10, in the setting of StudioGAN's benchmark.

Paper: Brock et al. 2018, arXiv:1809.11096 (ImageNet). For CIFAR-10: 96 channels in both networks,
  hierarchical latents of 80, shared embedding of 128, attention at 16x16, hinge, Adam 2e-4 with
  betas 0.5 and 0.999, batches of 64, five discriminator updates, 100,000 steps, an average of decay
  0.9999 a step from step 1,000, horizontal flips.
Command: ganjax data prepare cifar10 && ganjax train cifar10_biggan
Published: inception score 9.96, FID 4.16 (StudioGAN, against the training images); paper 9.22 and
  14.73.
Result: not trained here to its end; biggan_small is the version for a CPU.
"""

from ganjax.config import GAN, Config, Data, OptimizerSettings, Train
from ganjax.ema import half_life_images
from ganjax.networks.biggan import BigGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=2e-4, beta1=0.5, beta2=0.999)
    return Config(
        name="cifar10_biggan",
        data=Data(source="tfds:cifar10"),
        model=GAN(
            network=BigGAN(latent_dim=80, attention="16"),
            conditional=True,
            loss="hinge",
            generator=adam,
            discriminator=adam,
            discriminator_steps=5,
            augment="flip",
            ema_half_life_images=half_life_images(0.9999, 64),
            ema_start_steps=1000,
        ),
        train=Train(steps=100_000, batch_size=64, checkpoint_every_steps=5000),
    )
