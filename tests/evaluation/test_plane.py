import numpy as np
import pytest

from ganjax.evaluation import evaluate_points, modes_covered
from ganjax.types import InputError

CENTERS = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), axis=-1).reshape(-1, 2)


def mixture(count, modes=25, std=0.05, seed=0):
    random = np.random.default_rng(seed)
    return CENTERS[random.integers(0, modes, count)] + std * random.standard_normal((count, 2))


def test_the_mixture_itself_covers_everything():
    found = modes_covered(mixture(40_000), CENTERS, 0.05)
    assert found["modes_covered"] == 25
    assert found["good_share"] == pytest.approx(1 - np.exp(-4.5), abs=0.002)


def test_missing_modes_and_poor_samples_are_told_apart():
    missing = modes_covered(mixture(2500, modes=9), CENTERS, 0.05)
    assert missing["modes_covered"] == 9
    assert missing["good_share"] > 0.98
    poor = modes_covered(mixture(2500, std=0.2), CENTERS, 0.05)
    assert poor["modes_covered"] == 25
    # P(r < 3 sigma) with sixteen times the variance.
    assert poor["good_share"] == pytest.approx(1 - np.exp(-4.5 / 16), abs=0.05)


def test_order_does_not_matter_and_one_sample_is_enough():
    points = np.concatenate([CENTERS, np.full((10, 2), 0.5)])
    assert modes_covered(points[::-1], CENTERS, 0.05) == modes_covered(points, CENTERS, 0.05)
    assert modes_covered(points, CENTERS, 0.05)["modes_covered"] == 25
    assert modes_covered(points, CENTERS, 0.05, min_samples=2)["modes_covered"] == 0
    assert modes_covered(points, CENTERS, 0.05)["good_share"] == pytest.approx(25 / 35)


def test_points_that_are_not_finite_are_not_good():
    points = np.array([[np.nan, 0.0], [np.inf, 0.0], [0.0, 0.0], [-np.inf, np.inf]])
    assert modes_covered(points, CENTERS, 0.05) == {"modes_covered": 1, "good_share": 0.25}


def test_each_mode_may_have_its_own_std():
    points = CENTERS + np.array([0.2, 0.0])
    stds = np.full(25, 0.05)
    stds[3] = 0.1
    assert modes_covered(points, CENTERS, stds)["modes_covered"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((np.zeros((4, 3)), CENTERS, 0.1), "must agree in D"),
        ((np.zeros((0, 2)), CENTERS, 0.1), "0 points and 25 modes"),
        ((CENTERS, CENTERS, 0.0), "std must be positive"),
        ((CENTERS, CENTERS, np.ones(3)), "one for each of the 25 modes"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        modes_covered(*arguments)


def test_evaluate_points_gives_figures():
    figures = evaluate_points(lambda key, n: mixture(n), CENTERS, 0.05, ema=True)
    assert str(figures["modes_covered"]) == "modes covered (2.5k vs 25 modes): 25"
    assert str(figures["good_share"]).startswith("good samples (2.5k vs 25 modes): 0.99")
    assert figures["good_share"].ema is True
