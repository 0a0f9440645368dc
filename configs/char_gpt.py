"""A small GPT-2 that writes Shakespeare letter by letter, after nanoGPT's setting for one CPU.

Paper: Radford et al. 2019 (GPT-2); the setting is that of github.com/karpathy/nanoGPT (4 layers, 4
  heads, width 128, 64 letters at a time, batches of 12, no dropout; its validation loss is 1.88).
  Departure: a learning rate of 2e-3, not 1e-3.
Command: ganjax train char_gpt
Expected: one minute on two cores of an AMD EPYC (441 sequences/s of 64 letters).
Result: cross-entropy 1.813 on the last tenth of the text (seeds 0, 1, 2: 1.796, 1.827, 1.815), 2.62
  bits per character; with the learning rate 1e-3 it is 1.906 (1.910, 1.904, 1.903).
"""

from ganjax.config import Config, Data, LanguageModel, OptimizerSettings, Text, Train
from ganjax.networks.gpt import GPT


def get_config() -> Config:
    return Config(
        name="char_gpt",
        # The last tenth of the text is kept away, as nanoGPT does.
        data=Data(source="tiny_shakespeare", held_out=1742, text=Text(length=64)),
        model=LanguageModel(
            network=GPT(num_layers=4, heads=4, width=128),
            optimizer=OptimizerSettings(
                learning_rate=2e-3,
                beta1=0.9,
                beta2=0.99,
                weight_decay=0.1,
                clip_norm=1.0,
                schedule="cosine",
                final_learning_rate=1e-4,
                warmup_steps=100,
            ),
        ),
        train=Train(
            steps=2000,
            batch_size=12,
            log_every_steps=100,
            sample_every_steps=500,
            checkpoint_every_steps=500,
        ),
    )
