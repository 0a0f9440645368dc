"""Every form of a gradient equals XLA's, and the choice among them follows the shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ganjax import lowerings
from ganjax.lowerings import Spec

# spatial size, kernel size, strides, padding
CASES = {
    "1d, WaveGAN": ((24,), (25,), (4,), "SAME"),
    "2d, DCGAN": ((8, 6), (4, 4), (2, 2), "SAME"),
    "2d, odd kernel": ((7, 6), (5, 3), (2, 2), "SAME"),
    "2d, plain": ((6, 5), (3, 3), (1, 1), "SAME"),
    "2d, no padding": ((7, 8), (3, 3), (2, 2), "VALID"),
    "3d, video": ((4, 6, 5), (4, 4, 4), (2, 2, 2), "SAME"),
    "3d, plain": ((4, 3, 5), (3, 3, 3), (1, 1, 1), "SAME"),
}


def spec_of(size, kernel, strides, padding):
    pairs = lax.padtype_to_pads(size, kernel, strides, padding)
    return Spec(size, kernel, strides, tuple(map(tuple, pairs)), 1)


def operands(spec, batch=4, channels=(3, 5)):
    random = np.random.default_rng(0)
    shapes = (
        (batch, *spec.size, channels[0]),
        (batch, *spec.output, channels[1]),
        (*spec.kernel, *channels),
    )
    return tuple(jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes)


def assert_near(ours, expected):
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(ours / scale, expected / scale, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_every_input_gradient_is_that_of_xla(case, quick_jit):
    spec = spec_of(*CASES[case])
    _, y, kernel = operands(spec)
    expected = lowerings.native_input_gradient(spec, y, kernel)
    for form in (lowerings.flipped_conv, lowerings.overlap_add, lowerings.polyphase):
        assert_near(quick_jit(lambda y, k, f=form: f(spec, y, k))(y, kernel), expected)


@pytest.mark.parametrize("case", CASES)
def test_every_kernel_gradient_is_that_of_xla(case, quick_jit):
    spec = spec_of(*CASES[case])
    x, y, _ = operands(spec)
    expected = lowerings.native_kernel_gradient(spec, x, y)
    forms = {
        "batch_conv": lowerings.batch_conv,
        "patches": lowerings.patches_product,
        "taps": lowerings.taps_product,
        "chunks": lambda *a: lowerings.in_chunks(lowerings.batch_conv, 2, *a),
    }
    if len(spec.size) == 3:
        forms["planes"] = lowerings.gradients_of_planes
    for form in forms.values():
        assert_near(quick_jit(lambda x, y, f=form: f(spec, x, y))(x, y), expected)


def test_a_volume_is_a_sum_of_planes(quick_jit):
    for case in (case for case in CASES if case.startswith("3d")):
        spec = spec_of(*CASES[case])
        x, _, kernel = operands(spec)
        expected = lowerings.native_forward(spec, x, kernel)
        ours = quick_jit(lambda x, k, s=spec: lowerings.sum_of_planes(s, x, k))(x, kernel)
        assert_near(ours, expected)


@pytest.mark.parametrize("groups", [4, 20])  # written out, and in a loop
@pytest.mark.parametrize(
    "case",
    ["1d, WaveGAN", "2d, DCGAN", "2d, plain", pytest.param("3d, plain", marks=pytest.mark.slow)],
)
def test_each_group_by_itself_is_the_whole(case, groups, quick_jit):
    spec = spec_of(*CASES[case])
    x, y, _ = operands(spec, 2, (2 * groups, 3 * groups))
    kernel = operands(spec, 2, (2, 3 * groups))[2]
    spec = spec._replace(groups=groups)
    pairs = {
        (lowerings.cpu_forward, lowerings.native_forward): (x, kernel),
        (lowerings.cpu_input_gradient, lowerings.native_input_gradient): (y, kernel),
        (lowerings.cpu_kernel_gradient, lowerings.native_kernel_gradient): (x, y),
    }
    for (choose, native), (a, b) in pairs.items():
        form = choose(spec, a, b)
        assert form.func is lowerings.by_group
        ours = quick_jit(lambda a, b, f=form: f(spec, a, b))(a, b)
        assert_near(ours, quick_jit(lambda a, b, f=native: f(spec, a, b))(a, b))


def test_one_channel_a_group_is_left_to_xla():
    spec = spec_of(*CASES["2d, plain"])
    x, y, _ = operands(spec, 2, (6, 6))
    kernel = operands(spec, 2, (1, 6))[2]
    spec = spec._replace(groups=6)
    assert lowerings.cpu_forward(spec, x, kernel) is lowerings.native_forward
    assert lowerings.cpu_input_gradient(spec, y, kernel) is lowerings.native_input_gradient
    assert lowerings.cpu_kernel_gradient(spec, x, y) is lowerings.native_kernel_gradient


@pytest.mark.parametrize(
    ("size", "channels", "batch", "forms"),
    [
        # a large kernel stays whole
        ((8, 8), (256, 512), 64, ("native_forward", "overlap_add", "batch_conv")),
        ((32, 32), (64, 128), 64, ("forward_in_chunks", "polyphase", "in_chunks")),
        # fits the cache
        ((32, 32), (64, 128), 8, ("native_forward", "overlap_add", "batch_conv")),
        # images
        ((64, 64), (3, 64), 64, ("native_forward", "overlap_add", "patches_product")),
    ],
)
def test_the_choice_follows_the_shape(size, channels, batch, forms):
    spec = spec_of(size, (4, 4), (2, 2), "SAME")
    x, y, kernel = (
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in (
            (batch, *size, channels[0]),
            (batch, *spec.output, channels[1]),
            (4, 4, *channels),
        )
    )
    chosen = (
        lowerings.cpu_forward(spec, x, kernel),
        lowerings.cpu_input_gradient(spec, y, kernel),
        lowerings.cpu_kernel_gradient(spec, x, y),
    )
    assert tuple(getattr(form, "func", form).__name__ for form in chosen) == forms


def test_few_taps_of_a_strided_kernel_are_products_of_their_own():
    for strides, form in (((2, 2), lowerings.taps_product), ((1, 1), lowerings.batch_conv)):
        spec = spec_of((17, 17), (3, 3), strides, "VALID")
        x, y, _ = operands(spec, 4, (16, 8))
        assert lowerings.cpu_kernel_gradient(spec, x, y) is form


@pytest.mark.slow
def test_chunks_divide_a_batch_of_any_size():
    spec = spec_of((32, 32), (4, 4), (2, 2), "SAME")
    for batch in (40, 60, 62, 37):
        x, y, kernel = operands(spec, batch, (64, 8))
        convolve = lowerings.cpu_forward(spec, x, kernel)
        assert_near(
            jax.jit(lambda x, k, f=convolve: f(spec, x, k))(x, kernel),
            lowerings.native_forward(spec, x, kernel),
        )
        expected = lowerings.native_kernel_gradient(spec, x, y)
        chosen = lowerings.cpu_kernel_gradient(spec, x, y)
        if batch != 37:  # a prime number of examples stays whole
            assert chosen.func is lowerings.in_chunks
            assert batch // chosen.args[1] >= 8
        assert_near(jax.jit(lambda x, y, f=chosen: f(spec, x, y))(x, y), expected)
