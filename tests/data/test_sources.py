import numpy as np
import pytest

from ganjax.data import load
from ganjax.types import InputError


def test_fashion_mnist_comes_with_the_package():
    dataset, _ = load("fashion_mnist", held_out=0)
    assert dataset.num_examples == 10_000
    assert dataset.features == {"image": ((28, 28, 1), np.uint8), "label": ((), np.int32)}
    assert np.bincount(dataset.arrays["label"]).tolist() == [1000] * 10
    assert dataset.class_names[9] == "Ankle boot"
    # The first test image is an ankle boot on black.
    assert dataset.arrays["label"][0] == 9
    assert dataset.arrays["image"][0, 0].max() == 0
    assert dataset.fingerprint == "a5d431b9ecd51b34"


def test_sizes_and_channels():
    dataset, _ = load("fashion_mnist", image_size=(32, 40), channels=3, resize="pad", labels=False)
    assert dataset.features == {"image": ((32, 40, 3), np.uint8)}
    assert dataset.num_classes == 0
    assert dataset.class_names == ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "fashon_mnist",
            r"no data set and no folder 'fashon_mnist' \(did you mean 'fashion_mnist'",
        ),
        ("cifar10", r"did you mean 'tfds:cifar10'\?"),
        ("mnist", r"did you mean 'tfds:mnist'\?"),
        ("zzz", "'zzz'; built in are fashion_mnist, stacked_fashion_mnist, ring"),
        ("some/where", "there is no file or folder some/where"),
        ("photos.zip", "there is no file or folder photos.zip"),
    ],
)
def test_an_unknown_source_suggests_the_nearest(source, message):
    with pytest.raises(InputError, match=message):
        load(source)


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("1,2,3")
    with pytest.raises(InputError, match=r"a\.csv is no kind of file that is known"):
        load(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "zoom"}, "data.resize is 'zoom', expected one of crop, stretch, pad"),
        ({"channels": 2}, "data.channels is 2"),
        ({"image_size": (0, 5)}, r"data.image_size is \(0, 5\)"),
        ({"split": "test"}, "fashion_mnist has no split 'test'"),
        ({"held_out": 10_000}, "10000 examples and data.held_out is 10000"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        load("fashion_mnist", **options)
