"""WGAN-GP with residual networks on CIFAR-10, as published.

Paper: Gulrajani et al. 2017, arXiv:1704.00028 (critic batches of 64, generator batches of 128, five
  critic updates, lambda 10, learning rate 2e-4 falling to zero, 100,000 generator updates).
Command: ganjax data prepare cifar10 && ganjax train cifar10_wgan_gp
Published: inception score 7.86 (unconditional; as quoted in OT-GAN, table 1).
Result: not trained here to its end; wgan_gp_small is the version for a CPU.
"""

from ganjax.config import GAN, Config, Data, OptimizerSettings, Penalty, Train
from ganjax.networks.wgan_gp import WGANGP


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=2e-4, beta1=0.0, beta2=0.9, schedule="linear")
    return Config(
        name="cifar10_wgan_gp",
        data=Data(source="tfds:cifar10"),
        model=GAN(
            network=WGANGP(),
            loss="wasserstein",
            generator=adam,
            discriminator=adam,
            penalties={"gradient_penalty": Penalty(weight=10.0)},
            discriminator_steps=5,
            generator_batch_multiplier=2,
        ),
        train=Train(steps=100_000, batch_size=64, checkpoint_every_steps=5000),
    )
