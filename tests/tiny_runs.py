"""What the tests of whole runs share: configurations that train in a moment, and their runs.

A test file that needs it names it as a plugin: `pytest_plugins = ["tiny_runs"]`. It is
imported before that is read, hence PYTEST_DONT_REWRITE.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ganjax import build, cli, config, train
from ganjax.checkpoint import Checkpointer
from ganjax.config import GAN, Config, Data, Evaluation, OptimizerSettings, Train
from ganjax.networks.dcgan import DCGAN
from ganjax.networks.mlp import MLP
from ganjax.run import RunDirectory

RING_FILE = """
from tiny_runs import ring_config as get_config
"""
IMAGE_FILE = """
from tiny_runs import image_config as get_config
"""


def ring_config(source: str = "ring", **settings) -> Config:
    """Two tiny fully connected networks on points in the plane."""
    settings = {
        "steps": 6,
        "batch_size": 16,
        "log_every_steps": 2,
        "sample_every_steps": 10_000,
        "checkpoint_every_steps": 2,
        **settings,
    }
    adam = OptimizerSettings(learning_rate=1e-3)
    network = MLP(latent_dim=4, generator_hidden=(8,), discriminator_hidden=(8,))
    return Config(
        name="tiny",
        model=GAN(network=network, generator=adam, discriminator=adam, ema_half_life_images=50.0),
        data=Data(source=source, held_out=64),
        train=Train(**settings),
        evaluation=Evaluation(num_samples=50),
    )


def image_config(source: str = "fashion_mnist", **settings) -> Config:
    """A tiny DCGAN with classes on images of 12x12."""
    settings = {
        "steps": 4,
        "batch_size": 8,
        "log_every_steps": 2,
        "sample_every_steps": 10_000,
        "checkpoint_every_steps": 2,
        **settings,
    }
    network = DCGAN(latent_dim=6, generator_width=2, discriminator_width=2)
    return Config(
        name="tiny",
        model=GAN(network=network, conditional=True, share_fakes=True, ema_half_life_images=50.0),
        data=Data(source=source, image_size=(12, 12), held_out=32),
        train=Train(**settings),
        evaluation=Evaluation(num_samples=50),
    )


def arrays(tree) -> dict[str, np.ndarray]:
    """Return every leaf of a state by its path, keys as numbers."""

    def raw(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): raw(leaf) for path, leaf in leaves}


def assert_same_bits(actual, expected) -> None:
    actual, expected = arrays(actual), arrays(expected)
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        assert leaf.dtype == actual[path].dtype, path
        assert leaf.tobytes() == actual[path].tobytes(), path


def final_state(run, step):
    """Read the last checkpoint of a run into this process, as it lies on the disk."""
    settings = config.from_json(RunDirectory(run).record()["config"])
    phase = build.build(settings).phases[-1]
    like = jax.eval_shape(phase.algorithm.init, jax.random.key(0))
    with Checkpointer(RunDirectory(run).checkpoints) as checkpoints:
        state, metadata = checkpoints.restore(like)
    assert metadata["step"] == step
    return state


def logged(run):
    """Return the training's lines of metrics.jsonl without its speed."""
    return [
        {name: value for name, value in line.items() if name != "images_per_second"}
        for line in RunDirectory(run).read_metrics()
        if "loss/generator" in line
    ]


def contents(folder) -> dict[str, bytes]:
    """Return every file under a folder."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run_cli(*arguments) -> int:
    """Run a command in this process and return its exit code."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main([str(argument) for argument in arguments])
    return exit_info.value.code or 0


def start(arguments, folder, **environment) -> subprocess.Popen:
    """Start `python arguments...` in a folder, with the compiled programs of this test run."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
        "PYTHONWARNINGS": "error::DeprecationWarning:ganjax",
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **settings, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def _quick_compilation(cache):
    settings = {
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A folder of compiled programs that the tests of one session share."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def quick_compilation(compiled):
    """Compile with few optimisations, and each program once in a session."""
    with _quick_compilation(compiled):
        yield


@pytest.fixture(scope="session")
def ring_run(compiled, tmp_path_factory):
    """A finished run on points: `ganjax.train.Result`. Not to be changed."""
    with _quick_compilation(compiled):
        return train.train(ring_config(), str(tmp_path_factory.mktemp("runs") / "ring"))


@pytest.fixture(scope="session")
def image_run(compiled, tmp_path_factory):
    """A finished run on images with classes: `ganjax.train.Result`. Not to be changed."""
    with _quick_compilation(compiled):
        return train.train(image_config(), str(tmp_path_factory.mktemp("runs") / "images"))


@pytest.fixture
def ring_file(tmp_path):
    """A configuration file."""
    path = tmp_path / "ring_file.py"
    path.write_text(RING_FILE)
    return path


@pytest.fixture
def image_file(tmp_path):
    """A configuration file."""
    path = tmp_path / "image_file.py"
    path.write_text(IMAGE_FILE)
    return path
