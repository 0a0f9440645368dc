"""Sentences by the textbook's text GAN: embedding, LSTM, linear layer, and an LSTM that judges.

Paper: none in particular; relaxed tokens after Jang et al. 2016, arXiv:1611.01144, and Kusner and
  Hernandez-Lobato 2016, arXiv:1611.04051. A short time on the likelihood, and the relaxed tokens
  are what make it train: through plain choices of tokens nothing is learnt.
Command: ganjax train sentences_lstm_gan --data.source image_coco.txt
"""

from ganjax.config import Config, Data, Evaluation, OptimizerSettings, Text, TextGAN, Train
from ganjax.networks.text import LSTMPair


def get_config() -> Config:
    adam = OptimizerSettings(learning_rate=1e-4, beta1=0.5, clip_norm=5.0)
    return Config(
        name="sentences_lstm_gan",
        data=Data(source="sentences.txt", text=Text(tokens="words", lines=True, length=40)),
        model=TextGAN(
            network=LSTMPair(),
            generator=adam,
            discriminator=adam,
            pretrain=OptimizerSettings(learning_rate=5e-3, beta1=0.9, clip_norm=5.0),
            pretrain_steps=2000,
        ),
        train=Train(
            steps=3000,
            batch_size=64,
            log_every_steps=50,
            sample_every_steps=500,
            checkpoint_every_steps=500,
        ),
        evaluation=Evaluation(every_steps=500),
    )
