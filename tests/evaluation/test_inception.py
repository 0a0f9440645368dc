import numpy as np
import pytest
import reference_vectors as vectors

from ganjax.evaluation import evaluate_images, frechet_distance, inception_v3
from ganjax.networks.inception import resize
from ganjax.types import InputError

EXPECTED = vectors.arrays("inception_v3_fid")
NAMES = ("64", "192", "768", "2048", "logits_unbiased")


@pytest.fixture(scope="module")
def state_dict():
    return vectors.weights("inception_v3_fid")[1]


@pytest.fixture(scope="module")
def extract(state_dict):
    return inception_v3(state_dict, batch_size=2)


@pytest.mark.parametrize("case", [0, 1])
def test_features_are_the_official_ones(extract, case):
    outputs = extract(vectors.nhwc(EXPECTED[f"images{case}"]))
    assert set(outputs) == set(NAMES)
    for name in NAMES:
        error = vectors.relative_error(outputs[name], EXPECTED[f"features{case}/{name}"])
        assert error < 1e-5, name


@pytest.mark.slow
def test_figures_made_with_it_have_the_names_of_the_literature(extract):
    assert extract.name == "inception-v3-tf1"
    assert extract.features == "2048"
    assert extract.logits == "logits_unbiased"
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    figures = evaluate_images(
        lambda key, n: images[:n],
        images[2:],
        extractor=extract,
        num_samples=4,
        batch_size=4,
        metrics=("frechet_distance", "kernel_distance", "classifier_score"),
        reference="train",
    )
    assert str(figures["frechet_distance"]).startswith("FID(inception-v3-tf1, 4 vs train): ")
    assert str(figures["kernel_distance"]).startswith("KID(inception-v3-tf1, 4 vs train): ")
    assert str(figures["classifier_score"]).startswith("IS(inception-v3-tf1, 4): ")
    assert {figure.resize for figure in figures.values()} == {extract.resize}
    assert figures["frechet_distance"].features == "2048"
    assert figures["kernel_distance"].settings == {"num_subsets": 100, "subset_size": 2}
    expected = frechet_distance(*(extract(part)["2048"] for part in (images[:4], images[2:])))
    assert figures["frechet_distance"].value == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_grey_images_are_repeated_and_floats_rounded(extract):
    grey = vectors.nhwc(EXPECTED["images0"])[..., :1]
    colour = extract(np.repeat(grey, 3, axis=-1))["2048"]
    np.testing.assert_array_equal(extract(grey)["2048"], colour)
    near = np.float32(grey) / 127.5 - 1 + 1e-3
    np.testing.assert_array_equal(extract(near)["2048"], colour)
    with pytest.raises(InputError, match="grey or colour images, these have 4 channels"):
        extract(np.zeros((1, 8, 8, 4), np.uint8))


def test_other_weights_are_other_features(state_dict, extract):
    again = inception_v3(dict(state_dict))
    assert again.hash == extract.hash
    changed = {**state_dict, "Mixed_7c.branch_pool.bn.bias": np.zeros(192, np.float32)}
    assert inception_v3(changed).hash != extract.hash


def test_missing_and_misshapen_tensors_are_one_sentence(state_dict):
    missing = {k: v for k, v in state_dict.items() if k != "Mixed_6a.branch3x3.bn.running_var"}
    with pytest.raises(InputError, match=r"no tensor Mixed_6a\.branch3x3\.bn\.running_var among"):
        inception_v3(missing)
    other = {**state_dict, "fc.weight": np.zeros((1000, 2048), np.float32)}
    with pytest.raises(InputError, match=r"weights of fc have the shape \(2048, 1000\), expected"):
        inception_v3(other)


@pytest.mark.parametrize(("height", "width"), [(2, 3), (7, 5), (400, 299)])
def test_resize_is_that_of_tensorflow_1(height, width):
    """Against the definition, place by place."""
    size = 13
    images = np.random.default_rng(0).uniform(0, 255, (1, height, width, 2)).astype(np.float32)
    expected = np.zeros((1, size, size, 2))
    for row in range(size):
        for column in range(size):
            y, x = row * height / size, column * width / size
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dx = y - top, x - left
            expected[0, row, column] = (1 - dy) * (
                (1 - dx) * images[0, top, left] + dx * images[0, top, right]
            ) + dy * ((1 - dx) * images[0, bottom, left] + dx * images[0, bottom, right])
    np.testing.assert_allclose(resize(images, size), expected, rtol=1e-4, atol=1e-3)
