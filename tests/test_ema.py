import jax.numpy as jnp
import numpy as np
import pytest

from ganjax import ema


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_after_a_half_life_half_is_left_whatever_the_batch(batch):
    keep = ema.decay(64.0, batch, 0, None)
    average = {"w": jnp.ones(2)}
    for _ in range(64 // batch):
        average = ema.update(average, {"w": jnp.zeros(2)}, keep)
    np.testing.assert_allclose(average["w"], 0.5, rtol=1e-5)


def test_a_half_life_of_zero_copies():
    assert ema.decay(0.0, 64, 1000, None) == 0
    new = ema.update({"w": jnp.ones(2)}, {"w": jnp.array([5.0, -1.0])}, ema.decay(0.0, 1, 0, None))
    np.testing.assert_array_equal(new["w"], [5, -1])


def test_ramp_up_shortens_the_half_life_only_early():
    assert ema.decay(100.0, 10, 0, 0.05) == 0  # the initial weights are forgotten at once
    assert ema.decay(100.0, 10, 400, 0.05) == pytest.approx(0.5 ** (10 / 20))
    assert ema.decay(100.0, 10, 2000, 0.05) == pytest.approx(0.5 ** (10 / 100))
    assert ema.decay(100.0, 10, 10**8, 0.05) == pytest.approx(0.5 ** (10 / 100))


@pytest.mark.parametrize("decay", [0.5, 0.999, 0.9999])
def test_half_life_is_the_inverse_of_decay(decay):
    half_life = ema.half_life_images(decay, 64)
    # The published decays are close to one: compare what is lost.
    assert 1 - ema.decay(half_life, 64, 0, None) == pytest.approx(1 - decay, rel=1e-3)


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_a_decay_lies_between_zero_and_one(decay):
    with pytest.raises(ValueError, match="between 0 and 1, got"):
        ema.half_life_images(decay, 64)


def test_leaves_keep_their_type_and_integers_are_copied():
    average = {"w": jnp.ones(2, jnp.bfloat16), "count": jnp.int32(3), "flag": jnp.array(True)}
    new = {"w": jnp.zeros(2, jnp.float32), "count": jnp.int32(8), "flag": jnp.array(False)}
    result = ema.update(average, new, jnp.float32(0.75))
    assert result["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(result["w"].astype(jnp.float32), [0.75, 0.75])
    assert result["count"] == 8
    assert result["count"].dtype == jnp.int32
    assert not result["flag"]
