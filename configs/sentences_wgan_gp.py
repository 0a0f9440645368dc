"""Sentences of letters from latents, by convolutions and the Wasserstein loss.

Paper: Gulrajani et al. 2017, arXiv:1704.00028, section 5.4 (sequences of 32 letters, width 512).
Command: ganjax train sentences_wgan_gp --data.source image_coco.txt
"""

from ganjax.config import Config, Data, OptimizerSettings, Penalty, Text, TextGAN, Train
from ganjax.networks.conv_text import ConvText


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=1e-4, beta1=0.5, beta2=0.9)
    return Config(
        name="sentences_wgan_gp",
        data=Data(
            source="sentences.txt",
            text=Text(tokens="characters", lines=True, length=32, long_lines="cut"),
        ),
        model=TextGAN(
            network=ConvText(),
            loss="wasserstein",
            generator=adam,
            discriminator=adam,
            discriminator_steps=5,
            penalties={"gradient_penalty": Penalty(10.0)},
        ),
        train=Train(
            steps=10_000,
            batch_size=64,
            log_every_steps=50,
            sample_every_steps=1000,
            checkpoint_every_steps=1000,
        ),
    )
