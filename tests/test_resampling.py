"""Up- and down-sampling against their definition, each other, and XLA's derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax import ops

FILTERS = {"box": None, "121": (1, 2, 1), "1331": (1, 3, 3, 1), "long": (1, 4, 6, 4, 1)}


def resampled(x, taps, up, down, low, high):
    """Insert zeros, pad, filter and keep every `down`-th value, along axis 1 of (B, N, C)."""
    spread = np.zeros((x.shape[0], x.shape[1] * up, x.shape[2]))
    spread[:, ::up] = x
    padded = np.pad(spread, [(0, 0), (low, high), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=1)
    return (windows @ np.asarray(taps[::-1], float))[:, ::down]


def along_each_axis(function, x):
    for axis in range(1, x.ndim - 1):
        moved = np.moveaxis(x, axis, -2)
        shape = moved.shape
        y = function(moved.reshape(-1, *shape[-2:]))
        x = np.moveaxis(y.reshape(*shape[:-2], *y.shape[1:]), -2, axis)
    return x


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 4, 6, 3), (1, 4, 2, 6, 2)])
def test_both_are_zero_insertion_padding_and_filtering(name, shape):
    # The paddings of the reference implementation of StyleGAN2, for filters of any length.
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    taps = np.asarray(FILTERS[name] or (1, 1), float)
    taps, rest = taps / taps.sum(), len(taps) - 2
    up = along_each_axis(lambda x: resampled(x, 2 * taps, 2, 1, (rest + 1) // 2 + 1, rest // 2), x)
    down = along_each_axis(lambda x: resampled(x, taps, 1, 2, (rest + 1) // 2, rest // 2), x)
    np.testing.assert_allclose(ops.upsample(x, taps=FILTERS[name]), up, atol=1e-6)
    np.testing.assert_allclose(ops.downsample(x, taps=FILTERS[name]), down, atol=1e-6)


def test_without_a_filter_pixels_repeat_and_blocks_are_averaged():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    repeated = x.repeat(3, 1).repeat(3, 2)
    np.testing.assert_allclose(ops.upsample(x, 3), repeated, atol=1e-6)
    np.testing.assert_allclose(ops.downsample(repeated, 3), x, atol=1e-6)


@pytest.mark.parametrize("name", FILTERS)
def test_derivatives_of_both_orders_are_finite_differences(name, quick_jit):
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, direction = (jnp.asarray(random.normal(size=(1, 4, 6, 1))) for _ in range(2))

        def loss(x):
            up = ops.upsample(x, taps=FILTERS[name])
            return jnp.sum(jnp.sin(up)) + jnp.sum(jnp.sin(ops.downsample(x, taps=FILTERS[name])))

        def slope(x):
            return jnp.sum(jax.grad(loss)(x) * direction)

        step = 1e-6
        for function, derivative in ((loss, slope), (slope, jax.grad(slope))):
            ours = quick_jit(derivative)(x)
            ours = jnp.sum(ours * direction) if ours.ndim else ours
            ends = [quick_jit(function)(x + sign * step * direction) for sign in (1, -1)]
            np.testing.assert_allclose(ours, (ends[0] - ends[1]) / (2 * step), rtol=1e-7)


@pytest.mark.slow
def test_low_precision_stays_low():
    x = jnp.ones((1, 4, 4, 1), jnp.bfloat16)
    assert ops.upsample(x, taps=(1, 3, 3, 1)).dtype == jnp.bfloat16
    assert jax.grad(lambda x: ops.downsample(x).sum().astype(float))(x).dtype == jnp.bfloat16


@pytest.mark.slow
def test_in_loops_and_under_vmap():
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 4, 2)).astype(np.float32)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(ops.upsample(x, taps=(1, 3, 3, 1)))))(x)

    expected = np.stack([gradient(each) for each in x])
    scanned = jax.lax.scan(lambda _, x: (0, gradient(x)), 0, x)[1]
    np.testing.assert_allclose(scanned, expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(gradient)(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.downsample(x), r"2 does not divide the spatial sizes of \(1, 3, 1\)"),
        (lambda x: ops.upsample(x, 3, taps=(1, 1)), r"at least 3 taps.*\(1.0, 1.0\)"),
        (lambda x: ops.blur(x, (1, -1)), r"sum that is not zero"),
    ],
)
def test_bad_filters_and_sizes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((1, 3, 1)))
