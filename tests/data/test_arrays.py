import gzip
import pickle

import numpy as np
import pytest

from ganjax.data import load
from ganjax.types import InputError


@pytest.fixture
def images(generator):
    return generator.integers(0, 256, (30, 8, 6, 3), dtype=np.uint8)


def write_idx(path, array):
    content = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content += array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("keys", [("image", "label"), ("images", "labels"), ("x", "y")])
def test_npz(tmp_path, images, keys):
    labels = np.arange(30) % 4
    np.savez(tmp_path / "a.npz", **dict(zip(keys, (images, labels), strict=True)))
    dataset, held_out = load(str(tmp_path / "a.npz"), held_out=0)
    np.testing.assert_array_equal(dataset.arrays["image"], images)
    np.testing.assert_array_equal(dataset.arrays["label"], labels)
    assert held_out is None
    assert dataset.num_classes == 4
    assert "label" not in load(str(tmp_path / "a.npz"), held_out=0, labels=False)[0].arrays


def test_npz_finds_the_only_array_of_images_and_the_names_of_the_classes(tmp_path, images):
    grey = images[..., 0]
    names = np.array(["cat", "dog", "eel"])
    np.savez_compressed(
        tmp_path / "a.npz", pixels=grey, labels=np.zeros(30, int), class_names=names
    )
    dataset, _ = load(str(tmp_path / "a.npz"), held_out=0)
    np.testing.assert_array_equal(dataset.arrays["image"], grey[..., None])
    assert dataset.class_names == ("cat", "dog", "eel")
    assert dataset.num_classes == 3


def test_floats_in_minus_one_to_one_are_accepted(tmp_path, images):
    np.save(tmp_path / "a.npy", images.astype(np.float32) / 127.5 - 1)
    np.testing.assert_array_equal(
        load(str(tmp_path / "a.npy"), held_out=0)[0].arrays["image"], images
    )


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda x: x / 255.0, r"floats in \[0, 1\], expected uint8"),
        (lambda x: x.astype(np.float32), r"floats in \[0, 255\]"),
        (lambda x: x.astype(np.float32) * np.nan, "floats in .nan, nan"),
        (lambda x: x.astype(np.int64), "are int64, expected uint8"),
        (lambda x: x[:0], "holds no images"),
        (lambda x: x[0, 0], r"have shape \(6, 3\)"),
        (lambda x: x[..., :2], "have 2 channels, expected 1, 3 or 4"),
        (lambda x: x.transpose(0, 3, 1, 2), "have 6 channels"),
        (lambda x: x.astype(object), "cannot be read"),
    ],
)
def test_other_arrays_are_refused(tmp_path, images, convert, message):
    np.save(tmp_path / "a.npy", convert(images))
    with pytest.raises(InputError, match=message):
        load(str(tmp_path / "a.npy"), held_out=0)


def test_npz_without_images_names_what_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", weights=np.zeros(3), bias=np.zeros(2))
    with pytest.raises(InputError, match="holds bias, weights, expected one array of images"):
        load(str(tmp_path / "a.npz"))


def test_a_label_out_of_range_is_refused(tmp_path, images):
    labels = np.zeros(30, int)
    labels[7] = 2
    np.savez(tmp_path / "a.npz", image=images, label=labels, class_names=np.array(["a", "b"]))
    with pytest.raises(InputError, match=r"label 2 of example 7 in .*a\.npz is out of range"):
        load(str(tmp_path / "a.npz"), held_out=0)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a-idx3-ubyte", "a-idx3-ubyte.gz", "a.zip"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b\x08nonsense", b"PK\x03\x04rest"])
def test_a_broken_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        load(str(tmp_path / name))


def test_a_large_npy_is_read_from_disk_and_equals_the_one_in_memory(tmp_path, images):
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", np.arange(30) % 5)
    kept, _ = load(str(tmp_path / "images.npy"), held_out=6, image_size=(4, 4))
    streamed, held_out = load(
        str(tmp_path / "images.npy"), held_out=6, image_size=(4, 4), max_in_memory_bytes=100
    )
    assert streamed.arrays is None
    assert streamed.features == kept.features
    assert streamed.num_classes == kept.num_classes == 5
    indices = np.array([[3, 20], [0, 3]])
    pickled = pickle.dumps(streamed)
    assert len(pickled) < 3000  # the path and not the pixels
    for dataset in (streamed, pickle.loads(pickled)):
        for key, leaf in dataset.batch(indices).items():
            np.testing.assert_array_equal(leaf, kept.batch(indices)[key])
    assert held_out.batch(np.arange(6))["image"].shape == (6, 4, 4, 3)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_with_the_labels_beside_it(tmp_path, images, suffix):
    write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", images[..., 0])
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(30, dtype=np.uint8) % 10)
    dataset, _ = load(str(tmp_path / f"train-images-idx3-ubyte{suffix}"), held_out=0)
    np.testing.assert_array_equal(dataset.arrays["image"], images[..., :1])
    assert dataset.arrays["label"].tolist() == [i % 10 for i in range(30)]


def test_a_truncated_idx_file_is_refused(tmp_path, images):
    write_idx(tmp_path / "a-idx3-ubyte", images[..., 0])
    content = (tmp_path / "a-idx3-ubyte").read_bytes()
    (tmp_path / "a-idx3-ubyte").write_bytes(content[:-5])
    with pytest.raises(InputError, match="holds 1435 bytes of data, expected 1440"):
        load(str(tmp_path / "a-idx3-ubyte"))


def test_the_official_training_images(real_data):
    path = real_data / "fashion_mnist" / "train-images-idx3-ubyte.gz"
    train, held_out = load(str(path))
    assert (train.num_examples, held_out.num_examples) == (59_000, 1000)
    assert train.num_classes == 10
