"""SNGAN on CIFAR-10, as published; with --model.conditional the projection discriminator.

Papers: Miyato et al. 2018, arXiv:1802.05957; Miyato and Koyama 2018, arXiv:1802.05637
  (discriminator batches of 64, generator batches of 128, five discriminator updates, hinge,
  learning rate 2e-4 falling to zero over 50,000 generator updates).
Command: ganjax data prepare cifar10 && ganjax train cifar10_sngan
Published: inception score 8.22, FID 21.7; conditional 8.62 and 17.5.
Result: not trained here to its end; sngan_small is the version for a CPU.
"""

from ganjax.config import GAN, Config, Data, OptimizerSettings, Train
from ganjax.networks.sngan import SNGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=2e-4, beta1=0.0, beta2=0.9, schedule="linear")
    return Config(
        name="cifar10_sngan",
        data=Data(source="tfds:cifar10"),
        model=GAN(
            network=SNGAN(),
            loss="hinge",
            generator=adam,
            discriminator=adam,
            discriminator_steps=5,
            generator_batch_multiplier=2,
        ),
        train=Train(steps=50_000, batch_size=64, checkpoint_every_steps=5000),
    )
