import numpy as np
import pytest

from ganjax.data import GRID_CENTERS, GRID_STD, RING_CENTERS, RING_STD, load
from ganjax.types import InputError


@pytest.mark.parametrize(
    ("source", "centers", "std"),
    [("ring", RING_CENTERS, RING_STD), ("grid", GRID_CENTERS, GRID_STD)],
)
def test_points_lie_about_their_centers(source, centers, std):
    train, held_out = load(source, held_out=5000)
    assert (train.num_examples, held_out.num_examples) == (95_000, 5000)
    assert train.features["image"] == ((2,), np.float32)
    assert train.num_classes == len(centers)
    points, labels = train.arrays["image"], train.arrays["label"]
    offsets = points - centers[labels]
    # 95,000 draws: the standard error of the deviation is below 0.3 percent.
    np.testing.assert_allclose(offsets.std(axis=0), std, rtol=0.02)
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=std / 50)
    counts = np.bincount(labels)
    assert counts.min() > 0.9 * len(points) / len(centers)


def test_the_centers_are_those_of_the_papers():
    assert RING_CENTERS.shape == (8, 2)
    assert GRID_CENTERS.shape == (25, 2)
    np.testing.assert_allclose(np.linalg.norm(RING_CENTERS, axis=1), 2, rtol=1e-6)
    assert len({tuple(center) for center in GRID_CENTERS.tolist()}) == 25
    assert set(GRID_CENTERS.reshape(-1)) == {-4, -2, 0, 2, 4}


def test_the_seed_draws_other_points():
    first, again, other = (load("ring", seed=seed)[0].fingerprint for seed in (0, 0, 1))
    assert first == again != other


def test_points_have_no_size():
    with pytest.raises(InputError, match="ring holds points in the plane"):
        load("ring", image_size=(32, 32))
