import numpy as np
import pytest

from ganjax.evaluation import diversity, is_collapsed
from ganjax.types import InputError


def noise(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 8, 8, 3)).astype(np.float32)


def test_diversity_is_the_mean_distance_of_pairs():
    images = noise(5)
    pairs = [np.sqrt(np.mean((images[i] - images[j]) ** 2)) for i in range(5) for j in range(i)]
    assert diversity(images) == pytest.approx(np.mean(pairs), rel=1e-6)
    assert diversity(images[::-1]) == pytest.approx(diversity(images), rel=1e-12)


def test_uint8_and_float_agree():
    levels = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)
    floats = levels.astype(np.float32) / 127.5 - 1
    assert diversity(levels) == pytest.approx(diversity(floats), rel=1e-6)


def test_samples_as_varied_as_the_data_pass():
    assert is_collapsed(noise(64), noise(32, seed=1)) is None


def test_one_image_over_and_over_is_found():
    same = noise(1).repeat(64, axis=0) + 0.05 * noise(64, seed=2)
    sentence = is_collapsed(same, noise(64))
    assert sentence.startswith("the samples have collapsed: they differ 0.05 times as much")
    assert is_collapsed(same, noise(64), threshold=0.01) is None


def test_broken_samples_are_found():
    broken = noise(4)
    broken[1, 2, 3, 0] = np.nan
    assert "diverged" in is_collapsed(broken, noise(4))


def test_reals_that_are_all_alike_tell_nothing():
    assert is_collapsed(noise(4), noise(1).repeat(4, axis=0)) is None


def test_one_image_has_no_diversity():
    with pytest.raises(InputError, match="diversity compares images"):
        diversity(noise(1))
