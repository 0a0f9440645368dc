"""R3GAN on built-in Fashion-MNIST: small enough for two CPU cores.

Paper: Huang et al. 2024, arXiv:2501.05441; a sixteenth of the channels, one block a map, stronger
  R1 and R2 for a short run, schedules over the first half of it.
Command: ganjax train r3gan_small
Expected: not trained to its end yet.
Result: none yet.
"""

from ganjax.config import GAN, Config, OptimizerSettings, Penalty, Train
from ganjax.networks.r3gan import R3GAN


def get_config() -> Config:
    adam = OptimizerSettings(
        learning_rate=5e-4,
        beta1=0.0,
        beta2=0.9,
        schedule="cosine",
        final_learning_rate=1e-4,
        final_beta2=0.99,
        schedule_steps=1250,
    )
    gamma = Penalty(weight=1.0, final_weight=0.1)
    return Config(
        name="r3gan_small",
        model=GAN(
            network=R3GAN(width=48, blocks=1),
            loss="relativistic",
            generator=adam,
            discriminator=adam,
            penalties={"r1": gamma, "r2": gamma},
            burn_in_steps=1250,
            ema_half_life_images=5000.0,
            ema_burn_in=True,
        ),
        train=Train(steps=2500, batch_size=32, sample_every_steps=500),
    )
