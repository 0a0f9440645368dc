"""Sentences of words by RelGAN, one a line.

Paper: Nie et al. 2019, RelGAN, openreview.net/forum?id=rJedV3R5tm: 150 times through 10,000
  captions on the likelihood, then 2,000 steps whose inverse temperature grows as 100^(step / 5000).
Command: ganjax train sentences_relgan --data.source image_coco.txt
"""

from ganjax.config import Config, Data, Evaluation, OptimizerSettings, Text, TextGAN, Train
from ganjax.networks.text import RelGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=1e-4, beta1=0.9, clip_norm=5.0)
    return Config(
        name="sentences_relgan",
        data=Data(source="sentences.txt", text=Text(tokens="words", lines=True, length=40)),
        model=TextGAN(
            network=RelGAN(),
            loss="relativistic",
            generator=adam,
            discriminator=adam,
            discriminator_steps=5,
            pretrain=OptimizerSettings(learning_rate=1e-2, beta1=0.9, clip_norm=5.0),
            pretrain_steps=21_000,
            final_inverse_temperature=100.0,
        ),
        train=Train(
            steps=23_000,
            batch_size=64,
            log_every_steps=50,
            sample_every_steps=1000,
            checkpoint_every_steps=200,
        ),
        evaluation=Evaluation(every_steps=1000),
    )
