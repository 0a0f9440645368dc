import numpy as np
import pytest

from ganjax.evaluation import (
    Moments,
    cached_reference,
    compiled_extractor,
    frechet_distance,
    read_statistics,
)
from ganjax.types import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def extractor(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return compiled_extractor("mean", "abc", lambda x: x.mean((1, 2)), image_shape=(4, 4, 3))


class Images:
    """Counts how often they are looked at."""

    def __init__(self):
        self.looks = 0

    def __call__(self):
        self.looks += 1
        return iter([IMAGES[:15], IMAGES[15:]])


def prepare(images, extractor, **changes):
    options = {"fingerprint": "f", "name": "photos", "min_seconds": 0.0, **changes}
    return cached_reference(images, extractor=extractor, **options)


def test_what_was_computed_is_read_again(extractor):
    images = Images()
    first, second = (prepare(images, extractor) for _ in range(2))
    assert images.looks == 1
    for one, two in zip(first[3], second[3], strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(first.features, second.features)
    assert (second.name, second.num_images) == ("photos", 40)


def test_other_images_or_another_extractor_are_computed_anew(extractor):
    images = Images()
    prepare(images, extractor)
    prepare(images, extractor, fingerprint="g")
    other = compiled_extractor("mean", "abd", lambda x: x.mean((1, 2)), image_shape=(4, 4, 3))
    prepare(images, other)
    assert images.looks == 3


def test_moments_alone_do_not_serve_those_who_need_features(extractor):
    images = Images()
    assert prepare(images, extractor, needs_features=False).features is None
    assert prepare(images, extractor).features.shape == (40, 3)
    assert images.looks == 2
    assert prepare(images, extractor, needs_features=False).features is None
    assert images.looks == 2


def test_a_changed_stamp_is_another_set(extractor):
    images = Images()
    prepare(images, extractor, stamp="yesterday")
    prepare(images, extractor, stamp="today")
    assert images.looks == 2


def test_a_damaged_copy_is_made_again(extractor, tmp_path):
    images = Images()
    prepare(images, extractor)
    (copy,) = (tmp_path / "ganjax" / "references").iterdir()
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 255
    copy.write_bytes(content)
    prepare(images, extractor)
    assert images.looks == 2
    prepare(images, extractor)
    assert images.looks == 2


def test_what_is_quick_is_not_kept(extractor, tmp_path):
    prepare(Images(), extractor, min_seconds=60.0)
    assert not (tmp_path / "ganjax").exists()


def test_published_statistics_are_a_reference(extractor, tmp_path):
    features = extractor(IMAGES)["features"].astype(np.float64)
    path = tmp_path / "statistics.npz"
    np.savez(path, mu=features.mean(axis=0), sigma=np.cov(features.T))
    reference = read_statistics(path, extractor)
    assert reference.num_images is None
    assert reference.features is None
    others = features[:9] + 3
    expected = frechet_distance(others, Moments.of(features))
    assert frechet_distance(others, reference.moments) == pytest.approx(expected, rel=1e-9)


def test_files_that_are_no_statistics(extractor, tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, image=IMAGES)
    assert read_statistics(path, extractor) is None
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"shapes \(3,\) and \(3, 2\)"):
        read_statistics(path, extractor)
    np.savez(path, mu=np.zeros(3), sigma=-np.eye(3))
    with pytest.raises(InputError, match="negative variances"):
        read_statistics(path, extractor)
    np.savez(path, mu=np.zeros(2), sigma=np.array([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(InputError, match="not symmetric"):
        read_statistics(path, extractor)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"images\.npz cannot be read"):
        read_statistics(path, extractor)
