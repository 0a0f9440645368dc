"""Sentences of words by maximum likelihood, one a line: what text GANs on captions have to beat.

Paper: the LSTM of SeqGAN, Yu et al. 2016, arXiv:1609.05473, on the COCO captions of Texygen, Zhu et
  al. 2018, arXiv:1802.01886.
Command: ganjax train sentences_mle --data.source image_coco.txt
"""

from ganjax.config import Config, Data, Evaluation, LanguageModel, OptimizerSettings, Text, Train
from ganjax.networks.text import SeqGAN


def get_config() -> Config:
    return Config(
        name="sentences_mle",
        data=Data(source="sentences.txt", text=Text(tokens="words", lines=True, length=40)),
        model=LanguageModel(
            network=SeqGAN(),
            optimizer=OptimizerSettings(learning_rate=1e-2, beta1=0.9, clip_norm=5.0),
        ),
        train=Train(
            steps=5600,
            batch_size=64,
            log_every_steps=140,
            sample_every_steps=1400,
            checkpoint_every_steps=1400,
        ),
        evaluation=Evaluation(every_steps=1400),
    )
