import socket
import subprocess
import sys

import numpy as np
import pytest

from ganjax.evaluation import Moments, frechet_distance

PROGRAM = """
import sys
import jax, numpy as np
process, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
from ganjax.evaluation import Moments
features = np.random.default_rng(0).standard_normal((101, 5)) + 1e3
mine = Moments.of(features[:30] if process == 0 else features[30:])
total = mine.over_processes()
np.save(sys.argv[3], np.concatenate([[total.count], total.mean, total.scatter.ravel()]))
"""


@pytest.mark.slow
def test_two_processes_have_the_moments_of_both(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    files = [tmp_path / f"{process}.npy" for process in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(process), str(port), str(file)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, file in enumerate(files)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
    first, second = map(np.load, files)
    np.testing.assert_array_equal(first, second)
    whole = Moments.of(np.random.default_rng(0).standard_normal((101, 5)) + 1e3)
    expected = np.concatenate([[whole.count], whole.mean, whole.scatter.ravel()])
    np.testing.assert_allclose(first, expected, rtol=1e-12, atol=1e-9)


def test_one_process_is_alone():
    moments = Moments.of(np.eye(3))
    assert moments.over_processes() is moments


def test_any_split_of_the_features_gives_one_distance():
    """However batches are cut and in whatever order they are merged."""
    random = np.random.default_rng(1)
    features, real = random.standard_normal((5000, 8)), random.standard_normal((300, 8))
    expected = frechet_distance(features, real)
    for parts in (2, 7, 500):
        pieces = [Moments.of(part) for part in np.array_split(features, parts)]
        random.shuffle(pieces)
        merged = Moments.of_parts(pieces)
        assert frechet_distance(merged, real) == pytest.approx(expected, rel=1e-10)


def test_published_statistics_have_the_same_moments():
    features = np.random.default_rng(2).standard_normal((50, 4))
    moments = Moments.of_statistics(features.mean(axis=0), np.cov(features.T), 50)
    for one, two in zip(moments, Moments.of(features), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-12)
