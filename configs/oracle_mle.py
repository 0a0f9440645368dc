"""The synthetic oracle, by maximum likelihood: what every text GAN has to beat.

Paper: Yu et al. 2016, SeqGAN, arXiv:1609.05473 (an LSTM of 32, batches of 64, Adam 1e-2, 120 times
  through 10,000 sequences of 20 tokens, 5,000 different ones; with its oracle MLE has 9.038).
Command: ganjax train oracle_mle  (another oracle: --data.text.oracle-seed 1; 40 tokens:
  --data.text.length 40)
Expected: 5 minutes on two cores of an AMD EPYC (15 ms a step).
Result: NLL-oracle 8.96 with oracle 0, whose own score is 5.92.
"""

from ganjax.config import Config, Data, Evaluation, LanguageModel, OptimizerSettings, Text, Train
from ganjax.networks.text import SeqGAN


def get_config() -> Config:
    return Config(
        name="oracle_mle",
        data=Data(source="oracle", held_out=1000, text=Text(length=20)),
        model=LanguageModel(
            network=SeqGAN(),
            optimizer=OptimizerSettings(learning_rate=1e-2, beta1=0.9, clip_norm=5.0),
        ),
        train=Train(
            steps=18_720,
            batch_size=64,
            log_every_steps=156,
            sample_every_steps=6240,
            checkpoint_every_steps=1560,
        ),
        evaluation=Evaluation(num_samples=2000, every_steps=1560),
    )
