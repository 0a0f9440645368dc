"""A DCGAN on stacked Fashion-MNIST: how many of a thousand modes does it find?

Paper: Metz et al. 2017, arXiv:1611.02163 (the data set, with digits); the networks and settings of
  `quickstart`.
Command: ganjax train stacked
Expected: 3 minutes on two cores of an AMD EPYC.
Result: 1,000 of 1,000 modes with a KL divergence of 0.069 ± 0.006 (26,000 samples, seeds 0 to 2;
  real images 0.020), Fréchet distance 31.8 ± 0.5 (stacked-fashion-mnist-classifier, vs held out).
"""

from ganjax.config import GAN, Config, Data, Evaluation, OptimizerSettings, Train
from ganjax.networks.dcgan import DCGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=5e-4)
    return Config(
        name="stacked",
        model=GAN(
            network=DCGAN(latent_dim=64, generator_width=64, discriminator_width=64),
            generator=adam,
            discriminator=adam,
            share_fakes=True,
            ema_half_life_images=2000.0,
            ema_ramp_up=0.05,
        ),
        data=Data(source="stacked_fashion_mnist"),
        train=Train(steps=4500, batch_size=32, log_every_steps=50, sample_every_steps=1500),
        evaluation=Evaluation(num_samples=26_000),
    )
