"""Sentences of words by SeqGAN, one a line: policy gradient on what a discriminator thinks.

Paper: Yu et al. 2016, SeqGAN, arXiv:1609.05473, whose two networks these are. Departure: 60 updates
  of the discriminator a round instead of 2,340, so that a CPU gets through.
Command: ganjax train sentences_seqgan --data.source image_coco.txt
Schedule: the likelihood of sentences_mle, 20 times 60 updates of the discriminator, then 80 rounds
  of one update of the generator and 60 of the discriminator.
"""

from ganjax.config import Config, Data, Evaluation, OptimizerSettings, Text, TextGAN, Train
from ganjax.networks.text import SeqGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=1e-2, beta1=0.9, clip_norm=5.0)
    return Config(
        name="sentences_seqgan",
        data=Data(source="sentences.txt", text=Text(tokens="words", lines=True, length=40)),
        model=TextGAN(
            network=SeqGAN(),
            estimator="policy_gradient",
            pretrain=adam,
            pretrain_steps=5600,
            generator=adam,
            discriminator=OptimizerSettings(learning_rate=1e-4, beta1=0.9),
            discriminator_steps=60,
            discriminator_pretrain_steps=20,
        ),
        train=Train(
            steps=5700,
            batch_size=64,
            log_every_steps=20,
            sample_every_steps=1400,
            checkpoint_every_steps=20,
        ),
        evaluation=Evaluation(every_steps=100),
    )
