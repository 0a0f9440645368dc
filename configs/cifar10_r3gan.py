"""R3GAN on CIFAR-10, as published.

Paper: Huang et al. 2024, arXiv:2501.05441 (batches of 512, 250 million images; in half a cosine
  over the first 20 million: R1 and R2 from 0.05 to 0.005, learning rate from 2e-4 to 5e-5, Adam's
  beta2 from 0.9 to 0.99, the average's half-life from 0 to 5 million images, augmentation from 0
  to 0.55; bfloat16 in all maps but the smallest).
Command: ganjax data prepare cifar10 && ganjax train cifar10_r3gan
Published: FID 1.96 (conditional, against the training images); 4 days on eight L40.
Result: not trained here to its end; r3gan_small is the version for a CPU.
"""

from ganjax.config import ADA, GAN, Config, Data, OptimizerSettings, Penalty, Train
from ganjax.networks.r3gan import R3GAN

BATCH_SIZE = 512
BURN_IN = 20_000_000


def get_config() -> Config:
    adam = OptimizerSettings(
        learning_rate=2e-4,
        beta1=0.0,
        beta2=0.9,
        schedule="cosine",
        final_learning_rate=5e-5,
        final_beta2=0.99,
        schedule_steps=BURN_IN // BATCH_SIZE,
    )
    gamma = Penalty(weight=0.05, final_weight=0.005)
    return Config(
        name="cifar10_r3gan",
        data=Data(source="tfds:cifar10"),
        model=GAN(
            network=R3GAN(),
            conditional=True,
            loss="relativistic",
            generator=adam,
            discriminator=adam,
            penalties={"r1": gamma, "r2": gamma},
            burn_in_steps=BURN_IN // BATCH_SIZE,
            ema_half_life_images=5_000_000.0,
            ema_burn_in=True,
            augment="flip+ada",
            ada=ADA(pipe="r3gan", probability=0.55, ramp_images=BURN_IN),
        ),
        train=Train(
            steps=250_000_000 // BATCH_SIZE,
            batch_size=BATCH_SIZE,
            precision="bfloat16",
            checkpoint_every_steps=5000,
        ),
    )
