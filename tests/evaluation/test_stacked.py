import numpy as np
import pytest

from ganjax import data
from ganjax.evaluation import fashion_mnist_classifier, stacked_classifier, stacked_modes
from ganjax.types import InputError


@pytest.fixture(scope="module")
def stacked():
    examples, _ = data.load("stacked_fashion_mnist", held_out=0)
    return examples


def test_data_has_a_thousand_modes(stacked):
    assert stacked.features["image"][0] == (28, 28, 3)
    assert stacked.num_classes == 1000
    counts = np.bincount(stacked.arrays["label"], minlength=1000)
    assert counts.min() > 20
    assert stacked.fingerprint == data.load("stacked_fashion_mnist", held_out=0)[0].fingerprint


def test_labels_are_the_classes_of_the_channels(stacked):
    single, _ = data.load("fashion_mnist", held_out=0)
    by_image = {
        image.tobytes(): label for image, label in zip(*single.arrays.values(), strict=True)
    }
    for image, label in zip(stacked.arrays["image"][:20], stacked.arrays["label"], strict=False):
        digits = [by_image[image[..., channel].tobytes()] for channel in range(3)]
        assert label == digits @ np.array([100, 10, 1])


@pytest.mark.slow
def test_real_images_cover_nearly_all_modes(stacked):
    modes = stacked_modes(stacked.arrays["image"][:8000])
    assert modes.modes_covered > 980
    # 1000 / (2 * 8000) from the count, the rest from what the classifier confuses.
    assert 0.06 < modes.divergence < 0.2


def test_a_generator_without_variety_is_seen(stacked):
    image = stacked.arrays["image"][:1]
    same = stacked_modes(np.repeat(image, 50, axis=0))
    assert same.modes_covered == 1
    assert same.divergence == pytest.approx(np.log(1000))
    grey = np.repeat(stacked.arrays["image"][:3000, ..., :1], 3, axis=-1)
    assert stacked_modes(grey).modes_covered == 10


def test_channels_are_judged_as_single_images_are(stacked):
    images = stacked.arrays["image"][:5]
    outputs, single = stacked_classifier()(images), fashion_mnist_classifier()
    for channel in range(3):
        alone = single(images[..., channel : channel + 1])
        ours = outputs["logits"][:, 10 * channel : 10 * channel + 10]
        np.testing.assert_allclose(ours, alone["logits"], rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="takes images of shape"):
        stacked_modes(images[..., :1])
