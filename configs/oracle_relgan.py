"""The synthetic oracle, by RelGAN: a relational memory, relaxed tokens, a relativistic loss.

Paper: Nie et al. 2019, RelGAN, openreview.net/forum?id=rJedV3R5tm (with its oracle 6.680).
Command: ganjax train oracle_relgan  (40 tokens: --data.text.length 40
  --model.final-inverse-temperature 2)
Schedule: 150 times through the data on the likelihood, then 3,000 steps of five updates of the
  discriminator and one of the generator.
"""

from ganjax.config import Config, Data, Evaluation, OptimizerSettings, Text, TextGAN, Train
from ganjax.networks.text import RelGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=1e-4, beta1=0.9, clip_norm=5.0)
    return Config(
        name="oracle_relgan",
        data=Data(source="oracle", held_out=1000, text=Text(length=20)),
        model=TextGAN(
            network=RelGAN(),
            loss="relativistic",
            generator=adam,
            discriminator=adam,
            discriminator_steps=5,
            pretrain=OptimizerSettings(learning_rate=1e-2, beta1=0.9, clip_norm=5.0),
            pretrain_steps=23_400,
            final_inverse_temperature=1.0,
        ),
        train=Train(
            steps=26_400,
            batch_size=64,
            log_every_steps=50,
            sample_every_steps=6240,
            checkpoint_every_steps=300,
        ),
        evaluation=Evaluation(num_samples=2000, every_steps=300),
    )
