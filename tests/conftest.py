"""Fixtures that several test files share."""

import functools

import jax
import pytest


@pytest.fixture(scope="session")
def quick_jit():
    """Return `jax.jit` at the lowest optimisation level: the same program, compiled twice as fast.

    For tests of what a program computes, not of how it was compiled.
    """
    return functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
