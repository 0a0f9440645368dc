"""Sentences by the textbook's text GAN: embedding, LSTM, linear layer, and an LSTM that judges.

Paper: none in particular; straight-through relaxed tokens after Jang et al. 2016, arXiv:1611.01144.
  What makes it train: a short time on the likelihood; tokens that the discriminator cannot tell by
  being mixtures; and a discriminator that learns ten times as fast. Shown mixtures, the generator
  first sharpens, as a lower temperature would, and in some hundreds of steps is ruined.
Command: ganjax train sentences_lstm_gan --data.source image_coco.txt
"""

from ganjax.config import Config, Data, Evaluation, OptimizerSettings, Text, TextGAN, Train
from ganjax.networks.text import LSTMPair


def get_config() -> Config:
    slow, fast = (
        OptimizerSettings(learning_rate=rate, beta1=0.5, clip_norm=5.0) for rate in (1e-4, 1e-3)
    )
    return Config(
        name="sentences_lstm_gan",
        data=Data(source="sentences.txt", text=Text(tokens="words", lines=True, length=40)),
        model=TextGAN(
            network=LSTMPair(),
            estimator="straight_through",
            inverse_temperature=2.0,
            generator=slow,
            discriminator=fast,
            pretrain=OptimizerSettings(learning_rate=5e-3, beta1=0.9, clip_norm=5.0),
            pretrain_steps=1000,
        ),
        train=Train(
            steps=2000,
            batch_size=64,
            log_every_steps=50,
            sample_every_steps=500,
            checkpoint_every_steps=500,
        ),
        evaluation=Evaluation(every_steps=500),
    )
