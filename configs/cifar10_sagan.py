"""SAGAN on CIFAR-10, in the setting of StudioGAN's benchmark.

Paper: Zhang et al. 2018, arXiv:1805.08318, which trains on ImageNet (batches of 256, learning rates
  1e-4 and 4e-4, one update each). For CIFAR-10 as in the benchmark's table: spectral normalisation
  in both networks, attention at 16x16, batches of 64, five discriminator updates, 100,000 steps;
  optimizer as in its SNGAN (2e-4, betas 0.5 and 0.999).
Command: ganjax data prepare cifar10 && ganjax train cifar10_sagan
Published: inception score 8.64, FID 10.35 (StudioGAN, against the training images).
Result: not trained here to its end; sagan_small is the version for a CPU.
"""

from ganjax.config import GAN, Config, Data, OptimizerSettings, Train
from ganjax.networks.sagan import SAGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=2e-4, beta1=0.5, beta2=0.999)
    return Config(
        name="cifar10_sagan",
        data=Data(source="tfds:cifar10"),
        model=GAN(
            network=SAGAN(),
            conditional=True,
            loss="hinge",
            generator=adam,
            discriminator=adam,
            discriminator_steps=5,
        ),
        train=Train(steps=100_000, batch_size=64, checkpoint_every_steps=5000),
    )
