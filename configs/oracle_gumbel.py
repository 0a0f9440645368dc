"""The synthetic oracle, by an LSTM and relaxed tokens: SeqGAN's networks without its gradient.

Paper: Kusner and Hernandez-Lobato 2016, arXiv:1611.04051; networks of SeqGAN, arXiv:1609.05473; the
  relativistic loss and the schedule of RelGAN's ablation, openreview.net/forum?id=rJedV3R5tm.
Command: ganjax train oracle_gumbel
"""

from ganjax.config import Config, Data, Evaluation, OptimizerSettings, Text, TextGAN, Train
from ganjax.networks.text import SeqGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=1e-4, beta1=0.9, clip_norm=5.0)
    return Config(
        name="oracle_gumbel",
        data=Data(source="oracle", held_out=1000, text=Text(length=20)),
        model=TextGAN(
            network=SeqGAN(),
            loss="relativistic",
            generator=adam,
            discriminator=adam,
            discriminator_steps=5,
            pretrain=OptimizerSettings(learning_rate=1e-2, beta1=0.9, clip_norm=5.0),
            pretrain_steps=18_720,
        ),
        train=Train(
            steps=21_720,
            batch_size=64,
            log_every_steps=50,
            sample_every_steps=6240,
            checkpoint_every_steps=300,
        ),
        evaluation=Evaluation(num_samples=2000, every_steps=300),
    )
