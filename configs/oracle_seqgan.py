"""The synthetic oracle, by SeqGAN: policy gradient on what a discriminator thinks of roll-outs.

Paper: Yu et al. 2016, SeqGAN, arXiv:1609.05473 (with its oracle 8.736). Departures: the sequences
  that the discriminator learns from are new in every update (the paper's code reuses 10,000 of them
  three times), and its last layer has no weight penalty.
Command: ganjax train oracle_seqgan
Schedule: 120 times through the data on the likelihood, 23,400 updates of the discriminator, then
  200 rounds of one update of the generator and 2,340 of the discriminator. A shorter one for a CPU:
  --model.discriminator-steps 60 --model.discriminator-pretrain-steps 39
"""

from ganjax.config import Config, Data, Evaluation, OptimizerSettings, Text, TextGAN, Train
from ganjax.networks.text import SeqGAN


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=1e-2, beta1=0.9, clip_norm=5.0)
    return Config(
        name="oracle_seqgan",
        data=Data(source="oracle", held_out=1000, text=Text(length=20)),
        model=TextGAN(
            network=SeqGAN(),
            estimator="policy_gradient",
            pretrain=adam,
            pretrain_steps=18_720,
            generator=adam,
            discriminator=OptimizerSettings(learning_rate=1e-4, beta1=0.9),
            discriminator_steps=2340,
            discriminator_pretrain_steps=10,
        ),
        train=Train(
            steps=18_930,
            batch_size=64,
            log_every_steps=10,
            sample_every_steps=6240,
            checkpoint_every_steps=10,
        ),
        evaluation=Evaluation(num_samples=2000, every_steps=10),
    )
