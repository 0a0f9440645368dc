"""Fixtures that several test files share."""

import functools
import os
import subprocess
import sys

import jax
import pytest

# Examples that compile whole train steps.
SLOW_EXAMPLES = {
    f"ganjax.{name}"
    for name in (
        "autoregressive.autoregressive",
        "population.population",
        "safeguard.skip_non_finite",
        "sharding.train_step",
        "vae.vae",
    )
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.name in SLOW_EXAMPLES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def quick_jit():
    """Return `jax.jit` at the lowest optimisation level: the same program, compiled twice as fast.

    For tests of what a program computes, not of how it was compiled.
    """
    return functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes."""
    directory = tmp_path / "disk"
    directory.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk could be mounted: {done.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)
