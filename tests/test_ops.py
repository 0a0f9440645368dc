"""Convolutions against XLA's own, with first and second derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ganjax import ops

# spatial size, kernel size, strides, padding
CASES = {
    "1d, even kernel": ((9,), (4,), (2,), "SAME"),
    "1d, stride divides kernel": ((8,), (3,), (3,), "VALID"),
    "1d, more padding than kernel": ((7,), (2,), (1,), ((3, 2),)),
    "1d, WaveGAN": ((16,), (25,), (4,), "SAME"),
    "2d, DCGAN": ((7, 5), (4, 4), (2, 2), "SAME"),
    "2d, plain": ((6, 5), (3, 3), (1, 1), "SAME"),
    "2d, two strides": ((7, 6), (3, 2), (3, 2), "VALID"),
    "2d, explicit padding": ((5, 6), (5, 3), (2, 2), ((0, 3), (2, 1))),
    "2d, explicit padding, stride divides": ((5, 6), (4, 2), (2, 2), ((3, 0), (1, 0))),
    "2d, unreached rows": ((10, 8), (3, 3), (2, 1), "VALID"),
    "2d, unreached rows, stride divides": ((7, 9), (2, 4), (2, 2), "VALID"),
    "2d, stride over kernel": ((7, 7), (2, 1), (3, 2), "VALID"),
    "2d, cropped": ((7, 8), (2, 2), (2, 2), ((-1, 0), (0, -1))),
    "3d, odd kernel": ((5, 4, 3), (3, 3, 3), (2, 1, 2), "SAME"),
    "3d, stride divides": ((4, 5, 4), (2, 4, 2), (2, 2, 1), "VALID"),
}


def native_conv(x, kernel, strides, padding, groups=1):
    spatial = "DHW"[-(x.ndim - 2) :]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=groups
    )


def native_conv_transpose(x, kernel, strides, padding, size):
    """Return the transpose as XLA derives it from the convolution down from `size`."""
    kernel = jnp.swapaxes(kernel, -1, -2)
    zeros = jnp.zeros((x.shape[0], *size, kernel.shape[-2]), x.dtype)
    return jax.vjp(lambda y: native_conv(y, kernel, strides, padding), zeros)[1](x)[0]


def derivatives(convolve, x, kernel):
    """Return the result, both first derivatives and all second ones, of a nonlinear function."""

    def loss(x, kernel):
        y = convolve(x, kernel)
        return jnp.sum(jnp.sin(y)), y

    def of_gradients(x, kernel):
        gradients, y = jax.grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)
        return sum(jnp.sum(jnp.sin(g)) for g in gradients), (y, gradients)

    second, (y, first) = jax.grad(of_gradients, argnums=(0, 1), has_aux=True)(x, kernel)
    return {"result": y, "first": first, "second": second}


def assert_close(ours, reference, tolerance):
    for (path, a), b in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(reference), strict=True
    ):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape, path
        error = np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30)
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error:.1e}"


def operands(size, kernel, *, channels=(2, 3), seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    x = random.normal(size=(2, *size, channels[0])).astype(dtype)
    return x, (0.5 * random.normal(size=(*kernel, *channels))).astype(dtype)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_of_both_convolutions_are_those_of_xla(case, quick_jit):
    size, kernel_size, strides, padding = CASES[case]

    def compare(x, kernel, y, transposed_kernel):
        down = {"strides": strides, "padding": padding}
        ours = (
            derivatives(lambda x, k: ops.conv(x, k, **down), x, kernel),
            derivatives(
                lambda y, k: ops.conv_transpose(y, k, **down, output_size=size),
                y,
                transposed_kernel,
            ),
        )
        reference = (
            derivatives(lambda x, k: native_conv(x, k, strides, padding), x, kernel),
            derivatives(
                lambda y, k: native_conv_transpose(y, k, strides, padding, size),
                y,
                transposed_kernel,
            ),
        )
        return ours, reference

    with jax.enable_x64(True):
        x, kernel = operands(size, kernel_size)
        output = jax.eval_shape(lambda x, k: native_conv(x, k, strides, padding), x, kernel)
        y, transposed_kernel = operands(output.shape[1:-1], kernel_size, channels=(3, 2), seed=1)
        ours, reference = quick_jit(compare)(x, kernel, y, transposed_kernel)
        assert ours[0]["result"].dtype == jnp.float64
        assert_close(ours, reference, 1e-12)


def test_derivatives_where_those_of_xla_abort_the_process(quick_jit):
    # jax 0.10 to 0.12: a failed check in XLA's algebraic simplifier, so the sum is written out.
    strides, padding = (2, 2), ((0, 2), (1, 1))

    def summed_conv(x, kernel):
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        taps = np.ndindex(*kernel.shape[:2])
        return sum(x[:, i : i + 4 : 2, j : j + 7 : 2] @ kernel[i, j] for i, j in taps)

    with jax.enable_x64(True):
        ours, reference = quick_jit(
            lambda x, k: (
                derivatives(lambda x, k: ops.conv(x, k, strides=strides, padding=padding), x, k),
                derivatives(summed_conv, x, k),
            )
        )(*operands((5, 6), (4, 2)))
        assert_close(ours, reference, 1e-12)


def test_transpose_spreads_each_input_over_its_window():
    x, kernel = operands((3,), (4,), dtype=np.float32)
    low, stride = 1, 2
    expected = np.zeros((2, 3 * stride + 4, 3))
    for i in range(3):
        for k in range(4):
            expected[:, stride * i + k] += x[:, i] @ kernel[k]
    y = ops.conv_transpose(x, kernel, strides=stride, padding=((low, 1),))
    assert y.shape == (2, 6, 3)  # (3 - 1) * 2 + 4 - 1 - 1
    np.testing.assert_allclose(y, expected[:, low : low + 6], atol=1e-6)
    np.testing.assert_allclose(ops.conv_transpose(x, kernel, strides=2), y, atol=1e-6)  # "SAME"
    whole = ops.conv_transpose(x, kernel, strides=2, padding="VALID")
    np.testing.assert_allclose(whole, expected[:, :8], atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 4e-2)])
def test_low_precision_is_near_double_precision(dtype, tolerance, quick_jit):
    x, kernel = operands((7, 5), (4, 4))
    x, kernel = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)

    def through_both(x, kernel):
        y = ops.conv(x, kernel, strides=2)
        return ops.conv_transpose(y, jnp.swapaxes(kernel, -1, -2), strides=2, output_size=(7, 5))

    ours = quick_jit(lambda x, k: derivatives(through_both, x, k))(x, kernel)
    assert {a.dtype for a in jax.tree.leaves(ours)} == {jnp.dtype(dtype)}
    with jax.enable_x64(True):

        def reference(x, kernel):
            y = native_conv(x, kernel, (2, 2), "SAME")
            kernel = jnp.swapaxes(kernel, -1, -2)
            return native_conv_transpose(y, kernel, (2, 2), "SAME", (7, 5))

        doubles = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
        assert_close(
            {k: ours[k] for k in ("result", "first")},
            {
                k: v
                for k, v in quick_jit(lambda x, k: derivatives(reference, x, k))(*doubles).items()
                if k != "second"
            },
            tolerance,
        )


def test_groups_do_not_mix(quick_jit):
    x, kernel = operands((5, 4), (3, 3), channels=(4, 6), dtype=np.float32)
    kernel = kernel[:, :, :2]
    ours, reference = quick_jit(
        lambda x, k: (
            derivatives(lambda x, k: ops.conv(x, k, strides=2, groups=2), x, k),
            derivatives(lambda x, k: native_conv(x, k, (2, 2), "SAME", groups=2), x, k),
        )
    )(x, kernel)
    assert_close(ours, reference, 1e-5)
    halves = [
        ops.conv(x[..., 2 * g : 2 * g + 2], kernel[..., 3 * g : 3 * g + 3], strides=2)
        for g in (0, 1)
    ]
    np.testing.assert_allclose(ours["result"], np.concatenate(halves, -1), atol=1e-5)


def test_gradients_in_loops_and_branches_and_under_vmap(quick_jit):
    x, kernel = operands((5, 4), (4, 4), dtype=np.float32)
    xs, kernels = np.stack([x, 2 - x, x * x]), np.stack([kernel, -kernel, kernel * kernel])

    def gradients(convolve, x, kernel):
        def loss(x, kernel):
            y = convolve(x, kernel)
            return jnp.sum(jnp.sin(y))

        return jax.grad(loss, argnums=(0, 1))(x, kernel)

    def both(x, kernel):
        y = ops.conv(x, kernel, strides=2)
        return ops.conv_transpose(y, jnp.swapaxes(kernel, -1, -2), strides=2)

    def native(x, kernel):
        y = native_conv(x, kernel, (2, 2), "SAME")
        return native_conv_transpose(y, jnp.swapaxes(kernel, -1, -2), (2, 2), "SAME", (6, 4))

    def compare(xs, kernels):
        reference = [gradients(native, x, k) for x, k in zip(xs, kernels, strict=True)]
        reference = jax.tree.map(lambda *a: jnp.stack(a), *reference)
        one_x = [gradients(native, xs[0], k) for k in kernels]
        one_kernel = [gradients(native, x, kernels[0]) for x in xs]
        expected = {
            "scan": reference,
            "cond": jax.tree.map(lambda a: a[1], reference),
            "vmap": reference,
            "over x": jax.tree.map(lambda *a: jnp.stack(a), *one_kernel),
            "over kernels": jax.tree.map(lambda *a: jnp.stack(a), *one_x),
        }
        each = lambda x, k: gradients(both, x, k)  # noqa: E731
        ours = {
            "scan": lax.scan(lambda carry, inputs: (carry, each(*inputs)), 0, (xs, kernels))[1],
            "cond": lax.cond(kernels.sum() < 1e9, each, lambda x, k: (x, k), xs[1], kernels[1]),
            "vmap": jax.vmap(each)(xs, kernels),
            "over x": jax.vmap(each, (0, None))(xs, kernels[0]),
            "over kernels": jax.vmap(each, (None, 0))(xs[0], kernels),
        }
        return ours, expected

    assert_close(*quick_jit(compare)(xs, kernels), 1e-5)


def network_gradient(kernels, x):
    """One step of a small network down and up again, with a penalty on its image gradient."""

    def logits(kernels, x):
        x = jnp.tanh(ops.conv(x, kernels["down"], strides=2))
        x = jnp.tanh(ops.conv(x, kernels["odd"], strides=2))
        x = jnp.tanh(ops.conv(x, kernels["over map"], strides=2))
        x = jnp.tanh(ops.conv_transpose(x, kernels["up"], strides=2))
        return jnp.sum(ops.conv(x, kernels["flat"]))

    def loss(kernels):
        value, gradient = jax.value_and_grad(logits, argnums=1)(kernels, x)
        return value + jnp.sum(gradient**2)

    return jax.grad(loss)(kernels)


def network_operands():
    shapes = {
        "down": (4, 4, 1, 4),
        "odd": (3, 3, 4, 6),
        "over map": (5, 5, 6, 5),  # 5x5 taps, a map of 4x4
        "up": (4, 4, 5, 4),
        "flat": (3, 3, 4, 1),
    }
    return {name: jnp.ones(shape) for name, shape in shapes.items()}, jnp.ones((2, 32, 32, 1))


@pytest.mark.slow
def test_on_a_cpu_every_convolution_of_a_loop_has_the_fast_layout():
    kernels, x = network_operands()

    def train(kernels, xs):
        def step(kernels, x):
            gradient = network_gradient(kernels, x)
            return jax.tree.map(lambda k, g: k - 0.01 * g, kernels, gradient), 0

        return lax.scan(step, kernels, xs)

    text = jax.jit(train).lower(kernels, jnp.stack([x] * 3)).compile().as_text()
    labels = re.findall(r" convolution\(.*dim_labels=([^,\s]+)", text)
    assert len(labels) >= 12
    assert set(labels) == {"b01f_01io->b01f"}


def test_other_platforms_get_their_own_gradients_in_an_export_from_a_cpu():
    permuted = {}
    for platform in ("cpu", "cuda", "tpu"):
        exported = jax.export.export(jax.jit(network_gradient), platforms=[platform])(
            *network_operands()
        )
        text = exported.mlir_module()
        assert exported.platforms == (platform,)
        layouts = set(re.findall(r"dim_numbers = (\S+ ?.*?\]->\[.*?\])", text))
        assert layouts, text
        permuted[platform] = layouts - {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    assert not permuted["cpu"]
    assert permuted["cuda"]
    assert permuted["cuda"] == permuted["tpu"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, k: ops.conv(x, k[:, :, :1]), r"kernel of shape \(\*2 sizes, 2, out\)"),
        (lambda x, k: ops.conv(x, k[0]), r"got \(3, 2, 5\)"),
        (lambda x, k: ops.conv(x[0, 0], k[0, 0]), r"expected a kernel"),
        (lambda x, k: ops.conv(x, k, groups=2), r"2 group\(s\)"),
        (lambda x, k: ops.conv(x, k, strides=(2,)), r"one stride or 2.*got \(2,\)"),
        (lambda x, k: ops.conv(x, k, padding=[(1, 1)]), r"2 pairs of padding"),
        (lambda x, k: ops.conv(x[:, :2], k, padding="VALID"), r"nothing is left of inputs"),
        (lambda x, k: ops.conv_transpose(x, k[:, :, 1:]), r"kernel of shape \(\*2 sizes, 2, out\)"),
        (lambda x, k: ops.conv_transpose(x, k, padding=[(1, 1)]), r"2 pairs of padding"),
        (
            lambda x, k: ops.conv_transpose(x, k, strides=2, output_size=(11, 8)),
            r"output_size \(11, 8\) convolves down to \(6, 4\).*but the input is \(4, 4\)",
        ),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)))


def test_output_size_chooses_among_the_sizes_that_convolve_down_to_the_input():
    x, kernel = operands((4, 4), (3, 3), dtype=np.float32)
    for size in ((8, 8), (7, 8), (7, 7)):
        y = ops.conv_transpose(x, kernel, strides=2, output_size=size)
        assert y.shape == (2, *size, 3)
        assert ops.conv(y, jnp.swapaxes(kernel, -1, -2), strides=2).shape == x.shape
