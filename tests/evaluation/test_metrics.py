import json
import pathlib

import numpy as np
import pytest

from ganjax.evaluation import metrics
from ganjax.types import InputError

VECTORS = json.loads(
    (pathlib.Path(__file__).parents[1] / "reference" / "image_metrics.json").read_text()
)
CASES = [name for name in VECTORS if not name.startswith("__")]


def reference_features(case):
    """Draw the features as the key `__how__` of the vectors says."""
    expected = VECTORS[case]
    random, dim = np.random.default_rng(expected["seed"]), expected["dim"]
    mixing = random.standard_normal((dim, dim)) / np.sqrt(dim)
    x = random.standard_normal((expected["n_generated"], dim)) @ mixing
    y = random.standard_normal((expected["n_real"], dim)) @ mixing
    generated = np.float32(np.maximum(1.1 * x + 0.1, 0))
    return generated, np.float32(np.maximum(y, 0)), np.float32(2 * x[:, : min(dim, 50)]), expected


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_torch_fidelity(case):
    generated, real, logits, expected = reference_features(case)
    assert metrics.frechet_distance(generated, real) == pytest.approx(expected["fid"], rel=1e-6)
    score = expected["inception_score_10_splits_no_shuffle"]
    mean, std = metrics.inception_score(logits)
    assert mean == pytest.approx(score["inception_score_mean"], rel=1e-9)
    assert std == pytest.approx(score["inception_score_std"], rel=1e-9)
    assert metrics.kernel_distance(generated, real) == pytest.approx(
        expected["kid_unbiased_first_m_rows"], rel=1e-9
    )
    precision, recall = metrics.precision_recall(generated, real)
    # These were averaged in float32.
    assert precision == pytest.approx(expected["precision_recall_k3"]["precision"], abs=1e-7)
    assert recall == pytest.approx(expected["precision_recall_k3"]["recall"], abs=1e-7)


def test_frechet_distance_of_gaussians_that_commute():
    """With diagonal covariances it is |m1 - m2|² + sum (s1 - s2)²."""
    s1, s2 = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 0.0])
    mean = np.array([1.0, -2.0, 2.0])
    random = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(random.standard_normal((3, 3)))
    covariance1, covariance2 = (rotation * s**2 @ rotation.T for s in (s1, s2))
    distance = metrics.frechet_distance_from_moments(mean, covariance1, 0 * mean, covariance2)
    assert distance == pytest.approx(9.0 + 4.0 + 2.25, rel=1e-12)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    """In two dimensions tr (C1 C2)^½ = (tr C1 C2 + 2 (det C1 C2)^½)^½."""
    c1 = np.array([[2.0, 0.7], [0.7, 1.0]])
    c2 = np.array([[0.5, -0.4], [-0.4, 3.0]])
    root = np.sqrt(np.trace(c1 @ c2) + 2 * np.sqrt(np.linalg.det(c1 @ c2)))
    expected = np.trace(c1) + np.trace(c2) - 2 * root
    zero = np.zeros(2)
    distance = metrics.frechet_distance_from_moments(zero, c1, zero, c2)
    assert distance == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [20, 300])
def test_identical_sets_are_at_distance_zero(count):
    features = np.random.default_rng(1).standard_normal((count, 64))
    assert metrics.frechet_distance(features, features) == pytest.approx(0.0, abs=1e-10)
    assert metrics.precision_recall(features, features) == (1.0, 1.0)


def test_frechet_distance_of_constant_features_is_that_of_the_means():
    ones = np.ones((5, 3))
    assert metrics.frechet_distance(ones, 3 * ones) == pytest.approx(12.0, rel=1e-12)


def test_frechet_distance_ignores_order_sides_and_rotation():
    random = np.random.default_rng(2)
    x, y = random.standard_normal((50, 8)), 1.5 * random.standard_normal((40, 8)) + 0.3
    distance = metrics.frechet_distance(x, y)
    rotation, _ = np.linalg.qr(random.standard_normal((8, 8)))
    for other in (
        metrics.frechet_distance(x[::-1], random.permutation(y)),
        metrics.frechet_distance(y, x),
        metrics.frechet_distance(x @ rotation, y @ rotation),
    ):
        assert other == pytest.approx(distance, rel=1e-10)


def test_moments_merge_in_any_order():
    features = np.random.default_rng(3).standard_normal((103, 6)) + 1e3
    parts = [metrics.Moments.of(part) for part in np.split(features, [1, 10, 60])]
    forward, backward = parts[0], parts[-1]
    for part in parts[1:]:
        forward = forward.merge(part)
    for part in parts[-2::-1]:
        backward = part.merge(backward)
    for merged in (forward, backward):
        assert merged.count == 103
        np.testing.assert_allclose(merged.mean, features.mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(merged.covariance, np.cov(features.T), rtol=1e-9, atol=1e-11)


def test_inception_score_of_known_distributions():
    uniform = np.zeros((40, 5))
    assert metrics.inception_score(uniform)[0] == pytest.approx(1.0)
    one_class = np.tile([1000.0, 0.0, 0.0], (40, 1))
    assert metrics.inception_score(one_class)[0] == pytest.approx(1.0)
    # Half certain of one of two classes, half undecided: KL is ln 2 and 0.
    mixed = np.tile([[1000.0, 0.0], [0.0, 1000.0], [3.0, 3.0], [0.0, 0.0]], (4, 1))
    assert metrics.inception_score(mixed, num_splits=4)[0] == pytest.approx(np.sqrt(2.0))
    # Splits that hold one class each know of no variety.
    apart = 1000.0 * np.eye(2).repeat(10, axis=0)
    assert metrics.inception_score(apart, num_splits=2) == (pytest.approx(1.0), 0.0)
    assert metrics.inception_score(apart, num_splits=1)[0] == pytest.approx(2.0)


def test_kernel_distance_is_unbiased():
    """Two halves of one distribution give zero on average, not above it."""
    random = np.random.default_rng(4)
    draws = [metrics.kernel_distance(*random.standard_normal((2, 30, 4))) for _ in range(400)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(len(draws))
    assert min(draws) < 0


def test_precision_and_recall_tell_quality_from_variety():
    random = np.random.default_rng(5)
    real = np.concatenate([random.standard_normal((100, 2)), random.standard_normal((100, 2)) + 50])
    half = random.standard_normal((200, 2))
    precision, recall = metrics.precision_recall(half, real)
    assert precision > 0.9
    assert 0.4 < recall <= 0.5
    assert metrics.precision_recall(real, half) == (recall, precision)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: metrics.frechet_distance(x, x[:, :2]), "features of one dimension"),
        (lambda x: metrics.frechet_distance(x, x[:1]), "at least two examples"),
        (lambda x: metrics.frechet_distance(x * np.nan, x), "4 of 4 rows of features are not"),
        (lambda x: metrics.Moments.of(x[0]), r"shape \(N, D\)"),
        (lambda x: metrics.Moments.of(x).merge(metrics.Moments.of(x[:, :1])), "do not mix"),
        (lambda x: metrics.inception_score(x), "4 examples do not make 10 splits"),
        (lambda x: metrics.kernel_distance(x, x[:1]), "at least two examples"),
        (lambda x: metrics.kernel_distance(x, x[:, :1]), "generated has 3 features and real 1"),
        (lambda x: metrics.precision_recall(x, x, neighbours=4), "4 neighbours need more"),
    ],
)
def test_wrong_input_is_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(np.arange(12.0).reshape(4, 3))
