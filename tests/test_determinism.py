"""The same seed on the same machine: the same bits, whichever process computes them."""

import pytest
from tiny_runs import assert_same_bits, final_state, start

from ganjax.run import RunDirectory

pytest_plugins = ["tiny_runs"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]

IMAGES = """
import dataclasses
from tiny_runs import image_config

def get_config():
    config = image_config(steps=30, log_every_steps=5, checkpoint_every_steps=10)
    model = dataclasses.replace(config.model, augment="flip", share_fakes=False)
    return dataclasses.replace(config, model=model)
"""
TEXT = """
import dataclasses
from ganjax.config import Config, Data, Evaluation, LanguageModel, Text, Train
from ganjax.networks.gpt import GPT

def get_config():
    return Config(
        name="tiny",
        data=Data(source="tiny_shakespeare", held_out=8, text=Text(length=16)),
        model=LanguageModel(network=GPT(width=16, num_layers=1, heads=2, dropout=0.1)),
        train=Train(steps=30, batch_size=4, log_every_steps=5, checkpoint_every_steps=10),
        evaluation=Evaluation(num_samples=8),
    )
"""


def train_cold(folder, text, run):
    """Train in a process that knows nothing of any other: no compiled programs are shared."""
    (folder / "tiny.py").write_text(text)
    process = start(
        ["-m", "ganjax.cli", "train", "tiny.py", "--run-directory", run],
        folder,
        JAX_ENABLE_COMPILATION_CACHE="false",
        JAX_DISABLE_MOST_OPTIMIZATIONS="0",
        PYTHONHASHSEED=str(len(run)),
    )
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err


@pytest.mark.parametrize("text", [IMAGES, TEXT], ids=["images", "text"])
def test_two_cold_processes_train_to_the_same_bits(text, tmp_path):
    train_cold(tmp_path, text, "a")
    train_cold(tmp_path, text, "another")
    assert_same_bits(final_state(tmp_path / "another", 30), final_state(tmp_path / "a", 30))

    def said(run):
        lines = RunDirectory(tmp_path / run).read_metrics()
        return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]

    assert said("another") == said("a")
    evaluations = [RunDirectory(tmp_path / run).evaluations() for run in ("a", "another")]
    assert evaluations[0] == evaluations[1]
    for path in (tmp_path / "a" / "samples").iterdir():
        assert path.read_bytes() == (tmp_path / "another" / "samples" / path.name).read_bytes()
