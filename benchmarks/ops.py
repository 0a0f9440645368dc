"""Are the operations of `ganjax.ops` faster than XLA's own, and which lowering is fastest where?

A row is one function (forward, input gradient, kernel gradient, all three) of one layer, inside
`lax.scan` or outside of it, against what XLA makes of `lax.conv_general_dilated` by itself; the
same for up- and down-sampling with a filter against the depthwise convolutions that most code uses.
With `--forms` every form of `ganjax.lowerings` is measured for each layer, from which the rules of
`ganjax.lowerings` come. On platforms other than a CPU ganjax takes XLA's forms, and rows of
convolutions should say 1.0.

    python benchmarks/ops.py --out benchmarks/results/ops.jsonl
"""

import functools

import common
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ganjax import lowerings, ops

LENGTH = 2  # steps of a scan
# For the comparison: XLA's own gradients take seconds inside a loop.
SMALL_BATCH = 16

# spatial size of the larger side, channels there and on the smaller side, kernel, stride, batch
LAYERS = {
    "2d_14x14x64_to_7x7x128": ((14, 14), (64, 128), 4, 2, 64),
    "2d_64x64x3_to_32x32x64": ((64, 64), (3, 64), 4, 2, 64),
    "2d_32x32x64_to_16x16x128": ((32, 32), (64, 128), 4, 2, 64),
    "2d_16x16x128_to_8x8x256": ((16, 16), (128, 256), 4, 2, 64),
    "2d_8x8x256_to_4x4x512": ((8, 8), (256, 512), 4, 2, 64),
    "2d_16x16x128_3x3": ((16, 16), (128, 128), 3, 1, 64),
    "2d_16x16x128_to_8x8x256_3x3": ((16, 16), (128, 256), 3, 2, 64),
    "2d_32x32x64_to_16x16x128_5x5": ((32, 32), (64, 128), 5, 2, 64),
    "1d_4096x32_to_1024x64_25_taps": ((4096,), (32, 64), 25, 4, 16),
    "3d_8x16x16x16_to_4x8x8x32": ((8, 16, 16), (16, 32), 4, 2, 8),
    "3d_8x16x16x16_3x3x3": ((8, 16, 16), (16, 16), 3, 1, 8),
}
RESAMPLINGS = {
    "upsample_2d_32x32x64": ((32, 32), 64, ops.upsample, 64),
    "downsample_2d_32x32x64": ((32, 32), 64, ops.downsample, 64),
    "downsample_1d_4096x32": ((4096,), 32, ops.downsample, 16),
    "upsample_3d_4x8x8x32": ((4, 8, 8), 32, ops.upsample, 16),
}
TAPS = (1.0, 3.0, 3.0, 1.0)


def layer_operands(name, most=None):
    """Return the static half of a layer, and its x, y and kernel."""
    size, channels, kernel, stride, batch = LAYERS[name]
    batch = min(batch, most or batch)
    rank = len(size)
    pairs = lax.padtype_to_pads(size, (kernel,) * rank, (stride,) * rank, "SAME")
    spec = lowerings.Spec(size, (kernel,) * rank, (stride,) * rank, tuple(map(tuple, pairs)), 1)
    random = np.random.default_rng(0)
    shapes = (
        (batch, *size, channels[0]),
        (batch, *spec.output, channels[1]),
        (*spec.kernel, *channels),
    )
    return spec, *(jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes)


def in_scan(function):
    """Return a function that applies `function` several times inside a loop."""

    def run(*operands):
        def body(carry, _):
            # Nothing of it may move out of the loop.
            first = lax.optimization_barrier((operands[0], carry))[0]
            results = lax.optimization_barrier(function(first, *operands[1:]))
            # Every result, or the compiler would drop what made the others.
            return carry + 0 * sum(leaf.ravel()[0] for leaf in jax.tree.leaves(results)), None

        return lax.scan(body, jnp.float32(0), None, length=LENGTH)[0]

    return run


def runner(function, operands, scanned):
    """Return a function that runs compiled calls and says how many."""
    compiled = jax.jit(in_scan(function) if scanned else function)

    def run():
        jax.block_until_ready(compiled(*operands))
        return LENGTH if scanned else 1

    return run


