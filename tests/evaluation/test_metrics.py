import json
import pathlib

import numpy as np
import pytest

from ganjax.evaluation import metrics, neighbors
from ganjax.evaluation.moments import Moments
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
    precision, recall = neighbors.precision_recall(generated, real)
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
    assert neighbors.precision_recall(features, features) == (1.0, 1.0)


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
    parts = [Moments.of(part) for part in np.split(features, [1, 10, 60])]
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


def test_subsets_of_the_kernel_distance_average_to_that_of_all():
    """The mean over subsets estimates the same quantity, and its error says how well."""
    random = np.random.default_rng(5)
    x, y = random.standard_normal((400, 4)), random.standard_normal((300, 4)) + 0.2
    mean, error = metrics.kernel_distance_of_subsets(x, y, num_subsets=200, subset_size=50)
    assert 0 < error < 0.2 * mean
    assert abs(mean - metrics.kernel_distance(x, y)) < 5 * error
    assert metrics.kernel_distance_of_subsets(x, y, num_subsets=200, subset_size=50) == (
        mean,
        error,
    )
    # All of a set is one subset of it, in another order.
    whole, none = metrics.kernel_distance_of_subsets(x[:300], y, num_subsets=3, subset_size=999)
    assert whole == pytest.approx(metrics.kernel_distance(x[:300], y), rel=1e-12)
    assert none == pytest.approx(0.0, abs=1e-15)


def test_extrapolation_removes_the_bias_of_few_samples():
    """Gaussians at a known distance, in closed form 9 + 4·(2 - 1)²."""
    random = np.random.default_rng(6)
    real = random.standard_normal((200_000, 4))
    x = 2.0 * random.standard_normal((4000, 4)) + 1.5
    many = Moments.of(real)
    few = [metrics.frechet_distance(x[start : start + 50], many) for start in range(0, 4000, 50)]
    at_infinity, error = metrics.frechet_distance_at_infinity(x, many, min_samples=50)
    assert np.mean(few) > 13.2
    assert abs(at_infinity - 13.0) < 0.3
    assert 0 < error < 0.3


def test_distance_within_classes_sees_a_class_without_variety():
    random = np.random.default_rng(7)
    labels = np.arange(200) % 2
    real = random.standard_normal((200, 3)) + 9.0 * labels[:, None]
    collapsed = np.where(labels[:, None] == 1, 9.0, real)
    mean, each = metrics.intra_class_frechet_distance(collapsed, labels, real, labels)
    assert set(each) == {0, 1}
    assert each[0] == pytest.approx(0.0, abs=1e-9)
    assert each[1] == pytest.approx(3.0, rel=0.3)
    assert mean == pytest.approx((each[0] + each[1]) / 2)
    with pytest.raises(InputError, match="class 1 has 0 generated and 100 real examples"):
        metrics.intra_class_frechet_distance(real, 0 * labels, real, labels)
    with pytest.raises(InputError, match=r"labels of real have the shape \(3,\), expected \(200"):
        metrics.intra_class_frechet_distance(real, labels, real, labels[:3])


@pytest.mark.parametrize("shape", [(40, 64), (64, 64), (65, 64), (300, 64)])
def test_features_and_their_moments_give_one_distance(shape):
    """Fewer examples than features take another way through the algebra."""
    random = np.random.default_rng(8)
    x, y = random.standard_normal(shape), 1.3 * random.standard_normal((90, 64)) + 0.1
    distance = metrics.frechet_distance(x, y)
    assert distance == pytest.approx(metrics.frechet_distance(Moments.of(x), y), rel=1e-8)
    moments = [f(z) for z in (x, y) for f in (lambda z: z.mean(0), lambda z: np.cov(z.T))]
    assert distance == pytest.approx(metrics.frechet_distance_from_moments(*moments), rel=1e-8)


def test_single_precision_features_stay_so_in_memory_and_not_in_the_sums():
    features = np.random.default_rng(9).standard_normal((5000, 3)).astype(np.float32) + 1000
    expected = np.cov(features.astype(np.float64).T)
    np.testing.assert_allclose(Moments.of(features).covariance, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: metrics.frechet_distance(x, x[:, :2]), "features of one dimension"),
        (lambda x: metrics.frechet_distance(x, x[:1]), "at least two examples"),
        (lambda x: metrics.frechet_distance(x * np.nan, x), "4 of 4 rows of features are not"),
        (lambda x: Moments.of(x[0]), r"shape \(N, D\)"),
        (lambda x: Moments.of(x).merge(Moments.of(x[:, :1])), "do not mix"),
        (lambda x: metrics.inception_score(x), "4 examples do not make 10 splits"),
        (lambda x: metrics.kernel_distance(x, x[:1]), "at least two examples"),
        (lambda x: metrics.kernel_distance(x, x[:, :1]), "generated has 3 features and real 1"),
        (lambda x: neighbors.precision_recall(x, x, num_neighbors=4), "4 neighbours need more"),
        (lambda x: neighbors.density_coverage(x, x, num_neighbors=4), "4 neighbours need more"),
        (lambda x: neighbors.nearest_neighbors(x, x, 5), "num_neighbors must be from 1 to that"),
        (lambda x: neighbors.duplicates(x[:1]), "duplicates are sought among images"),
        (lambda x: metrics.frechet_distance_at_infinity(x, x, min_samples=4), "min_samples < 4"),
        (lambda x: metrics.kernel_distance_of_subsets(x, x, num_subsets=1), "two of them"),
        (lambda x: Moments.of_statistics(x[0], x, 9), r"shapes \(3,\) and \(4, 3\)"),
    ],
)
def test_wrong_input_is_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(np.arange(12.0).reshape(4, 3))
