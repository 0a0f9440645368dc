import pickle
import subprocess
import sys

import numpy as np
import pytest

from ganjax.data.dataset import check_labels, fingerprint, in_memory
from ganjax.types import InputError


def numbered(num_examples=20):
    images = np.arange(num_examples, dtype=np.uint8)[:, None, None, None]
    return in_memory(
        "numbered", "train", {"image": images, "label": np.arange(num_examples) % 3}, num_classes=3
    )


def test_batch_gathers_the_examples_in_the_shape_of_the_indices():
    batch = numbered().batch(np.array([[3, 1], [0, 19]]))
    assert batch["image"][..., 0, 0, 0].tolist() == [[3, 1], [0, 19]]
    assert batch["label"].tolist() == [[0, 1], [0, 1]]
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32


@pytest.mark.parametrize("index", [-1, 20])
def test_an_index_outside_is_refused(index):
    with pytest.raises(IndexError, match="numbered has 20 examples"):
        numbered().batch(np.array([0, index]))


def test_hold_out_splits_every_example_into_one_of_two_parts_and_always_alike():
    dataset = numbered()
    train, held_out = dataset.hold_out(5)
    again, _ = dataset.hold_out(5)
    images = [part.arrays["image"].reshape(-1).tolist() for part in (train, held_out, again)]
    assert sorted(images[0] + images[1]) == list(range(20))
    assert images[0] == images[2]
    assert images[1] != list(range(5))  # drawn from everywhere
    assert (train.split, held_out.split) == ("train", "held out")
    assert (train.num_examples, held_out.num_examples) == (15, 5)
    assert train.fingerprint == again.fingerprint
    assert len({train.fingerprint, held_out.fingerprint, dataset.fingerprint}) == 3
    # Written down: a later version has to find the same examples.
    assert images[1] == [1, 9, 11, 14, 16]


def test_hold_out_of_nothing_is_none():
    assert numbered().hold_out(0)[1] is None


@pytest.mark.parametrize("count", [-1, 20, 21])
def test_hold_out_leaves_something_to_train_on(count):
    with pytest.raises(InputError, match=r"20 examples and data\.held_out is"):
        numbered().hold_out(count)


def test_the_fingerprint_sees_one_changed_pixel_and_one_changed_label():
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32)
    other_images, other_labels = images.copy(), labels.copy()
    other_images[3, 1, 1, 0] = 1
    other_labels[2] = 1
    found = {
        in_memory("x", "train", {"image": i, "label": y}, num_classes=2).fingerprint
        for i in (images, other_images)
        for y in (labels, other_labels)
    }
    assert len(found) == 4
    assert fingerprint("ab", "c") != fingerprint("a", "bc")


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        ([0, 1, 7], 3, "label 7 of example 2 in things is out of range, expected 0 to 2"),
        ([0, -1, 1], None, "label -1 of example 1 in things is out of range"),
        ([0, 1, 1_000_000], None, "label 1000000 of example 2"),
        ([0, 1], None, "expected 3 integers, one an image"),
        ([0.0, 1.0, 2.0], None, "are float64 of shape"),
    ],
)
def test_wrong_labels_are_refused(labels, num_classes, message):
    with pytest.raises(InputError, match=message):
        check_labels("things", np.array(labels), 3, num_classes)


def test_a_set_can_be_pickled():
    dataset = numbered()
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.fingerprint == dataset.fingerprint
    np.testing.assert_array_equal(copy.arrays["image"], dataset.arrays["image"])


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="holds no examples"):
        in_memory("none", "train", {"image": np.zeros((0, 2, 2, 1), np.uint8)})


def test_importing_the_data_starts_no_device_and_loads_nothing_heavy():
    program = (
        "import sys, ganjax.data; from jax._src import xla_bridge; "
        "assert not xla_bridge.backends_are_initialized(); "
        "assert not {'PIL', 'tensorflow_datasets', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