def layer_functions(name):
    """Return (ganjax, XLA, operands) of each function of a layer."""
    spec, x, y, kernel = layer_operands(name, SMALL_BATCH)
    down = {"strides": spec.strides, "padding": spec.padding}

    def ours(x, kernel):
        return ops.conv(x, kernel, **down)

    def native(x, kernel):
        return lowerings.native_forward(spec, x, kernel)

    def transposed(y, kernel):
        kernel = jnp.swapaxes(kernel, -1, -2)
        return ops.conv_transpose(y, kernel, **down, output_size=spec.size)

    def gradients(convolve, x, kernel, y):
        result, pullback = jax.vjp(convolve, x, kernel)
        return result, pullback(y)

    partial = functools.partial
    return {
        "forward": (ours, native, (x, kernel)),
        "input_gradient": (transposed, partial(lowerings.native_input_gradient, spec), (y, kernel)),
        "kernel_gradient": (
            partial(lowerings.kernel_gradient, spec),
            partial(lowerings.native_kernel_gradient, spec),
            (x, y),
        ),
        "all": (partial(gradients, ours), partial(gradients, native), (x, kernel, y)),
    }


def depthwise(function, x):
    """Return `ops.upsample` or `ops.downsample` as one depthwise convolution."""
    rank = x.ndim - 2
    taps = np.asarray(TAPS) / sum(TAPS) * (2 if function is ops.upsample else 1)
    kernel = functools.reduce(np.multiply.outer, [taps] * rank)
    kernel = jnp.asarray(kernel, x.dtype)[..., None, None]
    kernel = jnp.tile(kernel, (1,) * (rank + 1) + (x.shape[-1],))
    spatial = "DHW"[-rank:]
    up = function is ops.upsample

    def convolve(x):
        return lax.conv_general_dilated(
            x,
            kernel,
            (1 if up else 2,) * rank,
            [(2, 2) if up else (1, 1)] * rank,
            lhs_dilation=(2 if up else 1,) * rank,
            dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
            feature_group_count=x.shape[-1],
        )

    return convolve


def resampling_functions(name):
    """Return (ganjax, depthwise convolution, operands) of a resampling and its gradient."""
    size, channels, function, batch = RESAMPLINGS[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(batch, *size, channels)), jnp.float32)
    peer = depthwise(function, x)

    def gradient(resample, x):
        return jax.grad(lambda x: jnp.sum(resample(x) ** 2))(x)

    ours = functools.partial(function, taps=TAPS)
    return {
        "forward": (ours, peer, (x,)),
        "gradient": (functools.partial(gradient, ours), functools.partial(gradient, peer), (x,)),
    }


def compare(results, case, ours, native, operands, scanned, quick, peer):
    """Measure and add one row."""
    rates = common.in_turns(
        {
            "ganjax": runner(ours, operands, scanned),
            "peer": runner(native, operands, scanned),
        },
        quick=quick,
        rounds=3,
    )
    where = "in a scan" if scanned else "alone"
    results.add(f"{case}, {where}", rates["ganjax"], rates["peer"], unit="calls/s", peer=peer)


def forms(name, quick):
    """Print what each form of a layer's gradients takes inside a scan."""
    spec, x, y, kernel = layer_operands(name)
    groups = {
        "input gradient": (("flipped_conv", "overlap_add", "polyphase"), (y, kernel)),
        "kernel gradient": (("batch_conv", "patches_product"), (x, y)),
    }
    for title, (names, operands) in groups.items():
        functions = {form: functools.partial(getattr(lowerings, form), spec) for form in names}
        if title == "kernel gradient":
            for chunks in (2, 4, 8):
                functions[f"in {chunks} chunks"] = functools.partial(
                    lowerings.in_chunks, lowerings.batch_conv, chunks, spec
                )
        rates = common.in_turns(
            {form: runner(f, operands, True) for form, f in functions.items()},
            quick=quick,
            rounds=3,
        )
        shown = ", ".join(f"{form} {1000 / max(rate):.2f} ms" for form, rate in rates.items())
        print(f"  {name}, {title}: {shown}", flush=True)


def main() -> None:
    flag = {"action": "store_true", "help": "measure every form of each layer"}
    args = common.arguments(__doc__, [*LAYERS, *RESAMPLINGS], forms=flag)
    results = common.Results("ops", args.out)
    for name in args.cases:
        if args.forms and name in LAYERS:
            forms(name, args.quick)
            continue
        layer = name in LAYERS
        functions = layer_functions(name) if layer else resampling_functions(name)
        for function, (ours, native, operands) in functions.items():
            for scanned in (False, True):
                peer = "XLA" if layer else "depthwise convolution"
                case = f"{name}, {function}"
                compare(results, case, ours, native, operands, scanned, args.quick, peer)


if __name__ == "__main__":
    main()
