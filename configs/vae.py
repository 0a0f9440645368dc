"""A convolutional VAE on Fashion-MNIST: the likelihood model to compare with.

Paper: Kingma and Welling 2013, arXiv:1312.6114 (Bernoulli likelihood).
Command: ganjax train vae
Expected: under 4 minutes on two cores of an AMD EPYC (1,264 real images/s).
Result: Fréchet distance 11.5, classifier score 4.97 (fashion-mnist-classifier, 1k vs
  held out, seed 0; real images have 0.5 and 8.1); held-out ELBO -247.7 nats.
"""

from ganjax.config import VAE, Config, Train
from ganjax.networks.conv_vae import ConvVAE


def get_config() -> Config:
    return Config(
        name="vae",
        model=VAE(network=ConvVAE(), ema_half_life_images=20_000.0, ema_ramp_up=0.05),
        train=Train(steps=2_000, batch_size=128, sample_every_steps=500),
    )
