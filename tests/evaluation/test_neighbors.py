import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ganjax.evaluation import neighbors


def test_precision_and_recall_tell_quality_from_variety():
    random = np.random.default_rng(5)
    real = np.concatenate([random.standard_normal((100, 2)), random.standard_normal((100, 2)) + 50])
    half = random.standard_normal((200, 2))
    precision, recall = neighbors.precision_recall(half, real)
    assert precision > 0.9
    assert 0.4 < recall <= 0.5
    assert neighbors.precision_recall(real, half) == (recall, precision)


def test_density_and_coverage_by_their_definition():
    random = np.random.default_rng(0)
    # More rows than are held at a time, on either side.
    generated, real = random.standard_normal((1100, 3)), random.standard_normal((700, 3))
    k = 5
    radii = np.sort(cdist(real, real), axis=1)[:, k]
    inside = cdist(generated, real) <= radii
    density, coverage = neighbors.density_coverage(generated, real, k)
    assert density == pytest.approx(inside.sum() / (k * 1100), rel=1e-12)
    assert coverage == pytest.approx(inside.any(axis=0).mean(), rel=1e-12)


def test_density_is_not_fooled_by_a_lonely_example():
    """One real outlier makes a ball that everything falls into; precision is 1 and density not."""
    random = np.random.default_rng(1)
    real = np.concatenate([random.standard_normal((200, 2)), [[1000.0, 0.0]]])
    noise = random.uniform((500, -200), (900, 200), (200, 2))
    assert neighbors.precision_recall(noise, real)[0] == 1.0
    density, coverage = neighbors.density_coverage(noise, real)
    assert density < 0.25
    assert coverage < 0.1


def test_nearest_neighbors_by_their_definition():
    random = np.random.default_rng(2)
    generated, real = random.standard_normal((600, 4)), random.standard_normal((50, 4))
    distances = cdist(generated, real)
    indices, found = neighbors.nearest_neighbors(generated.astype(np.float32), real, 3)
    np.testing.assert_array_equal(indices, np.argsort(distances, axis=1)[:, :3])
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :3], rtol=1e-6)


@pytest.mark.slow
def test_memory_is_for_some_rows_at_a_time():
    """The distances of 6,000 to 6,000 would take 275 MiB."""
    random = np.random.default_rng(6)
    x, y = random.standard_normal((2, 6000, 4)).astype(np.float32)
    for function in (
        neighbors.precision_recall,
        neighbors.density_coverage,
        neighbors.nearest_neighbors,
    ):
        tracemalloc.start()
        function(x, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 120 * 2**20, function


def test_a_training_image_is_its_own_neighbour():
    real = np.random.default_rng(3).standard_normal((40, 8))
    indices, distances = neighbors.nearest_neighbors(real[[7, 30]], real)
    assert indices.ravel().tolist() == [7, 30]
    np.testing.assert_allclose(distances, 0, atol=1e-6)


def test_near_copies_are_found_and_others_not():
    images = np.random.default_rng(4).uniform(-1, 1, (20, 8, 8, 3))
    assert neighbors.duplicates(images) == 0.0
    images[4] = images[11] + 0.01
    assert neighbors.duplicates(images) == 0.1
    assert neighbors.duplicates(images, tolerance=0.005) == 0.0
